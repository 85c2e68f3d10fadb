//! Graphs whose results are emitted by their stages: token counts, preparation.
use super::toys::batch;
use super::within;
use crate::engine::gather;
use anyhow::{Result, bail};
use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::datatypes::UInt32Type;
use contract::*;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Steps in which the source gives something.
const STEPS: u64 = 4;

fn records(lane: Lane, numbers: Vec<u32>) -> Packet {
    let column: ArrayRef = Arc::new(UInt32Array::from(numbers));
    Packet::Records(Records { lane, records: RecordBatch::try_from_iter([("number", column)]).unwrap() })
}

/// At each step, gives records in one call and two packets for [`Pass`] in the next.
#[derive(Clone, Default)]
struct Read {
    /// Lanes that have been called once at their step.
    called: BTreeSet<Lane>,
}

impl Settings for Read {
    fn takes(&self) -> Vec<Port> {
        Vec::new()
    }
    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Batch, Kind::Records]
    }
    fn build(&self, _: &Env) -> Result<Built> {
        Ok(Built::Source(Box::new(self.clone())))
    }
}

impl Source for Read {
    fn next(&mut self, lane: Lane, step: Step, out: &mut dyn Emit) -> Result<Turn> {
        if step >= STEPS {
            return Ok(Turn::Done);
        }
        if self.called.insert(lane) {
            out.give(records(lane, vec![0, step as u32, lane]));
            return Ok(Turn::More);
        }
        self.called.remove(&lane);
        out.give(batch(lane, vec![1, step as u32, lane]));
        out.give(batch(lane, vec![2, step as u32, lane]));
        Ok(Turn::Done)
    }
}

/// Makes records of batches; fails at a step.
#[derive(Clone)]
struct Pass {
    fails: Option<Step>,
}

impl Settings for Pass {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(Kind::Batch)]
    }
    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Records]
    }
    fn build(&self, _: &Env) -> Result<Built> {
        Ok(Built::Stage(Box::new(self.clone())))
    }
}

impl Stage for Pass {
    fn packet(&mut self, at: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn> {
        let Packet::Batch(batch) = packet else { bail!("a batch was expected") };
        anyhow::ensure!(self.fails != Some(at.step), "asked to fail");
        out.give(records(batch.leaf, batch.tokens.to_vec()));
        Ok(Turn::Done)
    }
}

fn run(workers: usize, lanes: u32, fails: Option<Step>) -> (Result<Vec<Vec<u32>>>, usize) {
    within(Duration::from_secs(20), move || {
        let stages: Vec<(String, Arc<dyn Settings>)> =
            vec![("read".into(), Arc::new(Read::default())), ("pass".into(), Arc::new(Pass { fails }))];
        let env = Env::without_training(workers, lanes, STEPS, Resources::default());
        let mut seen = 0;
        let found = gather(stages, env, &mut |records| {
            seen += records.iter().map(RecordBatch::num_rows).sum::<usize>();
            Ok(records)
        });
        let numbers = |records: &RecordBatch| records["number"].as_primitive::<UInt32Type>().values().to_vec();
        (found.map(|found| found.iter().map(numbers).collect()), seen)
    })
}

#[test]
fn records_come_in_the_order_of_steps_lanes_and_stages() {
    for (workers, lanes) in [(1, 1), (1, 3), (2, 1), (2, 3), (3, 2)] {
        let places = (0..STEPS as u32).flat_map(|step| (0..lanes).map(move |lane| (step, lane)));
        let expected: Vec<Vec<u32>> =
            places.flat_map(|(step, lane)| [0, 1, 2].map(|packet| vec![packet, step, lane])).collect();
        let (found, seen) = run(workers, lanes, None);
        assert_eq!(found.unwrap(), expected, "{workers} workers, {lanes} lanes");
        assert_eq!(seen, 3 * expected.len());
    }
}

#[test]
fn a_failure_is_the_result() {
    for workers in [1, 2] {
        let error = format!("{:#}", run(workers, 2, Some(2)).0.unwrap_err());
        assert!(error.contains("pass") && error.contains("asked to fail"), "{error}");
    }
    let sink: Vec<(String, Arc<dyn Settings>)> = vec![];
    let error = gather(sink, Env::without_training(1, 1, 1, Resources::default()), &mut Ok).unwrap_err();
    assert!(error.to_string().contains("no stage of the graph gives records"));
}

#[test]
fn records_are_taken_step_by_step_and_only_what_is_given_back_is_kept() {
    let gathered = |take: fn(Vec<RecordBatch>) -> Result<Vec<RecordBatch>>| {
        within(Duration::from_secs(20), move || {
            let stages: Vec<(String, Arc<dyn Settings>)> =
                vec![("read".into(), Arc::new(Read::default())), ("pass".into(), Arc::new(Pass { fails: None }))];
            gather(stages, Env::without_training(2, 3, STEPS, Resources::default()), &mut { take })
        })
    };
    // Three records of each lane at each step; the first of them is kept.
    let kept = gathered(|records| {
        assert_eq!(records.len(), 9);
        Ok(records.into_iter().take(1).collect())
    });
    let steps = kept.unwrap().into_iter().map(|records| records["number"].as_primitive::<UInt32Type>().value(1));
    assert!(steps.eq(0..STEPS as u32));
    let error = gathered(|_| bail!("no room")).unwrap_err();
    assert_eq!(error.to_string(), "no room");
}
