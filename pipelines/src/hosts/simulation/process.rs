//! Processes: how they start and die, and what their state machines do to the world.
use super::network::{HEAD, MEMBER, Packet};
use super::world::{MS, Part, Pid, Process, Role, Running, S, Time, What, World};
use crate::hosts::{
    EngineAction, Head, HeadAction, HeadEvent, HeadStart, Member, MemberAction, MemberEvent, Notice, Outcome, RunId,
    Step,
};

/// The version that most processes have.
pub const VERSION: &str = "1.0";

impl World {
    fn add_process(&mut self, machine: usize, version: &'static str, role: impl FnOnce(Time) -> Role) -> Pid {
        let clock_offset = self.random.below(1_000 * S);
        let process = Process {
            machine,
            role: role(self.now + clock_offset),
            running: Running::Alive,
            clock_offset,
            deadline: Time::MAX,
            timer: Time::MAX,
            inbox: Vec::new(),
            hung: false,
            engine: None,
            obtain_serial: 0,
            copies: Vec::new(),
            staged: Vec::new(),
            incarnation: 0,
            commit: 0,
            link: None,
            version,
            outcome: None,
            disturbed: 0,
            down_since: 0,
            idle_since: self.now,
            forming: None,
            change: 0,
            generation_ended: None,
            writes: 0,
            held: Vec::new(),
            training_since: 0,
            leaving: false,
        };
        self.processes.push(process);
        self.processes.len() - 1
    }

    /// Starts a head, which takes over the run directory.
    pub fn start_head(&mut self, machine: usize) -> Pid {
        self.disk.incarnation += 1;
        let (incarnation, commit, hash) = (self.disk.incarnation, self.disk.step, self.disk.hash);
        let (config, steps) = (self.config.clone(), self.scenario.steps);
        let pid = self.processes.len();
        let commit = self.wrong_resume(commit);
        let pid_again = self.add_process(machine, VERSION, |clock| {
            let hello = crate::hosts::Hello {
                name: format!("p{pid}"),
                address: pid.to_string(),
                version: VERSION.to_owned(),
                backend: "avx2".to_owned(),
                workers: 1,
            };
            let start = HeadStart { run: RunId(7), incarnation, hello, commit, steps };
            Role::Head(Box::new(Head::new(config, start, std::time::Duration::from_micros(clock))))
        });
        debug_assert_eq!(pid, pid_again);
        let process = &mut self.processes[pid];
        process.incarnation = incarnation;
        process.commit = commit;
        process.copies.push((commit, hash));
        self.heads.push(pid);
        self.note(|_| format!("p{pid} starts on machine {machine} as head, incarnation {incarnation}, step {commit}"));
        self.head_event(pid, HeadEvent::Tick);
        pid
    }

    /// Starts a member.
    pub fn start_member(&mut self, machine: usize, version: &'static str) -> Pid {
        let config = self.config.clone();
        let role = |clock| Role::Member(Box::new(Member::new(config, std::time::Duration::from_micros(clock))));
        let pid = self.add_process(machine, version, role);
        self.note(|_| format!("p{pid} starts on machine {machine}"));
        self.member_event(pid, MemberEvent::Tick);
        pid
    }

    /// The process on a machine, if one runs or is stopped.
    pub fn process_on(&self, machine: usize) -> Option<Pid> {
        self.processes.iter().rposition(|process| process.machine == machine && process.running != Running::Dead)
    }

    /// The newest head, if it runs or is stopped.
    pub fn head(&self) -> Option<Pid> {
        self.heads.last().copied().filter(|head| self.processes[*head].running != Running::Dead)
    }

    /// Ends a process.
    pub fn end_process(&mut self, pid: Pid, power_loss: bool) {
        if self.processes[pid].running == Running::Dead {
            return;
        }
        self.processes[pid].running = Running::Dead;
        self.processes[pid].inbox.clear();
        self.drop_links(pid, power_loss);
        if let Some(engine) = self.processes[pid].engine {
            self.leave_mesh(engine, !power_loss);
        }
    }

    /// Gives an event to a head, and does what it wants done.
    pub fn head_event(&mut self, pid: Pid, event: HeadEvent) {
        if let Some(event) = self.wrong_head_event(pid, event) {
            self.head_event_as_is(pid, event);
        }
    }

    /// The same, past the wrong variants.
    pub fn head_event_as_is(&mut self, pid: Pid, event: HeadEvent) {
        let now = self.clock(pid);
        let before = self.trace.is_some().then(|| format!("{event:?}"));
        let Role::Head(head) = &mut self.processes[pid].role else { return };
        let actions = head.on(now, event);
        self.note_event(pid, before, &actions);
        for action in actions {
            if let Some(action) = self.wrong_head_action(pid, action) {
                self.head_action(pid, action);
            }
        }
        self.set_timer(pid);
    }

    /// Gives an event to a member, and does what it wants done.
    pub fn member_event(&mut self, pid: Pid, event: MemberEvent) {
        let Some(event) = self.wrong_member_event(pid, event) else { return };
        let now = self.clock(pid);
        let before = self.trace.is_some().then(|| format!("{event:?}"));
        let Role::Member(member) = &mut self.processes[pid].role else { return };
        let actions = member.on(now, event);
        self.note_event(pid, before, &actions);
        for action in actions {
            self.member_action(pid, action);
        }
        self.set_timer(pid);
    }

    /// Everything but beats and the progress of steps, unless something follows from them.
    fn note_event<A: std::fmt::Debug>(&mut self, pid: Pid, event: Option<String>, actions: &[A]) {
        let Some(event) = event else { return };
        let actions: Vec<String> =
            actions.iter().map(|action| format!("{action:?}")).filter(|text| !text.contains("Beat")).collect();
        let routine = event == "Tick" || event.contains("Work") || event.contains("Beat");
        if !routine || !actions.is_empty() {
            self.note(|_| format!("p{pid} < {event}"));
            actions.into_iter().for_each(|action| self.note(|_| format!("p{pid}   > {action}")));
        }
    }

    fn head_action(&mut self, pid: Pid, action: HeadAction) {
        match action {
            HeadAction::Send { link, message } => {
                self.check_message(pid, link.0 as usize, &message);
                self.send(link.0 as usize, HEAD, Packet::ToMember(message));
            }
            HeadAction::Close { link } => self.close(link.0 as usize, HEAD),
            HeadAction::Engine(action) => {
                if matches!(action, EngineAction::Obtain { .. }) {
                    self.processes[pid].forming.get_or_insert(self.now);
                }
                self.engine_action(pid, action);
            }
            HeadAction::Drain { epoch } => {
                self.check_drain(pid);
                self.drain_mesh(pid, epoch);
            }
            HeadAction::Commit { epoch, step } => {
                self.check_commit(pid, epoch, step);
                let process = &mut self.processes[pid];
                if let Some(part) = process.staged.iter().find(|part| part.epoch == epoch && part.step == step) {
                    process.copies.push((step, part.hash));
                }
                process.commit = step;
                process.staged.retain(|part| part.step > step);
            }
            HeadAction::Discard { epoch } => self.processes[pid].staged.retain(|part| part.epoch != epoch),
            HeadAction::Persist { step } => {
                let duration = self.random.between(10 * MS, 800 * MS);
                self.processes[pid].writes += 1;
                self.after(duration, What::Written { pid, step });
            }
            HeadAction::CheckOwner => {
                if self.disk.incarnation != self.processes[pid].incarnation && !self.wrong_fence() {
                    // The run directory may be on a slow network file system.
                    let longest = if self.random.chance(30) { 4 * S } else { 10 * MS };
                    let delay = self.random.between(MS, longest);
                    self.after(delay, What::Fenced(pid));
                }
            }
            HeadAction::Say(notice) => self.check_notice(pid, &notice),
            HeadAction::Exit(outcome) => self.exit(pid, outcome),
        }
    }

    fn member_action(&mut self, pid: Pid, action: MemberAction) {
        match action {
            MemberAction::Dial { attempt } => self.dial(pid, attempt),
            MemberAction::Send { link, message } => {
                self.check_report(pid, &message);
                self.send(link.0 as usize, MEMBER, Packet::ToHead(message));
            }
            MemberAction::Close { link } => self.close(link.0 as usize, MEMBER),
            MemberAction::Engine(action) => self.engine_action(pid, action),
            MemberAction::Say(Notice::Welcomed) => self.check_welcome(pid),
            MemberAction::Say(notice) => self.see(&notice),
            MemberAction::Exit(outcome) => self.exit(pid, outcome),
        }
    }

    fn exit(&mut self, pid: Pid, outcome: Outcome) {
        self.note(|_| format!("p{pid} exits: {outcome:?}"));
        self.check_exit(pid, &outcome);
        self.processes[pid].outcome = Some((self.now, outcome));
        self.end_process(pid, false);
    }

    /// A part arrives at a head.
    pub fn part_arrives(&mut self, pid: Pid, part: Part) {
        let Part { epoch, step, from, last, .. } = part;
        self.processes[pid].staged.push(part);
        self.head_event(pid, HeadEvent::Part { epoch, step, from, last });
    }

    /// The disk has a commit, if the run directory is still this head's.
    pub fn written(&mut self, pid: Pid, step: Step) {
        self.processes[pid].writes -= 1;
        for (mesh, step) in std::mem::take(&mut self.processes[pid].held) {
            self.after(0, What::Update { mesh, step });
        }
        if self.scenario.disk_full_at.is_some_and(|full| step >= full) {
            let cause = "no space left on device".to_owned();
            return self.head_event(pid, HeadEvent::PersistFailed { step, cause });
        }
        if self.disk.incarnation != self.processes[pid].incarnation && !self.wrong_fence() {
            return self.head_event(pid, HeadEvent::Fenced);
        }
        let copy = self.processes[pid].copies.iter().find(|(copy, _)| *copy == step).copied();
        self.check_written(pid, step, copy);
        if let Some((step, hash)) = copy {
            self.disk.step = step;
            self.disk.hash = hash;
        }
        self.head_event(pid, HeadEvent::Persisted { step });
    }
}
