//! What the graph itself costs a step: twelve stages in a row that pass on what they get.
use arrow::buffer::ScalarBuffer;
use contract::{
    At, Batch, BatchShape, Built, Emit, Env, Kind, Lane, Packet, Port, Purpose, Resources, Result, Settings, Source,
    Stage, Step, Turn,
};
use criterion::{Criterion, criterion_group, criterion_main};
use millrace_pipelines::engine::{Job, execute};
use millrace_pipelines::plan::Plan;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Stages in the row.
const STAGES: usize = 12;

/// Gives a batch a lane and step, or passes it on.
#[derive(Clone)]
struct Link {
    first: bool,
}

impl Settings for Link {
    fn takes(&self) -> Vec<Port> {
        if self.first { Vec::new() } else { vec![Port::stream(Kind::Batch)] }
    }
    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Batch]
    }
    fn build(&self, _env: &Env) -> Result<Built> {
        Ok(if self.first { Built::Source(Box::new(self.clone())) } else { Built::Stage(Box::new(self.clone())) })
    }
}

impl Source for Link {
    fn next(&mut self, lane: Lane, _step: Step, out: &mut dyn Emit) -> Result<Turn> {
        let one = ScalarBuffer::from(vec![1]);
        let (tokens, targets, document_starts) = (one.clone(), one.clone(), one);
        let purpose = Purpose::Train;
        let documents = Vec::new().into();
        let batch = Batch {
            leaf: lane,
            purpose,
            part: 0,
            sequences: 1,
            length: 1,
            tokens,
            targets,
            document_starts,
            documents,
        };
        out.give(Packet::Batch(batch));
        Ok(Turn::Done)
    }
}

impl Stage for Link {
    fn packet(&mut self, _at: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn> {
        out.give(packet);
        Ok(Turn::Done)
    }
}

/// How long `steps` steps take.
fn run(steps: u64, workers: usize, prefetch: u64) -> Duration {
    let link = |i: usize| -> (String, Arc<dyn Settings>) { (format!("link{i}"), Arc::new(Link { first: i == 0 })) };
    let plan = Plan::of((0..STAGES).map(link).collect()).expect("it is a row");
    let env = Env {
        shape: BatchShape { micro_batches: workers as u32, lanes: workers as u32, sequences: 1, length: 1 },
        ..Env::without_training(workers, workers as u32, steps, Resources::default())
    };
    let began = Instant::now();
    execute(Job { stages: plan.stages, env, saved: Vec::new(), prefetch }).expect("nothing can fail");
    began.elapsed()
}

fn step(c: &mut Criterion) {
    let mut group = c.benchmark_group("engine, 12 stages in a row");
    for (workers, prefetch) in [(1, 1), (1, 2), (2, 1), (2, 2), (2, 4)] {
        let name = format!("{workers} workers, prefetch {prefetch}");
        group.bench_function(name, |b| b.iter_custom(|steps| run(steps, workers, prefetch)));
    }
}

criterion_group!(benches, step);
criterion_main!(benches);
