//! The event loops of head and member: they give the state machines events and the time, and do what these say.
//!
//! - [`head`]: [`HeadDriver`]; [`member`]: [`MemberDriver`]
//! - `local`: what both have in common: the engine and the sockets of a generation
//!
//! A command makes a [`HeadDriver`] or a [`MemberDriver`] from a [`Secret`](super::secret::Secret) and a socket
//! ([`bind`](super::listener::bind)), and calls `run` with a function that makes the engine; the engine and the
//! program's signal handler report to the events that this function is given. When `run` returns, the program exits
//! with [`Outcome::exit_code`](crate::hosts::Outcome::exit_code), whatever its other threads do.
//!
//! A driver has one thread, which neither trains nor waits for a peer, a disk or the engine: links have their own
//! threads, and so do connecting and writing commits. Everything that happens comes through one channel.
mod head;
mod local;
mod member;

pub use head::HeadDriver;
pub use member::MemberDriver;

use super::mesh::Sockets;
use super::transfer::Download;
use crate::hosts::messages::{EngineEvent, HeadEvent, MemberEvent};
use crate::hosts::types::{Epoch, Failure, HostId, Outcome, Step};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// The dataflow of a host and the state that it trains. It answers with
/// [`EngineEvent`]s.
///
/// All methods return at once, without waiting for workers, disks or peers. What is asked of an engine, and when it has
/// to answer, is in the documentation of [`hosts`](crate::hosts) and of
/// [`EngineAction`](crate::hosts::EngineAction). The driver establishes the sockets of a generation.
pub trait Engine: Send {
    /// Gets the state of a commit, from a local copy or with `download`, and reports `Obtained`. A newer request
    /// replaces an older one, whose download is then cancelled. The head has all commits, and nothing to download from.
    /// If the state cannot be stored here, reports `CannotObtain`.
    fn obtain(&mut self, step: Step, download: Option<Download>);

    /// Runs the dataflow.
    fn start(&mut self, generation: Generation);

    /// Ends the dataflow wherever it is, and reports `Stopped`. Only for a generation that was started.
    fn stop(&mut self, epoch: Epoch);

    /// Ends the dataflow after the current step, with a commit there. Only the head's engine is asked.
    fn drain(&mut self, epoch: Epoch);

    /// There is a new commit; copies of older ones can be dropped, except for the one that a running generation began
    /// at.
    fn committed(&mut self, step: Step);
}

/// A generation that begins.
#[derive(Debug)]
pub struct Generation {
    /// Its name.
    pub epoch: Epoch,
    /// The commit that it begins at.
    pub from: Step,
    /// Its members; the first is the head.
    pub members: Vec<HostId>,
    /// How many workers of each compute leaves.
    pub workers: Vec<u32>,
    /// Which of them this host is.
    pub index: usize,
    /// A socket to each other member, by its index.
    pub sockets: Sockets,
}

/// Tells a driver what happens in its process. `E` is the event of its state machine.
pub struct Events<E>(Arc<dyn Fn(E) + Send + Sync>);

impl<E: HostEvent> Events<E> {
    fn new(send: impl Fn(E) + Send + Sync + 'static) -> Self {
        Self(Arc::new(send))
    }

    /// The engine has something to say.
    pub fn engine(&self, event: EngineEvent) {
        self.send(E::engine(event));
    }

    /// The process was asked to stop.
    pub fn signal(&self, signal: u8) {
        self.send(E::signal(signal));
    }

    fn send(&self, event: E) {
        (self.0)(event);
    }
}

impl Events<HeadEvent> {
    /// One member's part of the state after a step has arrived here. See [`HeadEvent::Part`].
    pub fn part(&self, epoch: Epoch, step: Step, from: HostId, last: bool) {
        self.send(HeadEvent::Part { epoch, step, from, last });
    }
}

impl<E> Clone for Events<E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// What the events of head and members have in common.
pub trait HostEvent {
    /// The engine has something to say.
    fn engine(event: EngineEvent) -> Self;
    /// The process was asked to stop.
    fn signal(signal: u8) -> Self;
}

impl HostEvent for HeadEvent {
    fn engine(event: EngineEvent) -> Self {
        Self::Engine(event)
    }

    fn signal(signal: u8) -> Self {
        Self::Signal { signal }
    }
}

impl HostEvent for MemberEvent {
    fn engine(event: EngineEvent) -> Self {
        Self::Engine(event)
    }

    fn signal(signal: u8) -> Self {
        Self::Signal { signal }
    }
}

/// The commits of the head, in memory and on disk.
pub trait Store: Send + Sync + 'static {
    /// The parts of this step, which have all been reported, are the new commit. If a checkpoint is due at this step,
    /// the commit is needed until it has been written, although there are newer ones. Returns at once.
    fn commit(&self, epoch: Epoch, step: Step);

    /// Parts of this generation that are in no commit are useless. Returns at once.
    fn discard(&self, epoch: Epoch);

    /// Hosts obtain these commits, which therefore have to be served although there are newer ones. Returns at once.
    fn keep(&self, steps: &BTreeSet<Step>);

    /// Writes a commit to disk, unless the run directory belongs to a newer incarnation. Takes as long as it does; is
    /// not called concurrently with itself or [`is_owner`](Self::is_owner).
    ///
    /// # Errors
    /// If it was not written.
    fn persist(&self, step: Step) -> Result<(), NotPersisted>;

    /// Whether the run directory still belongs to this incarnation. If that cannot be read, it may.
    fn is_owner(&self) -> bool;
}

/// Why a commit is not on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotPersisted {
    /// The run directory belongs to a newer incarnation.
    Fenced,
    /// An error.
    Failed(String),
}

/// What a run looks like from the driver's loop.
trait Host {
    type Input;

    /// When `tick` is due.
    fn deadline(&self) -> Duration;

    /// Something has happened.
    fn handle(&mut self, input: Self::Input);

    /// The deadline is reached, and everything that had arrived before was handled.
    fn tick(&mut self);

    /// Delivers what has arrived on links to the channel.
    fn receive(&self);

    /// How the run has ended.
    fn outcome(&mut self) -> Option<Outcome>;
}

/// How many events may be handled before a tick, so that a flood does not keep it from happening.
const MOST_BEFORE_TICK: usize = 10_000;

/// Runs a host to its end.
fn run<H: Host>(host: &mut H, clock: Clock, inputs: &Receiver<H::Input>) -> Outcome {
    loop {
        if let Some(outcome) = host.outcome() {
            return outcome;
        }
        let left = host.deadline().saturating_sub(clock.now());
        if left.is_zero() {
            // This process may have been stopped for a while. What arrived meanwhile may be in the kernel's buffers
            // still, since the threads of links are just as late.
            host.receive();
            for input in inputs.try_iter().take(MOST_BEFORE_TICK) {
                host.handle(input);
            }
            if host.deadline() <= clock.now() && host.outcome().is_none() {
                host.tick();
            }
            continue;
        }
        match inputs.recv_timeout(left.min(Duration::from_secs(1))) {
            Ok(input) => host.handle(input),
            // The host holds a sender itself, so it is never disconnected.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }
}

/// A clock that never goes back.
#[derive(Clone, Copy, Debug)]
struct Clock(Instant);

impl Clock {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn now(self) -> Duration {
        self.0.elapsed()
    }
}

/// Cuts off what would make a message too long.
fn shorten(failure: &mut Failure) {
    const MOST: usize = 64 << 10;
    for text in [&mut failure.host, &mut failure.stage, &mut failure.cause] {
        if text.len() > MOST {
            text.truncate(text.floor_char_boundary(MOST));
            text.push('…');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::sync::mpsc::{Sender, channel};

    /// A host that was stopped for a while: what another one has sent is in the kernel's buffer.
    struct Stopped {
        unread: Cell<usize>,
        heard: usize,
        ticks: usize,
        inputs: Sender<()>,
    }

    impl Host for Stopped {
        type Input = ();

        fn deadline(&self) -> Duration {
            Duration::ZERO
        }

        fn handle(&mut self, (): ()) {
            self.heard += 1;
        }

        fn tick(&mut self) {
            assert_eq!((self.unread.get(), self.heard), (0, 3), "a tick before everything was heard");
            self.ticks += 1;
        }

        fn receive(&self) {
            (0..self.unread.take()).for_each(|_| self.inputs.send(()).unwrap());
        }

        fn outcome(&mut self) -> Option<Outcome> {
            (self.ticks == 2).then_some(Outcome::Done)
        }
    }

    #[test]
    fn a_tick_comes_after_everything_that_has_arrived() {
        let (inputs, receive) = channel();
        // One has been delivered by the thread of a link, two have not.
        inputs.send(()).unwrap();
        let mut host = Stopped { unread: Cell::new(2), heard: 0, ticks: 0, inputs };
        assert_eq!(run(&mut host, Clock::start(), &receive), Outcome::Done);
    }

    #[test]
    fn a_long_error_fits_a_message() {
        let long = "\u{e4}\n".repeat(1 << 20);
        let mut failure = Failure { host: long.clone(), stage: long.clone(), step: None, cause: long };
        shorten(&mut failure);
        assert!(failure.cause.starts_with("\u{e4}\n") && failure.cause.ends_with('…'));
        let message = crate::hosts::ToMember::Dismissed(Outcome::Failed(failure));
        assert!(super::super::frame::encode(&message).is_ok());
    }
}
