//! What head, members and the layer below tell each other.
use super::notice::Notice;
use super::types::{Epoch, Failure, Hello, HostId, Link, Outcome, Peer, Rejection, RunId, Step, Work};
use serde::{Deserialize, Serialize};

/// From a member to the head, on its control connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToHead {
    /// Sent every [`heartbeat`](super::Config::heartbeat), by a thread that does not train.
    Beat {
        /// How far the workers have got, while they train.
        work: Option<(Epoch, Work)>,
    },
    /// How the member's workers are doing in a generation.
    Report(Report),
    /// The member was asked to stop and wants to be released.
    Leave {
        /// The signal's number.
        signal: u8,
    },
    /// The member has read that it is dismissed, and exits.
    Goodbye,
}

/// What a [`Participant`](super::participant::Participant) has to say to the head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// It has the state of this commit and could take part in a generation.
    Holds {
        /// The commit.
        step: Step,
    },
    /// The previous generation has stopped here, the state is here, and other hosts can connect.
    Prepared {
        /// The generation.
        epoch: Epoch,
    },
    /// Connected to every other member.
    Connected {
        /// The generation.
        epoch: Epoch,
    },
    /// A member could not be reached.
    CannotConnect {
        /// The generation.
        epoch: Epoch,
        /// The member.
        peer: HostId,
    },
    /// A connection of the generation broke, so the dataflow cannot go on.
    Broken {
        /// The generation.
        epoch: Epoch,
        /// The member at the other end.
        peer: HostId,
    },
    /// A stage failed.
    Failed(Failure),
}

/// From the head to a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToMember {
    /// The member is admitted.
    Welcome {
        /// The run.
        run: RunId,
        /// The head's incarnation.
        incarnation: u64,
        /// Who the member is from now on.
        host: HostId,
        /// The last commit, which it should obtain.
        commit: Step,
    },
    /// The member is not admitted.
    Rejected(Rejection),
    /// Sent every [`heartbeat`](super::Config::heartbeat).
    Beat,
    /// There is a new commit.
    Committed {
        /// Its step.
        step: Step,
    },
    /// Stop what is running, obtain the commit `from`, and get ready for connections.
    Prepare {
        /// The generation.
        epoch: Epoch,
        /// The commit that it begins at.
        from: Step,
        /// Its members, in the order of their ids; the first one is the head.
        members: Vec<Peer>,
    },
    /// All members are prepared: connect to each other.
    Connect {
        /// The generation.
        epoch: Epoch,
    },
    /// All members are connected: train.
    Start {
        /// The generation.
        epoch: Epoch,
    },
    /// Stop what is running and wait.
    Idle,
    /// The head considers this host dead or hung, and closes the link.
    Expelled(Loss),
    /// The run is over for this member.
    Dismissed(Outcome),
}

/// How the head lost a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Loss {
    /// Its link broke: it died, or the network reset the connection.
    Closed,
    /// It was silent for too long: stopped, without power, or cut off.
    Silent,
    /// Its workers hang.
    Hung,
}

/// What the protocol asks of the local *engine*: the sockets and the dataflow of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineAction {
    /// Get the state of a commit: from a local copy, or from the head. A newer request replaces an older one.
    Obtain {
        /// The commit.
        step: Step,
    },
    /// Establish the sockets between the members. Each handshake carries the epoch.
    Connect {
        /// The generation.
        epoch: Epoch,
        /// Its members.
        members: Vec<Peer>,
    },
    /// Run the dataflow.
    Start {
        /// The generation.
        epoch: Epoch,
        /// The commit that it begins at.
        from: Step,
    },
    /// Close the sockets and end the dataflow, wherever it is.
    Stop {
        /// The generation.
        epoch: Epoch,
    },
    /// There is a new commit; older local copies can be dropped.
    Committed {
        /// Its step.
        step: Step,
    },
}

/// What the engine answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineEvent {
    /// The state of this commit is here.
    Obtained {
        /// The commit.
        step: Step,
    },
    /// The state of this commit cannot be read or stored here, and trying again would not help.
    CannotObtain {
        /// The commit.
        step: Step,
        /// The error.
        cause: String,
    },
    /// Sockets to all members are established.
    Connected {
        /// The generation.
        epoch: Epoch,
    },
    /// A member cannot be reached, or did not answer in time.
    CannotConnect {
        /// The generation.
        epoch: Epoch,
        /// The member.
        peer: HostId,
    },
    /// A socket of the generation failed.
    Broken {
        /// The generation.
        epoch: Epoch,
        /// The member at the other end.
        peer: HostId,
    },
    /// A stage failed, for a reason of its own and not because a socket did.
    Failed {
        /// The generation.
        epoch: Epoch,
        /// What failed.
        failure: Failure,
    },
    /// How far the workers have got.
    Work {
        /// The generation.
        epoch: Epoch,
        /// The progress.
        work: Work,
    },
    /// Everything of this generation has ended here; nothing else is reported about it.
    Stopped {
        /// The generation.
        epoch: Epoch,
    },
}

/// What happens to the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadEvent {
    /// Time has passed: [`Head::deadline`](super::Head::deadline) is reached and everything that had arrived before was
    /// delivered.
    Tick,
    /// A process has proved that it knows the secret, and introduces itself.
    Admitted {
        /// Its connection.
        link: Link,
        /// Who it is.
        hello: Hello,
    },
    /// A message from a member.
    Message {
        /// Its connection.
        link: Link,
        /// The message.
        message: ToHead,
    },
    /// A connection broke or was closed by the member.
    Closed {
        /// The connection.
        link: Link,
    },
    /// From the head's own engine.
    Engine(EngineEvent),
    /// One member's part of the state after `step` has arrived at the head.
    Part {
        /// The generation that computed it.
        epoch: Epoch,
        /// The step.
        step: Step,
        /// The member.
        from: HostId,
        /// Whether this is the last step of the generation: because the run ends there, or because the head asked to
        /// [drain](HeadAction::Drain) it.
        last: bool,
    },
    /// A commit is on disk.
    Persisted {
        /// Its step.
        step: Step,
    },
    /// A commit could not be written.
    PersistFailed {
        /// Its step.
        step: Step,
        /// The error.
        cause: String,
    },
    /// The run directory belongs to a newer incarnation; nothing was written.
    Fenced,
    /// SIGINT, SIGTERM or SIGHUP.
    Signal {
        /// Its number.
        signal: u8,
    },
}

/// What the head wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadAction {
    /// Send a message.
    Send {
        /// To whom.
        link: Link,
        /// The message.
        message: ToMember,
    },
    /// Close a connection, after what was sent on it.
    Close {
        /// The connection.
        link: Link,
    },
    /// For the head's own engine.
    Engine(EngineAction),
    /// End the generation after the step that is being computed, with a commit there, as
    /// [`Stop`](crate::engine::Stop) does.
    Drain {
        /// The generation.
        epoch: Epoch,
    },
    /// The parts of this step are the new commit in memory, which replaces the previous one.
    Commit {
        /// The generation.
        epoch: Epoch,
        /// The step.
        step: Step,
    },
    /// Parts of this generation that are in no commit are useless.
    Discard {
        /// The generation.
        epoch: Epoch,
    },
    /// Write the commit to disk, unless the run directory belongs to a newer incarnation.
    Persist {
        /// Its step.
        step: Step,
    },
    /// Report [`HeadEvent::Fenced`] if the run directory belongs to a newer incarnation.
    CheckOwner,
    /// Tell the user.
    Say(Notice),
    /// End the process.
    Exit(Outcome),
}

/// What happens to a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberEvent {
    /// Time has passed: [`Member::deadline`](super::Member::deadline) is reached and everything that had arrived before
    /// was delivered.
    Tick,
    /// The head is connected, and both sides have proved that they know the secret.
    Linked {
        /// The attempt that succeeded.
        attempt: u64,
        /// The connection.
        link: Link,
    },
    /// The head cannot be reached, or the proof failed.
    DialFailed {
        /// The attempt that failed.
        attempt: u64,
        /// The error, which names the head.
        cause: String,
    },
    /// A message from the head.
    Message {
        /// The connection.
        link: Link,
        /// The message.
        message: ToMember,
    },
    /// The connection broke or was closed by the head.
    Closed {
        /// The connection.
        link: Link,
    },
    /// From the engine.
    Engine(EngineEvent),
    /// SIGINT, SIGTERM or SIGHUP.
    Signal {
        /// Its number.
        signal: u8,
    },
}

/// What a member wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberAction {
    /// Connect to the head, prove the secret, and send [`Hello`].
    Dial {
        /// Counts attempts.
        attempt: u64,
    },
    /// Send a message.
    Send {
        /// The connection.
        link: Link,
        /// The message.
        message: ToHead,
    },
    /// Close the connection.
    Close {
        /// The connection.
        link: Link,
    },
    /// For the engine.
    Engine(EngineAction),
    /// Tell the user.
    Say(Notice),
    /// End the process.
    Exit(Outcome),
}
