//! Runs a graph whose results are emitted by its stages as [`Records`](contract::Records).
use super::{Job, execute};
use crate::plan::{Edge, Plan, PlannedStage};
use anyhow::{Result, anyhow, bail, ensure};
use arrow::array::RecordBatch;
use contract::{At, Built, Emit, Env, Kind, Lane, Packet, Port, Route, Settings, Stage, Step, Turn};
use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

/// Stages with their ids, in the order of data flow.
pub type Stages = Vec<(String, Arc<dyn Settings>)>;

/// Number of steps by which sources may be ahead.
const PREFETCH: u64 = 2;

/// Runs the stages, connected like those of a plan built in code, up to the end of the schedule of `env`. `watch` is
/// called with the records on this thread as they arrive. Returns the records of all stages in the order of steps,
/// lanes and stages.
///
/// # Errors
/// If the stages cannot be connected, or the first failure of any of them.
pub fn gather(stages: Stages, env: Env, watch: &mut dyn FnMut(&RecordBatch)) -> Result<Vec<RecordBatch>> {
    let (send, receive) = channel();
    let mut stages = Plan::of(stages).map_err(anyhow::Error::new)?.stages;
    stages.push(results(&stages, send)?);
    let job = Job { stages, env, saved: Vec::new(), prefetch: PREFETCH };
    std::thread::scope(|scope| {
        let running = scope.spawn(|| execute(job));
        let mut found = BTreeMap::<(Step, Lane, usize), Vec<RecordBatch>>::new();
        // Ends when the graph has: it owns the only senders.
        for (place, records) in receive {
            watch(&records);
            found.entry(place).or_default().push(records);
        }
        running.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        Ok(found.into_values().flatten().collect())
    })
}

/// Records, with their step, lane and port.
type Sent = ((Step, Lane, usize), RecordBatch);

/// The stage that ends such a graph: it takes the records of each stage in `stages` that emits any, at a port of its
/// own.
fn results(stages: &[PlannedStage], send: Sender<Sent>) -> Result<PlannedStage> {
    let givers = (0..stages.len()).filter(|at| stages[*at].settings.gives().contains(&Kind::Records));
    let inputs: Vec<Vec<Edge>> = givers.map(|from| vec![Edge { from, feedback: false }]).collect();
    ensure!(!inputs.is_empty(), "no stage of the graph gives records");
    let settings = Arc::new(Results { ports: inputs.len(), send });
    Ok(PlannedStage { id: "results".into(), type_name: "", keys: Some(Vec::new()), settings, inputs })
}

/// Worker 0 sends records to the thread that has started the graph.
#[derive(Clone)]
struct Results {
    ports: usize,
    send: Sender<Sent>,
}

impl Settings for Results {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(Kind::Records).by(Route::Exchange); self.ports]
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
        let place = (at.step, records.lane, at.port);
        self.send.send((place, records.records)).map_err(|_| anyhow!("nobody waits for results"))?;
        Ok(Turn::Done)
    }
}
