//! The state of the stages that make batches at a step, for new data: they run from the beginning, without training.
use super::runs::Runs;
use crate::engine::{Job, execute};
use crate::plan::{Edge, PlannedStage, upstream};
use crate::show::{Line, Unit, Work};
use anyhow::{Context, Result};
use contract::{At, Built, Emit, Env, Kind, Packet, Port, Route, Saved, Schedule, Settings, Stage, Step, Turn, lock};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// The state of each lane of each stage.
pub type Lanes = Vec<Saved>;

/// The state of the lanes of all stages up to the one that makes batches, after `steps` updates of the new run.
///
/// # Errors
/// The first failure of a stage.
pub fn lanes(runs: &Runs, steps: Step, line: Line) -> Result<Lanes> {
    let env = &runs.sessions.new.env;
    let all = &runs.plans.new.stages;
    let packs = all.iter().position(|stage| stage.settings.batch_shape().is_some());
    let packs = packs.context("no stage of the run makes batches")?;
    let mut kept = upstream(all, packs);
    kept.push(packs);
    let at = |from: usize| kept.iter().position(|stage| *stage == from);
    let edges = |port: &Vec<Edge>| {
        port.iter().filter_map(|edge| Some(Edge { from: at(edge.from)?, feedback: edge.feedback })).collect()
    };
    let mut stages: Vec<PlannedStage> = kept
        .iter()
        .map(|stage| PlannedStage { inputs: all[*stage].inputs.iter().map(edges).collect(), ..all[*stage].clone() })
        .collect();
    let progress = Arc::new(Mutex::new(Progress { line, began: Instant::now(), steps }));
    let found = Arc::new(Mutex::new(Lanes::new()));
    stages.push(PlannedStage {
        // Ids of a plan contain no space.
        id: "lanes at a step".into(),
        type_name: "",
        keys: Some(Vec::new()),
        settings: Arc::new(Gather { found: Arc::clone(&found), progress: Arc::clone(&progress), worker: 0 }),
        inputs: vec![vec![Edge { from: kept.len() - 1, feedback: false }], Vec::new()],
    });
    let schedule = Schedule { first: 0, steps, evaluate: None, checkpoint: None };
    let env = Env { schedule, workers: runs.workers, run_dir: None, ..env.clone() };
    execute(Job { stages, env, saved: Vec::new(), prefetch: runs.plans.new.run.prefetch })?;
    lock(&progress).line.finish();
    let found = std::mem::take(&mut *lock(&found));
    Ok(found)
}

struct Progress {
    line: Line,
    began: Instant,
    steps: Step,
}

/// Takes batches, and keeps what the stages above have saved after the last step.
#[derive(Clone)]
struct Gather {
    found: Arc<Mutex<Lanes>>,
    progress: Arc<Mutex<Progress>>,
    worker: usize,
}

impl Settings for Gather {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(Kind::Batch), Port::stream(Kind::Saved).by(Route::Exchange)]
    }

    fn gives(&self) -> Vec<Kind> {
        Vec::new()
    }

    fn build(&self, env: &Env) -> Result<Built> {
        Ok(Built::Stage(Box::new(Self { worker: env.worker, ..self.clone() })))
    }
}

impl Stage for Gather {
    fn packet(&mut self, at: At, packet: Packet, _: &mut dyn Emit) -> Result<Turn> {
        if let Packet::Saved(saved) = packet
            && at.step + 1 == lock(&self.progress).steps
        {
            lock(&self.found).push(saved);
        }
        Ok(Turn::Done)
    }

    fn step_done(&mut self, step: Step, _: &mut dyn Emit) -> Result<()> {
        if self.worker == 0 {
            let mut progress = lock(&self.progress);
            let (verb, total, spent) = ("Reading again".to_owned(), progress.steps, progress.began.elapsed());
            progress.line.work(&Work { verb, done: step.min(total), total, unit: Unit::Things("steps"), spent });
        }
        Ok(())
    }
}
