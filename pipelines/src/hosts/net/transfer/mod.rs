//! The state of a commit, from the head to a host that joins: named *blobs*, which may have several gigabytes and
//! travel in chunks.
//!
//! - here: what head and hosts say to each other, and the head's side ([`Server`])
//! - [`download`]: the other side
//!
//! On a connection for [`Purpose::Download`](super::handshake::Purpose::Download), each request of the host is answered
//! in turn: with a list of blobs and their hashes, or with the rest of a blob from an offset.
pub mod download;

use super::frame;
use super::socket;
use crate::hosts::types::Step;
use serde::{Deserialize, Serialize};
use std::io::{Error, ErrorKind, Result, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub use download::{Download, Fault};

/// The length of a chunk: how much of a blob is in memory at a time.
pub const CHUNK: usize = 256 << 10;

/// How many hosts may download at a time. Further ones try again.
const MOST: usize = 32;

/// How long the other side may take to read or send something. A host may write to a slow disk meanwhile.
const LIMIT: Duration = Duration::from_secs(30);

/// A part of a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// A file name without folders.
    pub name: String,
    /// Its length in bytes.
    pub length: u64,
    /// The BLAKE3 hash of its content.
    pub hash: [u8; 32],
}

/// What a host asks for.
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// The blobs of a commit.
    List { step: Step },
    /// A blob from an offset to its end.
    Read { step: Step, name: String, offset: u64 },
}

/// The head's answer.
#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    Blobs(Vec<Blob>),
    /// This many bytes follow.
    Bytes(u64),
    /// The head does not have this (any more).
    Missing,
}

/// The commits that the head can serve.
pub trait Source: Send + Sync + 'static {
    /// The blobs of a commit, if it is here.
    fn blobs(&self, step: Step) -> Option<Vec<Blob>>;

    /// Reads bytes of a blob from an offset. Fewer than fit only at its end.
    ///
    /// # Errors
    /// If they cannot be read, or the commit is not here any more.
    fn read(&self, step: Step, name: &str, offset: u64, into: &mut [u8]) -> Result<usize>;
}

/// The head's side.
#[derive(Clone)]
pub struct Server {
    source: Arc<dyn Source>,
    active: Arc<AtomicUsize>,
}

impl Server {
    /// Serves these commits.
    pub fn new(source: Arc<dyn Source>) -> Self {
        Self { source, active: Arc::default() }
    }

    /// Answers the requests on a connection in a thread, until the other side closes it.
    pub fn serve(&self, stream: TcpStream) {
        let server = self.clone();
        if self.active.fetch_add(1, Ordering::Relaxed) >= MOST {
            self.active.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let serve = move || {
            // The other side tries again.
            let _ = server.answer_all(stream);
            server.active.fetch_sub(1, Ordering::Relaxed);
        };
        if std::thread::Builder::new().name("serve a commit".to_owned()).spawn(serve).is_err() {
            self.active.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn answer_all(&self, mut stream: TcpStream) -> Result<()> {
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        socket::set_user_timeout(&stream, LIMIT)?;
        loop {
            match frame::read(&mut stream)? {
                Request::List { step } => {
                    let reply = self.source.blobs(step).map_or(Reply::Missing, Reply::Blobs);
                    frame::write(&mut stream, &reply)?;
                }
                Request::Read { step, name, offset } => self.answer_read(&mut stream, step, &name, offset)?,
            }
        }
    }

    fn answer_read(&self, stream: &mut TcpStream, step: Step, name: &str, mut offset: u64) -> Result<()> {
        let blobs = self.source.blobs(step).unwrap_or_default();
        let blob = blobs.into_iter().find(|blob| blob.name == name);
        let Some(mut left) = blob.and_then(|blob| blob.length.checked_sub(offset)) else {
            return frame::write(stream, &Reply::Missing);
        };
        frame::write(stream, &Reply::Bytes(left))?;
        let mut chunk = vec![0; CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let count = self.source.read(step, name, offset, &mut chunk[..wanted])?;
            if count == 0 || count > wanted {
                return Err(Error::new(ErrorKind::UnexpectedEof, "the blob is shorter than its length"));
            }
            stream.write_all(&chunk[..count])?;
            offset += count as u64;
            left -= count as u64;
        }
        Ok(())
    }
}
