//! An engine that trains by counting: the state after a step is the hash of the state before it. Its members exchange
//! their states after every step, as a dataflow would, and every fifth step is a commit.
use crate::hosts::net::driver::{Engine, Generation, NotPersisted, Store};
use crate::hosts::net::transfer::{Blob, Download, Source};
use crate::hosts::{EngineEvent, Epoch, Failure, HostId, Step, Work};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Every how many steps there is a commit.
pub const COMMIT_EVERY: Step = 5;

/// Every how many steps a checkpoint is due.
pub const CHECKPOINT_EVERY: Step = 50;

pub type State = [u8; 32];

pub fn next(state: State, step: Step) -> State {
    let mut hasher = blake3::Hasher::new();
    *hasher.update(&state).update(&step.to_le_bytes()).finalize().as_bytes()
}

/// The state after so many steps, each done once.
pub fn expected(steps: Step) -> State {
    (0..steps).fold([0; 32], next)
}

/// The commits in the memory of a host.
pub type Copies = Arc<Mutex<BTreeMap<Step, State>>>;

/// What an engine reports to.
#[derive(Clone)]
pub struct Reports {
    pub engine: Arc<dyn Fn(EngineEvent) + Send + Sync>,
    pub part: Arc<dyn Fn(Epoch, Step, HostId, bool) + Send + Sync>,
}

/// The engine of a head or a member.
pub struct Counting {
    pub copies: Copies,
    pub reports: Reports,
    /// The last step.
    pub steps: Step,
    pub pause: Duration,
    pub is_head: bool,
    /// The step in which this host's stage fails.
    pub fails_at: Option<Step>,
    /// How long it takes until a download begins.
    pub slow: Duration,
    pub running: Option<Arc<Running>>,
}

pub struct Running {
    stop: AtomicBool,
    drain: AtomicBool,
    sockets: Vec<Option<TcpStream>>,
}

impl Engine for Counting {
    fn obtain(&mut self, step: Step, download: Option<Download>) {
        let (copies, reports, slow) = (Arc::clone(&self.copies), self.reports.clone(), self.slow);
        std::thread::spawn(move || {
            let local = copies.lock().unwrap().contains_key(&step);
            if !local {
                let Some(download) = download else { panic!("the head has no commit {step}") };
                std::thread::sleep(slow);
                let Ok(blobs) = download.blobs(step) else { return };
                let Ok(bytes) = download.to_memory(step, &blobs[0], 1 << 20) else { return };
                let state = *bytes.last_chunk().unwrap();
                assert_eq!(state, expected(step), "the state of step {step}");
                copies.lock().unwrap().insert(step, state);
            }
            (reports.engine)(EngineEvent::Obtained { step });
        });
    }

    fn start(&mut self, generation: Generation) {
        let sockets = generation.sockets.iter();
        let sockets = sockets.map(|socket| socket.as_ref().map(|socket| socket.try_clone().unwrap())).collect();
        let running = Arc::new(Running { stop: AtomicBool::new(false), drain: AtomicBool::new(false), sockets });
        self.running = Some(Arc::clone(&running));
        let mut training = Training {
            running,
            copies: Arc::clone(&self.copies),
            reports: self.reports.clone(),
            steps: self.steps,
            pause: self.pause,
            fails_at: self.fails_at,
            generation,
        };
        std::thread::spawn(move || training.run());
    }

    fn stop(&mut self, _: Epoch) {
        let running = self.running.take().unwrap();
        running.stop.store(true, Ordering::Relaxed);
        for socket in running.sockets.iter().flatten() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    fn drain(&mut self, _: Epoch) {
        if let Some(running) = &self.running {
            running.drain.store(true, Ordering::Relaxed);
        }
    }

    fn committed(&mut self, step: Step) {
        // At the head its store does that.
        if !self.is_head {
            self.copies.lock().unwrap().retain(|copy, _| *copy >= step);
        }
    }
}

struct Training {
    running: Arc<Running>,
    copies: Copies,
    reports: Reports,
    steps: Step,
    pause: Duration,
    fails_at: Option<Step>,
    generation: Generation,
}

impl Training {
    fn run(&mut self) {
        let epoch = self.generation.epoch;
        let end = self.train();
        if let Some(event) = end.err().filter(|_| !self.running.stop.load(Ordering::Relaxed)) {
            (self.reports.engine)(event);
        }
        while !self.running.stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(2));
        }
        (self.reports.engine)(EngineEvent::Stopped { epoch });
    }

    /// Trains to the end of the generation.
    fn train(&mut self) -> Result<(), EngineEvent> {
        let Generation { epoch, from, .. } = self.generation;
        let mut state = self.copies.lock().unwrap().get(&from).copied().expect("the commit that it begins at");
        for step in from..self.steps {
            std::thread::sleep(self.pause);
            if self.fails_at == Some(step) {
                let (host, stage, cause) = ("this".into(), "loss".into(), "it is not finite".into());
                return Err(EngineEvent::Failed { epoch, failure: Failure { host, stage, step: Some(step), cause } });
            }
            state = next(state, step);
            let last = self.exchange(step + 1, state)?;
            let work = Work { step: step + 1, units: 0, waiting: false };
            (self.reports.engine)(EngineEvent::Work { epoch, work });
            let ends = last || step + 1 == self.steps;
            if ends || (step + 1).is_multiple_of(COMMIT_EVERY) {
                self.copies.lock().unwrap().insert(step + 1, state);
                self.generation.members.iter().for_each(|host| (self.reports.part)(epoch, step + 1, *host, ends));
            }
            if ends {
                break;
            }
        }
        Ok(())
    }

    /// Tells the others the own state, and compares it with theirs. Returns whether the head ends the generation here.
    fn exchange(&mut self, step: Step, state: State) -> Result<bool, EngineEvent> {
        let Generation { epoch, index, members, sockets, .. } = &mut self.generation;
        let broken = |peer: usize| EngineEvent::Broken { epoch: *epoch, peer: members[peer] };
        let mut last = *index == 0 && self.running.drain.load(Ordering::Relaxed);
        let message = [step.to_le_bytes().as_slice(), &state, &[u8::from(last)]].concat();
        for (peer, socket) in sockets.iter_mut().enumerate() {
            if let Some(socket) = socket {
                socket.write_all(&message).map_err(|_| broken(peer))?;
            }
        }
        for (peer, socket) in sockets.iter_mut().enumerate() {
            let Some(socket) = socket else { continue };
            let mut theirs = vec![0; message.len()];
            socket.read_exact(&mut theirs).map_err(|_| broken(peer))?;
            let flag = theirs.pop();
            assert_eq!(theirs, message[..message.len() - 1], "all members have the same state after step {step}");
            last |= peer == 0 && flag == Some(1);
        }
        Ok(last)
    }
}

/// Which commits are in memory.
#[derive(Default)]
pub struct Retained {
    /// The last one.
    last: Step,
    /// Those that are to be written to disk.
    due: BTreeSet<Step>,
    /// Those that members obtain.
    obtained: BTreeSet<Step>,
}

/// The commits of a head, in memory and in a folder.
pub struct Commits {
    pub folder: PathBuf,
    pub incarnation: u64,
    pub copies: Copies,
    pub retained: Mutex<Retained>,
}

impl Commits {
    /// Takes a folder over. Returns the commit in it, too.
    pub fn take_over(folder: PathBuf) -> (Arc<Self>, Step) {
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        let incarnation = read("incarnation").parse::<u64>().unwrap_or_default() + 1;
        std::fs::write(folder.join("incarnation"), incarnation.to_string()).unwrap();
        let (step, state) = on_disk(&folder);
        let copies = Arc::new(Mutex::new(BTreeMap::from([(step, state)])));
        let retained = Mutex::new(Retained { last: step, ..Retained::default() });
        (Arc::new(Self { folder, incarnation, copies, retained }), step)
    }

    fn drop_old(&self, retained: &Retained) {
        let is_kept =
            |step: &Step| *step >= retained.last || retained.due.contains(step) || retained.obtained.contains(step);
        self.copies.lock().unwrap().retain(|step, _| is_kept(step));
    }
}

/// The commit on disk.
pub fn on_disk(folder: &std::path::Path) -> (Step, State) {
    let Ok(text) = std::fs::read_to_string(folder.join("commit")) else { return (0, [0; 32]) };
    let (step, state) = text.split_once(' ').unwrap();
    (step.parse().unwrap(), *blake3::Hash::from_hex(state).unwrap().as_bytes())
}

impl Store for Commits {
    fn commit(&self, _: Epoch, step: Step) {
        let mut retained = self.retained.lock().unwrap();
        assert!(step > retained.last, "commits move forward");
        retained.last = step;
        if step.is_multiple_of(CHECKPOINT_EVERY) {
            retained.due.insert(step);
        }
        self.drop_old(&retained);
    }

    fn discard(&self, _: Epoch) {
        let last = self.retained.lock().unwrap().last;
        self.copies.lock().unwrap().retain(|step, _| *step <= last);
    }

    fn keep(&self, steps: &BTreeSet<Step>) {
        let mut retained = self.retained.lock().unwrap();
        retained.obtained.clone_from(steps);
        self.drop_old(&retained);
    }

    fn persist(&self, step: Step) -> Result<(), NotPersisted> {
        if !self.is_owner() {
            return Err(NotPersisted::Fenced);
        }
        let state = self.copies.lock().unwrap()[&step];
        let text = format!("{step} {}", blake3::Hash::from_bytes(state));
        contract::files::write_whole(&self.folder.join("commit"), |out| Ok(out.write_all(text.as_bytes())?))
            .map_err(|error| NotPersisted::Failed(format!("{error:#}")))?;
        let mut retained = self.retained.lock().unwrap();
        retained.due.remove(&step);
        self.drop_old(&retained);
        Ok(())
    }

    fn is_owner(&self) -> bool {
        let now = std::fs::read_to_string(self.folder.join("incarnation"));
        now.is_ok_and(|now| now == self.incarnation.to_string())
    }
}

/// A state is sent as the end of a larger blob.
const BLOB: usize = 600_000;

impl Source for Commits {
    fn blobs(&self, step: Step) -> Option<Vec<Blob>> {
        let state = *self.copies.lock().unwrap().get(&step)?;
        let mut bytes = vec![0; BLOB];
        bytes[BLOB - state.len()..].copy_from_slice(&state);
        Some(vec![Blob { name: "state".into(), length: BLOB as u64, hash: *blake3::hash(&bytes).as_bytes() }])
    }

    fn read(&self, step: Step, _: &str, offset: u64, into: &mut [u8]) -> std::io::Result<usize> {
        let state = self.copies.lock().unwrap().get(&step).copied();
        let Some(state) = state else { return Err(std::io::ErrorKind::NotFound.into()) };
        let mut bytes = vec![0; BLOB];
        bytes[BLOB - state.len()..].copy_from_slice(&state);
        let rest = &bytes[usize::try_from(offset).unwrap()..];
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}
