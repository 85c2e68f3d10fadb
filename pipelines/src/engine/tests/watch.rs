//! A stage whose every call is logged, and which fails on request.
use contract::{At, Built, Emit, Lane, Packet, Result, Snapshot, Source, Stage, Step, Turn};
use serde_json::Value;
use std::sync::{Arc, Mutex};

/// One call of a stage.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    Build,
    Start,
    /// Step, port.
    Packet(Step, usize),
    More(Step),
    Next(Lane, Step),
    StepDone(Step),
    Save(Lane),
    Load(Lane),
    Finish,
}

/// Every call on every worker: stage, worker, call.
pub type Log = Arc<Mutex<Vec<(&'static str, usize, Call)>>>;

/// Where to fail.
#[derive(Clone, Debug)]
pub struct Fault {
    pub stage: &'static str,
    /// `None`: whichever worker makes the call first.
    pub worker: Option<usize>,
    pub call: Call,
    pub panics: bool,
}

/// The typed error that a fault gives.
#[derive(Debug, thiserror::Error)]
#[error("asked to fail")]
pub struct Asked;

pub struct Watched<T> {
    inner: T,
    watch: Watch,
}

struct Watch {
    id: &'static str,
    worker: usize,
    log: Log,
    fault: Option<Fault>,
}

impl Watched<()> {
    pub fn built(id: &'static str, built: Built, worker: usize, log: Log, fault: Option<Fault>) -> Result<Built> {
        let watch = Watch { id, worker, log, fault };
        watch.note(Call::Build)?;
        Ok(match built {
            Built::Stage(inner) => Built::Stage(Box::new(Watched { inner, watch })),
            Built::Source(inner) => Built::Source(Box::new(Watched { inner, watch })),
        })
    }
}

impl Watch {
    fn note(&self, call: Call) -> Result<()> {
        self.log.lock().unwrap().push((self.id, self.worker, call.clone()));
        if let Some(fault) = &self.fault
            && (fault.stage, &fault.call) == (self.id, &call)
            && fault.worker.is_none_or(|worker| worker == self.worker)
        {
            if fault.panics {
                panic!("asked to panic");
            }
            return Err(anyhow::Error::new(Asked).context("while tested"));
        }
        Ok(())
    }

    /// Notes the call and makes it.
    fn during<T>(&self, call: Call, inner: impl FnOnce() -> Result<T>) -> Result<T> {
        self.note(call)?;
        inner()
    }
}

impl Stage for Watched<Box<dyn Stage>> {
    fn start(&mut self, out: &mut dyn Emit) -> Result<()> {
        self.watch.during(Call::Start, || self.inner.start(out))
    }
    fn packet(&mut self, at: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn> {
        self.watch.during(Call::Packet(at.step, at.port), || self.inner.packet(at, packet, out))
    }
    fn more(&mut self, step: Step, out: &mut dyn Emit) -> Result<Turn> {
        self.watch.during(Call::More(step), || self.inner.more(step, out))
    }
    fn step_done(&mut self, step: Step, out: &mut dyn Emit) -> Result<()> {
        self.watch.during(Call::StepDone(step), || self.inner.step_done(step, out))
    }
    fn save(&mut self, lane: Lane) -> Result<Snapshot> {
        self.watch.during(Call::Save(lane), || self.inner.save(lane))
    }
    fn load(&mut self, lane: Lane, state: Value) -> Result<()> {
        self.watch.during(Call::Load(lane), || self.inner.load(lane, state))
    }
    fn finish(&mut self) -> Result<()> {
        self.watch.during(Call::Finish, || self.inner.finish())
    }
}

impl Source for Watched<Box<dyn Source>> {
    fn next(&mut self, lane: Lane, step: Step, out: &mut dyn Emit) -> Result<Turn> {
        self.watch.during(Call::Next(lane, step), || self.inner.next(lane, step, out))
    }
    fn save(&mut self, lane: Lane) -> Result<Snapshot> {
        self.watch.during(Call::Save(lane), || self.inner.save(lane))
    }
    fn load(&mut self, lane: Lane, state: Value) -> Result<()> {
        self.watch.during(Call::Load(lane), || self.inner.load(lane, state))
    }
}
