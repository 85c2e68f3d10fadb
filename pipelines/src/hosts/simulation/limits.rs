//! Limits: what must have happened by some time, and that training makes progress.
use super::checks::SETTLE;
use super::network::HEAD;
use super::process::VERSION;
use super::world::{Check, Pid, Process, Role, Running, S, Time, What, World};
use crate::hosts::Outcome;

/// How long detection and the beginning of the next generation may take together.
const RECOVERY: Time = 15 * S;
impl World {
    /// How many hosts could take part, the head included.
    fn able_hosts(&self) -> usize {
        let able = |process: &&Process| {
            let member = matches!(process.role, Role::Member(_)) && !process.leaving && !process.hung;
            member && process.running == Running::Alive && process.version == VERSION
        };
        let able = 1 + self.processes.iter().filter(able).count();
        able - self.network.bad_pairs.iter().filter(|(_, _, until)| *until > self.now).count().min(able - 1)
    }

    /// Whether the newest head has ended.
    fn has_ended(&self) -> bool {
        self.heads.last().is_some_and(|head| self.processes[*head].outcome.is_some())
    }

    /// Whether everybody must have ended by now: not if there are too few hosts, whom the head waits for.
    pub fn must_end(&self) -> bool {
        self.has_ended() || self.able_hosts() >= self.config.min_hosts
    }

    /// Whether nothing has gone wrong since then, so that limits hold exactly.
    pub fn quiet_since(&self, since: Time) -> bool {
        self.checks.busy_until < since
            && !self.checks.hung
            && self.checks.stuck == 0
            && self.network.bad_pairs.is_empty()
            && self.scenario.slow_machine.is_none()
    }

    /// Whether a process runs and nothing has happened to it for five seconds.
    pub fn is_undisturbed(&self, pid: Pid) -> bool {
        let process = &self.processes[pid];
        process.running == Running::Alive && process.disturbed + 5 * S < self.now
    }

    /// Checks a limit.
    pub fn check(&mut self, check: Check) {
        match check {
            Check::Detected { pid, link, head, since } => {
                let down = self.processes[pid].running != Running::Alive && self.processes[pid].down_since == since;
                let judge = &self.processes[head];
                let able = judge.running == Running::Alive && judge.disturbed + 5 * S < self.now;
                // A beat that was lost several times may arrive seconds after its sender was stopped.
                let lossy = self.now < self.network.lossy_until + 5 * S;
                let noticed = !self.network.links[link].open[HEAD] || self.checks.dismissing || lossy;
                let truth = !down || !able || noticed;
                self.must(truth, || format!("p{head} does not notice that p{pid} is gone"));
            }
            Check::Failed { pids, cause } => {
                let mut links = pids.iter().filter_map(|pid| self.processes[*pid].link);
                let reset = links.any(|link| self.network.links[link].reset);
                for pid in pids {
                    let process = &self.processes[pid];
                    let disturbed = |process: &Process| {
                        let killed = process.running == Running::Dead && process.outcome.is_none();
                        killed || process.running == Running::Stopped || process.disturbed + 2 * S >= self.now
                    };
                    if disturbed(process) || reset || self.heads.iter().any(|head| disturbed(&self.processes[*head])) {
                        continue;
                    }
                    let ended = process.running == Running::Dead;
                    let told = match &process.outcome {
                        Some((_, Outcome::Failed(failure))) => failure.cause == cause,
                        Some(_) => true,
                        None => ended,
                    };
                    self.must(told, || format!("p{pid} does not know two seconds later that a stage failed"));
                }
            }
            Check::Told { pids, outcome } => {
                for pid in pids {
                    let told = !self.is_undisturbed(pid) || self.now < self.network.lossy_until + 5 * S;
                    self.must(told, || format!("p{pid} has not been told that the run is over: {outcome:?}"));
                }
            }
            Check::Next { head, since } => {
                let process = &self.processes[head];
                let waits = process.running == Running::Alive && process.generation_ended == Some(since);
                let enough = self.able_hosts() >= self.config.min_hosts && self.checks.last_join < since;
                let truth = !(waits && enough && self.quiet_since(since)) || self.checks.dismissing;
                self.must(truth, || format!("p{head} has not begun the next generation within ten seconds"));
            }
            Check::Progress => self.check_progress(),
        }
    }

    /// Every host that could take part does, after a while in which a generation trains and nothing goes wrong.
    fn check_left_out(&mut self) {
        let Some(head) = self.head() else { return };
        let training = self.processes[head].engine.filter(|engine| self.is_training(*engine));
        let change = self.processes[head].change;
        let limit = SETTLE.max(change * 20) + RECOVERY;
        for pid in 0..self.processes.len() {
            let process = &self.processes[pid];
            let able = matches!(process.role, Role::Member(_)) && process.running == Running::Alive;
            let takes_part = training.is_none_or(|head| process.engine.is_some_and(|own| own.mesh == head.mesh));
            let late = self.quiet_since(process.idle_since) && self.now > process.idle_since + limit;
            if !able || process.leaving || process.version != VERSION || takes_part {
                self.processes[pid].idle_since = self.now;
            } else {
                self.must(!late, || format!("p{pid} is left out"));
            }
        }
    }

    /// If the last fault is over and there are enough hosts, training makes progress.
    fn check_progress(&mut self) {
        let ended = self.has_ended();
        if !ended || self.processes.iter().any(|process| process.running != Running::Dead) {
            self.after(S, What::Check(Check::Progress));
        }
        self.check_left_out();
        let hosts = self.able_hosts();
        let alive = self.head().is_some_and(|head| self.processes[head].running == Running::Alive);
        if ended || hosts < self.config.min_hosts || !alive {
            self.checks.last_progress = self.now;
            return;
        }
        let stall = self.config.stall.as_micros() as Time + 2 * S;
        let mut limit = RECOVERY;
        // A host that hangs is found when it takes part, so several may be found one after the other.
        limit += self.processes.iter().filter(|process| process.hung).count() as Time * stall;
        limit += Time::from(self.checks.stuck) * stall;
        limit += if self.scenario.slow_machine.is_some() { RECOVERY } else { 0 };
        limit += if self.network.bad_pairs.is_empty() { 0 } else { 2 * RECOVERY };
        let since = self.checks.last_progress.max(self.scenario.calm);
        let late = self.now > since + limit;
        self.must(!late, || format!("{hosts} hosts make no progress"));
    }
}
