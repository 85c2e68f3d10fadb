//! Graphs that end when their sources do: preparation.
use super::toys::batch;
use super::watch::Call;
use super::{Setup, within};
use contract::*;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Gives three packets a step in two calls; lane `l` has `2 + 3 l` steps.
struct Read(BTreeMap<Lane, u32>);

impl Source for Read {
    fn next(&mut self, lane: Lane, step: Step, out: &mut dyn Emit) -> Result<Turn> {
        if step >= 2 + 3 * u64::from(lane) {
            return Ok(Turn::Done);
        }
        let call = self.0.entry(lane).or_default();
        *call += 1;
        out.give(batch(lane, vec![lane, step as u32, (*call - 1) % 2]));
        if *call % 2 == 1 {
            return Ok(Turn::More);
        }
        out.give(batch(lane, vec![lane, step as u32, 2]));
        Ok(Turn::Done)
    }
}

/// Passes on; where it gathers, keeps.
struct Pass(Option<Arc<Mutex<Vec<Vec<u32>>>>>);

impl Stage for Pass {
    fn packet(&mut self, _: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn> {
        match (&self.0, packet) {
            (Some(kept), Packet::Batch(batch)) => kept.lock().unwrap().push(batch.tokens.to_vec()),
            (_, packet) => out.give(packet),
        }
        Ok(Turn::Done)
    }
}

#[test]
fn everything_passes_and_the_graph_ends() {
    for (workers, lanes) in [(1, 1), (1, 3), (2, 1), (2, 3), (3, 2)] {
        let setup = Setup { endless: true, ..Setup::new(workers, lanes, 0) };
        let port = Port::stream(Kind::Batch);
        let (kept, keep) = (Arc::new(Mutex::new(Vec::new())), setup.clone());
        let sink = Arc::clone(&kept);
        let stages = vec![
            setup.stage("read", &[], &[], Box::new(|_| Ok(Built::Source(Box::new(Read(BTreeMap::new())))))),
            setup.stage("clean", &[port], &[&[(0, false)]], Box::new(|_| Ok(Built::Stage(Box::new(Pass(None)))))),
            setup.stage(
                "write",
                &[port.by(Route::Exchange)],
                &[&[(1, false)]],
                Box::new(move |_| Ok(Built::Stage(Box::new(Pass(Some(Arc::clone(&sink))))))),
            ),
        ];
        within(Duration::from_secs(10), move || setup.run(stages)).unwrap();
        let mut kept = std::mem::take(&mut *kept.lock().unwrap());
        kept.sort();
        let all = (0..lanes).flat_map(|l| (0..2 + 3 * l).flat_map(move |s| (0..3).map(move |i| vec![l, s, i])));
        assert_eq!(kept, all.collect::<Vec<_>>(), "{workers} workers, {lanes} lanes");
        let steps: Vec<_> = (0..u64::from(2 + 3 * (lanes - 1))).map(Call::StepDone).collect();
        for worker in 0..workers {
            let calls = keep.calls("write", worker);
            assert_eq!(calls.last(), Some(&Call::Finish));
            let done: Vec<_> = calls.into_iter().filter(|c| matches!(c, Call::StepDone(_))).collect();
            assert!(worker > 0 || done.starts_with(&steps), "{done:?}");
            assert!(done.iter().enumerate().all(|(i, call)| *call == Call::StepDone(i as u64)), "{done:?}");
        }
    }
}
