//! The card of a version, `README.md`: with it, the folder is a dataset that Hugging Face's library `datasets` loads.
use super::stats::{Amount, Stats};
use contract::Attribution;
use std::collections::BTreeMap;
use text::corpus::split::Part;
use text::prepare::write::files::{OF_PARTS, kind_of_part};
use train::hugging_face::sources::{self, thousands};

/// The name of the file.
pub const CARD_FILE: &str = "README.md";

/// The configurations of the dataset, for each of [`OF_PARTS`].
const CONFIGURATIONS: [&str; 2] = ["default", "sequences"];

/// The card of a version with these `files`, made from `sources`. It follows from the version alone.
pub fn card<T>(stats: &Stats, sources: &[Attribution], files: &BTreeMap<String, T>) -> String {
    let mut text = format!("---\n{}configs:\n", sources::metadata(sources, "source_datasets"));
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
    for (part, Amount { documents, bytes, tokens }) in [("train", &stats.train), ("validation", &stats.validation)] {
        text += &format!("| {part} | {} | {} | {} |\n", thousands(*documents), thousands(*bytes), thousands(*tokens));
    }
    text += "\n`version.json` has the hashes of all files, `stats.json` what was dropped and why.\n";
    text + &sources::section(sources)
}

#[cfg(test)]
mod tests {
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
        let stats = Stats { train: amount(1234), validation: amount(0), ..Stats::default() };
        let files = ["catalog.parquet", "documents-train-00000.parquet", "stats.json"];
        let files = files.into_iter().map(|file| (file.to_owned(), ())).collect();
        insta::assert_snapshot!(card(&stats, &[source], &files), @r"
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
}
