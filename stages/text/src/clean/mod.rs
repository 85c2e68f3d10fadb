//! Stage `clean`: removes residue of markup from rows of any source, and normalizes their text.
//!
//! Pages of a dump are converted to text when they are read ([`crate::wikitext`]), since that requires the wiki's names
//! for its namespaces. Text from elsewhere (for example from WikiExtractor) may contain residue, which this stage
//! removes: templates, tables, references, link brackets, tags, entities, placeholders such as `formula_1`, gaps such
//! as `( ; )`. What remains is counted in the column `residue`.
pub mod residue;

use crate::clean::residue::residue;
use crate::filter::{texts, with_column, with_texts};
use crate::support::normalize::normalize;
use crate::wikitext::{Kinds, Names, scan::scan};
use anyhow::{Result, bail};
use arrow::array::{RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Field};
use contract::{At, Built, Emit, Env, Kind, Packet, Port, Rows, Settings, Stage, StageKeys, StageSettings, Turn};
use regex::Regex;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

/// The column with the residue that remains in a text, by kind: `entity: 1; tag: 2`. Null: none.
pub const RESIDUE: &str = "residue";

/// Settings of stage `clean`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct Clean {
    /// Remove leftovers of wiki markup; if false, only normalize Unicode and whitespace.
    #[key(default = true)]
    pub markup: bool,
}

impl StageSettings for Clean {
    const SUMMARY: &'static str = "removes residue of markup; normalizes to Unicode NFC with single spaces";
    const EXAMPLE: &'static str = "markup = true\n";
}

impl Settings for Clean {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(Kind::Rows)]
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Rows]
    }

    fn build(&self, _: &Env) -> Result<Built> {
        Ok(Built::Stage(Box::new(self.clone())))
    }
}

/// `text` without residue of markup.
pub fn clean(text: &str) -> String {
    static PLACEHOLDERS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\b(formula|codice)_\d+").ok());
    let decoded = html_escape::decode_html_entities(text);
    let without = PLACEHOLDERS.as_ref().map_or(Cow::Borrowed(&*decoded), |found| found.replace_all(&decoded, ""));
    let plain = scan(&without, &Names::default(), &mut Kinds::default());
    let rows = plain.lines().filter(|line| !line.trim_start().starts_with("|"));
    let plain: String = rows.flat_map(|line| [line, "\n"]).collect();
    normalize(&html_escape::decode_html_entities(&plain)).into_owned()
}

impl Clean {
    fn apply(&self, records: &RecordBatch) -> Result<RecordBatch> {
        let (mut changed, mut left) = (Vec::new(), StringBuilder::new());
        for (row, text) in texts(records)?.iter().enumerate() {
            let text = text.unwrap_or_default();
            let cleaned = if self.markup { clean(text) } else { normalize(text).into_owned() };
            let found = residue(&cleaned);
            left.append_option((!found.is_empty()).then(|| found.to_string()));
            if cleaned != text {
                changed.push((row, cleaned));
            }
        }
        let records = with_texts(records, changed)?;
        with_column(&records, Field::new(RESIDUE, DataType::Utf8, true), Arc::new(left.finish()))
    }
}

impl Stage for Clean {
    fn packet(&mut self, _: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn> {
        let Packet::Rows(rows) = packet else { bail!("clean takes rows, not {}", packet.kind().name()) };
        let records = self.apply(&rows.records)?;
        out.give(Packet::Rows(Rows { records, ..rows }));
        Ok(Turn::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_of_wiki_extractor_go() {
        let text = "Alan (; ) was  formula_12 a &lt;ref&gt;x&lt;/ref&gt;man<br> of {{lang|x}} [[y|z]] .\n| a || b\n\n\nEnd&nbsp;.";
        assert_eq!(clean(text), "Alan was a man\nof z.\n\nEnd.");
        assert!(residue(&clean(text)).is_empty());
        assert_eq!(clean("As it is: f(x), 5 < 6.\n\n* item"), "As it is: f(x), 5 < 6.\n\n* item");
    }
}
