//! The stages that take and emit rows, between a source and a stage that is being prepared, called directly. The
//! survey, tokenizer training and token counts therefore see a document exactly as training will.
use crate::filter::{DROPPED, texts};
use crate::parquet::columns::dropped;
use crate::parquet::documents::{BATCH_BYTES, DocumentStore, records};
use crate::support::cache::key;
use anyhow::{Context, Result, bail, ensure};
use arrow::array::{Array, RecordBatch};
use contract::testing::Collect;
use contract::{At, Built, Env, Kind, Packet, Prepare, Purpose, Resources, Rows, Settings, Stage, Upstream};
use std::sync::Arc;
use std::time::Duration;

/// What to do if stages do not do to a row what they did when it was counted.
pub const CODE_HAS_CHANGED: &str = "has changed since the corpus was counted. Increase `VERSION` in the code that has \
    changed, so that the corpus is counted again; `pipeline cache --clear` also removes the old counts";

/// The row stages downstream of a source, in order.
#[derive(Clone, Default)]
pub struct RowStages {
    stages: Vec<Upstream>,
    resources: Resources,
    seed: u64,
}

impl RowStages {
    /// The row stages between the source `source` and the stage that is being prepared.
    pub fn between(before: &Prepare, source: &str) -> Self {
        let passes = |stage: &&Upstream| {
            let rows = |kinds: Vec<Kind>| kinds.contains(&Kind::Rows);
            rows(stage.settings.takes().iter().map(|port| port.kind).collect()) && rows(stage.settings.gives())
        };
        // Stages come in graph order. One that mixes changes no row.
        let (mut reached, mut stages) = (vec![source], Vec::new());
        for stage in before.upstream().iter().filter(passes) {
            if stage.inputs.iter().any(|input| reached.contains(&input.as_str())) {
                reached.push(&stage.id);
                stages.extend(stage.settings.mixes().is_none().then(|| stage.clone()));
            }
        }
        Self { stages, resources: before.resources().clone(), seed: before.seed() }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// A key for what they do to rows, for the cache; empty if there are none.
    pub fn key(&self) -> String {
        if self.is_empty() {
            return String::new();
        }
        let tables = self.stages.iter().map(|stage| stage.table.as_str());
        key(&std::iter::once(env!("CARGO_PKG_VERSION")).chain(tables).collect::<Vec<_>>())
    }

    /// The stages with their ids, for a graph.
    pub fn named(&self) -> impl Iterator<Item = (String, Arc<dyn Settings>)> {
        self.stages.iter().map(|stage| (stage.id.clone(), Arc::clone(&stage.settings)))
    }

    /// The ids of the stages, for messages.
    pub fn names(&self, between: &str) -> String {
        let names: Vec<String> = self.stages.iter().map(|stage| format!("`{}`", stage.id)).collect();
        names.join(between)
    }

    /// Builds the stages for one thread.
    ///
    /// # Errors
    /// If one cannot be built.
    pub fn build(&self) -> Result<RowChain> {
        let build = |stage: &Upstream| {
            let env = Env::without_training(1, 1, 1, self.resources.clone());
            let env = Env { stage: stage.id.clone(), seed: self.seed, ..env };
            match stage.settings.build(&env).with_context(|| format!("stage `{}`", stage.id))? {
                Built::Stage(built) => Ok((stage.id.clone(), built)),
                Built::Source(_) => bail!("`{}` takes rows, but is built as a source", stage.id),
            }
        };
        self.stages.iter().map(build).collect::<Result<_>>().map(RowChain)
    }
}

/// The stages built for one thread.
pub struct RowChain(Vec<(String, Box<dyn Stage>)>);

impl RowChain {
    /// `records` after the last stage: the same number of rows; dropped ones have the reason in the column [`DROPPED`].
    ///
    /// # Errors
    /// If a stage fails, or removes rows.
    pub fn apply(&mut self, mut records: RecordBatch) -> Result<RecordBatch> {
        for (id, stage) in &mut self.0 {
            let (at, rows) = (At { step: 0, port: 0, waited: Duration::ZERO }, records.num_rows());
            let packet = Packet::Rows(Rows { lane: 0, source: 0, purpose: Purpose::Train, last: false, records });
            let mut out = Collect::default();
            stage.packet(at, packet, &mut out).with_context(|| format!("stage `{id}`"))?;
            let [Packet::Rows(given)] = &mut out.0[..] else {
                bail!("stage `{id}` gives {} packets for one of rows; it must give one", out.0.len());
            };
            let left = given.records.num_rows();
            ensure!(
                left == rows,
                "stage `{id}` gives {left} rows for {rows}: a stage that drops rows writes the reason into their column \
                 `{DROPPED}`"
            );
            records = given.records.clone();
        }
        Ok(records)
    }

    /// Calls `f` with each of `rows` of `store` after the stages: its text, and the reason if it was dropped.
    ///
    /// # Errors
    /// If the rows cannot be read, or a stage fails.
    pub fn each(
        &mut self,
        store: &DocumentStore,
        rows: impl IntoIterator<Item = u64>,
        mut f: impl FnMut(&str, Option<&str>),
    ) -> Result<()> {
        if self.0.is_empty() {
            return store.each(rows, |text| f(text.unwrap_or_default(), None));
        }
        store.batches(rows, BATCH_BYTES, |taken| {
            let given = self.apply(records(taken)?)?;
            let dropped = dropped(&given)?;
            for (row, text) in texts(&given)?.iter().enumerate() {
                let reason = dropped.filter(|reasons| reasons.is_valid(row)).map(|reasons| reasons.value(row));
                f(text.unwrap_or_default(), reason);
            }
            Ok(())
        })
    }
}
