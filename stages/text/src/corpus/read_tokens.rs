//! Source `tokens`: token lists for every lane and step, from token Parquet.
use crate::corpus::epoch_order::{BY_CONTENT, ORDER};
use crate::corpus::index::CorpusIndex;
use crate::corpus::lanes::{Chunk, LaneReader};
use crate::corpus::read_ahead::{self, ReadAhead, WINDOW_BYTES};
use crate::corpus::read_documents::check_paths;
use crate::corpus::source_keys::{HoldOut, input_problem};
use crate::corpus::split::HoldOutAll;
use crate::corpus::withdrawal::{WITHDRAWN, Withdrawal, WithdrawnRows};
use crate::input::attribution::attributions;
use crate::input::format::Format;
use crate::input::paths::resolve;
use crate::parquet::row_groups::DEFAULT_BUDGET;
use crate::parquet::tokens::{TokenFiles, TokenStore};
use crate::support::cache::Cache;
use crate::support::problem::TextProblem;
use crate::tokenizer::{END_OF_TEXT, Tokenizer, Vocabulary};
use anyhow::Result;
use arrow::array::{ArrayRef, AsArray, ListArray};
use contract::{
    Built, Corpus, Emit, Env, Facts, Goal, Kind, Lane, Memory, Packet, Port, Prepare, Problem, Settings, Snapshot,
    Source, SourceSizes, StageKeys, StageSettings, Step, Tokens, Turn, Unit,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;

/// Settings of source `tokens`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct ReadTokens {
    /// Files, folders and patterns: `.parquet` with a column `tokens`; at least one.
    #[key(location)]
    pub paths: Vec<String>,
    /// How many files to use; selected by the seed, at least 1. All if not given.
    #[key(min = 1)]
    pub sample: Option<u64>,
    /// The tokenizer that the files must have been made with: "gpt2" or the path of a `tokenizer.json`; the one that
    /// the files name if not given.
    pub tokenizer: Option<String>,
    /// The token of that tokenizer that ends a document.
    #[key(default = END_OF_TEXT.into())]
    pub end_of_text: String,
    /// The validation split.
    #[serde(flatten)]
    pub hold_out: HoldOut,
    /// Documents that are left out.
    #[serde(flatten)]
    pub withdrawal: Withdrawal,
    /// Folder of the cache; $MILLRACE_CACHE, $XDG_CACHE_HOME/millrace or ~/.cache/millrace if not given.
    #[key(location)]
    pub cache: Option<String>,
}

impl StageSettings for ReadTokens {
    const SUMMARY: &'static str = "reads tokenized documents from token Parquet";
    const EXAMPLE: &'static str = "paths = [\"data/tokens/*.parquet\"]\ntokenizer = \"gpt2\"\n";
}

impl ReadTokens {
    /// The cache.
    pub fn cache(&self) -> Cache {
        Cache::new(self.cache.as_deref())
    }

    /// Opens the tokenizer that the files must have been made with.
    ///
    /// # Errors
    /// If it cannot be read or has no such end-of-text token.
    fn tokenizer(&self, cache: &Cache) -> Result<Option<Tokenizer>> {
        match self.tokenizer.as_deref() {
            None => Ok(None),
            Some("gpt2") => Tokenizer::gpt2(cache, &self.end_of_text).map(Some),
            Some(path) => Tokenizer::from_file(path.as_ref(), &self.end_of_text).map(Some),
        }
    }

    /// Finds and opens the files; they must agree with each other and with `tokenizer`.
    pub fn open(&self, seed: u64, tokenizer: Option<&Vocabulary>, cache: &Cache) -> Result<TokenStore> {
        TokenStore::open(&self.find(seed)?, tokenizer, cache)
    }

    /// Finds the files.
    fn find(&self, seed: u64) -> Result<Vec<PathBuf>> {
        let inputs = resolve(&self.paths, self.sample, seed)?;
        if let Some(other) = inputs.files.iter().find(|file| *file.format != Format::PARQUET) {
            let why = "tokens are read from Parquet; for text use type = \"documents\"".into();
            let format = Format::PARQUET.name;
            return Err(TextProblem::NotOfFormat { path: other.path.clone(), format, why }.into());
        }
        Ok(inputs.files.into_iter().map(|file| file.path).collect())
    }

    /// Reads the footers of the files, which must agree with each other and with `tokenizer`.
    fn footers(&self, seed: u64, tokenizer: Option<&Vocabulary>) -> Result<TokenFiles> {
        TokenFiles::open(&self.find(seed)?, tokenizer)
    }
}

impl Settings for ReadTokens {
    fn takes(&self) -> Vec<Port> {
        Vec::new()
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Tokens]
    }

    fn check(&self) -> Vec<Problem> {
        let mut problems = check_paths(&self.paths);
        problems.extend(self.hold_out.check());
        if self.tokenizer.is_none() && self.end_of_text != END_OF_TEXT {
            let why = "names a token of `tokenizer`, which is not given; without one, the files say which token it is";
            problems.push(Problem::at("end_of_text", why));
        }
        problems
    }

    fn check_goal(&self, goal: Goal) -> Vec<Problem> {
        let why = "reads tokens, and a preparation begins with documents: use type = \"documents\"";
        (goal == Goal::PrepareCorpus)
            .then(|| Problem { key: None, message: why.into(), failed: false })
            .into_iter()
            .collect()
    }

    fn check_files(&self, _: Goal, seed: u64) -> Vec<Problem> {
        let cache = self.cache();
        let folder = cache.check_folder().err().map(|error| Problem::with_file("cache", &error));
        let (tokenizer, of_tokenizer) = match self.tokenizer(&cache) {
            Ok(tokenizer) => (tokenizer, None),
            Err(error) => (None, Some(Problem::with_file("tokenizer", &error))),
        };
        let opened = self.footers(seed, tokenizer.as_ref().map(Tokenizer::vocabulary));
        let of_files = opened.err().map(|error| input_problem(&error, "paths"));
        folder.into_iter().chain(of_tokenizer).chain(of_files).chain(self.withdrawal.check_files()).collect()
    }

    fn most_tokens(&self, seed: u64, _: u64) -> Option<u64> {
        Some(self.footers(seed, None).ok()?.most_tokens())
    }

    fn reads(&self, seed: u64) -> Result<Vec<PathBuf>> {
        Ok(resolve(&self.paths, self.sample, seed)?.files.into_iter().map(|file| file.path).collect())
    }

    fn vocabulary(&self, seed: u64) -> Result<Option<Facts>> {
        Ok(Some(self.footers(seed, None)?.vocabulary.facts()))
    }

    /// Opens the token lists and counts them. Provides the lists, their index, and source and licence of the texts.
    fn prepare(&self, before: &mut Prepare) -> Result<()> {
        let cache = self.cache();
        let tokenizer = self.tokenizer(&cache)?;
        let inputs = resolve(&self.paths, self.sample, before.seed())?;
        let store = Arc::new(self.open(before.seed(), tokenizer.as_ref().map(Tokenizer::vocabulary), &cache)?);
        let split = HoldOutAll::or(self.hold_out.split(), before.resources());
        let mut shown = |done, total| before.progress("Counting", Unit::Things("documents"), done, total);
        let withdrawn = self.withdrawal.read()?;
        let rows = withdrawn.as_ref().map(|withdrawn| withdrawn.rows(&store.files())).transpose()?;
        let rows = WithdrawnRows(rows.unwrap_or_default());
        let index = CorpusIndex::of_tokens(&store, split, &rows.0, &mut shown)?;
        index.check(before.resources())?;
        if index.skipped > 0 {
            before.note(format!("{} empty documents are passed over", index.skipped));
        }
        let (vocabulary, id) = (store.vocabulary(), before.id().to_owned());
        before.fingerprint("content of tokens", &id, store.content_hash());
        before.fingerprint(ORDER, &id, BY_CONTENT);
        if let Some(withdrawn) = withdrawn {
            before.fingerprint(WITHDRAWN, &id, &withdrawn.fingerprint());
            before.provide(withdrawn);
        }
        before.fingerprint("content of tokenizer", &id, &vocabulary.hash);
        before.vocabulary(vocabulary.facts(), tokenizer.as_ref().map(|tokenizer| tokenizer.json().to_owned()))?;
        tokenizer.into_iter().for_each(|tokenizer| before.provide(Arc::new(tokenizer)));
        before.corpus(&id, index.corpus);
        before.provide(Arc::new(vocabulary.clone()));
        before.provide(Arc::new(attributions(&inputs)?));
        before.provide(Arc::new(cache));
        before.provide(Arc::new(index));
        before.provide(Arc::new(rows));
        before.provide(store);
        Ok(())
    }

    fn build(&self, env: &Env) -> Result<Built> {
        let store = env.resource("the opened token files (TokenStore)")?;
        let index = env.resource::<CorpusIndex>("the index of the corpus (CorpusIndex)")?;
        let ahead = bytes_ahead(index.corpus).map(|_| ReadAhead::new(env.shape.lanes));
        let lanes = LaneReader::new(index, env);
        Ok(Built::Source(Box::new(Reader { store, lanes, ahead })))
    }

    /// Decoded row groups: all tokens, up to a limit.
    fn memory(&self, env: &Env) -> Memory {
        let own = env.resources.get::<SourceSizes>().and_then(|sizes| sizes.of(&env.stage)).or(env.corpus);
        let permanent =
            own.map_or(0, |corpus| bytes(corpus).min(DEFAULT_BUDGET as u64) + bytes_ahead(corpus).unwrap_or(0));
        Memory { permanent, ..Memory::default() }
    }
}

/// Bytes of all tokens when they are decoded.
fn bytes(corpus: Corpus) -> u64 {
    corpus.train.with(&corpus.validation).tokens * size_of::<u32>() as u64
}

/// Bytes of the documents that are read ahead, if all of them do not fit into the cache of decoded pieces.
fn bytes_ahead(corpus: Corpus) -> Option<u64> {
    (bytes(corpus) > DEFAULT_BUDGET as u64).then_some(WINDOW_BYTES)
}

struct Reader {
    store: Arc<TokenStore>,
    lanes: LaneReader,
    /// If the tokens do not fit into the store's cache.
    ahead: Option<ReadAhead>,
}

impl Reader {
    fn documents(&mut self, lane: Lane, chunk: &Chunk) -> Result<ListArray> {
        let fetch = |rows: &[u64]| Ok(Arc::new(self.store.take(rows.iter().copied())?) as ArrayRef);
        Ok(read_ahead::read(&mut self.ahead, &self.lanes, lane, chunk, fetch)?.as_list().clone())
    }
}

impl Source for Reader {
    fn next(&mut self, lane: Lane, step: Step, out: &mut dyn Emit) -> Result<Turn> {
        if let Some(chunk) = self.lanes.next(lane, step)? {
            let documents = self.documents(lane, &chunk)?;
            out.give(Packet::Tokens(Tokens { lane, source: 0, purpose: chunk.purpose, last: chunk.last, documents }));
        }
        Ok(Turn::Done)
    }

    fn save(&mut self, lane: Lane) -> Result<Snapshot> {
        Ok(self.lanes.save(lane))
    }

    fn load(&mut self, lane: Lane, state: Value) -> Result<()> {
        self.lanes.load(lane, state)
    }
}
