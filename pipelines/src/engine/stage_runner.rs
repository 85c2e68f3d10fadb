//! The order in which a stage is called: what the contract promises, without a dataflow.
use super::ports::Outbox;
use anyhow::Result;
use contract::{At, Lane, Packet, Role, Stage, Step, Turn};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Packets of one step that have arrived and have not been handed to the stage yet, as `(port, packet)`.
#[derive(Default)]
struct Inbox {
    state: VecDeque<(usize, Packet)>,
    stream: VecDeque<(usize, Packet)>,
}

/// What a call to [`StageRunner::run_once`] did.
#[derive(Debug, PartialEq)]
pub enum Ran {
    /// Nothing, because there is nothing to do until another packet arrives, or until the stage is called again to take
    /// one that others have left.
    Idle,
    /// It called the stage.
    Called {
        /// The lane and the source of the packet, if it had a lane.
        from: Option<(Lane, usize)>,
        /// The stage's answer.
        turn: Turn,
    },
    /// Every packet of the current step has arrived and been processed; the next step is current now.
    StepDone,
}

/// The input ports, as far as their packets are not pushed to the runner.
pub trait Inputs {
    /// True while a packet of `step` or an earlier step may still arrive at `port`.
    fn is_open(&self, port: usize, step: Step) -> bool;

    /// Takes a packet of `step` from the queues that workers share.
    fn take_shared(&self, _step: Step) -> Shared {
        Shared::Nothing
    }
}

/// What a stage gets from the queues that workers share.
pub enum Shared {
    /// A packet and its port.
    Packet(usize, Packet),
    /// No packet, now.
    Nothing,
    /// No packet, but this worker may still get one of those that wait: see [`pace`](super::pace).
    Later,
}

/// A stage and the packets that wait for it.
pub struct StageRunner {
    stage: Box<dyn Stage>,
    roles: Vec<Role>,
    current: Step,
    inboxes: BTreeMap<Step, Inbox>,
    /// The stage answered [`Turn::More`], and to a packet of which lane and source.
    more: bool,
    from: Option<(Lane, usize)>,
    /// Since when the stage has been waiting for a stream packet.
    idle_since: Option<Instant>,
}

impl StageRunner {
    /// A runner for `stage`, whose ports have these roles, about to begin step `first`.
    pub fn new(stage: Box<dyn Stage>, roles: Vec<Role>, first: Step) -> Self {
        Self { stage, roles, current: first, inboxes: BTreeMap::new(), more: false, from: None, idle_since: None }
    }

    /// The current step.
    pub fn current(&self) -> Step {
        self.current
    }

    /// The stage, for calls other than those that hand it a packet.
    pub fn stage(&mut self) -> &mut dyn Stage {
        &mut *self.stage
    }

    /// Queues a packet that arrived.
    pub fn push(&mut self, port: usize, step: Step, packet: Packet) {
        let inbox = self.inboxes.entry(step).or_default();
        match self.roles[port] {
            Role::State => inbox.state.push_back((port, packet)),
            Role::Stream => inbox.stream.push_back((port, packet)),
        }
    }

    /// Makes one call: continues an unfinished packet, hands over the next one, or ends the step. `may_begin`: whether
    /// the stage may be given another stream packet.
    pub fn run_once(&mut self, inputs: &dyn Inputs, may_begin: bool, outbox: &mut Outbox) -> Result<Ran> {
        let step = self.current;
        if self.more {
            let turn = self.stage.more(step, outbox)?;
            self.more = turn == Turn::More;
            return Ok(Ran::Called { from: self.from, turn });
        }
        let open = |role: Role| (0..self.roles.len()).any(|p| self.roles[p] == role && inputs.is_open(p, step));
        let mut inbox = self.inboxes.get_mut(&step);
        if let Some((port, packet)) = inbox.as_mut().and_then(|i| i.state.pop_front()) {
            let turn = self.stage.packet(At { step, port, waited: Duration::ZERO }, packet, outbox)?;
            (self.more, self.from) = (turn == Turn::More, None);
            return Ok(Ran::Called { from: None, turn });
        }
        if open(Role::State) || !may_begin {
            return Ok(Ran::Idle);
        }
        let next = match inbox.and_then(|inbox| inbox.stream.pop_front()) {
            Some(pushed) => Some(pushed),
            None => match inputs.take_shared(step) {
                Shared::Packet(port, packet) => Some((port, packet)),
                Shared::Nothing => None,
                Shared::Later => return Ok(Ran::Idle),
            },
        };
        if let Some((port, packet)) = next {
            let waited = self.idle_since.take().map_or(Duration::ZERO, |since| since.elapsed());
            let from = packet.lane().map(|lane| (lane, packet.source()));
            let turn = self.stage.packet(At { step, port, waited }, packet, outbox)?;
            (self.more, self.from) = (turn == Turn::More, from);
            return Ok(Ran::Called { from, turn });
        }
        if open(Role::Stream) {
            if self.roles.contains(&Role::State) {
                self.idle_since.get_or_insert_with(Instant::now);
            }
            return Ok(Ran::Idle);
        }
        self.stage.step_done(step, outbox)?;
        self.inboxes.remove(&step);
        self.idle_since = None;
        self.current += 1;
        Ok(Ran::StepDone)
    }
}
