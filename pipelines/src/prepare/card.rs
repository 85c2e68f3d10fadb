//! The card of a version, `README.md`: with it, the folder is a dataset that Hugging Face's library `datasets` loads.
use super::stats::{Amount, SourceStats, Stats};
use contract::Attribution;
use std::collections::BTreeMap;
use text::corpus::split::Part;
use text::prepare::write::files::{OF_PARTS, kind_of_part};
use train::hugging_face::sources::{self, thousands};

/// The name of the file.
pub const CARD_FILE: &str = "README.md";

/// The configurations of the dataset, for each of [`OF_PARTS`].
const CONFIGURATIONS: [&str; 2] = ["default", "sequences"];

/// The card of a version with these `files`, made from the data of each source of the preparation. It follows from the
/// version alone.
pub fn card<T>(stats: &Stats, data: &[&[Attribution]], files: &BTreeMap<String, T>) -> String {
    let mut all: Vec<Attribution> = Vec::new();
    for said in data.iter().copied().flatten() {
        all.extend((!all.contains(said)).then(|| said.clone()));
    }
    let mut text = format!("---\n{}configs:\n", sources::metadata(&all, "source_datasets"));
    for (name, kind) in CONFIGURATIONS.into_iter().zip(OF_PARTS) {
        let split = |part: Part| {
            let prefix = format!("{}-", kind_of_part(kind, part));
            let is_there = files.keys().any(|file| file.starts_with(&prefix));
            is_there.then(|| format!("  - split: {}\n    path: {prefix}*.parquet\n", part.name()))
        };
        let splits: String = Part::ALL.into_iter().filter_map(split).collect();
        if !splits.is_empty() {
            text += &format!("- config_name: {name}\n  data_files:\n{splits}");
        }
    }
    text += "---\n\n# A corpus of documents\n\nPrepared with Millrace. `load_dataset` of the library `datasets`, given \
             this folder, returns its documents.\n\n";
    text += "| | documents | bytes of text | tokens |\n|---|---|---|---|\n";
    for (part, amount) in [("train", &stats.all.train), ("validation", &stats.all.validation)] {
        text += &row(part, amount);
    }
    text += "\n`version.json` has the hashes of all files, `stats.json` what was dropped and why.\n";
    if stats.sources.is_empty() {
        return text + &sources::section(&all);
    }
    text += "\nThe documents are of several sources, which the column `source_stage` names.\n\n";
    text += "| | documents | bytes of text | tokens |\n|---|---|---|---|\n";
    stats.sources.iter().for_each(|source| text += &row(&source.source, &source.sums.kept));
    text + &of_sources(&stats.sources, data)
}

/// A row of a table of sizes.
fn row(name: &str, Amount { documents, bytes, tokens }: &Amount) -> String {
    format!("| {name} | {} | {} | {} |\n", thousands(*documents), thousands(*bytes), thousands(*tokens))
}

/// The section that names the data of each source, with licences; empty if none is known.
fn of_sources(sources: &[SourceStats], data: &[&[Attribution]]) -> String {
    let known = sources.iter().zip(data).filter(|(_, data)| !data.is_empty());
    let of_source = |(source, data): (&SourceStats, &&[Attribution])| {
        format!("\n### {}\n\n{}", source.source, sources::items(data))
    };
    let known: String = known.map(of_source).collect();
    if known.is_empty() { known } else { format!("\n## Data\n{known}") }
}

#[cfg(test)]
mod tests {
    use super::super::stats::Sums;
    use super::*;

    #[test]
    fn it_names_the_splits_and_the_sources() {
        let source = Attribution {
            name: "Wikipedia".into(),
            licence: "CC BY-SA 4.0".into(),
            url: "https://en.wikipedia.org".into(),
            language: "en".into(),
            ..Attribution::default()
        };
        let amount = |documents| Amount { documents, bytes: 1000 * documents, tokens: 0 };
        let sums = Sums { train: amount(1234), validation: amount(0), ..Sums::default() };
        let stats = Stats { all: sums, ..Stats::default() };
        let files = ["catalog.parquet", "documents-train-00000.parquet", "stats.json"];
        let files = files.into_iter().map(|file| (file.to_owned(), ())).collect();
        insta::assert_snapshot!(card(&stats, &[std::slice::from_ref(&source)], &files), @r"
        ---
        language:
        - en
        license: other
        license_name: see-data
        license_link: README.md
        configs:
        - config_name: default
          data_files:
          - split: train
            path: documents-train-*.parquet
        ---

        # A corpus of documents

        Prepared with Millrace. `load_dataset` of the library `datasets`, given this folder, returns its documents.

        | | documents | bytes of text | tokens |
        |---|---|---|---|
        | train | 1,234 | 1,234,000 | 0 |
        | validation | 0 | 0 | 0 |

        `version.json` has the hashes of all files, `stats.json` what was dropped and why.

        ## Data

        - Wikipedia
          - from: https://en.wikipedia.org
          - licence: CC BY-SA 4.0
        ");
    }
    #[test]
    fn each_of_several_sources_has_its_size_and_licence() {
        let amount = |documents| Amount { documents, bytes: 10 * documents, tokens: documents };
        let source = |name: &str, documents| SourceStats {
            source: name.into(),
            sums: Sums { kept: amount(documents), ..Sums::default() },
            ..SourceStats::default()
        };
        let sources = vec![source("wiki", 3), source("notes", 4), source("books", 5)];
        let stats = Stats { sources, ..Stats::default() };
        let said = |name: &str, licence: &str| Attribution {
            name: name.into(),
            licence: licence.into(),
            ..Attribution::default()
        };
        let (wiki, books) = (said("Wikipedia", "CC BY-SA 4.0"), said("Gutenberg", "public domain"));
        let card =
            card(&stats, &[std::slice::from_ref(&wiki), &[], &[books, wiki.clone()]], &BTreeMap::<String, ()>::new());
        insta::assert_snapshot!(card.split("dropped and why.\n").nth(1).unwrap(), @r"

        The documents are of several sources, which the column `source_stage` names.

        | | documents | bytes of text | tokens |
        |---|---|---|---|
        | wiki | 3 | 30 | 3 |
        | notes | 4 | 40 | 4 |
        | books | 5 | 50 | 5 |

        ## Data

        ### wiki

        - Wikipedia
          - licence: CC BY-SA 4.0

        ### books

        - Gutenberg
          - licence: public domain
        - Wikipedia
          - licence: CC BY-SA 4.0
        ");
    }
}
