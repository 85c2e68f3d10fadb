//! What a user reads about other hosts.
use super::messages::Loss;
use super::net::listener::Counts;
use super::net::mesh::Unreachable;
use super::types::{Epoch, Rejection, Step};
use std::fmt;

/// Something that a user should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Head: a host was admitted.
    Joined {
        /// Its name.
        name: String,
    },
    /// Head: a host was not admitted.
    Refused {
        /// Its name.
        name: String,
        /// Why.
        why: Rejection,
    },
    /// Head: a member is gone.
    Lost {
        /// Its name.
        name: String,
        /// How.
        loss: Loss,
    },
    /// Head: a member left because it was asked to.
    Released {
        /// Its name.
        name: String,
    },
    /// Head: a host kept a generation from starting.
    SetAside {
        /// Its name.
        name: String,
        /// What it did not do.
        why: Obstacle,
        /// For how many seconds it is not asked again.
        seconds: u64,
    },
    /// Head: too few hosts.
    Gathering {
        /// How many there are, the head included.
        present: usize,
        /// How many are needed.
        needed: usize,
    },
    /// Head: a generation trains.
    Training {
        /// The generation.
        epoch: Epoch,
        /// The names of its hosts, the head's first.
        hosts: Vec<String>,
        /// How many workers of each compute leaves.
        workers: Vec<u32>,
        /// The commit that it began at.
        from: Step,
    },
    /// Head: a generation ended.
    Ended {
        /// The generation.
        epoch: Epoch,
        /// Why.
        why: Ending,
        /// The commit that the next one begins at.
        commit: Step,
    },
    /// Head: connections were dropped.
    Strangers(Counts),
    /// Head or member: a socket of a generation could not be established.
    CannotConnect(Unreachable),
    /// Member: admitted by the head.
    Welcomed,
    /// Member: the head is gone.
    HeadLost,
    /// Member: an older incarnation of the head answered.
    OldHead,
    /// Member: the head considered this host dead or hung.
    Expelled(Loss),
}

/// What a host did not do in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// It had not stopped the previous generation or not obtained the state of the commit.
    Unprepared,
    /// Other hosts could not connect to it, or it to them.
    Unconnected,
    /// Its connections to other hosts broke in several generations.
    Disconnected,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A member is gone.
    Lost,
    /// A connection between members broke.
    Broken,
    /// No host made progress.
    Stalled,
    /// It was drained, for hosts that join or leave.
    Drained,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Joined { name } => write!(f, "{name} joined; it takes part from the next generation"),
            Self::Refused { name, why } => write!(f, "{name} is not admitted: {why}"),
            Self::Lost { name, loss } => match loss {
                Loss::Closed => write!(f, "lost {name}: its connection was closed"),
                Loss::Silent => write!(f, "lost {name}: it does not answer"),
                Loss::Hung => write!(f, "lost {name}: its workers hang"),
            },
            Self::Released { name } => write!(f, "{name} left"),
            Self::SetAside { name, why, seconds } => {
                let why = match why {
                    Obstacle::Unprepared => "it takes too long to obtain the state of a commit",
                    Obstacle::Unconnected => "it and other hosts cannot connect",
                    Obstacle::Disconnected => "its connections to other hosts break again and again",
                };
                write!(f, "{name} is set aside for {seconds} s, unless it is needed: {why}")
            }
            Self::Gathering { present, needed } => write!(f, "waiting for hosts: {present} of {needed}"),
            Self::Training { epoch, hosts, from, .. } => {
                let hosts = hosts.len();
                write!(f, "generation {epoch}: training on {hosts} host{} from step {from}", plural(hosts))
            }
            Self::Ended { epoch, why, commit } => {
                let why = match why {
                    Ending::Lost => "a host is gone",
                    Ending::Broken => "a connection between hosts broke",
                    Ending::Stalled => "no host makes progress",
                    Ending::Drained => "hosts join or leave",
                };
                write!(f, "generation {epoch} ended: {why}; the next one begins at step {commit}")
            }
            Self::Strangers(counts) => counts.fmt(f),
            Self::CannotConnect(Unreachable { peer, cause }) => write!(f, "cannot connect to {peer}: {cause}"),
            Self::Welcomed => f.write_str("joined the run"),
            Self::HeadLost => f.write_str("lost the head; waiting for it to come back"),
            Self::OldHead => {
                f.write_str("the head that answers has been replaced by a newer one; waiting for the newer one")
            }
            Self::Expelled(Loss::Hung) => {
                f.write_str("the head finds that the workers of this host hang; joining anew")
            }
            Self::Expelled(_) => f.write_str("the head considered this host dead; joining anew"),
        }
    }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_users_read() {
        let name = || "ant".to_owned();
        let epoch = Epoch { incarnation: 2, generation: 7 };
        let why = Rejection::Backend { head: "avx512".into(), host: "avx2".into() };
        let notices = [
            Notice::Joined { name: name() },
            Notice::Refused { name: name(), why },
            Notice::Lost { name: name(), loss: Loss::Silent },
            Notice::SetAside { name: name(), why: Obstacle::Unprepared, seconds: 10 },
            Notice::Gathering { present: 1, needed: 3 },
            Notice::Training { epoch, hosts: vec![name()], workers: vec![2], from: 40 },
            Notice::Ended { epoch, why: Ending::Lost, commit: 48 },
            Notice::HeadLost,
        ];
        let text: String = notices.iter().map(|notice| format!("{notice}\n")).collect();
        let expected = "\
ant joined; it takes part from the next generation
ant is not admitted: the head multiplies with `avx512` and this host with `avx2`, which round differently; \
set run.gemm to a backend that all hosts have
lost ant: it does not answer
ant is set aside for 10 s, unless it is needed: it takes too long to obtain the state of a commit
waiting for hosts: 1 of 3
generation 2.7: training on 1 host from step 40
generation 2.7 ended: a host is gone; the next one begins at step 48
lost the head; waiting for it to come back
";
        assert_eq!(text, expected);
    }
}
