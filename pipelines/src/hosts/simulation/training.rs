//! The simulated dataflow of a generation.
//!
//! A step is done when all members have computed their leaves; then each updates its parameters. Their state is a hash
//! of the steps and leaves that went into it: a step or a leaf that is dropped or repeated changes it.
use super::engine::{Engine, Mesh, NOBODY, Seat};
use super::random::mix;
use super::world::{MS, Part, Pid, Running, What, World};
use crate::hosts::{EngineEvent, Epoch, HostId, Step, Work};

/// The hash of the initial state.
pub fn initial_hash() -> u64 {
    mix(1)
}

/// The hash of the state after one more step. `leaves` identifies the leaves that went into it.
pub fn next_hash(hash: u64, step: Step, leaves: u64) -> u64 {
    mix(hash ^ mix(step).rotate_left(17) ^ leaves)
}

/// Of every leaf once.
pub const EVERY_LEAF_ONCE: u64 = 0;

impl World {
    /// A member runs the dataflow.
    pub fn start_training(&mut self, pid: Pid, epoch: Epoch, from: Step) {
        let engine = self.processes[pid].engine.filter(|engine| self.meshes[engine.mesh].epoch == epoch);
        let Some(Engine { mesh, seat }) = engine else {
            return self.fail(format!("p{pid} starts generation {epoch} without its sockets"));
        };
        let Some((_, hash)) = self.processes[pid].copies.iter().find(|(copy, _)| *copy == from).copied() else {
            return self.fail(format!("p{pid} starts from step {from}, whose state it does not have"));
        };
        self.check_start(pid, epoch, from);
        let place = &mut self.meshes[mesh].seats[seat];
        (place.started, place.step, place.hash) = (true, from, hash);
        self.compute(mesh, seat);
    }

    fn compute(&mut self, mesh: usize, seat: usize) {
        let mean = self.scenario.compute;
        let duration = self.random.between(mean / 2, mean * 3 / 2);
        let step = self.meshes[mesh].seats[seat].step;
        self.after(duration, What::Computed { mesh, seat, step });
    }

    /// A member has computed its leaves.
    pub fn computed(&mut self, mesh: usize, seat: usize, step: Step) {
        let place = &mut self.meshes[mesh].seats[seat];
        let pid = place.pid;
        if place.gone || self.processes[pid].hung {
            return;
        }
        place.waiting = true;
        place.units += 1;
        let work = Work { step, units: place.units, waiting: true };
        let epoch = self.meshes[mesh].epoch;
        self.engine_event(pid, EngineEvent::Work { epoch, work });
        let seats = &self.meshes[mesh].seats;
        let all = seats.len() == seats[seat].members.len();
        if all && seats.iter().all(|seat| seat.started && seat.waiting && !seat.gone && seat.step == step) {
            self.exchange(mesh, step);
        }
    }

    /// All leaves of a step are computed: the gradients travel, which a cut delays.
    fn exchange(&mut self, mesh: usize, step: Step) {
        let machines: Vec<usize> =
            self.meshes[mesh].seats.iter().map(|seat| self.processes[seat.pid].machine).collect();
        let mut at = self.now;
        for from in &machines {
            for to in &machines {
                at = at.max(self.arrival(*from, *to));
            }
        }
        self.at(at, What::Update { mesh, step });
    }

    /// Whether the dataflow of an engine runs.
    pub fn is_training(&self, engine: Engine) -> bool {
        let seat = &self.meshes[engine.mesh].seats[engine.seat];
        seat.started && !seat.gone
    }

    /// The members update their parameters.
    pub fn update(&mut self, mesh: usize, step: Step) {
        let seats = &self.meshes[mesh].seats;
        if self.meshes[mesh].stuck || seats.iter().any(|seat| seat.gone) {
            // A dataflow without one of its members makes no progress.
            return;
        }
        if let Some(head) = self.busy_disk(mesh, step + 1) {
            self.processes[head].held.push((mesh, step));
            return;
        }
        self.check_update(mesh, step);
        if let Some((a, b)) = self.bad_pair(mesh) {
            // They connect, but what is large does not get through.
            self.meshes[mesh].broken.get_or_insert(NOBODY);
            for (end, peer) in [(a, b), (b, a)] {
                let Seat { pid, .. } = self.meshes[mesh].seats[end];
                let peer = self.meshes[mesh].seats[peer].host;
                let epoch = self.meshes[mesh].epoch;
                self.later(pid, 200 * MS, EngineEvent::Broken { epoch, peer });
            }
            return;
        }
        if self.meshes[mesh].drain || step + 1 == self.scenario.steps {
            self.meshes[mesh].last = Some(step + 1);
        }
        for seat in 0..self.meshes[mesh].seats.len() {
            let pid = self.meshes[mesh].seats[seat].pid;
            match self.processes[pid].running {
                Running::Alive => self.apply(mesh, seat),
                Running::Stopped => self.meshes[mesh].seats[seat].late = true,
                Running::Dead => {}
            }
        }
    }

    /// The head, if the next checkpoint is due while it writes the last one: the dataflow waits.
    fn busy_disk(&self, mesh: usize, next: Step) -> Option<Pid> {
        let due = next.is_multiple_of(self.config.checkpoint_every) || next == self.scenario.steps;
        let head = self.meshes[mesh].seats.iter().find(|seat| seat.host == HostId::HEAD)?.pid;
        (due && self.processes[head].writes > 0).then_some(head)
    }

    /// Two seats between whose machines nothing large gets through.
    fn bad_pair(&self, mesh: usize) -> Option<(usize, usize)> {
        let seat = |machine: usize| {
            self.meshes[mesh].seats.iter().position(|seat| self.processes[seat.pid].machine == machine)
        };
        let mut pairs = self.network.bad_pairs.iter().filter(|(_, _, until)| *until > self.now);
        pairs.find_map(|(a, b, _)| Some((seat(*a)?, seat(*b)?)))
    }

    /// A member that was stopped continues.
    pub fn resume_engine(&mut self, pid: Pid) {
        if let Some(Engine { mesh, seat }) = self.processes[pid].engine
            && std::mem::take(&mut self.meshes[mesh].seats[seat].late)
            && !self.meshes[mesh].seats[seat].gone
        {
            self.apply(mesh, seat);
        }
    }

    fn apply(&mut self, mesh: usize, seat: usize) {
        let leaves = self.leaves(mesh);
        let Mesh { epoch, last, .. } = self.meshes[mesh];
        let place = &mut self.meshes[mesh].seats[seat];
        if place.gone {
            return;
        }
        place.hash = next_hash(place.hash, place.step, leaves);
        place.step += 1;
        place.units += 1;
        place.waiting = false;
        let (pid, host, step, hash, units) = (place.pid, place.host, place.step, place.hash, place.units);
        let last = last == Some(step);
        self.engine_event(pid, EngineEvent::Work { epoch, work: Work { step, units, waiting: last } });
        if last || step.is_multiple_of(self.scenario.commit_every) {
            self.processes[pid].copies.push((step, hash));
            let Some(head) = self.meshes[mesh].seats.iter().find(|seat| seat.host == HostId::HEAD) else { return };
            let head = head.pid;
            let at = self.arrival(self.processes[pid].machine, self.processes[head].machine);
            let at = at + self.random.below(self.scenario.transfer);
            self.at(at, What::Part { pid: head, part: Part { epoch, step, from: host, last, hash } });
        }
        if !last && self.processes[pid].running == Running::Alive {
            self.compute(mesh, seat);
        }
    }

    /// Identifies the leaves that the members compute, each by its own idea of who they are.
    fn leaves(&self, mesh: usize) -> u64 {
        let seats = &self.meshes[mesh].seats;
        let members = &seats[0].members;
        let agree = seats.len() == members.len() && seats.iter().all(|seat| seat.members == *members);
        if agree { EVERY_LEAF_ONCE } else { mix(self.meshes[mesh].epoch.generation) }
    }
}
