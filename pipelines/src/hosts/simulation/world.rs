//! The simulated world: processes on machines, the network between them, a disk, and a clock that jumps from event to
//! event.
use super::checks::Checks;
use super::engine::{Engine, Mesh};
use super::network::{Network, Packet};
use super::random::Random;
use super::scenario::{Fault, Scenario};
use super::wrong::Wrong;
use crate::hosts::{Config, EngineEvent, Epoch, Head, HeadEvent, HostId, Member, MemberEvent, Outcome, Step};
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Microseconds since the beginning of the world.
pub type Time = u64;

/// A millisecond.
pub const MS: Time = 1_000;
/// A second.
pub const S: Time = 1_000_000;

/// The index of a process. A process that is started again gets another one.
pub type Pid = usize;

/// What happens at some time.
#[derive(Clone, Debug)]
pub enum What {
    /// The timer of a process.
    Tick(Pid),
    /// A packet arrives at end `end` of a link.
    Deliver { link: usize, end: usize, flow: u32, packet: Packet },
    /// An end of a link learns that it is closed.
    Closed { link: usize, end: usize },
    /// An attempt to reach the head ends.
    Dialled { pid: Pid, attempt: u64, head: Option<Pid> },
    /// The engine of a process reports; perhaps late, about an engine that has ended.
    Engine { pid: Pid, event: EngineEvent },
    /// The download of a commit is done, if it is still the same (`serial`).
    Obtained { pid: Pid, serial: u32, step: Step, link: Option<usize> },
    /// A member of a mesh stops trying to connect.
    ConnectTimeout { mesh: usize, seat: usize },
    /// A member of a mesh has computed its leaves of a step.
    Computed { mesh: usize, seat: usize, step: Step },
    /// The members of a mesh update their parameters.
    Update { mesh: usize, step: Step },
    /// A part of a commit arrives at the head.
    Part { pid: Pid, part: Part },
    /// The disk has written a commit.
    Written { pid: Pid, step: Step },
    /// A head finds that another one has taken over.
    Fenced(Pid),
    /// In a wrong variant: the head believes that the disk has a commit.
    Claimed { pid: Pid, step: Step },
    /// Something goes wrong.
    Fault(Fault),
    /// A stopped process is continued.
    Continue(Pid),
    /// A limit is checked.
    Check(Check),
}

/// A limit that something must have happened within.
#[derive(Clone, Debug)]
pub enum Check {
    /// The head must have noticed by now that this process is gone.
    Detected { pid: Pid, link: usize, head: Pid, since: Time },
    /// Everybody must have ended by now, because a stage failed.
    Failed { pids: Vec<Pid>, cause: String },
    /// Everybody must know by now how the run ended.
    Told { pids: Vec<Pid>, outcome: Outcome },
    /// The generation after the one that ended then must train.
    Next { head: Pid, since: Time },
    /// Training must make progress. Checked every second.
    Progress,
}

/// A part of a commit at the head.
#[derive(Clone, Debug)]
pub struct Part {
    pub epoch: Epoch,
    pub step: Step,
    pub from: HostId,
    pub last: bool,
    pub hash: u64,
}

/// An entry of the queue, ordered by time and then by insertion.
struct Entry {
    at: Time,
    order: u64,
    what: What,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// Whether a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Running {
    Alive,
    /// By SIGSTOP.
    Stopped,
    Dead,
}

/// The state machine of a process.
pub enum Role {
    Head(Box<Head>),
    Member(Box<Member>),
}

/// A process.
pub struct Process {
    pub machine: usize,
    pub role: Role,
    pub running: Running,
    /// What its clock shows more than the world's.
    pub clock_offset: Time,
    /// What its state machine has asked the timer to be set to, and when it fires: on a busy machine, later.
    pub deadline: Time,
    pub timer: Time,
    /// What arrived while it was stopped.
    pub inbox: Vec<What>,
    /// Its training thread hangs.
    pub hung: bool,
    pub engine: Option<Engine>,
    pub obtain_serial: u32,
    /// Copies of commits, with the hash of the state. At a head: what it serves.
    pub copies: Vec<(Step, u64)>,
    /// Parts that have arrived at a head and are in no commit.
    pub staged: Vec<Part>,
    /// Of a head: its incarnation and its last commit.
    pub incarnation: u64,
    pub commit: Step,
    /// The control link of a member.
    pub link: Option<usize>,
    pub version: &'static str,
    pub outcome: Option<(Time, Outcome)>,
    /// Until when something outside disturbed it last: it was stopped or cut off.
    pub disturbed: Time,
    /// When it was stopped or killed last.
    pub down_since: Time,
    /// Of a member: since when it does not take part.
    pub idle_since: Time,
    /// Of a head: when it obtained the commit for a generation that does not train yet.
    pub forming: Option<Time>,
    /// Of a head: how long the last change of generations took at most.
    pub change: Time,
    /// Of a head: when a generation ended after which none has trained yet.
    pub generation_ended: Option<Time>,
    /// Of a head: checkpoints that it writes, and updates that wait for them.
    pub writes: usize,
    pub held: Vec<(usize, Step)>,
    /// Of a head: when its generation began to train.
    pub training_since: Time,
    /// Whether it was asked to leave.
    pub leaving: bool,
}

/// What survives everything.
pub struct Disk {
    pub incarnation: u64,
    pub step: Step,
    pub hash: u64,
}

/// Everything.
pub struct World {
    pub now: Time,
    order: u64,
    queue: BinaryHeap<Entry>,
    pub random: Random,
    pub config: Config,
    pub scenario: Scenario,
    pub processes: Vec<Process>,
    /// The processes that were started as heads, in order.
    pub heads: Vec<Pid>,
    pub network: Network,
    pub meshes: Vec<Mesh>,
    pub disk: Disk,
    pub checks: Checks,
    pub wrong: Option<Wrong>,
    /// Present if a person wants to read what happens.
    pub trace: Option<Vec<String>>,
    pub events: u64,
}

impl World {
    /// An empty world.
    pub fn new(random: Random, config: Config, scenario: Scenario, wrong: Option<Wrong>, trace: bool) -> Self {
        Self {
            now: 0,
            order: 0,
            queue: BinaryHeap::new(),
            random,
            config,
            scenario,
            processes: Vec::new(),
            heads: Vec::new(),
            network: Network::default(),
            meshes: Vec::new(),
            disk: Disk { incarnation: 0, step: 0, hash: super::training::initial_hash() },
            checks: Checks::default(),
            wrong,
            trace: trace.then(Vec::new),
            events: 0,
        }
    }

    /// Adds something to the queue.
    pub fn at(&mut self, at: Time, what: What) {
        self.order += 1;
        self.queue.push(Entry { at: at.max(self.now), order: self.order, what });
    }

    /// Adds something to the queue, some time from now.
    pub fn after(&mut self, delay: Time, what: What) {
        self.at(self.now + delay, what);
    }

    /// Notes a line for whoever reads the trace. The text is only made if somebody does.
    pub fn note(&mut self, text: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = format!("{:>9.3} {}", self.now as f64 / S as f64, text(self));
            if let Some(trace) = &mut self.trace {
                trace.push(line);
            }
        }
    }

    /// Handles the next event. `false` if there is none, or if it is later than `limit`.
    pub fn step(&mut self, limit: Time) -> bool {
        let Some(entry) = self.queue.pop().filter(|entry| entry.at <= limit) else { return false };
        self.now = entry.at;
        self.events += 1;
        self.handle(entry.what);
        true
    }

    fn handle(&mut self, what: What) {
        if let Some(pid) = self.receiver(&what) {
            match self.processes[pid].running {
                Running::Alive => {}
                Running::Dead => return,
                Running::Stopped => {
                    if !matches!(what, What::Tick(_)) {
                        self.processes[pid].inbox.push(what);
                    }
                    return;
                }
            }
        }
        match what {
            What::Tick(pid) => {
                if self.processes[pid].timer == self.now {
                    self.processes[pid].deadline = Time::MAX;
                    self.processes[pid].timer = Time::MAX;
                    self.tick(pid);
                }
            }
            What::Deliver { link, end, flow, packet } => self.deliver(link, end, flow, packet),
            What::Closed { link, end } => self.learn_closed(link, end),
            What::Dialled { pid, attempt, head } => self.dialled(pid, attempt, head),
            What::Engine { pid, event } => self.engine_event(pid, event),
            What::Obtained { pid, serial, step, link } => self.obtained(pid, serial, step, link),
            What::ConnectTimeout { mesh, seat } => self.connect_timeout(mesh, seat),
            What::Computed { mesh, seat, step } => self.computed(mesh, seat, step),
            What::Update { mesh, step } => self.update(mesh, step),
            What::Part { pid, part } => self.part_arrives(pid, part),
            What::Written { pid, step } => self.written(pid, step),
            What::Fenced(pid) => self.head_event(pid, HeadEvent::Fenced),
            What::Claimed { pid, step } => self.head_event(pid, HeadEvent::Persisted { step }),
            What::Fault(fault) => self.fault(fault),
            What::Continue(pid) => self.continue_process(pid),
            What::Check(check) => self.check(check),
        }
    }

    /// The process that has to run for this to happen.
    fn receiver(&self, what: &What) -> Option<Pid> {
        match what {
            What::Tick(pid)
            | What::Fenced(pid)
            | What::Dialled { pid, .. }
            | What::Engine { pid, .. }
            | What::Obtained { pid, .. }
            | What::Part { pid, .. }
            | What::Written { pid, .. }
            | What::Claimed { pid, .. } => Some(*pid),
            What::Deliver { link, end, .. } | What::Closed { link, end } => Some(self.network.links[*link].ends[*end]),
            What::Computed { mesh, seat, .. } | What::ConnectTimeout { mesh, seat } => {
                Some(self.meshes[*mesh].seats[*seat].pid)
            }
            _ => None,
        }
    }

    /// The time that the clock of a process shows.
    pub fn clock(&self, pid: Pid) -> Duration {
        Duration::from_micros(self.now + self.processes[pid].clock_offset)
    }

    fn tick(&mut self, pid: Pid) {
        match self.processes[pid].role {
            Role::Head(_) => self.head_event(pid, HeadEvent::Tick),
            Role::Member(_) => self.member_event(pid, MemberEvent::Tick),
        }
    }

    /// Continues a process after SIGSTOP: what has arrived meanwhile is delivered before its timer fires.
    fn continue_process(&mut self, pid: Pid) {
        if self.processes[pid].running != Running::Stopped {
            return;
        }
        self.note(|_| format!("p{pid} continues"));
        self.processes[pid].running = Running::Alive;
        self.processes[pid].disturbed = self.now;
        self.processes[pid].down_since = 0;
        for what in std::mem::take(&mut self.processes[pid].inbox) {
            self.handle(what);
        }
        if self.processes[pid].running == Running::Alive {
            self.resume_engine(pid);
            self.tick(pid);
        }
    }

    /// Sets the timer of a process to what its state machine asks for.
    pub fn set_timer(&mut self, pid: Pid) {
        let process = &self.processes[pid];
        let deadline = match &process.role {
            Role::Head(head) => head.deadline(),
            Role::Member(member) => member.deadline(),
        };
        if deadline == Duration::MAX || process.running == Running::Dead {
            return;
        }
        let at = (deadline.as_micros() as Time).saturating_sub(process.clock_offset);
        if at != process.deadline {
            let fires = at.max(self.now) + self.random.below(self.scenario.lateness);
            self.processes[pid].deadline = at;
            self.processes[pid].timer = fires;
            self.at(fires, What::Tick(pid));
        }
    }
}
