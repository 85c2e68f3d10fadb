//! Sockets: options, time limits, and connecting within a limit.
use rustix::net::sockopt;
use std::io::{Error, ErrorKind, Result};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The usual [`set_user_timeout`].
const USER_TIMEOUT: Duration = Duration::from_secs(5);

/// When something must be done.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// So far from now.
    pub fn after(limit: Duration) -> Self {
        Self(Instant::now() + limit)
    }

    /// The earlier one of this one and so far from now.
    pub fn or_after(self, limit: Duration) -> Self {
        Self(self.0.min(Instant::now() + limit))
    }

    /// What is left.
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether nothing is left.
    pub fn is_over(self) -> bool {
        self.left().is_zero()
    }

    /// Limits the next read and the next write to what is left.
    ///
    /// # Errors
    /// If nothing is left.
    pub fn limit(self, stream: &TcpStream) -> Result<()> {
        let left = self.left();
        if left.is_zero() {
            return Err(Error::new(ErrorKind::TimedOut, "it does not answer"));
        }
        stream.set_read_timeout(Some(left))?;
        stream.set_write_timeout(Some(left))
    }
}

/// Lets reads and writes take as long as they do.
///
/// # Errors
/// If the system refuses.
pub fn clear_limits(stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)
}

/// Sends small messages at once, and notices a peer that is gone although nothing is sent.
///
/// # Errors
/// If the system refuses.
pub fn set_options(stream: &TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(2))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(1))?;
    set_user_timeout(stream, USER_TIMEOUT)
}

/// After which time without an acknowledgement for what was sent a connection fails. On other systems than Linux, after
/// some minutes.
///
/// # Errors
/// If the system refuses.
pub fn set_user_timeout(stream: &TcpStream, limit: Duration) -> Result<()> {
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(stream, limit.as_millis() as u32)?;
    let _ = (stream, limit);
    Ok(())
}

/// Connects to `HOST:PORT`.
///
/// # Errors
/// If none of its addresses accepts a connection until the deadline.
pub fn connect(address: &str, deadline: Deadline) -> Result<TcpStream> {
    let addresses = resolve(address, deadline)?;
    let mut last = Error::new(ErrorKind::AddrNotAvailable, "the name has no address");
    for (at, candidate) in addresses.iter().enumerate() {
        // An address that does not answer leaves time for the others.
        let share = deadline.left() / (addresses.len() - at) as u32;
        if share.is_zero() {
            last = Error::new(ErrorKind::TimedOut, "it does not answer");
            break;
        }
        match TcpStream::connect_timeout(candidate, share) {
            Ok(stream) => {
                set_options(&stream)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The addresses of `HOST:PORT`. A thread looks them up, because that may take longer than the limit.
fn resolve(address: &str, deadline: Deadline) -> Result<Vec<SocketAddr>> {
    if let Ok(address) = address.parse() {
        return Ok(vec![address]);
    }
    let (found, wait) = mpsc::channel();
    let name = address.to_owned();
    let look_up = move || drop(found.send(name.to_socket_addrs().map(Iterator::collect)));
    std::thread::Builder::new().name("look up a host".to_owned()).spawn(look_up)?;
    let late = |_| Err(Error::new(ErrorKind::TimedOut, "looking up its name takes too long"));
    wait.recv_timeout(deadline.left()).unwrap_or_else(late)
}

/// What went wrong, in words.
pub fn explain(error: &Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused: no program listens there".to_owned(),
        ErrorKind::TimedOut => "it does not answer".to_owned(),
        // A read that took longer than the limit; our own errors of this kind have a message.
        ErrorKind::WouldBlock if error.raw_os_error().is_some() => "it does not answer".to_owned(),
        _ => error.to_string(),
    }
}
