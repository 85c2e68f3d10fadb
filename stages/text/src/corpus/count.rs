//! Stage `count`: how many tokens each row has, gathered on worker 0 behind `scan` and a tokenizer.
use anyhow::{Context, Result, bail};
use arrow::array::Array;
use contract::{At, Built, Emit, Env, Kind, Packet, Port, Route, Settings, Stage, StageSettings, Turn};
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Where the result is found when the graph has finished, on the process of worker 0: tokens of every row in
/// order, the end-of-text token included.
#[derive(Default)]
pub struct Counted {
    result: Mutex<Option<Vec<u32>>>,
    watch: Option<Mutex<Watch>>,
}

/// Told how many rows are counted.
type Watch = Box<dyn FnMut(u64) + Send>;

impl Counted {
    /// A place for the result, with somebody who is told how many rows are counted so far.
    pub fn watched(watch: impl FnMut(u64) + Send + 'static) -> Self {
        Self { result: Mutex::default(), watch: Some(Mutex::new(Box::new(watch))) }
    }

    /// The result, once.
    pub fn take(&self) -> Option<Vec<u32>> {
        self.result.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
    }
}

/// Settings of stage `count`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Count {}

impl StageSettings for Count {
    const SUMMARY: &'static str = "counts the tokens of every document";
    const KEYS: &'static [(&'static str, &'static str)] = &[];
    const EXAMPLE: &'static str = "";
}

impl Settings for Count {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(Kind::Tokens).by(Route::Exchange)]
    }

    fn gives(&self) -> Vec<Kind> {
        Vec::new()
    }

    fn build(&self, env: &Env) -> Result<Built> {
        let counted = env.resource("a place for the result (Counted)")?;
        Ok(Built::Stage(Box::new(Counter { counted, first: env.worker == 0, chunks: BTreeMap::new(), rows: 0 })))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct Counter {
    counted: Arc<Counted>,
    first: bool,
    /// By step and lane: chunks of `scan` in the order of the rows.
    chunks: BTreeMap<(u64, u32), Vec<u32>>,
    rows: u64,
}

impl Stage for Counter {
    fn packet(&mut self, at: At, packet: Packet, _: &mut dyn Emit) -> Result<Turn> {
        let Packet::Tokens(tokens) = packet else { bail!("count takes tokens, not {}", packet.kind().name()) };
        let counts = self.chunks.entry((at.step, tokens.lane)).or_default();
        for row in 0..tokens.documents.len() {
            let length = u32::try_from(tokens.documents.value_length(row)).ok().and_then(|n| n.checked_add(1));
            counts.push(length.context("a document of more than 2^31 tokens")?);
        }
        self.rows += tokens.documents.len() as u64;
        if let Some(watch) = &self.counted.watch {
            watch.lock().unwrap_or_else(|poisoned| poisoned.into_inner())(self.rows);
        }
        Ok(Turn::Done)
    }

    fn finish(&mut self) -> Result<()> {
        if self.first {
            let counts = std::mem::take(&mut self.chunks).into_values().flatten().collect();
            *self.counted.result.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(counts);
        }
        Ok(())
    }
}
