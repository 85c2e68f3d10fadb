//! The sockets between the processes that run a graph together.
//!
//! timely's threads read and write them, and panic when a socket fails. Before that, the stream notes the failure as
//! [`Broken`], so that it is known as what it is.
use super::failure::Failure;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use timely::communication::allocator::zero_copy::stream::Stream;

/// The connections of this process to the others.
pub struct Connections {
    /// The index of this process.
    pub process: usize,
    /// By process: how many of its workers compute leaves, at least 1. Leaves are divided in this proportion.
    pub computing: Vec<u32>,
    /// By process: a connected socket; `None` for this process. Nothing must have been read from it beyond the other
    /// side's handshake.
    pub sockets: Vec<Option<TcpStream>>,
    /// Counts what is sent and received.
    pub traffic: Arc<Traffic>,
    /// Ends the graph.
    pub cancellation: Cancellation,
}

/// The bytes that a process has exchanged with the others.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Sent to all others.
    pub sent: AtomicU64,
    /// Received from all others.
    pub received: AtomicU64,
}

/// The connection to another process broke: it has ended, failed or become unreachable.
#[derive(Debug, thiserror::Error)]
#[error("the connection to process {process} of the run broke: {cause}")]
pub struct Broken {
    /// The index of the process at the other end.
    pub process: usize,
    /// The error.
    pub cause: String,
}

/// The graph was [cancelled](Cancellation::cancel).
#[derive(Debug, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

/// Ends a graph on this process, wherever it is. The other processes see that their connections to it break.
#[derive(Clone, Default)]
pub struct Cancellation(Arc<Mutex<Running>>);

#[derive(Default)]
struct Running {
    cancelled: bool,
    failure: Option<Failure>,
    sockets: Vec<TcpStream>,
}

impl Cancellation {
    /// Ends the graph, also if it has not started yet. Returns at once; workers stop when their stages have returned.
    pub fn cancel(&self) {
        let mut running = self.lock();
        running.cancelled = true;
        running.end();
    }

    /// Closes all sockets, whatever is being read or written.
    pub(super) fn close(&self) {
        self.lock().close();
    }

    fn begin(&self, failure: Failure, sockets: Vec<TcpStream>) {
        let mut running = self.lock();
        (running.failure, running.sockets) = (Some(failure), sockets);
        if running.cancelled {
            running.end();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn end(&self) {
        self.failure.iter().for_each(|failure| failure.note(Cancelled.into()));
        self.close();
    }

    fn close(&self) {
        for socket in &self.sockets {
            // Fails if the other side has closed it.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Connections {
    /// The streams for timely, by process.
    ///
    /// # Errors
    /// If the system refuses another handle of a socket.
    pub(super) fn into_streams(self, failure: &Failure) -> io::Result<Vec<Option<PeerStream>>> {
        let mut handles = Vec::new();
        let mut stream = |(process, socket): (usize, Option<TcpStream>)| -> io::Result<Option<PeerStream>> {
            let Some(socket) = socket else { return Ok(None) };
            socket.set_nodelay(true)?;
            socket.set_read_timeout(None)?;
            socket.set_write_timeout(None)?;
            handles.push(socket.try_clone()?);
            let (failure, traffic) = (failure.clone(), Arc::clone(&self.traffic));
            Ok(Some(PeerStream { socket, process, failure, traffic, frames: Frames::default() }))
        };
        let streams = self.sockets.into_iter().enumerate().map(&mut stream).collect::<io::Result<_>>()?;
        self.cancellation.begin(failure.clone(), handles);
        Ok(streams)
    }
}

/// A socket to another process, as timely uses it.
pub struct PeerStream {
    socket: TcpStream,
    /// The process at the other end.
    process: usize,
    failure: Failure,
    traffic: Arc<Traffic>,
    /// What has been read from this handle.
    frames: Frames,
}

impl PeerStream {
    fn broken(&self, cause: &io::Error) {
        self.failure.note(Broken { process: self.process, cause: cause.to_string() }.into());
    }
}

impl Read for PeerStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = loop {
            match self.socket.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        let cause = match read {
            // The other process has ended as it should. Nothing that happens to the socket matters any more.
            Ok(0) | Err(_) if self.frames.ended => return Ok(0),
            Ok(0) => io::Error::new(io::ErrorKind::UnexpectedEof, "it was closed"),
            Ok(count) => {
                self.frames.follow(&buffer[..count]);
                self.traffic.received.fetch_add(count as u64, Ordering::Relaxed);
                return Ok(count);
            }
            Err(error) => error,
        };
        self.broken(&cause);
        Err(cause)
    }
}

impl Write for PeerStream {
    /// Refuses to write after a failure: timely would tell the other process that this one has finished.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.failure.happened() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "this process has failed"));
        }
        let written = self.socket.write(bytes).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.broken(error);
            }
        })?;
        self.traffic.sent.fetch_add(written as u64, Ordering::Relaxed);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

impl Stream for PeerStream {
    fn try_clone(&self) -> io::Result<Self> {
        let (failure, traffic) = (self.failure.clone(), Arc::clone(&self.traffic));
        let socket = self.socket.try_clone()?;
        Ok(Self { socket, process: self.process, failure, traffic, frames: Frames::default() })
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.socket.set_nonblocking(nonblocking)
    }

    /// The other side may have closed the socket already, after it has read everything.
    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let _ = self.socket.shutdown(how);
        Ok(())
    }
}

/// Follows timely's frames in what is read, to know whether the end of the stream is one: a header without content comes
/// before it. A header is six 64-bit numbers, big-endian; the fifth is the length of the content.
#[derive(Default)]
struct Frames {
    header: Vec<u8>,
    /// Bytes left of the content.
    left: usize,
    /// The last header has been read.
    ended: bool,
}

impl Frames {
    const HEADER: usize = 48;

    fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let content = self.left.min(bytes.len());
            bytes = &bytes[content..];
            self.left -= content;
            let more = (Self::HEADER - self.header.len()).min(bytes.len());
            self.header.extend(&bytes[..more]);
            bytes = &bytes[more..];
            if self.header.len() == Self::HEADER {
                let length = self.header[32..40].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
                self.header.clear();
                self.left = length;
                self.ended = length == 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use timely::communication::networking::MessageHeader;

    fn header(length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let header = MessageHeader { channel: 1, source: 2, target_lower: 3, target_upper: 4, length, seqno: 5 };
        header.write_to(&mut bytes).unwrap();
        bytes
    }

    proptest! {
        /// Whatever the contents are (also zeros, as in a header without content), and however they are cut.
        #[test]
        fn the_end_is_known(lengths in prop::collection::vec(1..200usize, 0..5), cut in 1..100usize) {
            let mut bytes: Vec<u8> = lengths.iter().flat_map(|length| [header(*length), vec![0; *length]].concat()).collect();
            let mut frames = Frames::default();
            bytes.chunks(cut).for_each(|chunk| frames.follow(chunk));
            prop_assert!(!frames.ended);
            bytes.extend(header(0));
            let mut frames = Frames::default();
            bytes.chunks(cut).for_each(|chunk| frames.follow(chunk));
            prop_assert!(frames.ended);
        }
    }
}
