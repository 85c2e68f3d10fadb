//! Parses JSON objects of which only some members are used; the others need not be valid. Python's `json` module, for
//! example, writes `NaN` and `Infinity`, which are not JSON.

/// The members of the object `text`, in order: each key, and its value as written. Values are only scanned for their
/// ends. `None` if that fails.
pub fn members(text: &str) -> Option<Vec<(String, &str)>> {
    let mut scan = Scan { text, at: 0 };
    let mut members = Vec::new();
    scan.byte(b'{')?;
    if scan.byte(b'}').is_none() {
        loop {
            let key = serde_json::from_str(scan.string()?).ok()?;
            scan.byte(b':')?;
            members.push((key, scan.value()?));
            if scan.byte(b',').is_none() {
                scan.byte(b'}')?;
                break;
            }
        }
    }
    scan.space();
    (scan.at == text.len()).then_some(members)
}

/// An object with these members.
pub fn object<'a>(members: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let member = |(key, value)| format!("{}:{value}", serde_json::Value::from(key));
    format!("{{{}}}", members.into_iter().map(member).collect::<Vec<_>>().join(","))
}

/// A position in a text.
struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Skips white space and `byte`, if it is next.
    fn byte(&mut self, byte: u8) -> Option<()> {
        self.space();
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next.then_some(())
    }

    /// A string, with its quotation marks.
    fn string(&mut self) -> Option<&'a str> {
        self.space();
        let start = self.at;
        self.byte(b'"')?;
        loop {
            self.at += memchr::memchr2(b'"', b'\\', &self.text.as_bytes()[self.at..])?;
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(&self.text[start..self.at]);
                }
                // Escape sequences are ASCII, or the string is invalid.
                _ => self.at += 2,
            }
            if !self.text.is_char_boundary(self.at) {
                return None;
            }
        }
    }

    /// Skips a value.
    fn value(&mut self) -> Option<&'a str> {
        self.space();
        let start = self.at;
        // The closing brackets that are expected.
        let mut open = Vec::new();
        loop {
            match self.peek()? {
                b'"' => drop(self.string()?),
                byte @ (b'{' | b'[') => {
                    open.push(byte + 2);
                    self.at += 1;
                }
                byte @ (b'}' | b']') => {
                    (open.pop()? == byte).then_some(())?;
                    self.at += 1;
                }
                _ if open.is_empty() => self.word()?,
                _ => self.at += 1,
            }
            if open.is_empty() {
                return Some(&self.text[start..self.at]);
            }
        }
    }

    /// A number, `true`, `NaN` and so on.
    fn word(&mut self) -> Option<()> {
        let rest = &self.text.as_bytes()[self.at..];
        let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        let length = rest.iter().take_while(is_part).count();
        self.at += length;
        (length > 0).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    #[test]
    fn values_need_not_be_valid() {
        let text = r#" {"a": NaN, "b\n": {"x": [1e999, -Infinity, "}"]}, "c": "\"", "d":true } "#;
        let expected = [("a", "NaN"), ("b\n", r#"{"x": [1e999, -Infinity, "}"]}"#), ("c", r#""\"""#), ("d", "true")];
        let found = members(text).unwrap();
        assert_eq!(found.iter().map(|(key, value)| (key.as_str(), *value)).collect::<Vec<_>>(), expected);
        assert_eq!(object(expected[2..].iter().copied()), r#"{"c":"\"","d":true}"#);
        assert_eq!(members("{}"), Some(vec![]));
        for broken in
            ["", "[]", "{", "{\"a\"}", "{\"a\":}", "{\"a\":1", "{\"a\":[1}", "{\"a\":1}x", "{\"a\":1,}", "{\"a\":\"\\é"]
        {
            assert_eq!(members(broken), None, "{broken}");
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_object_is_its_members(map in prop::collection::btree_map(any::<String>(), json(), 0..5)) {
            let map: Map<String, Value> = map.into_iter().collect();
            for text in [serde_json::to_string(&map).unwrap(), serde_json::to_string_pretty(&map).unwrap()] {
                let found = members(&text).unwrap();
                let again = object(found.iter().map(|(key, value)| (key.as_str(), *value)));
                prop_assert_eq!(&serde_json::from_str::<Map<String, Value>>(&again).unwrap(), &map);
                prop_assert_eq!(found.len(), map.len());
            }
        }

        #[test]
        fn any_text_is_looked_at_without_a_panic(text in "[{}\\[\\]\"\\\\:,a1é \n]{0,40}") {
            let _ = members(&text);
        }
    }
}
