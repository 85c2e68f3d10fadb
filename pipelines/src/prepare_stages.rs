//! Before the graph of a plan runs: every stage prepares, in graph order.
use crate::engine::gather;
use crate::plan::{Plan, PlannedStage, upstream};
use crate::show::{Line, Unit, Work};
use anyhow::Result;
use arrow::array::RecordBatch;
use contract::{Effect, Env, Graph, Host, Prepare, Prepared, Resources, Upstream};
use std::time::Instant;

/// Lets every stage of `plan` prepare: files are opened, converted and counted, a tokenizer is trained. Resources in
/// `known` need not be made again.
///
/// # Errors
/// If a file is missing or broken, or the parts do not fit each other.
pub fn prepare(plan: &Plan, known: Resources, workers: usize, line: &mut Line) -> Result<Prepared> {
    let mut prepared = Prepared { resources: known, ..Prepared::default() };
    let all: Vec<Upstream> =
        plan.stages.iter().map(|stage| described(plan, stage, &mut prepared)).collect::<Result<_>>()?;
    let mut engine = Engine { workers, line, work: (String::new(), Instant::now()), last: Instant::now() };
    for at in plan.order() {
        let above: Vec<Upstream> = upstream(&plan.stages, at).into_iter().map(|from| all[from].clone()).collect();
        let this = &all[at];
        let mut before = Prepare::new(this, &above, plan.goal, plan.run.seed, &mut prepared, &mut engine);
        this.settings.prepare(&mut before)?;
    }
    Ok(prepared)
}

/// A stage as others see it. What it depends on is added to the fingerprint.
fn described(plan: &Plan, stage: &PlannedStage, prepared: &mut Prepared) -> Result<Upstream> {
    let values = plan.values(&stage.id, &Effect::ON_BITS);
    let mut table: String = values.map(|(key, value)| format!("{key} = {value}\n")).collect();
    for (name, value) in stage.settings.dependencies()? {
        table += &format!("{name}: {value}\n");
        prepared.fingerprint.push((format!("{}: {name}", stage.id), value));
    }
    let edges = stage.inputs.iter().flatten().filter(|edge| !edge.feedback);
    let inputs = edges.map(|edge| plan.stages[edge.from].id.clone()).collect();
    Ok(Upstream { id: stage.id.clone(), settings: stage.settings.clone(), inputs, table })
}

/// What this program does for stages that prepare.
struct Engine<'a> {
    workers: usize,
    line: &'a mut Line,
    /// What is being done, and since when: since what was done before has ended.
    work: (String, Instant),
    last: Instant,
}

impl Host for Engine<'_> {
    fn progress(&mut self, verb: &str, unit: Unit, done: u64, total: u64) {
        if self.work.0 != verb {
            self.work = (verb.to_owned(), self.last);
        }
        self.last = Instant::now();
        self.line.work(&Work { verb: verb.to_owned(), done, total, unit, spent: self.work.1.elapsed() });
    }

    fn run(&mut self, graph: Graph, resources: &Resources) -> Result<Vec<RecordBatch>> {
        let Graph { stages, lanes, steps, progress: (verb, total) } = graph;
        let env = Env::without_training(self.workers, lanes, steps, resources.clone());
        let mut done = 0;
        gather(stages, env, &mut |records| {
            done += records.iter().map(|records| records.num_rows() as u64).sum::<u64>();
            self.progress(verb, Unit::Things("documents"), done, total);
            Ok(records)
        })
    }
}
