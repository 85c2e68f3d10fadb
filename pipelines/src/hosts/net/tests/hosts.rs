//! Hosts as processes: this test binary, executed again.
use super::counting::{CHECKPOINT_EVERY, Commits, Counting, Reports, on_disk};
use super::{S, counting, eventually};
use crate::hosts::net::driver::{HeadDriver, MemberDriver};
use crate::hosts::net::listener::bind;
use crate::hosts::net::secret::Secret;
use crate::hosts::{Config, HeadStart, Hello, Notice, Outcome, RunId, Step};
use serde::{Deserialize, Serialize};
use signal_hook::consts::SIGTERM;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The variable that makes a process of this test binary a host.
const VARIABLE: &str = "MILLRACE_TEST_HOST";

/// What a host is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    /// The head listens here, and others connect there. Empty: a free port of the head's choice, which it writes to
    /// the run directory.
    pub head: String,
    pub is_head: bool,
    pub folder: PathBuf,
    pub secret: PathBuf,
    pub name: String,
    pub version: String,
    /// Where others connect, if it is not where this host listens.
    pub address: String,
    pub steps: Step,
    pub pause: Duration,
    pub min_hosts: usize,
    pub silence: Duration,
    pub fails_at: Option<Step>,
    /// How long it takes until a host begins to download a commit.
    pub slow: Duration,
}

impl Setup {
    fn config(&self) -> Config {
        let (settle, settle_factor) = (S / 2, 1);
        let (min_hosts, silence) = (self.min_hosts, self.silence);
        Config { min_hosts, silence, checkpoint_every: CHECKPOINT_EVERY, settle, settle_factor, ..Config::default() }
    }

    fn hello(&self) -> Hello {
        let (name, version, address) = (self.name.clone(), self.version.clone(), self.address.clone());
        Hello { name, address, version, backend: "portable".into(), workers: 1 }
    }

    fn engine(&self, copies: counting::Copies, reports: Reports) -> Counting {
        let Self { steps, pause, is_head, fails_at, slow, .. } = *self;
        Counting { copies, reports, steps, pause, is_head, fails_at, slow, running: None }
    }

    /// Runs the host, in this thread.
    pub fn run(&self, say: impl FnMut(Notice) + 'static, signals: Option<Signals>) -> anyhow::Result<Outcome> {
        let say = Box::new(say);
        if self.is_head { self.run_head(say, signals) } else { self.run_member(say, signals) }
    }

    fn run_head(&self, say: Box<dyn FnMut(Notice)>, signals: Option<Signals>) -> anyhow::Result<Outcome> {
        let secret = Secret::create_or_read(&self.secret)?;
        let socket = bind(if self.head.is_empty() { "127.0.0.1:0" } else { &self.head })?;
        let address = socket.local_addr()?.to_string();
        let (store, commit) = Commits::take_over(self.folder.clone());
        let hello = Hello { address: address.clone(), ..self.hello() };
        let start = HeadStart { run: RunId(5), incarnation: store.incarnation, hello, commit, steps: self.steps };
        let source = Arc::<Commits>::clone(&store);
        let driver = HeadDriver {
            config: self.config(),
            start,
            secret,
            socket,
            store: Arc::<Commits>::clone(&store),
            source,
            say,
        };
        contract::files::write_whole(&self.folder.join("address"), |out| Ok(out.write_all(address.as_bytes())?))?;
        driver.run(|events| {
            let (engine, parts) = (events.clone(), events.clone());
            pass_on(signals, move |signal| events.signal(signal));
            let reports = Reports {
                engine: Arc::new(move |event| engine.engine(event)),
                part: Arc::new(move |epoch, step, from, last| parts.part(epoch, step, from, last)),
            };
            Ok(Box::new(self.engine(Arc::clone(&store.copies), reports)))
        })
    }

    fn run_member(&self, say: Box<dyn FnMut(Notice)>, signals: Option<Signals>) -> anyhow::Result<Outcome> {
        let secret = Secret::read(&self.secret)?;
        let (config, socket) = (self.config(), bind("127.0.0.1:0")?);
        let driver = MemberDriver { config, head: self.head.clone(), secret, socket, hello: self.hello(), say };
        driver.run(|events| {
            let engine = events.clone();
            pass_on(signals, move |signal| events.signal(signal));
            let reports =
                Reports { engine: Arc::new(move |event| engine.engine(event)), part: Arc::new(|_, _, _, _| {}) };
            Ok(Box::new(self.engine(counting::Copies::default(), reports)))
        })
    }
}

type Signals = signal_hook::iterator::Signals;

/// Passes signals of the process to a driver.
fn pass_on(signals: Option<Signals>, event: impl Fn(u8) + Send + 'static) {
    if let Some(mut signals) = signals {
        std::thread::spawn(move || signals.forever().for_each(|signal| event(signal as u8)));
    }
}

/// A line of output, with the time.
fn log(line: &str) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    // In one piece, since the engine's threads may panic meanwhile.
    let _ = std::io::stdout().write_all(format!("\n@{} {line}\n", now.as_millis()).as_bytes());
}

/// What a process of this test binary runs if it is a host.
#[test]
fn host() {
    let Ok(setup) = std::env::var(VARIABLE) else { return };
    let setup: Setup = serde_json::from_str(&setup).unwrap();
    let signals = Signals::new([SIGTERM]).unwrap();
    let code = match setup.run(|notice| log(&notice.to_string()), Some(signals)) {
        Ok(outcome) => {
            log(&format!("outcome: {outcome:?}"));
            outcome.exit_code()
        }
        Err(error) => {
            log(&format!("error: {error:#}"));
            9
        }
    };
    std::process::exit(code.into());
}

/// A run whose hosts are processes.
pub struct Run {
    folder: tempfile::TempDir,
    pub setup: Setup,
}

/// A host that is a process. It is killed when this is dropped.
pub struct Process {
    child: Child,
    output: PathBuf,
}

impl Run {
    /// A run that ends when it is stopped.
    pub fn new(min_hosts: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let setup = Setup {
            head: String::new(),
            is_head: false,
            folder: folder.path().to_owned(),
            secret: folder.path().join("secret"),
            name: String::new(),
            version: "1.0".into(),
            address: String::new(),
            steps: 1_000_000,
            pause: S / 200,
            min_hosts,
            silence: Config::default().silence,
            fails_at: None,
            slow: Duration::ZERO,
        };
        Self { folder, setup }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a process with its setup changed.
    pub fn start(&self, name: &str, change: impl FnOnce(&mut Setup)) -> Process {
        let mut setup = Setup { name: name.into(), ..self.setup.clone() };
        change(&mut setup);
        let output = self.path().join(format!("{name}.out"));
        let file = std::fs::File::create(&output).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "hosts::net::tests::hosts::host", "--nocapture", "--test-threads=1"])
            .env(VARIABLE, serde_json::to_string(&setup).unwrap())
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Process { child, output }
    }

    /// Starts the head, and waits until it can be reached.
    pub fn start_head(&mut self, name: &str) -> Process {
        let head = self.start(name, |setup| setup.is_head = true);
        eventually("listens", || self.path().join("address").exists());
        self.setup.head = std::fs::read_to_string(self.path().join("address")).unwrap();
        head
    }

    pub fn start_member(&self, name: &str) -> Process {
        self.start(name, |_| {})
    }

    /// Checks the result after the head has been stopped: every step was done once.
    pub fn check(&self) -> Step {
        let (step, state) = on_disk(self.path());
        assert_eq!(state, counting::expected(step), "the state of step {step}");
        step
    }
}

impl Process {
    /// Its output so far.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap()
    }

    /// Waits until its output has a line with `text`, and returns when it was printed (in milliseconds) and its rest.
    pub fn says(&self, text: &str) -> (u64, String) {
        self.says_after(0, text)
    }

    /// The same for the first such line from that time on.
    pub fn says_after(&self, time: u64, text: &str) -> (u64, String) {
        let mut found = None;
        let begun = std::time::Instant::now();
        while found.is_none() {
            assert!(begun.elapsed() < 60 * S, "no `{text}` in the output:\n{}", self.output());
            std::thread::sleep(S / 50);
            found = self.lines().into_iter().find(|(at, line)| *at >= time && line.contains(text));
        }
        found.unwrap()
    }

    fn lines(&self) -> Vec<(u64, String)> {
        let parse = |line: &str| {
            let (time, line) = line.strip_prefix('@')?.split_once(' ')?;
            Some((time.parse().ok()?, line.to_owned()))
        };
        // The last line may be incomplete.
        self.output().split_inclusive('\n').filter(|line| line.ends_with('\n')).filter_map(parse).collect()
    }

    /// How many lines have `text`.
    pub fn count(&self, text: &str) -> usize {
        self.lines().iter().filter(|(_, line)| line.contains(text)).count()
    }

    /// Sends it a signal, and returns when (in milliseconds).
    pub fn signal(&self, name: &str) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        now
    }

    /// Waits for its end, and returns its exit code.
    pub fn ends(&mut self) -> Option<i32> {
        let mut status: Option<ExitStatus> = None;
        let output = self.output.clone();
        eventually(&format!("the end of {}", output.display()), || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}:\n{}", self.output.display(), self.output());
        }
    }
}
