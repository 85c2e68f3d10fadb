//! Which runs are listed: `wiki optimize.learning_rate=0.003 state=done`.
use crate::plan::{Table, unknown_key};
use serde_json::Value;
use std::cmp::Ordering;

/// Comparisons; those that contain another one come first.
const COMPARISONS: [(&str, fn(Ordering) -> bool); 6] = [
    ("!=", |order| order.is_ne()),
    ("<=", |order| order.is_le()),
    (">=", |order| order.is_ge()),
    ("=", |order| order.is_eq()),
    ("<", |order| order.is_lt()),
    (">", |order| order.is_gt()),
];

/// Words, all of which a run must match.
pub struct Filter(Vec<Term>);

enum Term {
    /// The name of the run contains it.
    Name(String),
    /// The value of a key, or the state of the run, compares as is said.
    Value { key: String, holds: fn(Ordering) -> bool, value: String },
}

impl Filter {
    /// From text.
    pub fn of(text: &str) -> Self {
        let term = |word: &str| {
            let found = COMPARISONS.iter().filter_map(|(sign, holds)| Some((word.find(sign)?, sign, holds)));
            // The first sign counts, and of those in one place the longest.
            match found.min_by_key(|(at, ..)| *at) {
                Some((at, sign, holds)) if at > 0 => {
                    let value = word[at + sign.len()..].trim_matches(['"', '\'']).to_owned();
                    Term::Value { key: word[..at].to_owned(), holds: *holds, value }
                }
                _ => Term::Name(word.to_owned()),
            }
        };
        Self(text.split_whitespace().map(term).collect())
    }

    /// Whether it looks at configurations.
    pub fn needs_configurations(&self) -> bool {
        self.0.iter().any(|term| matches!(term, Term::Value { key, .. } if key != "state"))
    }

    /// Whether a run with this name, state and configuration matches.
    pub fn matches(&self, name: &str, state: &str, configuration: &[(String, Table)]) -> bool {
        self.0.iter().all(|term| match term {
            Term::Name(part) => name.contains(part.as_str()),
            Term::Value { key, holds, value } if key == "state" => holds(state.cmp(value)),
            Term::Value { key, holds, value } => {
                let mut compared = values(configuration, key).map(|found| compare(found, value)).peekable();
                // Without a value it is none of the given one.
                if compared.peek().is_none() {
                    holds(Ordering::Less) && holds(Ordering::Greater)
                } else {
                    compared.any(holds)
                }
            }
        })
    }

    /// A message about a key that none of the runs with these configurations has.
    pub fn unknown<'a>(&self, configurations: impl Iterator<Item = &'a [(String, Table)]> + Clone) -> Option<String> {
        self.0.iter().find_map(|term| match term {
            Term::Value { key, .. } if key != "state" => {
                let has = |configuration: &[(String, Table)]| values(configuration, key).next().is_some();
                let nobody = configurations.clone().next().is_some() && !configurations.clone().any(has);
                nobody.then(|| unknown_key(key, configurations.clone().flatten()))
            }
            _ => None,
        })
    }
}

/// The values of `STAGE.KEY`, or those of `KEY` in all tables.
fn values<'a>(configuration: &'a [(String, Table)], key: &str) -> impl Iterator<Item = &'a Value> {
    let (stage, key) = key.split_once('.').map_or((None, key), |(stage, key)| (Some(stage.to_owned()), key));
    let key = key.to_owned();
    let tables = configuration.iter().filter(move |(id, _)| stage.as_ref().is_none_or(|stage| stage == id));
    tables.filter_map(move |(_, table)| table.get(&key).map(|entry| &entry.value))
}

/// Numbers by their values, everything else by its text.
fn compare(found: &Value, value: &str) -> Ordering {
    match (found.as_f64(), value.parse::<f64>()) {
        (Some(found), Ok(value)) => found.total_cmp(&value),
        _ => found.as_str().map_or_else(|| found.to_string(), str::to_owned).as_str().cmp(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::configuration;

    #[test]
    fn words_compare_names_states_and_values() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        let text = "[run]\nname = \"a\"\nseed = 2\n[stage.optimize]\ntype = \"adamw\"\nlearning_rate = 0.003\n\
                    [stage.read]\npaths = [\"x\"]\n";
        std::fs::write(&path, text).unwrap();
        let tables = configuration(&path);
        let matches = |text: &str| Filter::of(text).matches("rates/a-seed2", "done", &tables);
        for yes in [
            "",
            "rates seed2",
            "optimize.learning_rate=0.003",
            "optimize.learning_rate=3e-3",
            "learning_rate<=3e-3 run.seed>1",
            "optimize.type=\"adamw\" state=done",
            "optimize.type!=muon",
            "pack.shuffle!=1",
            "read.paths=[\"x\"]",
        ] {
            assert!(matches(yes), "{yes}");
        }
        for no in [
            "other",
            "optimize.learning_rate=0.0030001",
            "learning_rate<3e-3",
            "rates state=running",
            "run.seed!=2",
            "pack.shuffle=1",
            "pack.shuffle<1",
        ] {
            assert!(!matches(no), "{no}");
        }
        let unknown = |text: &str| Filter::of(text).unknown(std::iter::once(&tables[..]));
        assert!(unknown("rates state=x run.seed=9").is_none());
        let said = unknown("optimise.learning_rate=1").unwrap();
        assert!(said.contains("`optimise.learning_rate`; similar: optimize.learning_rate"), "{said}");
        assert!(
            Filter::of("a").unknown(std::iter::empty()).is_none() && !Filter::of("a state=b").needs_configurations()
        );
    }
}
