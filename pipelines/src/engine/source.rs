//! Any [`Source`] as a timely operator: the source itself runs on a thread of its own, so that
//! files are read and decoded while the worker computes; the operator asks, and sends on what comes back.
use super::operator::{Place, Want, Wants};
use super::ports::{Edge, Outlet, Outlets, Tray};
use contract::{Kind, Lane, Packet, Route, Saved, Snapshot, Source, Step, Turn};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, Stream};
use timely::progress::Antichain;
use timely::progress::frontier::MutableAntichain;
use timely::scheduling::SyncActivator;

/// What the thread answers, in the order of asking.
struct Answer {
    lane: Lane,
    packets: Vec<Packet>,
    turn: Turn,
    /// The lane's state now.
    saved: Snapshot,
}

/// Where a lane stands.
struct LaneState {
    step: Step,
    asked: bool,
    gave: bool,
    /// Packets of the lane that the stage that pulls has not answered yet.
    unanswered: usize,
    /// As of the last answer.
    saved: Snapshot,
    done: bool,
}

/// Adds `source` to the graph, as the operator that `builder` is for. It is asked for step `s` once `throttle` has
/// finished step `s - prefetch` on every worker (`prefetch` of 0 is taken as 1). `wants`: what the stage that pulls says,
/// one a packet, in order; without, a lane's step ends when the source says so. `busy` counts the nanoseconds that the
/// thread works.
#[allow(clippy::too_many_arguments, reason = "one call site, every argument a different thing")]
pub fn source<'scope>(
    scope: Scope<'scope, Step>,
    mut builder: OperatorBuilder<'scope, Step>,
    place: Place,
    source: Box<dyn Source>,
    wants: Option<Wants<'scope>>,
    throttle: Stream<'scope, Step, Vec<()>>,
    prefetch: u64,
    ways: &[(Kind, Route, bool)],
    busy: Arc<AtomicU64>,
) -> Vec<Edge<'scope>> {
    let address = builder.operator_info().address;
    let wake = scope.worker().sync_activator_for(address.to_vec());
    let activator = scope.activator_for(address);
    let apart = [] as [(usize, Antichain<Step>); 0]; // inputs that are looked at, from which nothing follows
    let mut throttle = builder.new_input_connection(throttle, Pipeline, apart.clone());
    let pulled = wants.is_some();
    let mut wants = wants.map(|wants| builder.new_input_connection(wants, Pipeline, apart.clone()));
    let (outlets, edges): (Vec<_>, Vec<_>) =
        ways.iter().map(|(kind, route, _)| Outlet::new(&mut builder, *kind, *route, true)).unzip();

    builder.build(move |capabilities| {
        let (ask, asked) = channel::<(Lane, Step)>();
        let (answer, answers) = channel();
        serve(source, &place, asked, answer, wake, busy);
        let (first, prefetch) = (place.calendar.first, prefetch.max(1));
        let mut outlets = Outlets::new(outlets, capabilities, first, place.worker);
        let new = || LaneState {
            step: first,
            asked: false,
            gave: false,
            unanswered: 0,
            saved: Snapshot::default(),
            done: false,
        };
        let mut lanes: BTreeMap<Lane, LaneState> = place.lanes.iter().map(|lane| (*lane, new())).collect();
        let mut over = false;
        activator.activate();
        move |frontiers: &[MutableAntichain<Step>]| {
            throttle.for_each(|_, nothing| nothing.clear());
            let mut wanted: Vec<Want> = Vec::new();
            if let Some(wants) = &mut wants {
                wants.for_each(|_, some| wanted.append(some));
            }
            if over || place.failure.happened() {
                return;
            }
            if place.heard.last().is_some() {
                over = true;
                outlets.close();
                return;
            }
            // Ends the lane's step.
            let end_step = |lane: Lane, state: &mut LaneState, outlets: &mut Outlets| {
                let saved = std::mem::take(&mut state.saved);
                if !saved.is_nothing() {
                    let saved = Saved { stage: place.id.clone(), lane, state: saved };
                    outlets.send(Packet::Saved(saved), state.step, true);
                }
                state.step += 1;
                (state.asked, state.gave, state.unanswered) = (false, false, 0);
                state.done |= !place.endless && state.step > place.calendar.steps;
            };
            while let Ok(Answer { lane, packets, turn, saved }) = answers.try_recv() {
                let Some(state) = lanes.get_mut(&lane) else { continue };
                (state.asked, state.saved) = (false, saved);
                let empty = packets.is_empty();
                let nothing = empty && !state.gave;
                state.gave |= !empty;
                state.unanswered += packets.iter().filter(|packet| packet.lane().is_some()).count();
                packets.into_iter().for_each(|packet| outlets.send(packet, state.step, true));
                let more = turn == Turn::More;
                if place.endless && nothing && !more {
                    state.done = true;
                } else if pulled && state.unanswered > 0 {
                    // Whoever pulls says whether the lane needs more.
                } else if more {
                    state.asked = ask.send((lane, state.step)).is_ok();
                } else {
                    end_step(lane, state, &mut outlets);
                }
            }
            for want in wanted {
                let Some(state) = lanes.get_mut(&want.lane) else { continue };
                if state.done || want.step != state.step {
                    continue;
                }
                // What it says to the last packet of a call decides: how often the source is called must not depend
                // on how fast its packets are worked off.
                state.unanswered = state.unanswered.saturating_sub(1);
                if state.asked || state.unanswered > 0 {
                    continue;
                }
                if want.more {
                    state.asked = ask.send((want.lane, state.step)).is_ok();
                } else {
                    end_step(want.lane, state, &mut outlets);
                }
            }
            // Open the next steps of lanes that may go on: the feedback edge added one to the throttle's step.
            let finished = frontiers[0].frontier().first().map_or(Step::MAX, |step| step.saturating_sub(1));
            for (lane, state) in lanes.iter_mut() {
                let opened = state.asked || state.gave;
                if !state.done && !opened && state.step < finished.saturating_add(prefetch) {
                    state.asked = ask.send((*lane, state.step)).is_ok();
                }
            }
            match lanes.values().filter(|state| !state.done).map(|state| state.step).min() {
                Some(step) => outlets.advance(step),
                None => {
                    over = true;
                    outlets.close();
                }
            }
        }
    });
    edges
}

/// The thread behind the operator. It ends when the operator is gone.
fn serve(
    mut source: Box<dyn Source>,
    place: &Place,
    asked: Receiver<(Lane, Step)>,
    answer: Sender<Answer>,
    wake: SyncActivator,
    busy: Arc<AtomicU64>,
) {
    let (id, failure, saves) = (place.id.clone(), place.failure.clone(), place.saves);
    let spawned = std::thread::Builder::new().name(id.clone()).spawn(move || {
        for (lane, step) in asked {
            let began = Instant::now();
            let reply = failure.guard(&id, Some(step), || {
                let mut tray = Tray::default();
                let turn = source.next(lane, step, &mut tray)?;
                let saved = if saves { source.save(lane)? } else { Snapshot::default() };
                Ok(Answer { lane, packets: tray.0, turn, saved })
            });
            busy.fetch_add(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
            let gone = reply.is_none_or(|reply| answer.send(reply).is_err());
            if wake.activate().is_err() || gone {
                return;
            }
        }
    });
    if let Err(error) = spawned {
        place.failure.note(anyhow::Error::new(error).context("cannot start a thread"));
    }
}
