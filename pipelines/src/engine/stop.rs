//! How a run that is asked to stop ends after the same step on every worker.
//!
//! Worker 0 decides whether step `s` is the last, when every worker has summed its gradients of `s` and no parameter
//! has been updated. The decision is sent to all workers at time `s`, on an edge whose frontier `optimize` waits for:
//! no worker updates parameters at `s` before it knows, and none is past `s`. A checkpoint is due there. Stages above
//! `optimize` may be some steps ahead, but their saved state as of `s` has been sent already, as it is after every
//! step.
use super::ports::reader;
use super::position::Position;
use contract::{Schedule, Step};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, Stream};
use timely::progress::frontier::MutableAntichain;

/// A request to stop, as a resource of the run, and the step after which the run then stopped.
#[derive(Debug)]
pub struct Stop {
    /// The first step that may be the last one.
    from: AtomicU64,
    last: AtomicU64,
}

impl Default for Stop {
    /// Nobody has asked yet.
    fn default() -> Self {
        Self::after(Step::MAX)
    }
}

impl Stop {
    /// Asks the run to end after `step`.
    pub fn after(step: Step) -> Self {
        Self { from: AtomicU64::new(step), last: AtomicU64::new(Step::MAX) }
    }

    /// Asks the run to end after the current step.
    pub fn ask(&self) {
        self.from.store(0, Ordering::Release);
    }

    /// The last step, if the request has ended the run. `None` if the run was at its end anyway.
    pub fn last(&self) -> Option<Step> {
        Some(self.last.load(Ordering::Acquire)).filter(|step| *step != Step::MAX)
    }
}

/// The last step of a run that is being stopped, once this worker knows it. Shared by its operators.
#[derive(Clone)]
pub struct LastStep {
    step: Rc<Cell<Option<Step>>>,
    stop: Option<Arc<Stop>>,
}

impl LastStep {
    /// Not known yet, in a run that can be stopped by `stop`.
    pub fn unknown(stop: Option<Arc<Stop>>) -> Self {
        Self { step: Rc::default(), stop }
    }

    /// The step, if the run is being stopped and this worker knows.
    pub fn get(&self) -> Option<Step> {
        self.step.get()
    }

    /// Sets it, also for [`Stop::last`].
    pub fn set(&self, step: Step) {
        self.step.set(Some(step));
        self.stop.iter().for_each(|stop| stop.last.store(step, Ordering::Release));
    }
}

/// The edge on which the decision travels: `(worker, last step)`.
pub type Decisions<'scope> = Stream<'scope, Step, Vec<(u64, Step)>>;

/// Routes each decision to the worker that it names.
pub fn to_its_worker() -> Exchange<(u64, Step), impl FnMut(&(u64, Step)) -> u64> {
    Exchange::new(|(worker, _): &(u64, Step)| *worker)
}

/// Adds the operator that decides. `computed` carries no data; its frontier is that of the stages that feed the update.
pub fn decisions<'scope>(
    scope: Scope<'scope, Step>,
    position: Position,
    schedule: Schedule,
    stop: Arc<Stop>,
    computed: Stream<'scope, Step, Vec<()>>,
) -> Decisions<'scope> {
    let mut builder = OperatorBuilder::new("stop".into(), scope);
    let mut computed = reader(builder.new_input(computed, Pipeline));
    let (output, edge) = builder.new_output::<Vec<(u64, Step)>>();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<Vec<(u64, Step)>>>::from(output);
    builder.build(move |mut capabilities| {
        // The other workers decide nothing, so they hold no capability.
        let mut undecided = capabilities.pop().filter(|_| position.index() == 0);
        if let Some(capability) = &mut undecided {
            capability.downgrade(&schedule.first);
        }
        move |frontiers: &[MutableAntichain<Step>]| {
            computed(&mut Vec::new());
            let Some(capability) = &mut undecided else { return };
            let Some(working_on) = frontiers[0].frontier().first().copied() else {
                undecided = None;
                return;
            };
            while *capability.time() < working_on {
                let step = *capability.time();
                // The step after the last update only validates: a run that gets there ends anyway.
                if stop.from.load(Ordering::Acquire) <= step && schedule.trains(step) {
                    let mut output = output.activate();
                    let mut session = output.session_with_builder(&*capability);
                    (0..position.peers() as u64).for_each(|to| session.give((to, step)));
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
