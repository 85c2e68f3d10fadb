//! The sockets of a generation, one between each two members: the member with the larger index connects.
//!
//! Members hear of a generation at different times, so a listener may not expect it yet; connecting is retried until
//! the limit.
use super::handshake::{self, Purpose, Verdict};
use super::secret::Secret;
use super::socket::Deadline;
use crate::hosts::types::{Epoch, HostId, Peer};
use std::collections::BTreeMap;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Pause between two attempts to connect.
const RETRY: Duration = Duration::from_millis(50);

/// A socket to each other member, by its index; `None` at the own one.
pub type Sockets = Vec<Option<TcpStream>>;

/// A member to which there is no socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// The member.
    pub peer: HostId,
    /// The last error, with the member's address.
    pub cause: String,
}

/// The generation whose sockets the listener of this process accepts.
#[derive(Debug, Default)]
pub struct Expected(Mutex<Option<Accepts>>);

#[derive(Debug)]
struct Accepts {
    epoch: Epoch,
    me: HostId,
    from: Vec<HostId>,
    news: Sender<News>,
}

/// A socket, or why there is none yet.
type News = (HostId, Result<TcpStream, String>);

impl Expected {
    /// Whether a socket is expected now.
    pub fn verdict(&self, epoch: Epoch, from: HostId, to: HostId) -> Verdict {
        let expected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |accepts: &Accepts| accepts.epoch == epoch && accepts.me == to && accepts.from.contains(&from);
        if expected.as_ref().is_some_and(fits) { Verdict::Accepted } else { Verdict::NotNow }
    }

    /// Takes a socket that was expected.
    pub fn accept(&self, epoch: Epoch, from: HostId, stream: TcpStream) {
        let expected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(accepts) = expected.as_ref().filter(|accepts| accepts.epoch == epoch) {
            let _ = accepts.news.send((from, Ok(stream)));
        }
    }

    /// Accepts sockets, unless the thread that wanted them is so late that there is a later generation.
    fn open(&self, accepts: Accepts) {
        let mut expected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if expected.as_ref().is_none_or(|current| current.epoch < accepts.epoch) {
            *expected = Some(accepts);
        }
    }

    fn close(&self, epoch: Epoch) {
        let mut expected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        expected.take_if(|accepts| accepts.epoch == epoch);
    }
}

/// A generation to connect.
#[derive(Clone, Debug)]
pub struct Mesh {
    /// The generation.
    pub epoch: Epoch,
    /// This host, which is one of the members.
    pub me: HostId,
    /// The members.
    pub members: Vec<Peer>,
    /// The secret.
    pub secret: Secret,
    /// How long connecting may take.
    pub limit: Duration,
    /// Ends it early.
    pub cancelled: Arc<AtomicBool>,
}

impl Mesh {
    /// Connects to all other members. `expected` belongs to the listener whose address the others have.
    ///
    /// # Errors
    /// If a member was not reached within the limit.
    pub fn connect(&self, expected: &Expected) -> Result<Sockets, Unreachable> {
        let deadline = Deadline::after(self.limit);
        let me = self.members.iter().position(|peer| peer.host == self.me).unwrap_or(self.members.len());
        let (news, hear) = channel();
        let from = self.members.iter().skip(me + 1).map(|peer| peer.host).collect();
        expected.open(Accepts { epoch: self.epoch, me: self.me, from, news: news.clone() });
        for peer in &self.members[..me] {
            self.dial_until(peer.clone(), deadline, news.clone());
        }
        let result = self.collect(&hear, deadline);
        expected.close(self.epoch);
        result
    }

    /// Waits for all sockets.
    fn collect(&self, hear: &Receiver<News>, deadline: Deadline) -> Result<Sockets, Unreachable> {
        let mut sockets: BTreeMap<HostId, TcpStream> = BTreeMap::new();
        let mut causes: BTreeMap<HostId, String> = BTreeMap::new();
        let missing = |sockets: &BTreeMap<HostId, TcpStream>| {
            self.members.iter().find(|peer| peer.host != self.me && !sockets.contains_key(&peer.host))
        };
        while let Some(peer) = missing(&sockets) {
            if deadline.is_over() || self.cancelled.load(Ordering::Relaxed) {
                let silent = || format!("{}: it has not connected to this host", peer.address);
                let cause = causes.remove(&peer.host).unwrap_or_else(silent);
                return Err(Unreachable { peer: peer.host, cause });
            }
            match hear.recv_timeout(deadline.left().min(RETRY)) {
                // A later one replaces an earlier one whose other end was given up.
                Ok((host, Ok(socket))) => drop(sockets.insert(host, socket)),
                Ok((host, Err(cause))) => drop(causes.insert(host, cause)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
        Ok(self.members.iter().map(|peer| sockets.remove(&peer.host)).collect())
    }

    /// Connects to a member, in a thread that ends by itself.
    fn dial_until(&self, peer: Peer, deadline: Deadline, news: Sender<News>) {
        let Self { epoch, me, ref secret, ref cancelled, .. } = *self;
        let (secret, cancelled) = (secret.clone(), Arc::clone(cancelled));
        let purpose = Purpose::Data { epoch, from: me, to: peer.host };
        let (host, failed) = (peer.host, news.clone());
        let dial = move || {
            while !deadline.is_over() && !cancelled.load(Ordering::Relaxed) {
                let dialled = handshake::dial(&peer.address, purpose, &secret, deadline);
                let done = dialled.is_ok();
                // Nobody waits any more: the others are connected, or one of them cannot be.
                let unheard = news.send((peer.host, dialled.map_err(|error| error.to_string()))).is_err();
                if done || unheard {
                    return;
                }
                std::thread::sleep(RETRY);
            }
        };
        if let Err(error) = std::thread::Builder::new().name(format!("dial {host}")).spawn(dial) {
            let _ = failed.send((host, Err(error.to_string())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_is_late_does_not_replace_a_later_generation() {
        let epoch = |generation| Epoch { incarnation: 1, generation };
        let expected = Expected::default();
        let (me, from) = (HostId(0), HostId(1));
        let open = |generation| {
            expected.open(Accepts { epoch: epoch(generation), me, from: vec![from], news: channel().0 });
        };
        open(2);
        open(1);
        expected.close(epoch(1));
        assert_eq!(expected.verdict(epoch(2), from, me), Verdict::Accepted);
        open(3);
        assert_eq!(expected.verdict(epoch(2), from, me), Verdict::NotNow);
        expected.close(epoch(3));
        assert_eq!(expected.verdict(epoch(3), from, me), Verdict::NotNow);
    }
}
