//! What goes wrong in a world, and when: drawn from its seed before it begins.
use super::random::Random;
use super::world::{MS, S, Time};
use crate::hosts::Step;

/// The parameters of a world, drawn from its seed.
pub struct Scenario {
    pub steps: Step,
    pub commit_every: Step,
    pub compute: Time,
    pub download: Time,
    /// How late timers fire at most.
    pub lateness: Time,
    /// How long a part of a commit travels at most.
    pub transfer: Time,
    /// Machines whose downloads take longer than any limit.
    pub slow_machine: Option<usize>,
    pub faults: Vec<(Time, Fault)>,
    pub disk_full_at: Option<Step>,
    /// When the last fault is over.
    pub calm: Time,
}

/// The machine that the head runs on. Members run on machines 1, 2, …
pub const HEAD_MACHINE: usize = 0;

/// Something that goes wrong, or a process that is started.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Starts a member on a machine without a process.
    Join { machine: usize },
    /// Starts a member with another version.
    JoinOther { machine: usize },
    /// SIGKILL.
    Kill { machine: usize, restart: Option<Time> },
    /// The machine has no power for a while; then a process is started on it again.
    PowerLoss { machine: usize, time: Time },
    /// SIGSTOP, and SIGCONT later.
    Stop { machine: usize, time: Time },
    /// The training thread hangs.
    Hang { machine: usize },
    /// Nothing passes between two machines.
    Cut { from: usize, to: usize, both: bool, time: Time },
    /// Nothing passes between a machine and all others.
    Isolate { machine: usize, time: Time },
    /// A control connection is reset.
    Reset { machine: usize },
    /// Two machines can connect, but exchange no large packets (as with a wrong MTU), for a while or for ever.
    BadPair { a: usize, b: usize, time: Option<Time> },
    /// Sockets of the generation that trains fail.
    Break,
    /// The dataflow of the generation that trains waits for ever, at all of its members.
    Stick,
    /// Every packet takes 200 ms.
    Slow { time: Time },
    /// 5 % of the packets are lost.
    Lossy { time: Time },
    /// SIGINT or SIGTERM to a member.
    Leave { machine: usize },
    /// A second head is started while the first is stopped, on another machine; the first continues later.
    SecondHead { after: Time, time: Time },
    /// SIGINT to the head. Ends the run.
    Interrupt,
    /// A stage fails. Ends the run.
    StageFails { machine: usize },
}

/// Draws the world of a seed.
pub fn draw(random: &mut Random) -> (Scenario, usize) {
    let machines = random.between(1, 5) as usize;
    let steps = random.between(30, 120);
    let min_hosts = if random.chance(60) { 1 } else { random.between(1, machines as u64 + 1) as usize };
    let mut scenario = Scenario {
        steps,
        commit_every: random.between(1, 8),
        compute: random.between(60 * MS, 500 * MS),
        download: random.between(100 * MS, 3 * S),
        lateness: if random.chance(50) { random.below(300 * MS) } else { 1 },
        transfer: if random.chance(50) { random.below(2 * S) } else { MS },
        slow_machine: random.chance(10).then(|| random.between(1, machines as u64) as usize),
        faults: Vec::new(),
        disk_full_at: random.chance(2).then(|| random.between(1, steps)),
        calm: 0,
    };
    for machine in 1..=machines {
        let at = if random.chance(50) { random.below(2 * S) } else { random.below(25 * S) };
        scenario.faults.push((at, Fault::Join { machine }));
    }
    // Some kinds of faults and not others, so that every combination of few kinds comes up often.
    let kinds: Vec<u64> = (0..KINDS).filter(|_| random.chance(30)).collect();
    let count = if kinds.is_empty() { 0 } else { random.between(0, 12) };
    // Spread over the run, or one upon the other while a generation changes.
    let spread = if random.chance(50) { 35 * S } else { 3 * S };
    let mut beginning = random.below(20 * S);
    for number in 0..count {
        if number % 4 == 0 && spread < 10 * S {
            beginning = random.below(35 * S);
        }
        let kind = kinds[random.below(kinds.len() as u64) as usize];
        let at = if spread < 10 * S { beginning + random.below(spread) } else { random.below(spread) };
        let fault = draw_fault(random, kind, machines);
        scenario.faults.push((at, fault));
    }
    if random.chance(15) {
        let at = random.between(2 * S, 40 * S);
        let machine = random.below(machines as u64 + 1) as usize;
        let fault = if random.chance(50) { Fault::Interrupt } else { Fault::StageFails { machine } };
        scenario.faults.push((at, fault));
    }
    scenario.calm = scenario.faults.iter().map(|(at, fault)| at + fault.duration()).max().unwrap_or_default();
    (scenario, min_hosts)
}

const KINDS: u64 = 18;

fn draw_fault(random: &mut Random, kind: u64, machines: usize) -> Fault {
    let machine = random.between(1, machines as u64) as usize;
    let any = random.below(machines as u64 + 1) as usize;
    let other = (any + 1 + random.below(machines as u64) as usize) % (machines + 1);
    // Around the limits of detection: sometimes shorter, sometimes longer.
    let time = if random.chance(30) { random.between(S / 4, 4 * S) } else { random.between(S, 12 * S) };
    match kind {
        0 => Fault::Kill { machine, restart: random.chance(70).then_some(time) },
        1 => Fault::PowerLoss { machine, time },
        2 => Fault::Stop { machine, time },
        3 => Fault::Hang { machine: if random.chance(10) { HEAD_MACHINE } else { machine } },
        4 => Fault::Cut { from: any, to: other, both: random.chance(70), time },
        5 => Fault::Isolate { machine: any, time },
        6 => Fault::Reset { machine },
        7 => Fault::Break,
        8 => Fault::Slow { time: 2 * time },
        9 => Fault::Lossy { time: 2 * time },
        10 => Fault::Leave { machine },
        11 => Fault::SecondHead { after: time / 2, time },
        12 => Fault::Kill { machine: HEAD_MACHINE, restart: Some(time) },
        13 => Fault::Stop { machine: HEAD_MACHINE, time },
        14 => Fault::PowerLoss { machine: HEAD_MACHINE, time },
        15 if random.chance(30) => Fault::BadPair { a: any, b: other, time: random.chance(50).then_some(2 * time) },
        16 => Fault::Stick,
        _ => Fault::JoinOther { machine },
    }
}

impl Fault {
    /// How long it lasts.
    pub fn duration(&self) -> Time {
        match self {
            Self::PowerLoss { time, .. } | Self::Stop { time, .. } | Self::Slow { time } | Self::Lossy { time } => {
                *time
            }
            // TCP tries again up to a second later.
            Self::Cut { time, .. } | Self::Isolate { time, .. } => time + S,
            Self::Kill { restart, .. } => restart.unwrap_or_default(),
            Self::BadPair { time, .. } => time.unwrap_or_default(),
            Self::SecondHead { after, time } => after + time,
            _ => 0,
        }
    }
}
