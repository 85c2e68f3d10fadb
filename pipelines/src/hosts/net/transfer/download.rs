//! A host obtains a commit. It goes on after errors, from where it was, until it has it or is cancelled.
use super::{Blob, CHUNK, Reply, Request};
use crate::hosts::net::frame;
use crate::hosts::net::handshake::{self, Purpose};
use crate::hosts::net::secret::Secret;
use crate::hosts::net::socket::Deadline;
use crate::hosts::types::Step;
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Seek, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Pause between two attempts.
const RETRY: Duration = Duration::from_millis(300);

/// How long connecting to the head may take.
const CONNECT: Duration = Duration::from_secs(3);

/// How long the head may send nothing.
const SILENCE: Duration = Duration::from_secs(5);

/// Why a download has ended without success.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It is not wanted any more.
    #[error("the download was cancelled")]
    Cancelled,
    /// It cannot be stored here, or must not.
    #[error("{what}: {cause}")]
    Local {
        /// What was attempted.
        what: String,
        /// The error.
        cause: Error,
    },
}

/// Downloads from the head. Valid until the control connection breaks or another commit is wanted.
#[derive(Clone, Debug)]
pub struct Download {
    head: String,
    secret: Secret,
    cancelled: Arc<AtomicBool>,
}

impl Download {
    /// Downloads from the head at `HOST:PORT`.
    pub fn new(head: String, secret: Secret) -> Self {
        Self { head, secret, cancelled: Arc::default() }
    }

    /// Ends all downloads of this one and its clones.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether they are to end.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// The blobs of a commit.
    ///
    /// # Errors
    /// If it is cancelled.
    pub fn blobs(&self, step: Step) -> Result<Vec<Blob>, Fault> {
        while !self.is_cancelled() {
            let reply = self.connect().and_then(|mut stream| request(&mut stream, &Request::List { step }));
            if let Ok(Reply::Blobs(blobs)) = reply {
                return Ok(blobs);
            }
            std::thread::sleep(RETRY);
        }
        Err(Fault::Cancelled)
    }

    /// A blob in memory, if it is not longer than `most`.
    ///
    /// # Errors
    /// If it is cancelled or too long.
    pub fn to_memory(&self, step: Step, blob: &Blob, most: u64) -> Result<Vec<u8>, Fault> {
        if blob.length > most {
            let cause = Error::new(ErrorKind::InvalidData, format!("{} bytes are more than {most}", blob.length));
            return Err(Fault::Local { what: format!("cannot download `{}`", blob.name), cause });
        }
        let mut bytes = Vec::new();
        self.fetch(step, blob, &mut bytes)?;
        Ok(bytes)
    }

    /// A blob in a file of this name in `folder`, which is replaced when the download is complete. What an earlier
    /// download of the same content has left is continued.
    ///
    /// # Errors
    /// If it is cancelled, cannot be written, or has a name that leads elsewhere.
    pub fn to_file(&self, step: Step, blob: &Blob, folder: &Path) -> Result<PathBuf, Fault> {
        let path = folder.join(&blob.name);
        let local = |cause| Fault::Local { what: format!("cannot write {}", path.display()), cause };
        if Path::new(&blob.name).file_name().is_none_or(|name| name != blob.name.as_str()) {
            return Err(local(Error::new(ErrorKind::InvalidInput, "the head sent a name that is no file name")));
        }
        let hash = blake3::Hash::from_bytes(blob.hash).to_hex();
        let part = folder.join(format!(".{}.{}.part", blob.name, &hash[..16]));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&part);
        let mut file = file.map_err(local)?;
        self.fetch(step, blob, &mut file)?;
        file.sync_all().and_then(|()| std::fs::rename(&part, &path)).map_err(local)?;
        Ok(path)
    }

    /// Downloads a blob, and again if its hash is wrong.
    fn fetch(&self, step: Step, blob: &Blob, into: &mut impl Target) -> Result<(), Fault> {
        let local = |cause| Fault::Local { what: format!("cannot store `{}`", blob.name), cause };
        let (mut hasher, mut length) = into.resume().map_err(local)?;
        while !self.is_cancelled() {
            if length == blob.length && hasher.finalize() == blob.hash {
                return Ok(());
            }
            if length >= blob.length {
                // Something else.
                (hasher, length) = (blake3::Hasher::new(), 0);
                into.restart().map_err(local)?;
            }
            let mut unstored = None;
            let fetched = self.fetch_rest(step, blob, length, |bytes| {
                if let Err(error) = into.append(bytes) {
                    unstored = Some(error);
                    return Err(ErrorKind::Other.into());
                }
                hasher.update(bytes);
                length += bytes.len() as u64;
                Ok(())
            });
            if let Some(error) = unstored {
                return Err(local(error));
            }
            if fetched.is_err() || hasher.finalize() != blob.hash {
                std::thread::sleep(RETRY);
            }
        }
        Err(Fault::Cancelled)
    }

    /// One attempt to get a blob from `offset` on.
    fn fetch_rest(
        &self,
        step: Step,
        blob: &Blob,
        offset: u64,
        mut store: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let mut stream = self.connect()?;
        let expected = blob.length - offset;
        match request(&mut stream, &Request::Read { step, name: blob.name.clone(), offset })? {
            Reply::Bytes(length) if length == expected => {}
            _ => return Err(ErrorKind::NotFound.into()),
        }
        let mut chunk = vec![0; CHUNK.min(usize::try_from(expected).unwrap_or(CHUNK))];
        let mut left = expected;
        while left > 0 {
            if self.is_cancelled() {
                return Err(Error::other("cancelled"));
            }
            let wanted = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            match stream.read(&mut chunk[..wanted]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    store(&chunk[..count])?;
                    left -= count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = handshake::dial(&self.head, Purpose::Download, &self.secret, Deadline::after(CONNECT))?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        Ok(stream)
    }
}

fn request(stream: &mut TcpStream, request: &Request) -> std::io::Result<Reply> {
    frame::write(stream, request)?;
    frame::read(stream)
}

/// Where a blob is stored.
trait Target {
    /// The hash and length of what is there already.
    fn resume(&mut self) -> std::io::Result<(blake3::Hasher, u64)>;
    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()>;
    fn restart(&mut self) -> std::io::Result<()>;
}

impl Target for Vec<u8> {
    fn resume(&mut self) -> std::io::Result<(blake3::Hasher, u64)> {
        Ok((blake3::Hasher::new(), 0))
    }

    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn restart(&mut self) -> std::io::Result<()> {
        self.clear();
        Ok(())
    }
}

impl Target for File {
    fn resume(&mut self) -> std::io::Result<(blake3::Hasher, u64)> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(&mut *self)?;
        let length = hasher.count();
        Ok((hasher, length))
    }

    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.write_all(bytes)
    }

    fn restart(&mut self) -> std::io::Result<()> {
        self.set_len(0)?;
        self.rewind()
    }
}
