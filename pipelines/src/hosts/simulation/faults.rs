//! What faults do to the world.
use super::engine::NOBODY;
use super::network::{Cut, HEAD, MEMBER};
use super::process::VERSION;
use super::scenario::{Fault, HEAD_MACHINE};
use super::world::{Check, MS, Pid, Role, Running, S, Time, What, World};
use crate::hosts::{EngineEvent, Failure, HeadEvent, MemberEvent, Step};

impl World {
    /// Something goes wrong now.
    pub fn fault(&mut self, fault: Fault) {
        self.note(|_| format!("!! {fault:?}"));
        if !matches!(fault, Fault::Join { machine } if machine != HEAD_MACHINE) {
            self.checks.busy_until = self.checks.busy_until.max(self.now + fault.duration() + S);
        }
        match fault {
            Fault::Join { machine } => self.join(machine, VERSION),
            Fault::JoinOther { machine } => self.join(machine, "0.9"),
            Fault::Kill { machine, restart } => {
                self.kill(machine, false);
                if let Some(time) = restart {
                    self.after(time, What::Fault(Fault::Join { machine }));
                }
            }
            Fault::PowerLoss { machine, time } => {
                self.checks.lose_power(machine, self.now + time);
                self.kill(machine, true);
                self.after(time, What::Fault(Fault::Join { machine }));
            }
            Fault::Stop { machine, time } => {
                if let Some(pid) = self.process_on(machine) {
                    self.stop(pid, time);
                }
            }
            Fault::Hang { machine } => {
                if let Some(pid) = self.process_on(machine) {
                    self.processes[pid].hung = true;
                    self.checks.hung = true;
                }
            }
            Fault::Cut { from, to, both, time } => self.cut(from, to, both, time),
            Fault::Isolate { machine, time } => {
                let machines = self.processes.iter().map(|process| process.machine).max().unwrap_or_default();
                (0..=machines).filter(|other| *other != machine).for_each(|other| self.cut(machine, other, true, time));
            }
            Fault::Reset { machine } => {
                if let Some(link) = self.process_on(machine).and_then(|pid| self.processes[pid].link) {
                    self.reset(link);
                }
            }
            Fault::Break => {
                if let Some(engine) = self.head().and_then(|head| self.processes[head].engine) {
                    self.break_mesh(engine.mesh, NOBODY);
                }
            }
            Fault::Stick => {
                if let Some(engine) = self.head().and_then(|head| self.processes[head].engine) {
                    self.meshes[engine.mesh].stuck = true;
                    self.checks.stuck += 1;
                }
            }
            Fault::BadPair { a, b, time } => {
                let until = time.map_or(Time::MAX, |time| self.now + time);
                self.network.bad_pairs.push((a, b, until));
            }
            Fault::Slow { time } => self.network.slow_until = self.now + time,
            Fault::Lossy { time } => self.network.lossy_until = self.now + time,
            Fault::Leave { machine } => self.leave(machine),
            Fault::SecondHead { after, time } => self.second_head(after, time),
            Fault::Interrupt => {
                if let Some(head) = self.head().filter(|head| self.processes[*head].running == Running::Alive) {
                    self.checks.interrupted = true;
                    self.head_event(head, HeadEvent::Signal { signal: 2 });
                }
            }
            Fault::StageFails { machine } => self.fail_stage(machine),
        }
    }

    fn join(&mut self, machine: usize, version: &'static str) {
        self.checks.last_join = self.now;
        if self.checks.without_power(machine, self.now) {
            return;
        }
        if machine == HEAD_MACHINE {
            // The lock of the run directory: no second head while one lives.
            let free = self.head().is_none_or(|head| self.checks.replaced.contains(&head));
            if free && !self.is_over() {
                self.start_head(machine);
            }
        } else if self.process_on(machine).is_none() {
            self.start_member(machine, version);
        }
    }

    fn kill(&mut self, machine: usize, power_loss: bool) {
        if let Some(pid) = self.process_on(machine) {
            self.end_process(pid, power_loss);
            self.expect_detection(pid);
        }
    }

    fn stop(&mut self, pid: Pid, time: Time) {
        if self.processes[pid].running == Running::Alive {
            self.processes[pid].running = Running::Stopped;
            self.after(time, What::Continue(pid));
            self.expect_detection(pid);
        }
    }

    /// The head has five seconds to notice.
    fn expect_detection(&mut self, pid: Pid) {
        if let Some(link) = self.processes[pid].link {
            let head = self.network.links[link].ends[HEAD];
            let since = self.now;
            self.processes[pid].down_since = since;
            self.after(5 * S, What::Check(Check::Detected { pid, link, head, since }));
        }
    }

    fn cut(&mut self, from: usize, to: usize, both: bool, time: Time) {
        let until = self.now + time;
        self.network.cuts.push(Cut { from, to, until });
        if both {
            self.network.cuts.push(Cut { from: to, to: from, until });
        }
        for process in self.processes.iter_mut().filter(|process| [from, to].contains(&process.machine)) {
            process.disturbed = process.disturbed.max(until + 2 * S);
        }
        // TCP_USER_TIMEOUT, unless the cut is over before.
        if time > 5 * S {
            for mesh in self.meshes.len().saturating_sub(1)..self.meshes.len() {
                let on = |machine: usize| {
                    self.meshes[mesh].seats.iter().any(|seat| self.processes[seat.pid].machine == machine)
                };
                if on(from) && on(to) {
                    self.break_mesh_later(mesh, 5 * S, [from, to]);
                }
            }
        }
    }

    fn break_mesh_later(&mut self, mesh: usize, delay: Time, machines: [usize; 2]) {
        let epoch = self.meshes[mesh].epoch;
        let seat = |machine: usize| {
            let seats = &self.meshes[mesh].seats;
            seats.iter().find(|seat| self.processes[seat.pid].machine == machine).map(|seat| (seat.pid, seat.host))
        };
        let [Some((first, first_host)), Some((second, second_host))] = machines.map(seat) else { return };
        self.meshes[mesh].broken.get_or_insert(NOBODY);
        for (pid, peer) in [(first, second_host), (second, first_host)] {
            self.after(delay, What::Engine { pid, event: EngineEvent::Broken { epoch, peer } });
        }
    }

    fn leave(&mut self, machine: usize) {
        let Some(pid) = self.process_on(machine).filter(|pid| self.processes[*pid].running == Running::Alive) else {
            return;
        };
        if matches!(self.processes[pid].role, Role::Member(_)) {
            self.processes[pid].leaving = true;
            self.member_event(pid, MemberEvent::Signal { signal: 15 });
        }
    }

    /// The head is stopped, and somebody starts another one on another machine, where the lock does not hold.
    fn second_head(&mut self, after: Time, time: Time) {
        let Some(head) = self.head().filter(|head| self.processes[*head].running == Running::Alive) else { return };
        self.stop(head, after + time);
        let machine = 100 + self.heads.len();
        self.processes[head].machine = machine;
        self.after(after, What::Fault(Fault::Join { machine: HEAD_MACHINE }));
        self.checks.replaced.push(head);
        if self.random.chance(50) {
            // Members look for the head when both answer.
            let machines = self.processes.iter().map(|process| process.machine).max().unwrap_or_default();
            for machine in 1..=machines.min(10) {
                self.after(after + time + 100 * MS, What::Fault(Fault::Reset { machine }));
            }
        }
    }

    fn fail_stage(&mut self, machine: usize) {
        let Some(pid) = self.process_on(machine).filter(|pid| self.processes[*pid].running == Running::Alive) else {
            return;
        };
        let Some(engine) = self.processes[pid].engine.filter(|engine| self.is_training(*engine)) else { return };
        let epoch = self.meshes[engine.mesh].epoch;
        let step: Step = self.processes[pid].commit;
        let cause = format!("out of memory on p{pid}");
        let failure =
            Failure { host: format!("p{pid}"), stage: "loss".to_owned(), step: Some(step), cause: cause.clone() };
        self.expect_failures();
        self.expect_failure(pid, cause);
        self.engine_event(pid, EngineEvent::Failed { epoch, failure });
    }

    /// Whoever is connected now, undisturbed, has two seconds to end.
    fn expect_failure(&mut self, pid: Pid, cause: String) {
        let lossy = self.now < self.network.lossy_until;
        let Some(head) = self.head().filter(|head| self.is_calm(*head) && self.is_calm(pid) && !lossy) else { return };
        let connected = |pid: Pid| {
            pid == head
                || self.processes[pid].link.is_some_and(|link| {
                    let link = &self.network.links[link];
                    let admitted = link.admitted + S < self.now && link.ends[HEAD] == head;
                    admitted && link.open[MEMBER] && link.open[HEAD] && self.is_calm(pid)
                })
        };
        if connected(pid) {
            let pids: Vec<Pid> = (0..self.processes.len()).filter(|pid| connected(*pid)).collect();
            self.after(2 * S, What::Check(Check::Failed { pids, cause }));
        }
    }

    fn is_calm(&self, pid: Pid) -> bool {
        let process = &self.processes[pid];
        process.running == Running::Alive && process.disturbed < self.now
    }
}
