//! Runs a graph whose results are emitted by its stages as [`Records`](contract::Records).
use super::{Job, execute};
use crate::plan::{Edge, Plan, PlannedStage, Wired};
use anyhow::{Result, anyhow, bail, ensure};
use arrow::array::RecordBatch;
use contract::{At, Built, Emit, Env, Kind, Lane, Packet, Port, Route, Settings, Stage, Step, Turn};
use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Stages with their ids, in the order of data flow.
pub type Stages = Vec<(String, Arc<dyn Settings>)>;

/// Number of steps by which sources may be ahead.
const PREFETCH: u64 = 2;

/// Called with the records of a step, in the order of lanes and stages; what it returns is kept.
pub type Take<'a> = &'a mut dyn FnMut(Vec<RecordBatch>) -> Result<Vec<RecordBatch>>;

/// Runs the stages, connected like those of a plan built in code, up to the end of the schedule of `env`. `take` is
/// called on this thread when a step has ended, in the order of steps. Returns everything that `take` returned.
///
/// # Errors
/// If the stages cannot be connected, or the first failure of any of them or of `take`.
pub fn gather(stages: Stages, env: Env, take: Take) -> Result<Vec<RecordBatch>> {
    gather_plan(Plan::of(stages).map_err(anyhow::Error::new)?, env, take)
}

/// The same for stages that may name what feeds them.
///
/// # Errors
/// See [`gather`].
pub fn gather_wired(stages: Vec<Wired>, env: Env, take: Take) -> Result<Vec<RecordBatch>> {
    gather_plan(Plan::of_wired(stages).map_err(anyhow::Error::new)?, env, take)
}

fn gather_plan(plan: Plan, env: Env, take: Take) -> Result<Vec<RecordBatch>> {
    let (send, receive) = channel();
    let mut stages = plan.stages;
    stages.push(results(&stages, send)?);
    let job = Job { stages, env, saved: Vec::new(), prefetch: PREFETCH };
    std::thread::scope(|scope| {
        let running = scope.spawn(|| execute(job));
        let taken = take_steps(receive, take);
        let ended = running.join().unwrap_or_else(|panic| resume_unwind(panic));
        // If records could not be taken, the graph has failed only because of that.
        let taken = taken?;
        ended.map(|_| taken)
    })
}

/// Takes the records of one step after the other, until the graph, which owns the only senders, has ended.
fn take_steps(receive: Receiver<Sent>, take: Take) -> Result<Vec<RecordBatch>> {
    let (mut waiting, mut kept) = (BTreeMap::<Position, Vec<RecordBatch>>::new(), Vec::new());
    for sent in receive {
        match sent {
            Sent::Records(position, records) => waiting.entry(position).or_default().push(records),
            Sent::StepDone(step) => {
                let later = waiting.split_off(&(step + 1, 0, 0));
                let records: Vec<_> = std::mem::replace(&mut waiting, later).into_values().flatten().collect();
                if !records.is_empty() {
                    kept.extend(take(records)?);
                }
            }
        }
    }
    Ok(kept)
}

/// Step, lane and port.
type Position = (Step, Lane, usize);

/// What the last stage sends.
enum Sent {
    Records(Position, RecordBatch),
    /// All records of the step have been sent.
    StepDone(Step),
}

/// The stage that ends such a graph: it takes the records of each stage in `stages` that emits any, at a port of its
/// own.
fn results(stages: &[PlannedStage], send: Sender<Sent>) -> Result<PlannedStage> {
    let givers = (0..stages.len()).filter(|at| stages[*at].settings.gives().contains(&Kind::Records));
    let inputs: Vec<Vec<Edge>> = givers.map(|from| vec![Edge { from, feedback: false }]).collect();
    ensure!(!inputs.is_empty(), "no stage of the graph gives records");
    let settings = Arc::new(Results { ports: inputs.len(), send, worker: 0 });
    Ok(PlannedStage { id: "results".into(), type_name: "", keys: Some(Vec::new()), settings, inputs })
}

/// Worker 0 sends records to the thread that has started the graph.
#[derive(Clone)]
struct Results {
    ports: usize,
    send: Sender<Sent>,
    worker: usize,
}

impl Results {
    fn send(&self, what: Sent) -> Result<()> {
        self.send.send(what).map_err(|_| anyhow!("nobody waits for results"))
    }
}

impl Settings for Results {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(Kind::Records).by(Route::Exchange); self.ports]
    }

    fn gives(&self) -> Vec<Kind> {
        Vec::new()
    }

    fn build(&self, env: &Env) -> Result<Built> {
        Ok(Built::Stage(Box::new(Self { worker: env.worker, ..self.clone() })))
    }
}

impl Stage for Results {
    fn packet(&mut self, at: At, packet: Packet, _: &mut dyn Emit) -> Result<Turn> {
        let Packet::Records(records) = packet else { bail!("results are records, not {}", packet.kind().name()) };
        self.send(Sent::Records((at.step, records.lane, at.port), records.records))?;
        Ok(Turn::Done)
    }

    fn step_done(&mut self, step: Step, _: &mut dyn Emit) -> Result<()> {
        // The records of all workers go to the first one.
        if self.worker == 0 { self.send(Sent::StepDone(step)) } else { Ok(()) }
    }
}
