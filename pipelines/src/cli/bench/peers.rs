//! Processes of this machine that train together, for `bench --processes`.
//!
//! The process that starts them connects each two by a loopback connection and hands each its ends, over a Unix socket
//! that is its standard input. So nothing listens, and no other program can get in between.
use super::measure::Training;
use crate::engine::{Connections, Traffic};
use crate::machine::{Processes, end_with, peak_rss_mb};
use anyhow::{Context, Result, bail, ensure};
use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The most processes: their sockets fit one message, and those of all are fewer than the 1,024 files that most systems
/// let a process open.
pub const MOST: u16 = 24;

/// What a process of a measurement has seen.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Seen {
    /// Tokens per second of all processes, the median of the measured steps; 0 where steps are not recorded.
    pub tok_per_sec: f64,
    /// Seconds per step in which the busiest worker updates parameters.
    pub update_seconds: f64,
    /// Bytes per step that it sends to all others.
    pub sent_bytes: u64,
    /// Its peak memory.
    pub peak_rss_mb: u64,
}

/// Starts `processes` processes with `arguments` and returns what each has seen.
///
/// # Errors
/// If the system refuses; if one of them fails, which says so itself.
pub fn measure(processes: usize, arguments: &[String]) -> Result<Vec<Seen>> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let (mut running, mut outputs) = (Processes::default(), Vec::new());
    for (process, sockets) in connected(processes).context("cannot connect processes")?.into_iter().enumerate() {
        let (here, there) = UnixStream::pair().context("cannot connect processes")?;
        let mut command = Command::new(&program);
        command.args(arguments).stdin(OwnedFd::from(there)).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start a process of the measurement")?;
        outputs.extend(child.stdout.take());
        running.add(child);
        send(&here, process, &sockets).context("cannot hand its sockets to a process of the measurement")?;
    }
    let mut all = Vec::new();
    for (process, mut output) in outputs.into_iter().enumerate() {
        let mut text = String::new();
        output.read_to_string(&mut text).context("cannot read what a process of the measurement says")?;
        let seen = serde_json::from_str(&text);
        all.push(seen.with_context(|| format!("process {process} of {processes} failed, see above"))?);
    }
    Ok(all)
}

/// Takes part in a measurement of `steps` steps, as a process that [`measure`] has started.
///
/// # Errors
/// If this is no such process; if any stage fails.
pub fn take_part(training: Training, steps: u64) -> Result<Seen> {
    let (process, sockets) = receive().context("only `bench --processes` starts a process with this option")?;
    end_with(std::os::unix::process::parent_id())?;
    let traffic = Arc::new(Traffic::default());
    let connections = (sockets.len() > 1).then(|| {
        let traffic = Arc::clone(&traffic);
        let computing = vec![training.workers() as u32; sockets.len()];
        Connections { process, computing, sockets, traffic, cancellation: Default::default() }
    });
    let trained = training.run(connections)?;
    let of_update = |stages: &[crate::engine::StageTiming]| {
        stages.iter().find(|stage| stage.id == "optimize").map_or(0.0, |stage| stage.busy.as_secs_f64())
    };
    let update = trained.timings.iter().map(|worker| of_update(&worker.stages)).fold(0.0, f64::max);
    Ok(Seen {
        tok_per_sec: trained.tok_per_sec(),
        update_seconds: update / steps as f64,
        sent_bytes: traffic.sent.load(Ordering::Relaxed) / steps,
        peak_rss_mb: peak_rss_mb(),
    })
}

/// The ends of a loopback connection.
///
/// # Errors
/// If the system refuses.
pub fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    loop {
        let (far, from) = listener.accept()?;
        if from == near.local_addr()? {
            return Ok((near, far));
        }
    }
}

/// Sockets between each two processes: by process, then by the other one.
fn connected(processes: usize) -> io::Result<Vec<Vec<Option<TcpStream>>>> {
    let mut sockets: Vec<Vec<_>> = (0..processes).map(|_| (0..processes).map(|_| None).collect()).collect();
    for (a, b) in (0..processes).flat_map(|a| (0..a).map(move |b| (a, b))) {
        let (near, far) = pair()?;
        (sockets[a][b], sockets[b][a]) = (Some(near), Some(far));
    }
    Ok(sockets)
}

/// Sends the index of a process, the number of processes, and its sockets.
fn send(to: &UnixStream, process: usize, sockets: &[Option<TcpStream>]) -> Result<()> {
    let handles: Vec<_> = sockets.iter().flatten().map(AsFd::as_fd).collect();
    let mut space = vec![MaybeUninit::uninit(); cmsg_space!(ScmRights(handles.len()))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ensure!(handles.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(&handles)), "too many processes");
    let numbers = [u8::try_from(process)?, u8::try_from(sockets.len())?];
    sendmsg(to, &[IoSlice::new(&numbers)], &mut ancillary, SendFlags::empty())?;
    Ok(())
}

/// Receives them.
fn receive() -> Result<(usize, Vec<Option<TcpStream>>)> {
    let from = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut space = vec![MaybeUninit::uninit(); cmsg_space!(ScmRights(usize::from(MOST)))];
    let (mut ancillary, mut numbers) = (RecvAncillaryBuffer::new(&mut space), [0; 2]);
    let got = recvmsg(&from, &mut [IoSliceMut::new(&mut numbers)], &mut ancillary, RecvFlags::empty())?;
    let mut handles = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(all) = message {
            handles.extend(all.map(TcpStream::from));
        }
    }
    let (process, processes) = (usize::from(numbers[0]), usize::from(numbers[1]));
    if got.bytes != numbers.len() || process >= processes || handles.len() + 1 != processes {
        bail!("process {process} of {processes} got {} sockets", handles.len());
    }
    let mut handles = handles.into_iter();
    Ok((process, (0..processes).map(|other| if other == process { None } else { handles.next() }).collect()))
}
