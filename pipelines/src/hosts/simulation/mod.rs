//! A simulated world in which a head and members run: machines, processes, a network, a disk, and no real time. All
//! that happens in it follows from one number, the seed.
//!
//! `cargo test -p millrace-pipelines every_seed` runs 10,000 seeds; with `MILLRACE_SOAK=1`, a hundred times as many. A
//! seed that breaks a promise is printed with the command that replays it, for example `MILLRACE_SEED=42 cargo test -p
//! millrace-pipelines every_seed -- --nocapture`, which prints everything that happens.
//!
//! - [`scenario`]: draws machines, limits and faults from the seed; [`faults`]: what they do
//! - [`world`]: the queue of events; [`process`]: processes and what their state machines want done
//! - [`network`]: control connections; [`engine`], [`training`]: sockets and dataflow of a generation
//! - [`checks`], [`limits`]: what must be true
//! - [`wrong`]: wrong variants of the protocol, each of which the checks must find
//!
//! What is checked, after every event that could make it false:
//!
//! - **History.** The state is a hash of every step and leaf that went into it. Each commit has a part from every
//!   member, computed in its generation, with the hash that a run without faults has at that step; commits of a head
//!   only move forward. The same holds for what is written to disk, which only the owner of the run directory does. So
//!   no step is skipped or repeated, by whomever it was computed.
//! - **One generation.** A step is completed only by the generation that its head has started last. Heads of older
//!   incarnations may compute (nobody can prevent a suspended process from that), but do not write.
//! - **Agreement.** All who take part in a generation have the same members, and begin at the head's last commit.
//! - **Detection** within 5 s of a kill, a stop or a power loss (later while packets are lost), and no false alarm:
//!   whoever is expelled as silent or hung was disturbed, and whoever is set aside had a reason.
//! - **Recovery.** After the end of a generation the next one trains within 10 s, if nothing else goes wrong. When the
//!   last fault is over and there are enough hosts, steps are never more than 15 s apart (plus [`Config::stall`] after
//!   a hang; plus 15 s with a slow host and 30 s with two hosts that break every generation), and the run ends.
//! - **Joiners.** No generation is ended for them before it has trained for 10 s; nobody is left out for longer than 20
//!   changes of generations and 15 s.
//! - **The end.** Processes end only for a reason, with the right outcome: `Done` only if the last step is on disk,
//!   `Interrupted` only if the last commit is. Everybody who is connected learns it, within 2 s if a stage failed.
mod checks;
mod engine;
mod faults;
mod limits;
mod network;
mod process;
mod random;
mod scenario;
mod tests;
mod training;
mod world;
mod wrong;

use crate::hosts::Config;
use random::Random;
use scenario::{Fault, HEAD_MACHINE};
use std::collections::BTreeSet;
use std::time::Duration;
use world::{Check, Running, S, What, World};
use wrong::Wrong;

/// What a seed led to.
pub struct Report {
    /// The first thing that was not true.
    pub violation: Option<String>,
    /// Everything that happened, if it was asked for.
    pub trace: Vec<String>,
    /// What has happened, of what can happen: notices and outcomes.
    pub seen: BTreeSet<String>,
    /// The number of events.
    pub events: u64,
    /// The number of generations that trained.
    pub generations: u64,
    /// How long it took at most to notice a dead or stopped host (µs).
    pub detection: u64,
    /// How long it took at most from the end of a generation to the next (µs), if nothing else went wrong.
    pub change: u64,
    /// Whether the run reached its last step.
    pub done: bool,
    /// Simulated seconds.
    pub seconds: u64,
}

/// No world takes this many events, unless it does not end.
const MAX_EVENTS: u64 = 200_000;
/// No world lasts this long.
const LONGEST: u64 = 900 * S;

/// Runs the world of a seed.
pub fn run(seed: u64, wrong: Option<Wrong>, trace: bool) -> Report {
    let mut random = Random::new(seed);
    let (scenario, min_hosts) = scenario::draw(&mut random);
    let mut config = Config {
        min_hosts,
        checkpoint_every: scenario.commit_every * random.between(1, 5),
        stall: Duration::from_secs(8),
        patience: Duration::from_secs(60),
        ..Config::default()
    };
    if let Some(wrong) = wrong {
        wrong.configure(&mut config);
    }
    let mut world = World::new(random, config, scenario, wrong, trace);
    for (at, fault) in world.scenario.faults.clone() {
        world.at(at, What::Fault(fault));
    }
    world.at(S, What::Check(Check::Progress));
    world.fault(Fault::Join { machine: HEAD_MACHINE });
    while world.checks.violation.is_none() && world.events < MAX_EVENTS && world.step(LONGEST) {}
    let end = world.now;
    let alive = |world: &World| world.processes.iter().position(|process| process.running != Running::Dead);
    if let Some(pid) = alive(&world).filter(|_| world.checks.violation.is_none() && world.must_end()) {
        world.fail(format!("p{pid} never ends"));
    }
    Report {
        violation: world.checks.violation,
        trace: world.trace.unwrap_or_default(),
        seen: world.checks.seen,
        events: world.events,
        generations: world.checks.trained,
        detection: world.checks.detection,
        change: world.checks.change,
        done: world.disk.step == world.scenario.steps,
        seconds: end / S,
    }
}
