//! Accepts connections. Strangers cost little: one thread handles all connections that have not proved the secret, of
//! which there are at most [`MOST_UNPROVED`], each for at most [`TIME_TO_PROVE`], and [`STRANGERS_PER_SECOND`].
use super::handshake::{OPENING, Opened, Purpose, Response, Verdict, respond};
use super::secret::{LENGTH, Secret, nonce};
use super::socket::{self, Deadline};
use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How many connections may be proving the secret at a time. Further ones are closed.
pub const MOST_UNPROVED: usize = 64;

/// How long a connection may take to prove the secret.
pub const TIME_TO_PROVE: Duration = Duration::from_secs(2);

/// How many connections that do not prove the secret are accepted per second, on average. One costs about 25 µs, so
/// strangers cost at most 1 % of a core, however many there are.
pub const STRANGERS_PER_SECOND: f64 = 400.0;

/// How many connections may wait until they are accepted.
const BACKLOG: i32 = 1024;

/// How long nothing is accepted after the system has refused, for example because it has no file handles left.
const PAUSE: Duration = Duration::from_millis(100);

/// What a listener has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that have proved the secret.
    pub proved: u64,
    /// Connections that were closed because too many others were proving the secret.
    pub too_many: u64,
    /// Connections that took too long.
    pub too_slow: u64,
    /// Connections that sent something else, or were closed by the other side.
    pub garbage: u64,
    /// Connections with another secret or another version of the protocol.
    pub other_secret: u64,
    /// Where the last connection that was dropped came from.
    pub last_dropped: Option<IpAddr>,
}

impl Counts {
    /// How many connections were dropped.
    pub fn dropped(&self) -> u64 {
        self.too_many + self.too_slow + self.garbage + self.other_secret
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} connections that did not prove the secret were dropped", self.dropped())?;
        if let Some(address) = self.last_dropped {
            write!(f, ", the last one from {address}")?;
        }
        Ok(())
    }
}

/// Receives connections that have proved the secret. Called by the listener's thread, so it must not wait for anything.
pub trait Accept: Send + 'static {
    /// Whether a connection is wanted now.
    fn verdict(&self, purpose: Purpose) -> Verdict;

    /// Takes a connection that was wanted and has been told so. It has no time limits.
    fn accept(&self, purpose: Purpose, stream: TcpStream);
}

/// A listening socket and its thread, which end when this is dropped.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    counts: Arc<Mutex<Counts>>,
    /// Closed to end the thread.
    running: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

/// Reserves an address (`HOST:PORT`; port 0: any that is free) for a [`Listener`].
///
/// # Errors
/// If it is in use or not this machine's.
pub fn bind(address: &str) -> Result<TcpListener> {
    TcpListener::bind(address).map_err(|error| {
        let why = match error.kind() {
            ErrorKind::AddrInUse => "another program listens there; end it or choose another port".to_owned(),
            ErrorKind::AddrNotAvailable => "this machine does not have that address".to_owned(),
            ErrorKind::PermissionDenied => "the system does not allow it; choose a port above 1023".to_owned(),
            _ => error.to_string(),
        };
        anyhow::anyhow!("cannot listen on {address}: {why}")
    })
}

impl Listener {
    /// Accepts connections on a socket.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn start(socket: TcpListener, secret: Secret, accept: impl Accept) -> Result<Self> {
        let address = socket.local_addr().context("a socket has no address")?;
        let what = || format!("cannot listen on {address}");
        socket.set_nonblocking(true).with_context(what)?;
        // So that a flood of connections delays others less: beyond this, they are tried again after a second.
        rustix::net::listen(&socket, BACKLOG).with_context(what)?;
        let (running, wake) = UnixStream::pair().with_context(what)?;
        let counts = Arc::default();
        let allowance = Allowance::new(STRANGERS_PER_SECOND, MOST_UNPROVED as f64);
        let counts_here = Arc::clone(&counts);
        let mut door =
            Door { socket, secret, accept, counts: counts_here, unproved: Vec::new(), pause: None, allowance };
        let run = move || door.run(&wake);
        let thread = std::thread::Builder::new().name("listener".to_owned()).spawn(run).with_context(what)?;
        Ok(Self { address, counts, running: Some(running), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has seen.
    pub fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        drop(self.running.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A connection that has not proved the secret.
struct Unproved {
    stream: TcpStream,
    from: SocketAddr,
    deadline: Deadline,
    received: [u8; OPENING],
    length: usize,
    opened: Option<Opened>,
}

/// Why a connection is dropped.
enum Fault {
    Slow,
    Garbage,
    OtherSecret,
}

/// What has become of an unproved connection.
enum Progress {
    Waits,
    Proved(Purpose),
    Dropped(Fault),
}

struct Door<A> {
    socket: TcpListener,
    secret: Secret,
    accept: A,
    counts: Arc<Mutex<Counts>>,
    unproved: Vec<Unproved>,
    /// Until then nothing is accepted.
    pause: Option<Deadline>,
    allowance: Allowance,
}

/// How many more connections may be accepted now: a bucket that fills at a constant rate.
struct Allowance {
    left: f64,
    most: f64,
    per_second: f64,
    at: Instant,
}

impl Allowance {
    fn new(per_second: f64, most: f64) -> Self {
        Self { left: most, most, per_second, at: Instant::now() }
    }

    /// Takes one. If there is none, returns how long it takes until there is half of what fits.
    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let more = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        (self.left, self.at) = (self.most.min(self.left + more), now);
        if self.left < 1.0 {
            return Err(Duration::from_secs_f64((0.5 * self.most - self.left) / self.per_second));
        }
        self.left -= 1.0;
        Ok(())
    }

    /// The last one was no stranger.
    fn give_back(&mut self) {
        self.left = self.most.min(self.left + 1.0);
    }
}

impl<A: Accept> Door<A> {
    fn run(&mut self, wake: &UnixStream) {
        loop {
            let mut sockets = vec![PollFd::new(wake, PollFlags::IN)];
            sockets.extend(self.unproved.iter().map(|unproved| PollFd::new(&unproved.stream, PollFlags::IN)));
            let accepts = self.pause.is_none_or(Deadline::is_over);
            if accepts {
                self.pause = None;
                sockets.push(PollFd::new(&self.socket, PollFlags::IN));
            }
            let deadlines = self.unproved.iter().map(|unproved| unproved.deadline).chain(self.pause);
            // A millisecond more, so that it is over then.
            let wait = deadlines.map(|deadline| deadline.left() + Duration::from_millis(1)).min();
            let wait = wait.and_then(|wait| Timespec::try_from(wait).ok());
            if poll(&mut sockets, wait.as_ref()).is_err() {
                // Interrupted, or no memory.
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            if !sockets[0].revents().is_empty() {
                return;
            }
            let ready: Vec<bool> = sockets[1..].iter().map(|socket| !socket.revents().is_empty()).collect();
            drop(sockets);
            self.hear(&ready);
            if accepts && ready.last() == Some(&true) {
                self.take_new();
            }
        }
    }

    /// Continues with the connections on which something has arrived, and drops those that are too slow.
    fn hear(&mut self, ready: &[bool]) {
        for at in (0..self.unproved.len()).rev() {
            let unproved = &mut self.unproved[at];
            let progress = if ready[at] { unproved.hear(&self.secret) } else { Progress::Waits };
            let progress = match progress {
                Progress::Waits if unproved.deadline.is_over() => Progress::Dropped(Fault::Slow),
                progress => progress,
            };
            match progress {
                Progress::Waits => {}
                Progress::Proved(purpose) => {
                    let stream = self.unproved.swap_remove(at).stream;
                    self.count(|counts| counts.proved += 1);
                    self.allowance.give_back();
                    self.pass(purpose, stream);
                }
                Progress::Dropped(fault) => {
                    let from = self.unproved.swap_remove(at).from;
                    self.count(|counts| {
                        counts.last_dropped = Some(from.ip());
                        match fault {
                            Fault::Slow => counts.too_slow += 1,
                            Fault::Garbage => counts.garbage += 1,
                            Fault::OtherSecret => counts.other_secret += 1,
                        }
                    });
                }
            }
        }
    }

    /// Accepts what waits, but not so much that others wait for long.
    fn take_new(&mut self) {
        for _ in 0..MOST_UNPROVED {
            if let Err(wait) = self.allowance.take(Instant::now()) {
                self.pause = Some(Deadline::after(wait));
                return;
            }
            match self.socket.accept() {
                Ok((_, from)) if self.unproved.len() >= MOST_UNPROVED => self.count(|counts| {
                    counts.too_many += 1;
                    counts.last_dropped = Some(from.ip());
                }),
                Ok((stream, from)) => {
                    if stream.set_nonblocking(true).and_then(|()| socket::set_options(&stream)).is_ok() {
                        let deadline = Deadline::after(TIME_TO_PROVE);
                        let (received, length, opened) = ([0; OPENING], 0, None);
                        self.unproved.push(Unproved { stream, from, deadline, received, length, opened });
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.allowance.give_back(),
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(_) => {
                    self.pause = Some(Deadline::after(PAUSE));
                    return;
                }
            }
        }
    }

    fn pass(&self, purpose: Purpose, mut stream: TcpStream) {
        let verdict = self.accept.verdict(purpose);
        // One byte always fits.
        let told = stream.write_all(&[verdict as u8]).and_then(|()| stream.set_nonblocking(false));
        if told.is_ok() && verdict == Verdict::Accepted {
            self.accept.accept(purpose, stream);
        }
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Unproved {
    /// Reads what has arrived, but nothing after the proof.
    fn hear(&mut self, secret: &Secret) -> Progress {
        loop {
            let wanted = if self.opened.is_some() { LENGTH } else { OPENING };
            if self.length < wanted {
                match self.stream.read(&mut self.received[self.length..wanted]) {
                    Ok(0) if self.opened.is_some() => return Progress::Dropped(Fault::OtherSecret),
                    Ok(0) => return Progress::Dropped(Fault::Garbage),
                    Ok(count) => self.length += count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Progress::Waits,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => return Progress::Dropped(Fault::Garbage),
                }
                continue;
            }
            let Some(opened) = &self.opened else {
                match self.respond(secret) {
                    Progress::Waits => continue,
                    other => return other,
                }
            };
            let Some(proof) = self.received.first_chunk() else { return Progress::Dropped(Fault::Garbage) };
            return match opened.prove(proof, secret) {
                Some(purpose) => Progress::Proved(purpose),
                None => {
                    let _ = self.stream.write_all(&[Verdict::WrongSecret as u8]);
                    Progress::Dropped(Fault::OtherSecret)
                }
            };
        }
    }

    /// Answers the opening. The socket's buffer is empty, so the reply fits.
    fn respond(&mut self, secret: &Secret) -> Progress {
        let Ok(nonce) = nonce() else { return Progress::Dropped(Fault::Garbage) };
        match respond(&self.received, nonce, secret) {
            Response::Garbage => Progress::Dropped(Fault::Garbage),
            Response::OtherProtocol(reply) => {
                let _ = self.stream.write_all(&reply);
                Progress::Dropped(Fault::OtherSecret)
            }
            Response::Reply(reply, opened) => {
                if self.stream.write_all(&reply).is_err() {
                    return Progress::Dropped(Fault::Garbage);
                }
                self.length = 0;
                self.opened = Some(opened);
                Progress::Waits
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_accepted_at_a_limited_rate() {
        let (began, mut allowance) = (Instant::now(), Allowance::new(400.0, 64.0));
        let (mut now, mut accepted) = (began, 0);
        while now < began + Duration::from_secs(10) {
            match allowance.take(now) {
                Ok(()) => accepted += 1,
                Err(wait) => {
                    assert!(wait <= Duration::from_millis(80));
                    now += wait;
                }
            }
        }
        assert!((4_000..=4_100).contains(&accepted), "{accepted}");
        // Those that prove the secret do not count.
        for _ in 0..1_000 {
            let _ = allowance.take(now);
            allowance.give_back();
        }
        assert_eq!(allowance.take(now), Ok(()));
    }
}
