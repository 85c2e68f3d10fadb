//! Text to token ids and back: GPT-2 built in, any byte-level `tokenizer.json`, or one trained on the corpus.
//!
//! | module | what |
//! |---|---|
//! | [`vocabulary`] | what token ids mean: what token files, packing and the model must agree on |
//! | [`gpt2`] | GPT-2's tokenizer, which comes with the program |
//! | [`hugging_face`] | the tokenizer beside a model, in Hugging Face's layouts |
//! | [`llama_cpp`] | a tokenizer as the lists of a GGUF file |
//! | [`train`] | a byte-level BPE learned from word counts |
//! | [`byte_bpe`] | texts to ids at many times the speed of Hugging Face's library |
//! | [`text_stream`] | ids to text while they are generated |
//! | [`bin_files`] | tokens in nanoGPT's and llm.c's files |
//! | [`stage`] | stage `bpe` |
pub mod bin_files;
pub mod byte_bpe;
pub mod gpt2;
pub mod hugging_face;
pub mod llama_cpp;
pub mod stage;
pub mod text_stream;
pub mod train;
pub mod vocabulary;

pub use vocabulary::{END_OF_TEXT, Vocabulary};

use crate::support::cache::write_whole;
use crate::support::problem::{TextProblem, shielded, similar, similar_file};
use crate::tokenizer::byte_bpe::Model;
use anyhow::{Context, Result};
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;

/// A tokenizer.
pub struct Tokenizer {
    /// The fast way; or why Hugging Face's library must do.
    model: Result<Model, String>,
    /// Opening it takes longer than opening the model, so it is opened by who needs it.
    library: OnceLock<tokenizers::Tokenizer>,
    name: String,
    json: String,
    vocabulary: Vocabulary,
}

impl Tokenizer {
    /// From the text of a `tokenizer.json`; `name` is for messages.
    pub fn from_json(name: &str, json: String, end_of_text: &str) -> Result<Self> {
        // Hugging Face's crate meets some files that are not whole with a panic.
        shielded(|| Self::parse(name, json, end_of_text)).map_err(|e| match e.downcast::<TextProblem>() {
            Ok(problem) => problem.into(),
            Err(e) => {
                let why = format!("not a tokenizer.json of Hugging Face: {e:#}");
                TextProblem::Tokenizer { name: name.to_string(), why }.into()
            }
        })
    }

    fn parse(name: &str, json: String, end_of_text: &str) -> Result<Self> {
        let hash = blake3::hash(json.as_bytes()).to_hex().to_string();
        let model = Model::from_json(&json);
        // The fast model takes none, so only what it leaves to the library is looked at.
        if model.is_err()
            && let Some(dropout) = dropout(&json)
        {
            let why = format!(
                "its `dropout` of {dropout} splits words at random, so that equal runs would differ: set it to null"
            );
            return Err(TextProblem::Tokenizer { name: name.into(), why }.into());
        }
        let vocabulary = Vocabulary { hash, size: 0, end_of_text: 0 };
        let mut tokenizer = Self { model, library: OnceLock::new(), name: name.into(), json, vocabulary };
        let (size, id) = match &tokenizer.model {
            Ok(model) => (Some(model.size()), model.id(end_of_text)),
            Err(_) => {
                let library = tokenizer.library()?;
                let highest = library.get_vocab(true).into_values().max();
                (highest.map_or(Some(0), |id| id.checked_add(1)), library.token_to_id(end_of_text))
            }
        };
        let Some(id) = id else {
            let added = tokenizer.library()?.get_added_tokens_decoder();
            let mut special: Vec<String> = added.into_values().map(|t| t.content).collect();
            special.sort();
            let near = similar(end_of_text, &special).map(|s| format!("; similar: {s}")).unwrap_or_default();
            let why = format!("has no token {end_of_text} (key `end_of_text`); special tokens: {special:?}{near}");
            return Err(tokenizer.problem(why).into());
        };
        let size = size.ok_or_else(|| tokenizer.problem(format!("has the id {}, past all others", u32::MAX)))?;
        (tokenizer.vocabulary.size, tokenizer.vocabulary.end_of_text) = (size, id);
        let sample = "A byte-level one keeps all: 1 é ß 漢 🌍\n\t.";
        let back = tokenizer.decode(&tokenizer.encode(sample)?)?;
        if back.trim_start() != sample {
            let why = format!("is not byte-level: {sample:?} becomes {back:?}; a byte-level BPE is needed");
            return Err(tokenizer.problem(why).into());
        }
        Ok(tokenizer)
    }

    fn problem(&self, why: String) -> TextProblem {
        TextProblem::Tokenizer { name: self.name.clone(), why }
    }

    /// Hugging Face's library with this tokenizer.
    fn library(&self) -> Result<&tokenizers::Tokenizer> {
        if let Some(library) = self.library.get() {
            return Ok(library);
        }
        let mut library = tokenizers::Tokenizer::from_bytes(self.json.as_bytes())
            .map_err(|e| self.problem(format!("not a tokenizer.json of Hugging Face: {e}")))?;
        library.with_padding(None);
        library.with_truncation(None).map_err(|e| self.problem(e.to_string()))?;
        Ok(self.library.get_or_init(|| library))
    }

    /// From a `tokenizer.json`.
    pub fn from_file(path: &Path, end_of_text: &str) -> Result<Self> {
        if !path.is_file() {
            return Err(TextProblem::Missing { path: path.to_path_buf(), similar: similar_file(path) }.into());
        }
        let json = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::from_json(&path.display().to_string(), json, end_of_text)
    }

    /// Ids of `text`, without any added at its ends. A special token that is spelled out in the text is that token,
    /// as it is to Hugging Face. For many texts an [`Encoder`](crate::tokenizer::byte_bpe::Encoder) is faster.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let Ok(model) = &self.model else { return self.encode_slowly(text) };
        let mut ids = Vec::new();
        model.encode(text, &mut Vec::new(), &mut ids);
        Ok(ids)
    }

    /// Ids of a prompt, with what the tokenizer adds to every text (a token that begins it).
    ///
    /// # Errors
    /// If the library cannot encode it.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        let library = self.library()?;
        if library.get_post_processor().is_none() {
            return self.encode(text);
        }
        let encoding = library.encode(text, true);
        Ok(encoding.map_err(|e| anyhow::anyhow!("cannot tokenize the prompt: {e}"))?.get_ids().to_vec())
    }

    /// [`encode`](Self::encode) by Hugging Face's library: what it is measured against, and what it falls back
    /// to.
    pub fn encode_slowly(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.library()?.encode_fast(text, false);
        Ok(encoding
            .map_err(|e| anyhow::anyhow!("cannot tokenize a text of {} bytes: {e}", text.len()))?
            .get_ids()
            .to_vec())
    }

    /// The byte of `text` at which each of its tokens begins.
    ///
    /// # Errors
    /// If the library cannot encode it.
    pub fn starts(&self, text: &str) -> Result<Vec<usize>> {
        let Ok(model) = &self.model else {
            let encoding = self.library()?.encode(text, false);
            let encoding =
                encoding.map_err(|e| anyhow::anyhow!("cannot tokenize a text of {} bytes: {e}", text.len()))?;
            return Ok(encoding.get_offsets().iter().map(|(start, _)| *start).collect());
        };
        let starts = self.encode(text)?.into_iter().scan(0, |end, id| {
            let start = *end;
            *end += model.bytes(id);
            Some(start)
        });
        Ok(starts.collect())
    }

    /// The fast model, if the tokenizer is one that it can be.
    pub fn model(&self) -> Option<&Model> {
        self.model.as_ref().ok()
    }

    /// What in the tokenizer the fast model does not handle, so that Hugging Face's library encodes, more slowly.
    pub fn slow_because(&self) -> Option<&str> {
        self.model.as_ref().err().map(String::as_str)
    }

    /// Text of `ids`; bytes that are not UTF-8 become replacement characters.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        match &self.model {
            Ok(model) => Ok(model.decode(ids)),
            Err(_) => self.decode_slowly(ids),
        }
    }

    /// The same by Hugging Face's library.
    pub fn decode_slowly(&self, ids: &[u32]) -> Result<String> {
        let text = self.library()?.decode(ids, false);
        text.map_err(|e| anyhow::anyhow!("cannot decode {} ids: {e}", ids.len()))
    }

    /// What others must agree with.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Number of ids.
    pub fn vocabulary_size(&self) -> u32 {
        self.vocabulary.size
    }

    /// Id of the token that ends a document.
    pub fn end_of_text(&self) -> u32 {
        self.vocabulary.end_of_text
    }

    /// blake3 of its `tokenizer.json`.
    pub fn hash(&self) -> &str {
        &self.vocabulary.hash
    }

    /// Its `tokenizer.json`.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// Writes its `tokenizer.json`, whole or not at all.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_whole(path, |out| Ok(out.write_all(self.json.as_bytes())?))
    }
}

/// BPE dropout (Provilkov et al. 2020), if the tokenizer has it.
fn dropout(json: &str) -> Option<f64> {
    #[derive(serde::Deserialize)]
    struct File {
        model: Model,
    }
    #[derive(serde::Deserialize)]
    struct Model {
        dropout: Option<f64>,
    }
    let file: File = serde_json::from_str(json).ok()?;
    file.model.dropout.filter(|dropout| *dropout != 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::train::tokenizer_json;

    #[test]
    fn dropout_is_refused() {
        let cache = tempfile::tempdir().unwrap();
        let gpt2 = Tokenizer::gpt2(&crate::Cache::new(cache.path().to_str()), END_OF_TEXT).unwrap();
        let mut json: serde_json::Value = serde_json::from_str(gpt2.json()).unwrap();
        for (value, refused) in [(0.1, true), (0.0, false)] {
            json["model"]["dropout"] = value.into();
            let said = Tokenizer::from_json("x", json.to_string(), END_OF_TEXT).err().map(|error| error.to_string());
            assert_eq!(said.is_some_and(|said| said.contains("`dropout` of 0.1")), refused);
        }
    }

    #[test]
    fn what_is_wrong_with_a_tokenizer() {
        let said = |json: String, end: &str| Tokenizer::from_json("t.json", json, end).err().unwrap().to_string();
        assert!(said("{}".into(), END_OF_TEXT).contains("t.json: not a tokenizer.json"));
        let json = tokenizer_json(&[END_OF_TEXT.to_owned()], &[], (END_OF_TEXT, 0));
        // Found by tests/fuzz: Hugging Face's crate panics where a decoder is broken off.
        let broken = r#"{"version": "1.0", "decoder": {"type": "ByteLevel", "add_prefix_space": true["#;
        assert!(said(broken.into(), END_OF_TEXT).contains("t.json: not a tokenizer.json"));
        assert!(said(json, "<endoftext>").contains("similar: <|endoftext|>"));
        let missing = Tokenizer::from_file(Path::new("/nowhere/t.json"), END_OF_TEXT).err().unwrap();
        assert!(missing.to_string().contains("there is no file or folder /nowhere/t.json"));
    }
}
