//! The simulated engine: the sockets of a generation. A *mesh* is what the members of a generation share.
use super::network::MEMBER;
use super::world::{MS, Pid, Role, Running, S, Time, What, World};
use crate::hosts::{EngineAction, EngineEvent, Epoch, HeadEvent, HostId, MemberEvent, Peer, Step};

/// The engine of a process.
#[derive(Clone, Copy, Debug)]
pub struct Engine {
    pub mesh: usize,
    pub seat: usize,
}

/// A member of a mesh.
pub struct Seat {
    pub pid: Pid,
    pub host: HostId,
    pub members: Vec<HostId>,
    pub connected: bool,
    pub started: bool,
    /// Has computed its leaves of the current step.
    pub waiting: bool,
    /// Its part of the mesh has ended.
    pub gone: bool,
    /// Was stopped when the others updated their parameters.
    pub late: bool,
    pub step: Step,
    pub hash: u64,
    pub units: u64,
}

/// A generation, below the protocol.
pub struct Mesh {
    pub epoch: Epoch,
    pub seats: Vec<Seat>,
    /// The head wants it to end after the current step.
    pub drain: bool,
    /// The step that it ends at.
    pub last: Option<Step>,
    /// It waits for ever.
    pub stuck: bool,
    /// Its sockets have failed, because this member was gone first, or for another reason.
    pub broken: Option<HostId>,
}

/// Stands for the end of a socket that no member is to blame for.
pub const NOBODY: HostId = HostId(u32::MAX);

impl World {
    /// Does what a state machine asks of its engine.
    pub fn engine_action(&mut self, pid: Pid, action: EngineAction) {
        match action {
            EngineAction::Obtain { step } => self.obtain(pid, step),
            EngineAction::Connect { epoch, members } => self.connect(pid, epoch, members),
            EngineAction::Start { epoch, from } => self.start_training(pid, epoch, from),
            EngineAction::Stop { epoch } => self.stop_engine(pid, epoch),
            EngineAction::Committed { step } => {
                if matches!(self.processes[pid].role, Role::Member(_)) {
                    self.processes[pid].copies.retain(|(copy, _)| *copy >= step);
                }
            }
        }
    }

    /// Gives an event of the engine to the state machine.
    pub fn engine_event(&mut self, pid: Pid, event: EngineEvent) {
        if matches!(event, EngineEvent::Stopped { .. }) {
            self.processes[pid].engine = None;
        }
        match self.processes[pid].role {
            Role::Head(_) => self.head_event(pid, HeadEvent::Engine(event)),
            Role::Member(_) => self.member_event(pid, MemberEvent::Engine(event)),
        }
    }

    /// The engine of a process reports after a while.
    pub fn later(&mut self, pid: Pid, delay: Time, event: EngineEvent) {
        self.after(delay, What::Engine { pid, event });
    }

    fn obtain(&mut self, pid: Pid, step: Step) {
        self.processes[pid].obtain_serial += 1;
        let serial = self.processes[pid].obtain_serial;
        let local = self.processes[pid].copies.iter().any(|(copy, _)| *copy == step);
        let duration = if local {
            5 * MS
        } else if self.scenario.slow_machine == Some(self.processes[pid].machine) {
            self.random.between(8 * S, 15 * S)
        } else {
            let longest = self.scenario.download;
            self.random.between(longest / 4, longest)
        };
        let link = self.processes[pid].link;
        self.after(duration, What::Obtained { pid, serial, step, link });
    }

    /// A download is done. If its source is gone, it never is.
    pub fn obtained(&mut self, pid: Pid, serial: u32, step: Step, link: Option<usize>) {
        if self.processes[pid].obtain_serial != serial {
            return;
        }
        if !self.processes[pid].copies.iter().any(|(copy, _)| *copy == step) {
            let Some(source) = link.filter(|link| self.network.links[*link].open[MEMBER]) else {
                return;
            };
            let head = self.network.links[source].ends[1];
            let cut = self.network.cut_until(self.processes[head].machine, self.processes[pid].machine, self.now);
            if let Some(until) = cut {
                return self.at(until + S, What::Obtained { pid, serial, step, link });
            }
            if self.processes[head].running != Running::Alive {
                return self.after(S, What::Obtained { pid, serial, step, link });
            }
            let Some(copy) = self.processes[head].copies.iter().find(|(copy, _)| *copy == step).copied() else {
                return self.fail(format!("p{pid} obtains step {step}, which the head does not have"));
            };
            self.processes[pid].copies.push(copy);
        }
        self.engine_event(pid, EngineEvent::Obtained { step });
    }

    fn connect(&mut self, pid: Pid, epoch: Epoch, members: Vec<Peer>) {
        let own_address = pid.to_string();
        let Some(me) = members.iter().find(|peer| peer.address == own_address).map(|peer| peer.host) else {
            return self.fail(format!("p{pid} connects to a generation that it is not in"));
        };
        let hosts: Vec<HostId> = members.iter().map(|peer| peer.host).collect();
        self.check_members(pid, epoch, &hosts);
        let mesh = self.meshes.iter().rposition(|mesh| mesh.epoch == epoch).unwrap_or_else(|| {
            self.meshes.push(Mesh { epoch, seats: Vec::new(), drain: false, last: None, stuck: false, broken: None });
            self.meshes.len() - 1
        });
        let seat = self.meshes[mesh].seats.len();
        self.meshes[mesh].seats.push(Seat {
            pid,
            host: me,
            members: hosts,
            connected: false,
            started: false,
            waiting: false,
            gone: false,
            late: false,
            step: 0,
            hash: 0,
            units: 0,
        });
        self.processes[pid].engine = Some(Engine { mesh, seat });
        self.after(2_500 * MS, What::ConnectTimeout { mesh, seat });
        let seats = &self.meshes[mesh].seats;
        if seats.iter().any(|seat| seat.gone) || seats.len() < members.len() {
            return;
        }
        for seat in 0..self.meshes[mesh].seats.len() {
            if self.unreachable_peer(mesh, seat).is_none() {
                let pid = self.meshes[mesh].seats[seat].pid;
                self.meshes[mesh].seats[seat].connected = true;
                let delay: Time = (0..2).map(|_| self.latency(usize::MAX, self.processes[pid].machine)).sum();
                self.later(pid, delay, EngineEvent::Connected { epoch });
            }
        }
    }

    /// A member that the one on `seat` cannot reach now.
    fn unreachable_peer(&self, mesh: usize, seat: usize) -> Option<HostId> {
        let seats = &self.meshes[mesh].seats;
        let own = self.processes[seats[seat].pid].machine;
        seats[seat].members.iter().copied().find(|host| {
            let peer = seats.iter().find(|other| other.host == *host && !other.gone);
            peer.is_none_or(|peer| self.network.is_cut(own, self.processes[peer.pid].machine, self.now))
        })
    }

    /// Connecting has taken as long as it may.
    pub fn connect_timeout(&mut self, mesh: usize, seat: usize) {
        let Seat { pid, gone, connected, .. } = self.meshes[mesh].seats[seat];
        if gone || connected {
            return;
        }
        let epoch = self.meshes[mesh].epoch;
        let event = match self.unreachable_peer(mesh, seat) {
            Some(peer) => EngineEvent::CannotConnect { epoch, peer },
            None => EngineEvent::Connected { epoch },
        };
        self.meshes[mesh].seats[seat].connected = matches!(event, EngineEvent::Connected { .. });
        self.engine_event(pid, event);
    }

    /// The head asks for the end of a generation.
    pub fn drain_mesh(&mut self, pid: Pid, epoch: Epoch) {
        if let Some(engine) = self.processes[pid].engine.filter(|engine| self.meshes[engine.mesh].epoch == epoch) {
            self.meshes[engine.mesh].drain = true;
        }
    }

    fn stop_engine(&mut self, pid: Pid, epoch: Epoch) {
        let Some(engine) = self.processes[pid].engine.filter(|engine| self.meshes[engine.mesh].epoch == epoch) else {
            return self.fail(format!("p{pid} stops generation {epoch}, which does not run"));
        };
        if self.wrong_stop(pid, epoch) {
            return;
        }
        self.leave_mesh(engine, true);
        if !self.processes[pid].hung {
            let delay = self.random.between(5 * MS, 300 * MS);
            self.later(pid, delay, EngineEvent::Stopped { epoch });
        }
    }

    /// A member's part of a mesh ends; the others' sockets fail, if its kernel still tells them.
    pub fn leave_mesh(&mut self, engine: Engine, told: bool) {
        let last = self.meshes[engine.mesh].last;
        let place = &mut self.meshes[engine.mesh].seats[engine.seat];
        if std::mem::replace(&mut place.gone, true) {
            return;
        }
        let finished = last.is_some_and(|last| place.step == last);
        if told && !finished {
            let host = self.meshes[engine.mesh].seats[engine.seat].host;
            self.break_mesh(engine.mesh, host);
        }
    }

    /// The sockets to a member fail, at every other one that is still in the mesh.
    pub fn break_mesh(&mut self, mesh: usize, peer: HostId) {
        let epoch = self.meshes[mesh].epoch;
        self.meshes[mesh].broken.get_or_insert(peer);
        for seat in 0..self.meshes[mesh].seats.len() {
            let Seat { pid, host, gone, connected, .. } = self.meshes[mesh].seats[seat];
            if connected && !gone && host != peer {
                let longest = if self.random.chance(20) { 2 * S } else { 300 * MS };
                let delay = self.random.between(MS, longest);
                self.later(pid, delay, EngineEvent::Broken { epoch, peer });
            }
        }
    }
}
