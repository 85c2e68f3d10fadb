//! The tokenizer in a model's folder, in Hugging Face's layouts: `tokenizer.json`, or GPT-2's `vocab.json` and
//! `merges.txt`.
use crate::support::problem::TextProblem;
use crate::tokenizer::train::tokenizer_json;
use crate::tokenizer::{END_OF_TEXT, Tokenizer};
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fs::read_to_string;
use std::path::Path;

impl Tokenizer {
    /// The tokenizer in `folder`; `end_of_text` is the id of the token that ends a text, if the model specifies it
    /// (otherwise it is `<|endoftext|>`).
    ///
    /// # Errors
    /// If there is none, or it is not byte-level.
    pub fn from_folder(folder: &Path, end_of_text: Option<u32>) -> Result<Self> {
        let read = |path: &Path| read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
        let [json, vocabulary, merges] = ["tokenizer.json", "vocab.json", "merges.txt"].map(|name| folder.join(name));
        if json.is_file() {
            let text = read(&json)?;
            let special = end_of_text.and_then(|id| spelling(&text, id)).unwrap_or_else(|| END_OF_TEXT.to_owned());
            return Self::from_json(&json.display().to_string(), text, &special);
        }
        let name = folder.display().to_string();
        let problem = |why: String| TextProblem::Tokenizer { name: name.clone(), why };
        if !(vocabulary.is_file() && merges.is_file()) {
            return Err(problem("has neither tokenizer.json nor vocab.json and merges.txt".into()).into());
        }
        let ids: HashMap<String, u32> =
            serde_json::from_str(&read(&vocabulary)?).map_err(|e| problem(format!("vocab.json: {e}")))?;
        let mut tokens: Vec<(u32, String)> = ids.into_iter().map(|(token, id)| (id, token)).collect();
        tokens.sort();
        if (0u32..).zip(&tokens).any(|(expected, (id, _))| expected != *id) {
            return Err(problem("vocab.json: ids are not 0, 1, 2 and so on".into()).into());
        }
        let tokens: Vec<String> = tokens.into_iter().map(|(_, token)| token).collect();
        let at = match end_of_text {
            Some(id) => id as usize,
            None => tokens.iter().position(|token| token == END_OF_TEXT).unwrap_or(tokens.len()),
        };
        let Some(special) = tokens.get(at) else {
            return Err(problem(format!("vocab.json: has no token {at}, which ends a text")).into());
        };
        let merges = read(&merges)?;
        let merges: Vec<(String, String)> = merges
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with("#version"))
            .map(|line| line.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned())))
            .collect::<Option<_>>()
            .ok_or_else(|| problem("merges.txt: a line is not two tokens".into()))?;
        Self::from_json(&name, tokenizer_json(&tokens, &merges, (special, at as u32)), special)
    }
}

/// The token with this id in a `tokenizer.json`, which need not be among the added ones.
pub fn spelling(json: &str, id: u32) -> Option<String> {
    let json: Value = serde_json::from_str(json).ok()?;
    tokens(&json).into_iter().find(|(_, other)| *other == id).map(|(token, _)| token)
}

/// All tokens of a `tokenizer.json` with their ids.
pub(super) fn tokens(json: &Value) -> BTreeMap<String, u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let model = json["model"]["vocab"].as_object().into_iter().flatten();
    let model = model.filter_map(|(token, value)| Some((token.clone(), id(value)?)));
    let added = json["added_tokens"].as_array().into_iter().flatten();
    let added = added.filter_map(|token| Some((token["content"].as_str()?.to_owned(), id(&token["id"])?)));
    model.chain(added).collect()
}

/// How two `tokenizer.json` differ in a way that gives a text other ids, or an id another text; `None` if they do not.
///
/// # Errors
/// If one of them is not JSON.
pub fn difference(one: &str, other: &str) -> Result<Option<String>> {
    if one == other {
        return Ok(None);
    }
    let parse = |text| serde_json::from_str::<Value>(text).context("a tokenizer.json is not JSON");
    let (one, other) = (parse(one)?, parse(other)?);
    let [tokens_1, tokens_2] = [&one, &other].map(tokens);
    if tokens_1.len() != tokens_2.len() {
        return Ok(Some(format!("{} and {} tokens", tokens_1.len(), tokens_2.len())));
    }
    if let Some((token, id)) = tokens_1.iter().find(|(token, id)| tokens_2.get(*token) != Some(id)) {
        let there = tokens_2.get(token).map_or("missing".into(), |id| format!("id {id}"));
        return Ok(Some(format!("token {token:?} is id {id} and {there}")));
    }
    if merges(&one) != merges(&other) {
        return Ok(Some("their merges".into()));
    }
    let parts = ["normalizer", "pre_tokenizer"];
    Ok(parts.into_iter().find(|part| one[part] != other[part]).map(|part| format!("`{part}`")))
}

/// The merges of a `tokenizer.json`, `left right`. (Older files have them as such strings, newer ones as pairs.)
pub(super) fn merges(json: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let merges = json["model"]["merges"].as_array().into_iter().flatten();
    merges.map(|merge| merge.as_str().map_or_else(|| text(&merge[0]) + " " + &text(&merge[1]), str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cache;

    #[test]
    fn tokenizers_are_compared_by_what_they_do() {
        let cache = tempfile::tempdir().unwrap();
        let gpt2 = Tokenizer::gpt2(&Cache::new(cache.path().to_str()), END_OF_TEXT).unwrap();
        let json: Value = serde_json::from_str(gpt2.json()).unwrap();
        let changed = |change: &dyn Fn(&mut Value)| {
            let mut other = json.clone();
            change(&mut other);
            difference(gpt2.json(), &other.to_string()).unwrap()
        };
        assert_eq!(changed(&|_| ()), None);
        assert_eq!(changed(&|json| json["post_processor"] = Value::Null), None);
        let merges = changed(&|json| json["model"]["merges"].as_array_mut().unwrap().swap(0, 1));
        assert_eq!(merges.as_deref(), Some("their merges"));
        let swapped = changed(&|json| {
            let vocabulary = &mut json["model"]["vocab"];
            (vocabulary["a"], vocabulary["b"]) = (vocabulary["b"].clone(), vocabulary["a"].clone());
        });
        assert_eq!(swapped.as_deref(), Some("token \"a\" is id 64 and id 65"));
    }

    #[test]
    fn both_layouts_give_the_same_ids() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let said = |end| Tokenizer::from_folder(folder.path(), end).err().unwrap().to_string();
        assert!(said(None).contains("has neither tokenizer.json nor vocab.json"));
        let gpt2 = Tokenizer::gpt2(&Cache::new(folder.path().to_str()), END_OF_TEXT).unwrap();
        let json: Value = serde_json::from_str(gpt2.json()).unwrap();
        let merges = json["model"]["merges"].as_array().unwrap();
        let lines: Vec<String> = merges
            .iter()
            .map(|pair| format!("{} {}\n", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()))
            .collect();
        std::fs::write(at("vocab.json"), json["model"]["vocab"].to_string()).unwrap();
        std::fs::write(at("merges.txt"), format!("#version: 0.2\n{}", lines.concat())).unwrap();
        assert!(said(Some(60_000)).contains("no token 60000"));
        let text = "The mill's race, 1 é 漢 🌍<|endoftext|>";
        for end in [None, Some(50_256)] {
            let files = Tokenizer::from_folder(folder.path(), end).unwrap();
            assert_eq!(files.encode(text).unwrap(), gpt2.encode(text).unwrap());
            assert_eq!(files.end_of_text(), 50_256);
        }
        gpt2.save(&at("tokenizer.json")).unwrap();
        assert_eq!(Tokenizer::from_folder(folder.path(), Some(50_256)).unwrap().hash(), gpt2.hash());
    }
}
