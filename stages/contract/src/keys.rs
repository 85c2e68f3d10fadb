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
        let needed = match (self.min, self.max) {
            (Some(min), Some(max)) => format!("it must be from {min} to {max}"),
            (Some(min), None) => format!("at least {min} is needed"),
            (None, Some(max)) => format!("at most {max} is allowed"),
            (None, None) => return None,
        };
        (!inside).then(|| Problem::at(self.name, format!("`{}` is {value}: {needed}", self.name)))
    }
}

/// What the value of a key affects. A run may only be resumed with the same values of keys that affect results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Results.
    Results,
    /// Whether the run fails. The data that could not be read enters the fingerprint by its content.
    Failure,
    /// Where files are. What is read from them enters the fingerprint by its content.
    Location,
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
        assert_eq!(said(both, json!(0.6)).as_deref(), Some("`n` is 0.6: it must be from 0 to 0.5"));
        assert_eq!(said(both, json!([0.5, 0, -1])).as_deref(), Some("`n` is -1: it must be from 0 to 0.5"));
        assert_eq!(said(least, json!(0)).as_deref(), Some("`n` is 0: at least 1 is needed"));
        assert_eq!(said(most, json!(2.5)).as_deref(), Some("`n` is 2.5: at most 2 is allowed"));
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
}
