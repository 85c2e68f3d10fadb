//! The keys of a configuration table: documentation, default, range, and what each affects.
use crate::settings::Problem;
use serde_json::Value;

/// A key of a configuration table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Key {
    /// Its name in the configuration.
    pub name: &'static str,
    /// Its meaning in a sentence or two: unit, range, and the default if the value itself does not show it.
    pub documentation: &'static str,
    /// What its value affects.
    pub effect: Effect,
    /// The smallest allowed number.
    pub min: Option<f64>,
    /// The largest allowed number.
    pub max: Option<f64>,
}

impl Key {
    /// The problem if `value`, or an item of it if it is a list, is a number out of range.
    pub fn out_of_range(&self, value: &Value) -> Option<Problem> {
        if let Value::Array(items) = value {
            return items.iter().find_map(|item| self.out_of_range(item));
        }
        let number = value.as_f64()?;
        let inside = self.min.is_none_or(|min| min <= number) && self.max.is_none_or(|max| number <= max);
        let range = self.range()?;
        (!inside).then(|| Problem::at(self.name, format!("is {value}, but must be {range}")))
    }

    /// The allowed numbers, if they are limited: `at least 1`, `from 0 to 1`.
    pub fn range(&self) -> Option<String> {
        match (self.min.map(short), self.max.map(short)) {
            (Some(min), Some(max)) => Some(format!("from {min} to {max}")),
            (Some(min), None) => Some(format!("at least {min}")),
            (None, Some(max)) => Some(format!("at most {max}")),
            (None, None) => None,
        }
    }

    /// The documentation, with the range if it does not state it.
    pub fn described(&self) -> String {
        let text = self.documentation;
        // "from 0 to 1" may be written as "0 to 1".
        match self.range() {
            Some(range) if !text.contains(range.trim_start_matches("from ")) => {
                let range = range[..1].to_uppercase() + &range[1..];
                format!("{text} {range}.")
            }
            _ => text.to_owned(),
        }
    }
}

/// A number as a configuration would write it: 1e-30 with an exponent, 4096 without.
fn short(number: f64) -> String {
    let (plain, exponent) = (number.to_string(), format!("{number:e}"));
    if plain.len() > 8 && exponent.len() < plain.len() { exponent } else { plain }
}

/// What the value of a key affects. A run may only be resumed with the same values of keys that affect
/// [results](Self::Results).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Results.
    Results,
    /// Results, but only as far as rounding goes. A run may be resumed with another value, and says so; its results are then
    /// not those of a run that always had one of both.
    Rounding,
    /// Whether the run fails. The data that could not be read enters the fingerprint by its content.
    Failure,
    /// Where files are. What is read from them enters the fingerprint by its content.
    Location,
}

impl Effect {
    /// Those on which the bits of results depend.
    pub const ON_BITS: [Self; 2] = [Self::Results, Self::Rounding];
}

/// The keys of a table, one per field of its settings, in the order of the fields.
///
/// Derived with `#[derive(StageKeys)]`: the doc comment of a field is the documentation of its key, and its default and
/// range can be given beside it. `pipeline stages`, `pipeline schema`, shell completion and the tables of the README
/// are generated from it.
///
/// ```
/// # extern crate millrace_contract as contract;
/// use contract::{Effect, StageKeys};
///
/// #[derive(StageKeys)]
/// struct ReadLines {
///     /// Files to read, at least one.
///     #[key(location)]
///     paths: Vec<String>,
///     /// Longest line in bytes; any length if not given.
///     max_bytes: Option<u64>,
///     /// Share of the lines that is held out.
///     #[key(default = 0.01, min = 0, max = 1)]
///     validation_fraction: f64,
/// }
///
/// # fn main() {
/// let [paths, max_bytes, fraction] = ReadLines::keys()[..] else { unreachable!() };
/// assert_eq!((paths.name, paths.effect), ("paths", Effect::Location));
/// assert_eq!(max_bytes.documentation, "Longest line in bytes; any length if not given.");
/// assert_eq!((max_bytes.effect, max_bytes.min), (Effect::Results, None));
/// assert_eq!((fraction.min, fraction.max), (Some(0.0), Some(1.0)));
/// assert_eq!(ReadLines::default().validation_fraction, 0.01);
/// # }
/// ```
pub trait StageKeys {
    /// The keys.
    fn keys() -> Vec<Key>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_out_of_range_are_said_and_nothing_else() {
        let key = |min, max| Key { name: "n", documentation: "", effect: Effect::Results, min, max };
        let said = |key: Key, value: Value| key.out_of_range(&value).map(|problem| problem.message);
        let (both, least, most) = (key(Some(0.0), Some(0.5)), key(Some(1.0), None), key(None, Some(2.0)));
        assert_eq!(said(both, json!(0.6)).as_deref(), Some("is 0.6, but must be from 0 to 0.5"));
        assert_eq!(said(both, json!([0.5, 0, -1])).as_deref(), Some("is -1, but must be from 0 to 0.5"));
        assert_eq!(said(least, json!(0)).as_deref(), Some("is 0, but must be at least 1"));
        assert_eq!(said(most, json!(2.5)).as_deref(), Some("is 2.5, but must be at most 2"));
        for (key, value) in [
            (both, json!(0)),
            (both, json!(0.5)),
            (least, json!(null)),
            (most, json!("3")),
            (key(None, None), json!(9)),
        ] {
            assert_eq!(said(key, value), None);
        }
    }

    #[test]
    fn the_range_is_added_to_a_documentation_that_does_not_state_it() {
        let key = |documentation, min, max| Key { name: "n", documentation, effect: Effect::Results, min, max };
        let (zero, one) = (Some(0.0), Some(1.0));
        for (key, described) in [
            (key("Share of it.", zero, one), "Share of it. From 0 to 1."),
            (key("Share of it; 0 to 1.", zero, one), "Share of it; 0 to 1."),
            (key("How many.", one, None), "How many. At least 1."),
            (key("How many, at least 1.", one, None), "How many, at least 1."),
            (key("How many.", None, None), "How many."),
            (key("How small.", Some(1e-30), Some(4096.0)), "How small. From 1e-30 to 4096."),
            (key("How large.", None, Some(1e9)), "How large. At most 1e9."),
        ] {
            assert_eq!(key.described(), described);
        }
    }
}
