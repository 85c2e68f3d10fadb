//! The values that head and members agree on, and the limits they keep.
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// A number of updates, as everywhere.
pub type Step = u64;

/// Distinguishes runs: a random number that is written to the run directory when the run begins. Incarnations of
/// different runs cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunId(pub u64);

/// A host of a run. The head is [`HostId::HEAD`]. Every admission makes a new one: a process that comes back after it
/// was declared dead is another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostId(pub u32);

impl HostId {
    /// The head, which is part of every generation.
    pub const HEAD: Self = Self(0);
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::HEAD => f.write_str("head"),
            Self(host) => write!(f, "host {host}"),
        }
    }
}

/// A control connection. The driver gives each one another number; numbers are not reused within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link(pub u64);

/// Names a generation: a dataflow with fixed members. Later generations compare greater, also across restarts of the
/// head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Epoch {
    /// How many times the run directory has been taken over by a head, this one included.
    pub incarnation: u64,
    /// Counts the generations of this incarnation, from 1.
    pub generation: u64,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.incarnation, self.generation)
    }
}

/// How a process that wants to join introduces itself, after both sides have proved that they know the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// For messages: host name and process id.
    pub name: String,
    /// Where other hosts reach it for the sockets of a generation.
    pub address: String,
    /// The version of this program.
    pub version: String,
    /// The GEMM backend, including the kernel of OpenBLAS. Bits are reproducible per backend.
    pub backend: String,
    /// How many of its workers compute leaves, at most.
    pub workers: u32,
}

/// A member of a generation, as the others reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The host.
    pub host: HostId,
    /// Its [`Hello::address`].
    pub address: String,
    /// How many of its workers compute leaves: at most as many as the head has. Leaves are divided in this proportion.
    pub workers: u32,
}

/// How far the workers of a host have got in the current generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// The step they are working on.
    pub step: Step,
    /// Counts finished units of work: leaves and updated tensors. A unit takes less than [`Config::stall`].
    pub units: u64,
    /// Whether all workers are waiting for other hosts, so that this host cannot be the one that hangs.
    pub waiting: bool,
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The [`Hello::name`] of the host.
    pub host: String,
    /// The stage.
    pub stage: String,
    /// The step, if it was in one.
    pub step: Option<Step>,
    /// The error with its causes.
    pub cause: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: stage `{}`", self.host, self.stage)?;
        if let Some(step) = self.step {
            write!(f, ", step {step}")?;
        }
        write!(f, ": {}", self.cause)
    }
}

/// Why a process that knows the secret is not admitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rejection {
    /// Another version of the program, which may compute other bits.
    Version {
        /// The head's.
        head: String,
        /// The other's.
        host: String,
    },
    /// Another GEMM backend, which rounds differently.
    Backend {
        /// The head's.
        head: String,
        /// The other's.
        host: String,
    },
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { head, host } => write!(
                f,
                "the head runs version {head} and this host version {host}; all hosts need the same for the same bits"
            ),
            Self::Backend { head, host } => write!(
                f,
                "the head multiplies with `{head}` and this host with `{host}`, which round differently; set run.gemm \
                 to a backend that all hosts have"
            ),
        }
    }
}

/// How the part of a process in a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The last step is done and on disk.
    Done,
    /// The head was asked to stop; the last commit is on disk.
    Interrupted {
        /// The signal's number.
        signal: u8,
    },
    /// The run failed.
    Failed(Failure),
    /// Only this host was asked to stop.
    Left {
        /// The signal's number.
        signal: u8,
    },
    /// The head does not admit this host.
    Rejected(Rejection),
    /// The head was never reached.
    Unreachable {
        /// The last error.
        cause: String,
    },
    /// The head was lost and did not come back within [`Config::patience`].
    HeadLost,
    /// This host cannot store the state of a commit.
    NoState {
        /// The error.
        cause: String,
    },
    /// This host's own workers did not stop within [`Config::stop_limit`].
    Stuck,
    /// Another head has taken over the run directory.
    Superseded,
}

impl Outcome {
    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Interrupted { signal } | Self::Left { signal } => 128 + signal,
            _ => 1,
        }
    }
}

/// The limits of the protocol. All durations are of one process's own clock; none travels. `min_hosts`,
/// `first_hosts`, `checkpoint_every`, `stall` and `prepare_limit` depend on the run and are the head's alone; the others are the same
/// on all hosts, since a joined host has no configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// How many hosts, the head included, a generation needs.
    pub min_hosts: usize,
    /// How many the first generation needs, if they are more.
    pub first_hosts: usize,
    /// A checkpoint is due on disk after every so many steps, and after the last.
    pub checkpoint_every: Step,
    /// How often head and members send each other a beat.
    pub heartbeat: Duration,
    /// Who has not been heard from for this long is dead. TCP delivers a segment that is lost three times in a row
    /// after about 3 s, so with 5 % loss a host is mistaken for dead less than once in an hour, at no more than the
    /// cost of a new generation.
    pub silence: Duration,
    /// If no host finishes a unit of work for this long, some host's workers hang.
    pub stall: Duration,
    /// How many generations in a row may stall without a commit and without a culprit before the run fails.
    pub stalls: u32,
    /// How many generations in a row may be ended by broken connections without a commit, before a host in them is set
    /// aside.
    pub breaks: usize,
    /// How long a host may take to stop its workers.
    pub stop_limit: Duration,
    /// How long hosts may take to prepare for a generation: stop the previous one and obtain the commit.
    pub prepare_limit: Duration,
    /// How long connecting the hosts of a generation may take, the reports to the head included.
    pub connect_limit: Duration,
    /// How long a host that kept a generation from starting is set aside, at first; twice as long every further time.
    pub set_aside: Duration,
    /// A generation trains at least this long before it is ended for the sake of hosts that join.
    pub settle: Duration,
    /// … and at least this many times as long as the last change of generations took.
    pub settle_factor: u32,
    /// How long the head waits after the end for members to close their links, or to come back for the news if they
    /// were lost just before. After a failure it waits for [`fail_limit`](Self::fail_limit).
    pub linger: Duration,
    /// How long a host whose stage failed waits for the others to hear of it.
    pub fail_limit: Duration,
    /// How long a member that was asked to stop waits to be released.
    pub leave_limit: Duration,
    /// Pause between two attempts to reach the head.
    pub retry: Duration,
    /// How long an attempt to reach the head may take, until the head's first message.
    pub dial_limit: Duration,
    /// How long a member that has never reached the head tries.
    pub first_contact: Duration,
    /// How long a member waits for a head that it has lost.
    pub patience: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            min_hosts: 1,
            first_hosts: 1,
            checkpoint_every: 100,
            heartbeat: ms(1_000),
            silence: ms(4_000),
            stall: ms(60_000),
            stalls: 3,
            breaks: 3,
            stop_limit: ms(2_000),
            prepare_limit: ms(6_000),
            connect_limit: ms(3_500),
            set_aside: ms(5_000),
            settle: ms(10_000),
            settle_factor: 20,
            linger: ms(5_000),
            fail_limit: ms(1_500),
            leave_limit: ms(10_000),
            retry: ms(1_000),
            dial_limit: ms(3_000),
            first_contact: ms(9_000),
            patience: ms(600_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_keep_the_promises() {
        let config = Config::default();
        let s = Duration::from_secs;
        let delay = Duration::from_millis(200);
        assert!(config.silence + 2 * delay < s(5), "a silent host is noticed within 5 s");
        assert!(config.heartbeat * 3 + delay < config.silence, "two lost beats are no reason to lose a host");
        assert!(config.prepare_limit + config.connect_limit <= s(10), "the next generation trains within 10 s");
        assert!(config.stop_limit < config.prepare_limit);
        assert!(config.fail_limit + 2 * delay < s(2), "a failure ends the run within 2 s");
        assert!(config.first_contact < s(10), "an unreachable head is reported within 10 s");
        assert!(config.silence < config.linger, "the head outlasts a member that does not answer");
        assert!(config.settle_factor >= 20, "changes for the sake of joiners take at most 5 % of the time");
    }
}
