//! How a run that is asked to stop ends after one step, the same on every worker.
//!
//! Whether step `s` is the last is decided once, by worker 0, when every gradient of `s` has been summed on every worker
//! and no parameter has been updated. The decision goes to all workers at time `s`, on an edge whose frontier `optimize`
//! waits for: nobody updates at `s` without having heard, nobody is past it. A checkpoint is due there. Stages above
//! are ahead, but what they had saved after `s` is on its way already, as it is after every step.
use contract::{Calendar, Step};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, Stream};
use timely::progress::frontier::MutableAntichain;

/// A wish to stop, as a resource of the run, and the step after which it came true.
#[derive(Debug)]
pub struct Stop {
    asked: AtomicBool,
    last: AtomicU64,
}

impl Default for Stop {
    fn default() -> Self {
        Self { asked: AtomicBool::new(false), last: AtomicU64::new(Step::MAX) }
    }
}

impl Stop {
    /// Asks the run to end after the step that is being worked on.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Release);
    }

    /// The last step, if the run has agreed to stop. A run that was at its end anyway has not.
    pub fn last(&self) -> Option<Step> {
        Some(self.last.load(Ordering::Acquire)).filter(|step| *step != Step::MAX)
    }
}

/// The last step, once this worker has heard of it.
#[derive(Clone, Default)]
pub struct Heard(Rc<Cell<Option<Step>>>);

impl Heard {
    /// The last step, if it is known.
    pub fn last(&self) -> Option<Step> {
        self.0.get()
    }

    /// It is `step`.
    pub fn hear(&self, step: Step) {
        self.0.set(Some(step));
    }
}

/// The edge on which the decision travels: `(worker, last step)`.
pub type Decisions<'scope> = Stream<'scope, Step, Vec<(u64, Step)>>;

/// How that edge gets to the workers.
pub fn to_its_worker() -> Exchange<(u64, Step), impl FnMut(&(u64, Step)) -> u64> {
    Exchange::new(|(worker, _): &(u64, Step)| *worker)
}

/// The operator that decides. `computed` carries nothing but the frontier of the stages that feed the updates.
pub fn decisions<'scope>(
    scope: Scope<'scope, Step>,
    (worker, workers): (usize, usize),
    calendar: Calendar,
    stop: Arc<Stop>,
    computed: Stream<'scope, Step, Vec<()>>,
) -> Decisions<'scope> {
    let mut builder = OperatorBuilder::new("stop".into(), scope);
    let mut computed = builder.new_input(computed, Pipeline);
    let (output, edge) = builder.new_output::<Vec<(u64, Step)>>();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<Vec<(u64, Step)>>>::from(output);
    builder.build(move |mut capabilities| {
        // The other workers say nothing, so they hold nothing up.
        let mut undecided = capabilities.pop().filter(|_| worker == 0);
        if let Some(capability) = &mut undecided {
            capability.downgrade(&calendar.first);
        }
        move |frontiers: &[MutableAntichain<Step>]| {
            computed.for_each(|_, nothing| nothing.clear());
            let Some(capability) = &mut undecided else { return };
            let Some(working_on) = frontiers[0].frontier().first().copied() else {
                undecided = None;
                return;
            };
            while *capability.time() < working_on {
                let step = *capability.time();
                // The step after the last update only validates: who gets there is at the end.
                if stop.asked.load(Ordering::Acquire) && calendar.trains(step) {
                    stop.last.store(step, Ordering::Release);
                    let mut output = output.activate();
                    let mut session = output.session_with_builder(&*capability);
                    (0..workers as u64).for_each(|to| session.give((to, step)));
                    drop(session);
                    undecided = None;
                    return;
                }
                capability.downgrade(&(step + 1));
            }
        }
    });
    edge
}
