//! The tokenizer in a model's folder, in Hugging Face's layouts: `tokenizer.json`, or GPT-2's `vocab.json` and
//! `merges.txt`.
use crate::support::problem::TextProblem;
use crate::tokenizer::train::tokenizer_json;
use crate::tokenizer::{END_OF_TEXT, Tokenizer};
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::HashMap;
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
            let special = end_of_text.and_then(|id| spelled(&text, id)).unwrap_or_else(|| END_OF_TEXT.to_owned());
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

/// The special token with this id.
fn spelled(json: &str, id: u32) -> Option<String> {
    let json: Value = serde_json::from_str(json).ok()?;
    let token = json["added_tokens"].as_array()?.iter().find(|token| token["id"] == id)?;
    Some(token["content"].as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cache;

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
