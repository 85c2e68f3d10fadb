//! The sources of data in the cards of models and datasets.
use contract::Attribution;
use std::collections::BTreeSet;

/// Where datasets are on the Hugging Face Hub.
const HUB: &str = "https://huggingface.co/datasets/";

/// The keys that the Hugging Face Hub reads: `language`, with the datasets on the Hub under the key `datasets` (YAML).
/// Whoever publishes what was made of the data chooses its licence, so that key refers to the card.
pub fn metadata(sources: &[Attribution], datasets: &str) -> String {
    let list = |key: &str, of: fn(&Attribution) -> &str| {
        let plain =
            |value: &&str| !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
        let values: BTreeSet<&str> = sources.iter().map(of).filter(plain).collect();
        let items: String = values.iter().map(|value| format!("- {value}\n")).collect();
        if items.is_empty() { items } else { format!("{key}:\n{items}") }
    };
    let has_licence = sources.iter().any(|source| !source.licence.is_empty());
    let licence = if has_licence { "license: other\nlicense_name: see-data\nlicense_link: README.md\n" } else { "" };
    list("language", |source| &source.language)
        + &list(datasets, |source| source.url.strip_prefix(HUB).unwrap_or_default())
        + licence
}

/// The section that names all sources, with their licences (Markdown); empty if none is known.
pub fn section(sources: &[Attribution]) -> String {
    if sources.is_empty() { String::new() } else { format!("\n## Data\n\n{}", items(sources)) }
}

/// A list of sources, with their licences.
pub fn items(sources: &[Attribution]) -> String {
    let item = |source: &Attribution| {
        let labelled = [("from", &source.url), ("licence", &source.licence), ("attribution", &source.attribution)];
        let known = labelled.into_iter().filter(|(_, value)| !value.is_empty());
        let known: String = known.map(|(label, value)| format!("  - {label}: {}\n", line(value))).collect();
        format!("- {}\n{known}", line(&source.name))
    };
    sources.iter().map(item).collect()
}

/// `text` on one line.
pub fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
