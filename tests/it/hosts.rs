//! One run on several hosts, which here are processes that communicate by the loopback network: the bits of one process,
//! whatever happens to them.
#![cfg(unix)]
use crate::support::{Ran, Scratch};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The options of a longer run.
const LONG: [&str; 6] =
    ["--set", "run.max_steps=600", "--set", "pack.micro_batches=6", "--set", "checkpoint.interval=100"];

/// What takes longer hangs.
const LIMIT: Duration = Duration::from_secs(150);

/// A process whose notes are read. It is killed after [`LIMIT`].
pub struct Process {
    child: Child,
    notes: BufReader<ChildStderr>,
    said: String,
    /// It needs no watching any more.
    ended: Arc<AtomicBool>,
}

impl Process {
    fn start(scratch: &Scratch, arguments: &[&str]) -> Self {
        Self::spawn(scratch.command(arguments))
    }

    pub fn spawn(mut command: Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = command.expect("the program starts");
        let notes = BufReader::new(child.stderr.take().expect("its notes"));
        let id = child.id().to_string();
        let (ended, lives) = (Arc::new(AtomicBool::new(false)), Instant::now());
        let watched = Arc::clone(&ended);
        std::thread::spawn(move || {
            while !watched.load(Ordering::Relaxed) && lives.elapsed() < LIMIT {
                std::thread::sleep(Duration::from_millis(200));
            }
            if !watched.load(Ordering::Relaxed) {
                let _ = Command::new("kill").args(["-KILL", &id]).status();
            }
        });
        Self { child, notes, said: String::new(), ended }
    }

    /// A head of the run in `directory`, and where it listens.
    fn head(scratch: &Scratch, directory: &str, more: &[&str]) -> (Self, String) {
        Self::head_with_workers(scratch, directory, "1", more)
    }

    fn head_with_workers(scratch: &Scratch, directory: &str, workers: &str, more: &[&str]) -> (Self, String) {
        let arguments = [&["run", "run.toml", "--run-dir", directory, "--workers", workers], &LONG[..], more].concat();
        let mut head = Self::start(scratch, &arguments);
        let line = head.until("Hosts   pipeline join ");
        let address = line.split_whitespace().nth(3).expect("an address").to_owned();
        (head, address)
    }

    fn join(scratch: &Scratch, address: &str, directory: &str) -> Self {
        Self::join_with(scratch, address, directory, &[])
    }

    fn join_with(scratch: &Scratch, address: &str, directory: &str, more: &[&str]) -> Self {
        let secret = format!("{directory}/secret");
        Self::start(scratch, &[&["join", address, "--secret-file", &secret], more].concat())
    }

    /// Reads lines until one contains `text`, and returns that one.
    pub fn until(&mut self, text: &str) -> String {
        loop {
            let mut line = String::new();
            let read = self.notes.read_line(&mut line).expect("its notes");
            assert!(read > 0, "it ended before it said {text:?}:\n{}", self.said);
            self.said.push_str(&line);
            if line.contains(text) {
                return line;
            }
        }
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "cannot send {name}");
    }

    /// Waits for the end.
    pub fn end(mut self) -> Ran {
        self.notes.read_to_string(&mut self.said).expect("its notes");
        let code = self.child.wait().expect("it ends").code();
        let stderr = std::mem::take(&mut self.said);
        Ran { command: "pipeline".into(), code, stdout: String::new(), stderr }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let _ = self.notes.read_to_string(&mut self.said);
            eprintln!("process {} had said:\n{}", self.child.id(), self.said);
        }
    }
}

pub fn assert_same(scratch: &Scratch, one: &str, other: &str) {
    assert_eq!(scratch.numbers(one), scratch.numbers(other), "{one} {other}");
    for file in ["model.safetensors", "optimizer.safetensors", "state.json"] {
        assert!(scratch.last(one, file) == scratch.last(other, file), "{one} {other}: {file} differs");
    }
}

#[test]
fn processes_give_the_bits_of_one() {
    let llama = ["--set", "forward.type=llama", "--set", "optimize.type=muon", "--set", "forward.precision=bf16"];
    for (name, model) in [("gpt2", &[][..]), ("llama", &llama)] {
        let scratch = Scratch::new();
        let common = [&["--set", "pack.micro_batches=5"], model].concat();
        scratch.train("one", &common);
        for (processes, workers) in [("2", "1"), ("3", "1"), ("2", "2")] {
            let directory = format!("{name}-{processes}-{workers}");
            let launch =
                ["launch", "run.toml", "--run-dir", &directory, "--processes", processes, "--workers", workers];
            scratch.pipeline(&[&launch, &common[..]].concat()).succeeds();
            assert_same(&scratch, &directory, "one");
        }
    }
}

#[test]
fn a_run_goes_on_without_a_host_that_is_killed() {
    let scratch = Scratch::new();
    scratch.train("one", &LONG);
    let (mut head, address) = Process::head(&scratch, "r", &["--listen", "127.0.0.1:0", "--first-hosts", "3"]);
    let [first, second] = [(); 2].map(|()| Process::join(&scratch, &address, "r"));
    head.until("training on 3 hosts from step 0");
    first.signal("KILL");
    head.until("lost ");
    head.until("training on 2 hosts");
    let head = head.end().succeeds();
    assert!(head.stderr.contains("Done: 600 steps"), "{}", head.stderr);
    assert_eq!(first.end().code, None);
    second.end().succeeds();
    let status = scratch.pipeline(&["status", "r", "--json"]).succeeds().stdout;
    assert!(status.contains("its connection was closed") && status.contains("\"commit\":600"), "{status}");
    assert_same(&scratch, "r", "one");
}

#[test]
fn a_host_computes_in_proportion_to_its_workers() {
    let scratch = Scratch::new();
    scratch.train("one", &LONG);
    let listen = ["--listen", "127.0.0.1:0", "--min-hosts", "2"];
    let (mut head, address) = Process::head_with_workers(&scratch, "r", "2", &listen);
    let three = Process::join_with(&scratch, &address, "r", &["--workers", "3"]);
    three.end().fails(1, &["the head has 2 workers", "--workers 2 at most"]);
    let member = Process::join_with(&scratch, &address, "r", &["--workers", "1"]);
    head.until("training on 2 hosts from step 0");
    let status = scratch.pipeline(&["status", "r", "--json"]).succeeds().stdout;
    let status: serde_json::Value = serde_json::from_str(status.trim()).unwrap();
    let shares: Vec<f64> =
        status["hosts"].as_array().unwrap().iter().map(|host| host["share"].as_f64().unwrap()).collect();
    assert!(shares.len() == 2 && (shares[0] - 2.0 / 3.0).abs() < 1e-9, "{status}");
    head.end().succeeds();
    member.end().succeeds();
    assert_same(&scratch, "r", "one");
}

#[test]
fn members_wait_for_a_head_that_is_killed() {
    let scratch = Scratch::new();
    scratch.train("one", &LONG);
    let listen = ["--listen", "127.0.0.1:0", "--min-hosts", "2"];
    let (mut head, address) = Process::head(&scratch, "r", &listen);
    let mut member = Process::join(&scratch, &address, "r");
    head.until("training on 2 hosts from step 0");
    while !scratch.path("r/checkpoints/step-00000100").is_dir() {
        std::thread::sleep(Duration::from_millis(5));
    }
    head.signal("KILL");
    assert_eq!(head.end().code, None);
    member.until("lost the head; waiting for it to come back");
    let again = ["--listen", &address, "--min-hosts", "2", "--resume"];
    let (head, _) = Process::head(&scratch, "r", &again);
    head.end().succeeds();
    member.end().succeeds();
    assert_same(&scratch, "r", "one");
}

#[test]
fn a_member_that_is_asked_to_stop_leaves_and_a_head_ends_the_run() {
    let scratch = Scratch::new();
    scratch.train("one", &LONG);
    let (mut head, address) = Process::head(&scratch, "r", &["--listen", "127.0.0.1:0", "--min-hosts", "2"]);
    let leaver = Process::join(&scratch, &address, "r");
    head.until("training on 2 hosts from step 0");
    let mut other = Process::join(&scratch, &address, "r");
    other.until("joined the run");
    leaver.signal("INT");
    leaver.end().fails(130, &["this host has left the run, which goes on"]);
    head.until(" left");
    head.until("training on 2 hosts");
    head.signal("TERM");
    head.end().fails(143, &["Stopped after step", "of 600; the checkpoint is r/checkpoints/step-"]);
    other.end().fails(143, &["the run was stopped at the head"]);
    scratch.train("r", &[&LONG[..], &["--resume"]].concat());
    assert_same(&scratch, "r", "one");
}

#[test]
fn a_failure_on_any_host_ends_all_and_says_where() {
    let scratch = Scratch::new();
    let hot = ["--set", "optimize.learning_rate=1000", "--set", "optimize.clip_norm=0"];
    let listen = ["--listen", "127.0.0.1:0", "--min-hosts", "2"];
    let (head, address) = Process::head(&scratch, "r", &[&listen[..], &hot].concat());
    let member = Process::join(&scratch, &address, "r");
    let began = Instant::now();
    let head = head.end().fails(1, &["stage `", "step "]);
    member.end().fails(1, &["stage `"]);
    assert!(began.elapsed() < Duration::from_secs(60), "{}", head.stderr);
}

#[test]
fn hosts_that_cannot_join_say_why() {
    let scratch = Scratch::new();
    let (mut head, address) = Process::head(&scratch, "r", &["--listen", "127.0.0.1:0", "--min-hosts", "2"]);
    head.until("waiting for hosts: 1 of 2");
    // Another backend.
    let join = |more: &[&str]| scratch.pipeline(&[&["join", &address], more].concat());
    let secret = ["--secret-file", "r/secret"];
    join(&[&secret[..], &["--gemm", "portable"]].concat()).fails(1, &["does not admit this host", "`portable"]);
    head.until("is not admitted");
    // Another secret.
    scratch.write("wrong", "0".repeat(64));
    let mode = Command::new("chmod").args(["600", &scratch.path("wrong").display().to_string()]).status();
    assert!(mode.is_ok_and(|status| status.success()));
    join(&["--secret-file", "wrong"]).fails(1, &[&address, "secret"]);
    // A secret that others can read, and none.
    scratch.write("open", "0".repeat(64));
    join(&["--secret-file", "open"]).fails(1, &["other users may read", "chmod 600"]);
    join(&["--secret-file", "none"]).fails(1, &["cannot read the secret none"]);
    // A port that is in use.
    let other = ["run", "run.toml", "--run-dir", "other", "--listen", &address];
    scratch.pipeline(&other).fails(1, &["cannot listen on", "another program listens there"]);
    head.signal("KILL");
    drop(head);
    // Nobody there.
    join(&secret).fails(1, &[&address]);
}

#[test]
fn options_that_would_have_no_effect_are_rejected() {
    let scratch = Scratch::new();
    let run = |more: &[&str]| scratch.pipeline(&[&["run", "run.toml", "--run-dir", "r"], more].concat());
    run(&["--min-hosts", "2"]).fails(2, &["--listen"]);
    run(&["--first-hosts", "2"]).fails(2, &["--listen"]);
    run(&["--commit-every", "2"]).fails(2, &["--listen"]);
    run(&["--secret-file", "x"]).fails(2, &["--listen"]);
    run(&["--listen", "127.0.0.1:0", "--set", "checkpoint.interval=0"]).fails(2, &["checkpoint.interval"]);
    scratch.pipeline(&["launch", "run.toml", "--processes", "0"]).fails(2, &["--processes"]);
}
