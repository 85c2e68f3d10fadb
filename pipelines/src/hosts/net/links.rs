//! Control connections: messages in order, until the connection breaks or is closed.
//!
//! Each link has a thread that waits until something arrives and one that writes, so the driver never waits for a
//! peer. Only the kernel's buffers and the queue of frames to write lie between two drivers. A driver that has slept
//! can take what has arrived itself ([`Links::receive`]) instead of waiting until the links' threads have.
use super::frame::{self, Decoder};
use crate::hosts::types::Link;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{Result, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// How many frames may wait for a peer that does not read. It is declared dead before that.
const QUEUE: usize = 1024;

/// How long a write may take.
const WRITE_LIMIT: Duration = Duration::from_secs(2);

/// How long a link that was closed here is still read: closing it with unread input would reset the connection and
/// destroy what is in flight.
const LINGER: Duration = Duration::from_secs(1);

/// How much is received in one turn.
const TURN: usize = 1 << 20;

/// What happens on a link.
#[derive(Debug)]
pub enum LinkEvent<'a> {
    /// A frame has arrived.
    Frame(&'a [u8]),
    /// The connection broke, or the peer closed it or sent something that is no message. Nothing follows.
    Closed,
}

/// What is done about it. Must not wait for anything. An error is something that is no message, and breaks the link.
pub type Deliver = Box<dyn FnMut(LinkEvent<'_>) -> Result<()> + Send>;

/// The control connections of a process.
#[derive(Debug, Default)]
pub struct Links {
    last: u64,
    open: BTreeMap<Link, Open>,
    closing: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Open {
    connection: Arc<Connection>,
    queue: SyncSender<Vec<u8>>,
    writer: JoinHandle<()>,
}

impl Links {
    /// A link over a connection that has proved the secret. What `deliver` returns is called about it until the link is
    /// closed here, though it may be called once more while that happens.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn add(&mut self, stream: TcpStream, deliver: impl FnOnce(Link) -> Deliver) -> Result<Link> {
        stream.set_write_timeout(Some(WRITE_LIMIT))?;
        let link = Link(self.last + 1);
        let input = Mutex::new(Input { decoder: Decoder::default(), deliver: deliver(link), ended: false });
        let connection = Connection { stream, input, closing: AtomicBool::new(false), ended: Condvar::new() };
        let connection = Arc::new(connection);
        let (queue, frames) = sync_channel(QUEUE);
        let [reads, writes] = [(); 2].map(|()| Arc::clone(&connection));
        let writer = Builder::new().name(format!("link {} out", link.0)).spawn(move || writes.write(&frames))?;
        Builder::new().name(format!("link {} in", link.0)).spawn(move || reads.read())?;
        self.last = link.0;
        self.open.insert(link, Open { connection, queue, writer });
        Ok(link)
    }

    /// Sends a message, if the link is open.
    pub fn send<T: Serialize>(&self, link: Link, message: &T) {
        let Some(open) = self.open.get(&link) else { return };
        let sent = frame::encode(message).is_ok_and(|frame| open.queue.try_send(frame).is_ok());
        if !sent {
            open.connection.shut_down(Shutdown::Both);
        }
    }

    /// Delivers everything that has arrived on all links, before it returns.
    pub fn receive(&self) {
        for open in self.open.values() {
            open.connection.receive();
        }
    }

    /// Closes a link, after what was sent on it.
    pub fn close(&mut self, link: Link) {
        self.closing.retain(|writer| !writer.is_finished());
        if let Some(open) = self.open.remove(&link) {
            open.connection.closing.store(true, Ordering::Release);
            // The writer ends when its queue is gone and empty.
            drop(open.queue);
            self.closing.push(open.writer);
        }
    }

    /// Closes all links, and returns when everything has been sent and read by the peers, or they have had their time:
    /// three seconds.
    pub fn finish(mut self) {
        let links: Vec<Link> = self.open.keys().copied().collect();
        links.into_iter().for_each(|link| self.close(link));
        for writer in self.closing {
            let _ = writer.join();
        }
    }
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    input: Mutex<Input>,
    /// It was closed here; what arrives is not delivered any more.
    closing: AtomicBool,
    /// Notified when the input has ended.
    ended: Condvar,
}

struct Input {
    decoder: Decoder,
    deliver: Deliver,
    ended: bool,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Connection {
    /// The thread that waits for input.
    fn read(&self) {
        loop {
            // An error: interrupted, or no memory. `receive` does not wait.
            let _ = poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], None);
            if self.receive() {
                return;
            }
        }
    }

    /// Delivers what has arrived, without waiting. Returns whether the input has ended.
    fn receive(&self) -> bool {
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = [0; 16 << 10];
        let mut received = 0;
        while !input.ended && received < TURN {
            match recv(&self.stream, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((count, _)) if count > 0 => {
                    received += count;
                    let closing = self.closing.load(Ordering::Acquire);
                    input.ended = !closing && input.take(&buffer[..count]).is_err();
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Ok(_) | Err(_) => input.ended = true,
            }
            if input.ended {
                if !self.closing.load(Ordering::Acquire) {
                    let _ = (input.deliver)(LinkEvent::Closed);
                }
                self.ended.notify_all();
            }
        }
        input.ended
    }

    /// The thread that writes.
    fn write(&self, frames: &Receiver<Vec<u8>>) {
        for frame in frames {
            if (&self.stream).write_all(&frame).is_err() {
                // Ends the input, too, which tells the driver.
                return self.shut_down(Shutdown::Both);
            }
        }
        self.shut_down(Shutdown::Write);
        let input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.ended.wait_timeout_while(input, LINGER, |input| !input.ended));
        self.shut_down(Shutdown::Both);
    }

    fn shut_down(&self, how: Shutdown) {
        // If it fails, it is shut down already.
        let _ = self.stream.shutdown(how);
    }
}

impl Input {
    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.decoder.push(bytes);
        while let Some(frame) = self.decoder.next_frame()? {
            (self.deliver)(LinkEvent::Frame(frame))?;
        }
        Ok(())
    }
}
