//! Values with their origins, and conversion between TOML and JSON.
use crate::problem::Origin;
use serde_json::{Map, Value};

/// A value and where it comes from.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The value; `null` stands for "not set".
    pub value: Value,
    /// Where it comes from.
    pub origin: Origin,
}

/// The keys of a table, in order.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Where the table starts.
    pub origin: Origin,
    /// Its keys.
    pub entries: Vec<(String, Entry)>,
}

impl Table {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|(k, _)| k == key).map(|(_, entry)| entry)
    }

    /// Sets `key`, in its old position if it had one.
    pub fn set(&mut self, key: &str, entry: Entry) {
        match self.entries.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = entry,
            None => self.entries.push((key.to_owned(), entry)),
        }
    }

    /// Removes `key`.
    pub fn remove(&mut self, key: &str) -> Option<Entry> {
        let at = self.entries.iter().position(|(k, _)| k == key)?;
        Some(self.entries.remove(at).1)
    }

    /// The origin of `key`, or of the table if the key is missing.
    pub(crate) fn origin_of(&self, key: &str) -> Origin {
        self.get(key).map_or_else(|| self.origin.clone(), |entry| entry.origin.clone())
    }
}

/// Tables are equal if their values are, whatever their origins.
impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &(String, Entry), b: &(String, Entry)| a.0 == b.0 && a.1.value == b.1.value;
        self.entries.len() == other.entries.len() && self.entries.iter().zip(&other.entries).all(|(a, b)| same(a, b))
    }
}

/// A TOML value or table as JSON.
pub(crate) fn json_of_item(item: &toml_edit::Item) -> Result<Value, String> {
    match item {
        toml_edit::Item::Value(value) => json_of_value(value),
        toml_edit::Item::Table(table) => json_of_pairs(table.iter()),
        toml_edit::Item::ArrayOfTables(tables) => {
            tables.iter().map(|table| json_of_pairs(table.iter())).collect::<Result<_, _>>().map(Value::Array)
        }
        toml_edit::Item::None => Ok(Value::Null),
    }
}

/// A TOML value as JSON.
pub(crate) fn json_of_value(value: &toml_edit::Value) -> Result<Value, String> {
    use toml_edit::Value as Toml;
    Ok(match value {
        Toml::String(text) => Value::from(text.value().as_str()),
        Toml::Integer(number) => Value::from(*number.value()),
        Toml::Float(number) => match serde_json::Number::from_f64(*number.value()) {
            Some(number) => Value::Number(number),
            None => return Err(format!("{} is not a finite number", number.value())),
        },
        Toml::Boolean(truth) => Value::from(*truth.value()),
        Toml::Datetime(date) => Value::from(date.value().to_string()),
        Toml::Array(values) => Value::Array(values.iter().map(json_of_value).collect::<Result<_, _>>()?),
        Toml::InlineTable(table) => {
            let pair = |(key, value): (&str, &Toml)| Ok((key.to_owned(), json_of_value(value)?));
            Value::Object(table.iter().map(pair).collect::<Result<Map<_, _>, String>>()?)
        }
    })
}

fn json_of_pairs<'a>(pairs: impl Iterator<Item = (&'a str, &'a toml_edit::Item)>) -> Result<Value, String> {
    let pair = |(key, item): (&str, &toml_edit::Item)| Ok((key.to_owned(), json_of_item(item)?));
    Ok(Value::Object(pairs.map(pair).collect::<Result<Map<_, _>, String>>()?))
}

/// A JSON value in TOML's notation; `None` for `null`, which TOML does not have.
pub(crate) fn toml_of(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(truth) => truth.to_string(),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => integer.to_string(),
            (None, Some(float)) => float_text(float),
            (None, None) => number.to_string(),
        },
        Value::String(text) => toml_edit::Value::from(text.as_str()).to_string(),
        Value::Array(values) => format!("[{}]", values.iter().filter_map(toml_of).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let pair = |(key, value): (&String, &Value)| Some(format!("{} = {}", toml_key(key), toml_of(value)?));
            let pairs: Vec<String> = map.iter().filter_map(pair).collect();
            if pairs.is_empty() { "{}".into() } else { format!("{{ {} }}", pairs.join(", ")) }
        }
    })
}

fn float_text(value: f64) -> String {
    let plain = value != 0.0 && !(1e-4..1e15).contains(&value.abs());
    if plain { format!("{value:e}") } else { format!("{value:?}") }
}

/// A key in TOML's notation, quoted if necessary.
pub(crate) fn toml_key(key: &str) -> String {
    toml_edit::Key::new(key).to_string()
}

/// Prints defaults that are `f32` as they were written (0.1 becomes 0.10000000149011612 when converted to JSON).
pub(crate) fn shorten_floats(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => {
            let wide = number.as_f64().unwrap_or_default();
            let narrow = wide as f32;
            let short = if f64::from(narrow) == wide { narrow.to_string().parse().unwrap_or(wide) } else { wide };
            serde_json::Number::from_f64(short).map_or(Value::Number(number), Value::Number)
        }
        Value::Array(values) => Value::Array(values.into_iter().map(shorten_floats).collect()),
        Value::Object(map) => Value::Object(map.into_iter().map(|(k, v)| (k, shorten_floats(v))).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_goes_to_toml_and_back() {
        for value in [
            json!(1),
            json!(-0.5),
            json!(3e-9),
            json!(1.0),
            json!(1e300),
            json!("a \"b\" \n c\u{1}"),
            json!([1, [2.5], "x"]),
            json!({"a b": 1, "c": {"d": true}}),
            json!({}),
        ] {
            let text = toml_of(&value).unwrap();
            let back = json_of_value(&text.parse().unwrap()).unwrap();
            assert_eq!(back, value, "{text}");
        }
    }

    #[test]
    fn floats_that_were_f32_are_short_again() {
        assert_eq!(shorten_floats(json!([0.1f32, 0.1f64, 3, 0.5])), json!([0.1, 0.1, 3, 0.5]));
    }
}
