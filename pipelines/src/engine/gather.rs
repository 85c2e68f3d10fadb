//! Runs a graph whose result is what its stages found out, as [`Records`](contract::Records).
use super::{Job, execute};
use crate::plan::Plan;
use anyhow::{Result, anyhow, bail};
use arrow::array::RecordBatch;
use contract::{At, Built, Emit, Env, Kind, Lane, Packet, Port, Route, Settings, Stage, Step, Turn};
use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

/// Runs the stages, which are wired as a plan made in code is, to the end of the schedule of `env`. `watch` is told, on
/// this thread, how many rows of records have come. Returns the records in the order of steps and lanes.
///
/// # Errors
/// If the stages cannot be wired, or the first failure of any of them.
pub fn gather(
    mut stages: Vec<(String, Arc<dyn Settings>)>,
    env: Env,
    watch: &mut dyn FnMut(u64),
) -> Result<Vec<RecordBatch>> {
    let (send, receive) = channel();
    stages.push(("results".into(), Arc::new(Results { send })));
    let plan = Plan::of(stages).map_err(anyhow::Error::new)?;
    let job = Job { stages: plan.stages, env, saved: Vec::new(), endless: false, prefetch: 2 };
    std::thread::scope(|scope| {
        let running = scope.spawn(|| execute(job));
        let (mut rows, mut found) = (0, BTreeMap::<(Step, Lane), Vec<RecordBatch>>::new());
        // Ends when the graph has: it owns the only senders.
        for (step, lane, records) in receive {
            rows += records.num_rows() as u64;
            found.entry((step, lane)).or_default().push(records);
            watch(rows);
        }
        running.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        Ok(found.into_values().flatten().collect())
    })
}

/// The end of such a graph: worker 0 hands records to the thread that has started it.
#[derive(Clone)]
struct Results {
    send: Sender<(Step, Lane, RecordBatch)>,
}

impl Settings for Results {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(Kind::Records).by(Route::Exchange)]
    }

    fn gives(&self) -> Vec<Kind> {
        Vec::new()
    }

    fn build(&self, _: &Env) -> Result<Built> {
        Ok(Built::Stage(Box::new(self.clone())))
    }
}

impl Stage for Results {
    fn packet(&mut self, at: At, packet: Packet, _: &mut dyn Emit) -> Result<Turn> {
        let Packet::Records(records) = packet else { bail!("results are records, not {}", packet.kind().name()) };
        self.send.send((at.step, records.lane, records.records)).map_err(|_| anyhow!("nobody waits for results"))?;
        Ok(Turn::Done)
    }
}
