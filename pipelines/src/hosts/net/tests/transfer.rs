//! Downloads of commits.
use super::{S, eventually};
use crate::hosts::Step;
use crate::hosts::net::handshake::{Purpose, Verdict};
use crate::hosts::net::listener::{Accept, Listener, bind};
use crate::hosts::net::secret::Secret;
use crate::hosts::net::transfer::{Blob, CHUNK, Download, Fault, Server, Source};
use std::io::{Error, Result};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const STEP: Step = 40;

/// A head with a commit, whose reads fail now and then.
struct Commit {
    blobs: Vec<(Blob, Vec<u8>)>,
    reads: AtomicU64,
    /// Every how many reads one fails.
    fails: u64,
    /// How many bytes have been read.
    served: AtomicU64,
    /// How many reads return something wrong.
    wrong: AtomicU64,
}

fn content(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()[4] ^ seed).collect()
}

fn blob(name: &str, content: &[u8]) -> Blob {
    Blob { name: name.into(), length: content.len() as u64, hash: *blake3::hash(content).as_bytes() }
}

impl Commit {
    fn new(fails: u64, wrong: u64) -> Arc<Self> {
        let contents = [("empty", 0), ("small", 10), ("chunk", CHUNK), ("large", 20 * CHUNK + 7)];
        let blobs = contents.map(|(name, length)| {
            let content = content(length, 3);
            (blob(name, &content), content)
        });
        let (reads, served) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { blobs: blobs.into(), reads, fails, served, wrong: AtomicU64::new(wrong) })
    }
}

impl Source for Commit {
    fn blobs(&self, step: Step) -> Option<Vec<Blob>> {
        (step == STEP).then(|| self.blobs.iter().map(|(blob, _)| blob.clone()).collect())
    }

    fn read(&self, _: Step, name: &str, offset: u64, into: &mut [u8]) -> Result<usize> {
        let read = self.reads.fetch_add(1, Ordering::Relaxed) + 1;
        if self.fails > 0 && read.is_multiple_of(self.fails) {
            return Err(Error::other("broken"));
        }
        let (_, content) = self.blobs.iter().find(|(blob, _)| blob.name == name).unwrap();
        let rest = &content[offset as usize..];
        // Not always as much as fits.
        let count = rest.len().min(into.len()).min(200_000);
        into[..count].copy_from_slice(&rest[..count]);
        if self.wrong.load(Ordering::Relaxed) > 0 {
            self.wrong.fetch_sub(1, Ordering::Relaxed);
            into[0] ^= 1;
        }
        self.served.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

struct Door(Server);

impl Accept for Door {
    fn verdict(&self, _: Purpose) -> Verdict {
        Verdict::Accepted
    }

    fn accept(&self, _: Purpose, stream: TcpStream) {
        self.0.serve(stream);
    }
}

fn serve(commit: &Arc<Commit>) -> (Listener, Download) {
    let secret = Secret::random().unwrap();
    let source: Arc<dyn Source> = Arc::<Commit>::clone(commit);
    let door = Door(Server::new(source));
    let listener = Listener::start(bind("127.0.0.1:0").unwrap(), secret.clone(), door).unwrap();
    let download = Download::new(listener.address().to_string(), secret);
    (listener, download)
}

#[test]
fn blobs_arrive_whole_although_reads_fail() {
    let commit = Commit::new(7, 0);
    let (_listener, download) = serve(&commit);
    let folder = tempfile::tempdir().unwrap();
    let blobs = download.blobs(STEP).unwrap();
    assert_eq!(blobs.len(), commit.blobs.len());
    for (blob, (_, content)) in blobs.iter().zip(&commit.blobs) {
        assert!(download.to_memory(STEP, blob, 1 << 30).unwrap() == *content, "{}", blob.name);
        let path = download.to_file(STEP, blob, folder.path()).unwrap();
        assert!(std::fs::read(path).unwrap() == *content, "{}", blob.name);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), blobs.len(), "nothing else is left");
    // Resumed, not begun again: twice the whole, and what was in flight when a read failed.
    let whole: u64 = 2 * blobs.iter().map(|blob| blob.length).sum::<u64>();
    assert!(commit.served.load(Ordering::Relaxed) < whole + whole / 2, "{}", commit.served.load(Ordering::Relaxed));
}

#[test]
fn a_download_is_resumed_by_another_process_and_what_is_wrong_is_not() {
    let commit = Commit::new(0, 0);
    let (_listener, download) = serve(&commit);
    let folder = tempfile::tempdir().unwrap();
    let (blob, content) = &commit.blobs[3];
    let hash = blake3::Hash::from_bytes(blob.hash).to_hex();
    let part = folder.path().join(format!(".large.{}.part", &hash[..16]));
    std::fs::write(&part, &content[..15 * CHUNK]).unwrap();
    let path = download.to_file(STEP, blob, folder.path()).unwrap();
    assert!(std::fs::read(&path).unwrap() == *content);
    assert_eq!(commit.served.load(Ordering::Relaxed), 5 * CHUNK as u64 + 7);
    for wrong in [vec![0; 15 * CHUNK], vec![0; content.len()], vec![0; 30 * CHUNK]] {
        std::fs::write(&part, wrong).unwrap();
        download.to_file(STEP, blob, folder.path()).unwrap();
        assert!(std::fs::read(&path).unwrap() == *content);
    }
}

#[test]
fn what_arrives_with_another_hash_is_not_used() {
    let commit = Commit::new(0, 2);
    let (_listener, download) = serve(&commit);
    let (blob, content) = &commit.blobs[1];
    assert!(download.to_memory(STEP, blob, 10).unwrap() == *content);
    assert_eq!(commit.reads.load(Ordering::Relaxed), 3);
}

#[test]
fn a_download_that_is_not_wanted_or_not_possible_ends() {
    let commit = Commit::new(0, 0);
    let (listener, download) = serve(&commit);
    let blob = &commit.blobs[1].0;
    assert!(matches!(download.to_memory(STEP, blob, 9), Err(Fault::Local { .. })), "longer than allowed");
    for name in ["../small", "/small", "", ".", "a/b"] {
        let outside = Blob { name: name.into(), ..blob.clone() };
        let error = download.to_file(STEP, &outside, &std::env::temp_dir()).unwrap_err();
        assert!(error.to_string().contains("no file name"), "{error}");
    }
    let nowhere = std::path::Path::new("/nowhere/at/all");
    assert!(matches!(download.to_file(STEP, blob, nowhere), Err(Fault::Local { .. })));

    // A commit that the head does not have may come; nobody waits for it after the control connection has broken.
    let waiting = download.clone();
    let thread = std::thread::spawn(move || waiting.blobs(STEP + 1));
    eventually("asked", || listener.counts().proved >= 2);
    assert!(!thread.is_finished());
    download.cancel();
    assert!(matches!(thread.join().unwrap(), Err(Fault::Cancelled)));
    std::thread::sleep(S / 100);
}
