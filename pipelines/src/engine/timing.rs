//! Time per operator, from timely's own log.
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;
use timely::logging::{ParkEvent, StartStop, TimelyEvent, TimelyEventBuilder};
use timely::worker::Worker;

/// What one worker's time went into.
#[derive(Clone, Debug, Default)]
pub struct WorkerTiming {
    /// Time and calls of each stage, and of anything else in the graph.
    pub stages: Vec<StageTiming>,
    /// Time with nothing to do.
    pub parked: Duration,
    /// From the first event to the last.
    pub wall: Duration,
    /// CPU time, if it was measured, including that of the engine.
    pub cpu: Duration,
}

impl WorkerTiming {
    /// Adds the time that the worker took in another graph with the same stages.
    pub fn add(&mut self, other: &Self) {
        for stage in &other.stages {
            match self.stages.iter_mut().find(|known| known.id == stage.id) {
                Some(known) => {
                    known.busy += stage.busy;
                    known.calls += stage.calls;
                    known.cpu += stage.cpu;
                }
                None => self.stages.push(stage.clone()),
            }
        }
        self.parked += other.parked;
        self.wall += other.wall;
        self.cpu += other.cpu;
    }
}

/// Time inside one stage.
#[derive(Clone, Debug, Default)]
pub struct StageTiming {
    /// Its name in the plan.
    pub id: String,
    /// Time spent in it.
    pub busy: Duration,
    /// How often it was scheduled.
    pub calls: u64,
    /// CPU time, if it was measured: see [`MeasureCpu`](super::MeasureCpu).
    pub cpu: Duration,
}

/// Collects the log of one worker.
#[derive(Default)]
pub struct Stopwatch {
    names: HashMap<usize, String>,
    busy: HashMap<usize, (Duration, u64)>,
    /// Operators that are running: id, since when, and the time their children took.
    running: Vec<(usize, Duration, Duration)>,
    parked: Duration,
    parked_since: Option<Duration>,
    first: Option<Duration>,
    last: Duration,
}

impl Stopwatch {
    /// Listens to `worker`. Must be called before the dataflow is built: operators take their logger then.
    pub fn install(worker: &Worker) -> Rc<RefCell<Self>> {
        let watch = Rc::new(RefCell::new(Self::default()));
        let listener = Rc::clone(&watch);
        if let Some(mut registry) = worker.log_register() {
            registry.insert::<TimelyEventBuilder, _>(
                "timely",
                move |_, data: &mut Option<Vec<(Duration, TimelyEvent)>>| {
                    if let Some(events) = data {
                        let mut watch = listener.borrow_mut();
                        events.drain(..).for_each(|(time, event)| watch.event(time, event));
                    }
                },
            );
        }
        watch
    }

    fn event(&mut self, time: Duration, event: TimelyEvent) {
        self.first.get_or_insert(time);
        self.last = time;
        match event {
            TimelyEvent::Operates(operates) => {
                self.names.insert(operates.id, operates.name);
            }
            TimelyEvent::Schedule(schedule) if schedule.start_stop == StartStop::Start => {
                self.running.push((schedule.id, time, Duration::ZERO));
            }
            TimelyEvent::Schedule(_) => {
                if let Some((id, since, children)) = self.running.pop() {
                    let total = time.saturating_sub(since);
                    let entry = self.busy.entry(id).or_default();
                    entry.0 += total.saturating_sub(children);
                    entry.1 += 1;
                    if let Some(parent) = self.running.last_mut() {
                        parent.2 += total;
                    }
                }
            }
            TimelyEvent::Park(ParkEvent::Park(_)) => self.parked_since = Some(time),
            TimelyEvent::Park(ParkEvent::Unpark) => {
                if let Some(since) = self.parked_since.take() {
                    self.parked += time.saturating_sub(since);
                }
            }
            _ => {}
        }
    }

    /// What was seen so far. Everything that is no stage of `ids` is summed under `dataflow`.
    pub fn read(&self, ids: &[String]) -> WorkerTiming {
        let mut stages: Vec<StageTiming> =
            ids.iter().map(|id| StageTiming { id: id.clone(), ..Default::default() }).collect();
        let mut rest = StageTiming { id: "dataflow".into(), ..Default::default() };
        for (operator, (busy, calls)) in &self.busy {
            let name = self.names.get(operator);
            let entry = stages.iter_mut().find(|s| Some(&s.id) == name).unwrap_or(&mut rest);
            entry.busy += *busy;
            entry.calls += calls;
        }
        stages.push(rest);
        let wall = self.last.saturating_sub(self.first.unwrap_or_default());
        WorkerTiming { stages, parked: self.parked, wall, cpu: Duration::ZERO }
    }
}
