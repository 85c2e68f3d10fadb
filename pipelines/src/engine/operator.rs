//! Any [`Stage`] as a timely operator.
use super::desk::{Arrivals, Desk, Worked};
use super::failure::Failure;
use super::ports::{Edge, Intake, Outlet, Outlets, Tray};
use super::stop::{Decisions, Heard, to_its_worker};
use contract::{Calendar, Kind, Lane, Packet, Role, Saved, Stage, Step, Ticket, Turn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, Stream};
use timely::progress::Antichain;
use timely::progress::frontier::MutableAntichain;

/// How long a stage may go on with small packets before others have their turn: as long as their turns have taken, within
/// these bounds. So gradients are summed between two long turns of backward, and do not wait in a row.
const SLICE: [Duration; 2] = [Duration::from_micros(100), Duration::from_millis(100)];

/// What a stage that pulls tells the sources after each packet of a lane.
#[derive(Clone, Copy, Debug)]
pub struct Want {
    /// The lane.
    pub lane: Lane,
    /// The step the packet belonged to.
    pub step: Step,
    /// True: the lane needs more for this step. False: it has enough.
    pub more: bool,
}

/// The edge on which wants go back to the sources.
pub type Wants<'scope> = Stream<'scope, Step, Vec<Want>>;

/// Where one stage stands in the graph of one worker.
pub struct Place {
    /// Its name in the plan.
    pub id: String,
    /// This worker and the number of workers.
    pub worker: (usize, usize),
    /// This worker's lanes.
    pub lanes: Vec<Lane>,
    /// What is due when.
    pub calendar: Calendar,
    /// Is the number of steps known (training), or does the source end the graph (preparation)?
    pub endless: bool,
    /// Does anybody take what stages save?
    pub saves: bool,
    /// After which step the run is stopped.
    pub heard: Heard,
    /// Where failures go.
    pub failure: Failure,
}

impl Place {
    /// The last step of the run.
    pub fn last(&self) -> Step {
        self.heard.last().unwrap_or(self.calendar.steps)
    }

    /// Is a checkpoint due after `step`?
    fn checkpoints(&self, step: Step) -> bool {
        self.calendar.checkpoints(step) || self.heard.last() == Some(step)
    }
}

/// One timely input: the port of the stage it feeds, the edge, and how the edge is routed.
pub struct Inlet<'scope> {
    /// Index into the stage's ports.
    pub port: usize,
    /// Where its packets come from.
    pub edge: Edge<'scope>,
    /// How they come.
    pub route: contract::Route,
}

/// The streams that leave an operator.
pub struct Leaving<'scope> {
    /// One edge an outlet, in the order asked for.
    pub edges: Vec<Edge<'scope>>,
    /// What a pulling stage wants.
    pub wants: Option<Wants<'scope>>,
    /// Carries nothing but its frontier: the step this stage works on, for sources to keep near to.
    pub progress: Stream<'scope, Step, Vec<()>>,
}

/// Which kinds leave an operator and how: `(kind, route, seed)`.
pub type Ways = [(Kind, contract::Route, bool)];

struct Frontiers<'a> {
    ports: &'a [usize],
    frontiers: &'a [MutableAntichain<Step>],
}

impl Arrivals for Frontiers<'_> {
    fn open(&self, port: usize, step: Step) -> bool {
        self.ports.iter().zip(self.frontiers).any(|(p, frontier)| *p == port && frontier.less_equal(&step))
    }
}

/// Adds `stage` to the graph, as the operator that `builder` is for.
///
/// The operator keeps one capability, for the step it works on, and lets go of it when every input has passed that
/// step and all of it is worked off. It works on one packet at a time and then lets others have their turn.
/// `decisions`: the edge that says whether a step is the last, which must be heard before the step is done.
#[allow(clippy::too_many_arguments, reason = "one call site, every argument a different thing")]
pub fn operator<'scope>(
    scope: Scope<'scope, Step>,
    mut builder: OperatorBuilder<'scope, Step>,
    place: Place,
    stage: Box<dyn Stage>,
    mut roles: Vec<Role>,
    inlets: Vec<Inlet<'scope>>,
    ways: &Ways,
    pulls: bool,
    decisions: Option<Decisions<'scope>>,
) -> Leaving<'scope> {
    let address = builder.operator_info().address;
    let activator = scope.activator_for(address.clone());
    let wake = scope.worker().sync_activator_for(address.to_vec());
    let mut ports: Vec<usize> = inlets.iter().map(|i| i.port).collect();
    let mut intakes: Vec<Intake> =
        inlets.into_iter().map(|inlet| super::ports::intake(&mut builder, inlet.edge, inlet.route)).collect();
    // As a port of its own: the step is open until the decision is there.
    let mut decisions = decisions.map(|decisions| {
        ports.push(roles.len());
        roles.push(Role::Stream);
        builder.new_input(decisions, to_its_worker())
    });
    let (outlets, edges): (Vec<_>, Vec<_>) =
        ways.iter().map(|(kind, route, seed)| Outlet::new(&mut builder, *kind, *route, *seed)).unzip();
    let (want_output, want_edge) = builder.new_output::<Vec<Want>>();
    let mut want_output = OutputBuilder::<_, CapacityContainerBuilder<Vec<Want>>>::from(want_output);
    let (_progress_output, progress) = builder.new_output_connection::<Vec<()>, _>([] as [(usize, Antichain<Step>); 0]);

    // A stage that begins micro-batches begins the next one when the last one's ticket is dropped.
    let begins = ways.iter().any(|(kind, ..)| *kind == Kind::Activations);
    let busy = Arc::new(AtomicBool::new(false));

    builder.build(move |mut capabilities| {
        let mut progress = capabilities.pop();
        let mut want = capabilities.pop();
        let mut outlets = Outlets::new(outlets, capabilities, place.calendar.first, place.worker);
        let mut desk = Desk::new(stage, roles.clone(), place.calendar.first);
        let mut tray = Tray::default();
        let mut started = false;
        let mut over = false;
        let mut left = Instant::now();
        activator.activate();
        move |frontiers: &[MutableAntichain<Step>]| {
            for (intake, port) in intakes.iter_mut().zip(&ports) {
                intake(&mut |step, packet| {
                    if !over {
                        desk.put(*port, step, packet);
                    }
                });
            }
            if let Some(decisions) = &mut decisions {
                decisions.for_each(|_, said| said.drain(..).for_each(|(_, last)| place.heard.hear(last)));
            }
            if over || place.failure.happened() {
                return;
            }
            if !started {
                started = true;
                for capability in [&mut progress, &mut want].into_iter().flatten() {
                    capability.downgrade(&place.calendar.first);
                }
                if place.failure.guard(&place.id, None, || desk.stage().start(&mut tray)).is_none() {
                    return;
                }
                tray.0.drain(..).for_each(|packet| outlets.send(packet, place.calendar.first, true));
                outlets.end_start();
            }
            let arrivals = Frontiers { ports: &ports, frontiers };
            let began = Instant::now();
            let slice = (began - left).clamp(SLICE[0], SLICE[1]);
            loop {
                let step = desk.current();
                // Is there anything left to come or to do?
                let closed = |role| roles.iter().enumerate().all(|(p, r)| *r != role || !arrivals.open(p, Step::MAX));
                let finished = if place.endless {
                    closed(Role::Stream) && closed(Role::State) && desk.latest().is_none_or(|last| last < step)
                } else {
                    step > place.last()
                };
                if finished {
                    over = true;
                    place.failure.guard(&place.id, None, || desk.stage().finish());
                    outlets.close();
                    (progress, want) = (None, None);
                    return;
                }
                let free = !begins || !busy.load(Ordering::Acquire);
                let Some(worked) = place.failure.guard(&place.id, Some(step), || desk.work(&arrivals, free, &mut tray))
                else {
                    return;
                };
                for mut packet in tray.0.drain(..) {
                    if packet.kind() == Kind::Moments && !place.checkpoints(step) {
                        continue;
                    }
                    if begins && let Some(ticket) = packet.ticket() {
                        busy.store(true, Ordering::Release);
                        let (busy, wake) = (Arc::clone(&busy), wake.clone());
                        *ticket = Ticket::new(move || {
                            busy.store(false, Ordering::Release);
                            // The worker may be gone: then nobody needs waking.
                            let _ = wake.activate();
                        });
                    }
                    outlets.send(packet, step, false);
                }
                match worked {
                    Worked::Idle => break,
                    Worked::Called { lane, turn } => {
                        // Its last word on the packet counts: while it says `More` it has not finished with it.
                        let answered = pulls && turn != Turn::More;
                        if let (true, Some(lane), Some(capability)) = (answered, lane, &want) {
                            let message = Want { lane, step, more: turn == Turn::Starved };
                            want_output.activate().session_with_builder(capability).give(message);
                        }
                        if turn == Turn::More || began.elapsed() > slice {
                            activator.activate();
                            break;
                        }
                    }
                    Worked::StepDone => {
                        if place.saves {
                            let saved = place.failure.guard(&place.id, Some(step), || save(&mut desk, &place));
                            saved.into_iter().flatten().for_each(|s| outlets.send(Packet::Saved(s), step, false));
                        }
                        outlets.advance(step + 1);
                        for capability in [&mut progress, &mut want].into_iter().flatten() {
                            capability.downgrade(&(step + 1));
                        }
                    }
                }
            }
            left = Instant::now();
        }
    });
    Leaving { edges, wants: pulls.then_some(want_edge), progress }
}

fn save(desk: &mut Desk, place: &Place) -> anyhow::Result<Vec<Saved>> {
    let mut saved = Vec::new();
    for lane in &place.lanes {
        let state = desk.stage().save(*lane)?;
        if !state.is_nothing() {
            saved.push(Saved { stage: place.id.clone(), lane: *lane, state });
        }
    }
    Ok(saved)
}
