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
            // Nobody listens at this port of this machine, but the system has chosen it for the connecting side, too.
            Ok(stream) if stream.local_addr()? == stream.peer_addr()? => last = ErrorKind::ConnectionRefused.into(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_socket_is_not_connected_to_itself() {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap().port();
        // Linux gives connecting sides even ports, one after the other.
        let port = port & !1;
        for _ in 0..30_000 {
            match connect(&format!("127.0.0.1:{port}"), Deadline::after(Duration::from_secs(20))) {
                Ok(stream) => assert_ne!(stream.local_addr().unwrap(), stream.peer_addr().unwrap()),
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}"),
            }
        }
    }

    #[test]
    fn names_are_looked_up_and_limits_are_kept() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let deadline = || Deadline::after(Duration::from_secs(20));
        let stream = connect(&format!("localhost:{port}"), deadline()).unwrap();
        assert!(stream.nodelay().unwrap() && sockopt::socket_keepalive(&stream).unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 5_000);
        for wrong in ["", "localhost", ":", "localhost:port", "[::1"] {
            assert!(connect(wrong, deadline()).is_err(), "{wrong}");
        }
        let over = Deadline::after(Duration::ZERO);
        assert_eq!(connect(&format!("127.0.0.1:{port}"), over).unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(over.limit(&stream).unwrap_err().kind(), ErrorKind::TimedOut);
    }
}
