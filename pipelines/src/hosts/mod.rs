//! Several hosts: the protocol by which a head and the hosts that join it train together.
//! `pipeline run --listen`, `join` and `launch` use it ([`train_run::hosts`](crate::train_run::hosts)).
//!
//! The protocol is two state machines, [`Head`] and [`Member`], without sockets, threads or clocks: a driver passes
//! them events and the time, does what the returned actions say, and wakes them up at their `deadline()`. The same
//! machines run in `simulation`, which tests them against thousands of seeded schedules of delays, losses, kills and
//! joins.
//!
//! - [`types`]: identities, limits ([`Config`]), outcomes
//! - [`messages`]: messages between hosts; events and actions of both machines
//! - [`head`]: admission, generations, commits, the end of the run
//! - [`member`]: a joined host
//! - [`participant`]: what head and members have in common: a host's own part in a generation
//! - [`notice`]: what users read
//! - [`net`]: sockets, and the drivers that run both machines over them
//! - `walkthrough`: a run, event by event; `simulation`: thousands of them
//!
//! # Model
//!
//! The *head* is the process with the configuration, the data and the run directory. It decides everything and is part
//! of every generation. A *generation* is one timely dataflow over a fixed set of hosts, which it cannot survive if one
//! of them is lost. It begins at a *commit*: a step of which the head has the complete state, in memory, and on disk
//! too if a checkpoint is due. When a generation ends, the next one begins at the last commit with the hosts that are
//! there. Results do not depend on who computes a leaf, so the committed history is "steps 0 to n, each done once",
//! whatever happens.
//!
//! A generation has a number ([`Epoch`]), and every message about it carries that number; messages about any other
//! generation are ignored. It is formed in two rounds, so that whoever keeps it from starting is known:
//!
//! ```text
//! head → members  Prepare{epoch, from, members}   stop what runs, obtain commit `from`, accept connections
//! members → head  Prepared{epoch}                 limit: prepare_limit; who is late is set aside
//! head → members  Connect{epoch}                  sockets between all pairs
//! members → head  Connected | CannotConnect       limit: connect_limit; whoever is in most complaints is set aside
//! head → members  Start{epoch}                    the dataflow runs and sends parts of the state every few steps
//! head → members  Committed{step}                 when the parts of all members have arrived
//! ```
//!
//! # Promises
//!
//! 1. **One generation at a time.** No step of a generation is completed after a later one has started: a step needs
//!    every member, the head is one of them, and it starts a generation only after its own workers have left the one
//!    before. A head that has been replaced while it was stopped (SIGSTOP, suspend) can still compute, but nothing that
//!    it computes reaches the run directory.
//! 2. **Nothing dropped or repeated.** A commit has one part from every member, computed in this generation, which
//!    began at the commit before. Commits only move forward; only a new head goes back, to the last commit on disk.
//! 3. **Agreement.** All who train in a generation have the same list of members and the same commit.
//! 4. **Detection within 5 s**: a dead host, a stopped one, one without power or network; later only by as much as its
//!    last beat is late because packets are lost. A delay of 200 ms is no reason to lose a host.
//! 5. **The next generation within 10 s** after that, if enough hosts are left and their copies of the commit are
//!    local.
//! 6. **Joiners do not starve training.** A generation is ended for their sake only after [`Config::settle`] and 20
//!    times the duration of the last change of generations, that is, at the cost of at most 5 % of the time, and it
//!    ends at a commit that contains everything computed so far. Any other change takes them along.
//! 7. **The end reaches everybody** who is connected, within 2 s after a failure, with host, stage, step and cause.
//!
//! No progress is promised while hosts are lost more often than commits are made. After every fault the run ends with
//! the same bits as one without it, unless the table says that it fails.
//!
//! | fault | what happens |
//! |---|---|
//! | kill -9 of a joined host | its link closes, and its generation ends at once |
//! | SIGSTOP, power loss, network cut | the same after 4 s without a beat; if it comes back, it is a new host |
//! | its workers hang | it is expelled after [`Config::stall`] (1) |
//! | the head's own workers hang | the run fails, naming the head and the step |
//! | a socket between two members breaks | the generation ends, and both are asked again (2) |
//! | two members cannot connect | one of them is set aside (2) |
//! | a host joins | it obtains the last commit, and takes part from the next generation (5) |
//! | its download takes longer than `prepare_limit` | it is set aside (2) |
//! | a joined host cannot store a commit | only that host exits, with 1; the head: the run fails |
//! | fewer than `--min-hosts` | the head keeps the last commit, waits, and says so |
//! | the head is killed | members stop their workers, say so, and look for it (3) |
//! | an old head continues beside a new one | it writes nothing, and exits (4) |
//! | a stage fails on any host | everybody exits with 1 and its message |
//! | SIGINT or SIGTERM at the head | the current step is committed and written; everybody exits with 130 or 143 |
//! | SIGINT or SIGTERM at a joined host | the current step is committed; only that host exits |
//! | another version or GEMM backend | refused, naming both |
//! | head unreachable, wrong secret | the host that joins exits with 1 after 9 s, with the last error |
//! | a checkpoint cannot be written | the run fails with the error |
//!
//! 1. A host that hangs sends beats without progress, but so do those that wait for it. If no host finishes a unit of
//!    work for [`Config::stall`], those that do not wait for others are expelled. If all wait, the generation is built
//!    again; the third time in a row without a commit, the run fails. An expelled host whose workers do not stop exits
//!    with 1.
//! 2. Whoever keeps generations from starting or from getting to a commit (three in a row, for sockets that break) is
//!    set aside for 5 s, then 10 s, up to 320 s, and the next attempt is made without it. Of two ends that cannot
//!    connect, that is the one in most complaints, never the head. A host that `--min-hosts` cannot do without is asked
//!    again after 5 s.
//! 3. For [`Config::patience`]. The resumed head has a greater incarnation, and begins at the last checkpoint; what was
//!    committed in memory after that is computed again.
//! 4. It checks every 4 s, and with every checkpoint, that the run directory is still its own. It dismisses nobody: its
//!    members look for the new head, and refuse incarnations older than the newest that they know.
//! 5. The state of a commit is different as a whole from that of the one before. So a host that joins obtains the last
//!    commit while the others train, which shows that it can, and the one that its first generation begins at while it
//!    prepares, for which the others wait, up to `prepare_limit`. An engine that transfers only what the host needs
//!    before the first step makes this short.
//!
//! # What it needs from below
//!
//! The driver ([`net::driver`]), for head and members:
//!
//! - A clock that never goes back. Before a `Tick`, everything that has arrived is delivered: otherwise a process that
//!   was stopped for a while finds everybody else silent.
//! - Control connections that deliver in order, or break. [`Link`]s are never reused. Frames are bounded. What was sent
//!   before `Close` or `Exit` is flushed, and input is read until the peer closes or a second has passed: closing with
//!   unread input resets a connection and destroys what is in flight.
//! - `Admitted` and `Linked` come after both sides have proved the secret. A late answer to an attempt that was given
//!   up is harmless.
//! - Beats are sent by a thread that does not train.
//! - A commit that a host was asked to obtain, with `Welcome` or `Prepare`, is served until it has reported `Holds` or
//!   `Prepared`, or is gone, although there are newer ones ([`Store::keep`](net::driver::Store::keep)).
//!
//! The driver also connects the sockets of a generation ([`net::mesh`]). The engine (the dataflow of a generation,
//! [`net::driver::Engine`]):
//!
//! - `Stop` is always answered by `Stopped`, also while sockets are being established, and afterwards nothing of that
//!   generation touches the parameters. timely parks for ever if a peer is silent, so this may take a process of its
//!   own for the dataflow. Late events about an earlier generation are harmless.
//! - The handshake of a generation's sockets carries its [`Epoch`]. Connecting is retried for less than
//!   [`Config::connect_limit`] minus a round trip. `TCP_USER_TIMEOUT` of about 5 s turns a silent peer into `Broken`.
//! - An error that follows from a closed socket is `Broken`, never `Failed`. A dataflow that has come to its end
//!   reports nothing when its peers close.
//! - `Obtain` goes on until it succeeds or another one replaces it, while the control connection lasts.
//! - A local copy of the commit that a generation began at, and of those since, is kept until `Committed` names a later
//!   one.
//! - Every member sends its part of the state of every commit step; the steps are the same on all hosts, and include
//!   every [`Config::checkpoint_every`]th, the last, and the one that a `Drain` ends at. The dataflow waits before it
//!   completes a step whose checkpoint is due while the previous one is being written; parts may not pile up.
//!
//! The run directory: the incarnation is increased and on disk before [`Head::new`], and a checkpoint is renamed into
//! place only under the same lock as a check that it has not increased since.
pub mod head;
pub mod member;
pub mod messages;
pub mod net;
pub mod notice;
pub mod participant;
pub mod types;

pub use head::{Head, HeadStart};
pub use member::Member;
pub use messages::{
    EngineAction, EngineEvent, HeadAction, HeadEvent, Loss, MemberAction, MemberEvent, Report, ToHead, ToMember,
};
pub use notice::{Ending, Notice, Obstacle};
pub use participant::Participant;
pub use types::{Config, Epoch, Failure, Hello, HostId, Link, Outcome, Peer, Rejection, RunId, Step, Work};

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod walkthrough;
