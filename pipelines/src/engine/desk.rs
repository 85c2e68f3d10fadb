//! The order in which one stage's work is done: what the contract promises, without a dataflow.
use anyhow::Result;
use contract::{At, Lane, Packet, Role, Stage, Step, Turn};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::ports::Tray;

/// What has arrived for one step and is not worked on yet, as `(port, packet)`.
#[derive(Default)]
struct Inbox {
    state: VecDeque<(usize, Packet)>,
    stream: VecDeque<(usize, Packet)>,
}

/// What a call to [`Desk::work`] did.
#[derive(Debug, PartialEq)]
pub enum Worked {
    /// Nothing to do until something arrives.
    Idle,
    /// The stage was called; for a packet of a lane, `turn` says what it answered.
    Called {
        /// The lane of the packet, if it had one.
        lane: Option<Lane>,
        /// The stage's answer.
        turn: Turn,
    },
    /// Everything of the current step has arrived and is worked off.
    StepDone,
}

/// What a desk may know of its inputs: can the port still bring something for the step?
pub trait Arrivals {
    /// True while a packet of `step` or earlier may still arrive at `port`.
    fn open(&self, port: usize, step: Step) -> bool;
}

/// A stage and what lies before it.
pub struct Desk {
    stage: Box<dyn Stage>,
    roles: Vec<Role>,
    current: Step,
    inboxes: BTreeMap<Step, Inbox>,
    more: bool,
    lane: Option<Lane>,
    idle_since: Option<Instant>,
}

impl Desk {
    /// A desk for `stage`, whose ports have these roles, before step `first`.
    pub fn new(stage: Box<dyn Stage>, roles: Vec<Role>, first: Step) -> Self {
        Self { stage, roles, current: first, inboxes: BTreeMap::new(), more: false, lane: None, idle_since: None }
    }

    /// The step that is worked on.
    pub fn current(&self) -> Step {
        self.current
    }

    /// The stage, for what is not work on a packet.
    pub fn stage(&mut self) -> &mut dyn Stage {
        &mut *self.stage
    }

    /// A packet arrived.
    pub fn put(&mut self, port: usize, step: Step, packet: Packet) {
        let inbox = self.inboxes.entry(step).or_default();
        match self.roles[port] {
            Role::State => inbox.state.push_back((port, packet)),
            Role::Stream => inbox.stream.push_back((port, packet)),
        }
    }

    /// The last step for which something has arrived.
    pub fn latest(&self) -> Option<Step> {
        self.inboxes.keys().next_back().copied()
    }

    /// Does one thing: calls the stage once more, or with the next packet that its turn has come for.
    /// `free`: may a new stream packet be begun?
    pub fn work(&mut self, arrivals: &dyn Arrivals, free: bool, out: &mut Tray) -> Result<Worked> {
        let step = self.current;
        if self.more {
            let turn = self.stage.more(step, out)?;
            self.more = turn == Turn::More;
            return Ok(Worked::Called { lane: self.lane, turn });
        }
        let open = |role: Role| (0..self.roles.len()).any(|p| self.roles[p] == role && arrivals.open(p, step));
        let mut inbox = self.inboxes.get_mut(&step);
        if let Some((port, packet)) = inbox.as_mut().and_then(|i| i.state.pop_front()) {
            let turn = self.stage.packet(At { step, port, waited: Duration::ZERO }, packet, out)?;
            (self.more, self.lane) = (turn == Turn::More, None);
            return Ok(Worked::Called { lane: None, turn });
        }
        if open(Role::State) {
            return Ok(Worked::Idle);
        }
        if !free {
            return Ok(Worked::Idle);
        }
        if let Some((port, packet)) = inbox.and_then(|i| i.stream.pop_front()) {
            let waited = self.idle_since.take().map_or(Duration::ZERO, |since| since.elapsed());
            let lane = packet.lane();
            let turn = self.stage.packet(At { step, port, waited }, packet, out)?;
            (self.more, self.lane) = (turn == Turn::More, lane);
            return Ok(Worked::Called { lane, turn });
        }
        if open(Role::Stream) {
            if self.roles.contains(&Role::State) {
                self.idle_since.get_or_insert_with(Instant::now);
            }
            return Ok(Worked::Idle);
        }
        self.stage.step_done(step, out)?;
        self.inboxes.remove(&step);
        self.idle_since = None;
        self.current += 1;
        Ok(Worked::StepDone)
    }
}
