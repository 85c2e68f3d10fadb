//! tokenizer.json: how large, how long its tokens, how it cuts a sentence.
use super::fact;
use crate::problem::Usage;
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use std::path::Path;
use text::{TextProblem, Tokenizer};

/// Cut as a specimen.
const SENTENCE: &str = "The river turned the mill's wheel in 1850.";

/// What a tokenizer is.
#[derive(Debug, Serialize)]
pub struct About {
    file: String,
    #[serde(rename = "type")]
    kind: String,
    vocabulary_size: usize,
    merges: usize,
    special_tokens: Vec<(u64, String)>,
    /// blake3 of the file, as token files name it.
    hash: String,
    longest: Vec<String>,
    specimen: Vec<String>,
    /// Why it cannot be used here, if it cannot.
    problem: Option<String>,
}

/// Reads a tokenizer.json.
///
/// # Errors
/// If it is not one.
pub fn open(path: &Path) -> Result<About> {
    let at = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {at}"))?;
    let json: Value = serde_json::from_str(&text)
        .map_err(|e| TextProblem::Tokenizer { name: at.to_string(), why: format!("is not JSON: {e}") })?;
    let Some(vocabulary) = json["model"]["vocab"].as_object() else {
        let why = "is JSON, but no tokenizer.json: it has no `model.vocab`";
        return Err(Usage(format!("{at} {why}")).into());
    };
    let added = json["added_tokens"].as_array().cloned().unwrap_or_default();
    let special: Vec<(u64, String)> =
        added.iter().filter_map(|t| Some((t["id"].as_u64()?, t["content"].as_str()?.to_owned()))).collect();
    let end = special.iter().map(|(_, token)| token.as_str()).find(|t| *t == text::tokenizer::END_OF_TEXT);
    let end = end.or(special.first().map(|(_, token)| token.as_str())).unwrap_or(text::tokenizer::END_OF_TEXT);
    let opened = Tokenizer::from_json(&at.to_string(), text.clone(), end);
    let mut longest: Vec<(u32, String)> = Vec::new();
    let mut specimen = Vec::new();
    let mut problem = None;
    match &opened {
        Ok(tokenizer) => {
            let ids = vocabulary.values().filter_map(|id| id.as_u64()?.try_into().ok());
            let ids: Vec<u32> = ids.filter(|id| special.iter().all(|(s, _)| *s != u64::from(*id))).collect();
            longest = ids.iter().map(|id| Ok((*id, tokenizer.decode(&[*id])?))).collect::<Result<_>>()?;
            longest.sort_by_key(|(id, token)| (std::cmp::Reverse(token.trim().chars().count()), *id));
            longest.truncate(8);
            for id in tokenizer.encode(SENTENCE)? {
                specimen.push(tokenizer.decode(&[id])?);
            }
        }
        Err(error) => problem = Some(format!("{error:#}")),
    }
    let in_vocabulary = special.iter().filter(|(_, token)| vocabulary.contains_key(token)).count();
    Ok(About {
        file: at.to_string(),
        kind: json["model"]["type"].as_str().unwrap_or("?").to_owned(),
        vocabulary_size: vocabulary.len() + special.len() - in_vocabulary,
        merges: json["model"]["merges"].as_array().map_or(0, Vec::len),
        special_tokens: special,
        hash: blake3::hash(text.as_bytes()).to_hex().to_string(),
        longest: longest.into_iter().map(|(_, token)| token).collect(),
        specimen,
        problem,
    })
}

impl About {
    /// For people.
    pub fn text(&self, columns: usize) -> String {
        const INDENT: usize = 12;
        let special: Vec<String> = self.special_tokens.iter().map(|(id, token)| format!("{token} ({id})")).collect();
        let quoted = |tokens: &[String]| tokens.iter().map(|t| format!("{t:?}")).collect::<Vec<_>>().join(" ");
        let mut out = format!("tokenizer, {}: {} ids, {} merges\n", self.kind, self.vocabulary_size, self.merges);
        let facts = [
            ("  special", special.join(", ")),
            ("  longest", quoted(&self.longest)),
            ("  specimen", self.specimen.join("|")),
            ("  blake3", self.hash.clone()),
        ];
        for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
            out += &fact(name, value, INDENT, columns);
        }
        if let Some(problem) = &self.problem {
            out += &format!("note: it cannot be used here: {problem}\n");
        }
        out
    }
}
