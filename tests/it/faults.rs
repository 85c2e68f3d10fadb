//! One system call fails, at any place of a run: the run ends with the same bits or with an error that names what the
//! system said, and the same command, given again, ends with the bits of a run that nothing disturbed.
//!
//! A C library is compiled and preloaded for that (`faults/inject.c`). A few calls are chosen by a seed, and so is a
//! schedule of several faults and kills. A failure prints the seed: `MILLRACE_FAULT_SEED=N cargo test --test it faults::`
//! repeats it. With `MILLRACE_SOAK=1` (`make soak`) every call fails in turn, and fifty schedules are run.
#![cfg(target_os = "linux")]
use crate::support::{Ran, Random, Scratch, corpus};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Kinds of calls, and errors that they fail with: the number, and what the system calls it.
const FAULTS: [(&str, i32, &str); 8] = [
    ("open", 24, "Too many open files"),
    ("open", 5, "Input/output error"),
    ("read", 5, "Input/output error"),
    ("write", 28, "No space left on device"),
    ("write", 5, "Input/output error"),
    ("fsync", 5, "Input/output error"),
    ("rename", 5, "Input/output error"),
    ("mkdir", 28, "No space left on device"),
];

/// The error number with which a fault kills the process instead.
const KILL: i32 = 0;

/// What is disturbed.
struct Scenario {
    /// What a fresh directory needs before.
    ready: fn(&Scratch),
    /// The command, and how it is given again after a failure.
    command: &'static [&'static str],
    again: &'static [&'static str],
    /// Everything that must be the same.
    outcome: fn(&Scratch) -> BTreeMap<String, Vec<u8>>,
}

const TRAIN: [&str; 4] = ["run", "run.toml", "--run-dir", "r"];
const RESUME: [&str; 5] = ["run", "run.toml", "--run-dir", "r", "--resume"];
const PREPARE: [&str; 4] = ["run", "prepare.toml", "--run-dir", "p"];

const PREPARATION: &str = r#"
[stage.read]
type = "documents"
paths = ["*.jsonl", "corpus.parquet"]
validation_fraction = 0.2

[stage.deduplicate]
type = "minhash"
shingle_words = 2

[stage.tokenize]
type = "bpe"

[stage.write]
type = "parquet"
shards = 3
sequence_length = 64
"#;

const FORGET: [&str; 4] = ["forget", "r", "--list", "list.txt"];
const FORGETTING: Scenario = Scenario { ready: learned, command: &FORGET, again: &FORGET, outcome: trained };
const TRAINING: Scenario = Scenario { ready: |_| (), command: &TRAIN, again: &RESUME, outcome: trained };
const PREPARING: Scenario = Scenario { ready: sources, command: &PREPARE, again: &PREPARE, outcome: prepared };

#[test]
fn training() {
    disturb(&TRAINING);
}

#[test]
fn a_training_that_is_killed_and_disturbed_again_and_again() {
    follow_schedules(&TRAINING);
}

#[test]
fn a_forgetting_that_is_killed_and_disturbed_again_and_again() {
    follow_schedules(&FORGETTING);
}

#[test]
fn a_forgetting_that_is_killed_while_it_moves_files() {
    let tools = tempfile::tempdir().unwrap();
    let Some(whole) = Undisturbed::of(&FORGETTING, tools.path()) else { return };
    let mut random = random();
    let seed = random.0;
    let there = whole.calls_of("rename");
    for at in if soak() { (1..=there).collect() } else { (0..5).map(|_| 1 + random.below(there)).collect::<Vec<_>>() } {
        println!("MILLRACE_FAULT_SEED={seed}: killed at call {at} of {there} of rename");
        let scratch = FORGETTING.fresh();
        let (ran, _) = run(&scratch, &whole.library, &FORGET, Some(("rename", KILL, at as u64)));
        assert_eq!(ran.code, None, "{}: {}", ran.command, ran.stderr);
        scratch.pipeline(&FORGET).succeeds();
        whole.check(&scratch, &format!("a kill at rename {at}"));
    }
}

#[test]
fn a_preparation_that_is_killed_and_disturbed_again_and_again() {
    follow_schedules(&PREPARING);
}

#[test]
fn going_on_with_a_run() {
    let ready = |scratch: &Scratch| {
        drop(scratch.train("r", &["--set", "run.max_steps=4", "--set", "optimize.schedule_steps=6"]))
    };
    disturb(&Scenario { ready, command: &RESUME, again: &RESUME, outcome: trained });
}

#[test]
fn a_preparation() {
    disturb(&PREPARING);
}

#[test]
fn an_update() {
    let ready = |scratch: &Scratch| {
        sources(scratch);
        scratch.pipeline(&PREPARE).succeeds();
        scratch.documents("corpus.parquet", &corpus(130)[7..]);
    };
    disturb(&Scenario { ready, command: &PREPARE, again: &PREPARE, outcome: prepared });
}

#[test]
fn a_configuration_that_the_system_fails_to_read_is_not_wrong() {
    let scratch = Scratch::new();
    // Reading the memory of a process at address 0 is an I/O error.
    for command in ["check", "run"] {
        scratch.pipeline(&[command, "/proc/self/mem"]).fails(1, &["cannot read `/proc/self/mem`: Input/output error"]);
        scratch.pipeline(&[command, "."]).fails(2, &["cannot read `.`: Is a directory"]);
    }
}

/// A run that is done, and a list of a document that it has seen at step 5 for the first time.
fn learned(scratch: &Scratch) {
    scratch.train("t", &["--set", "run.max_steps=1"]);
    let text = scratch.read("run.toml").replace("vocabulary_size = 300", "tokenizer = \"t/tokenizer.json\"");
    let text = text.replace("micro_batches = 2", "micro_batches = 2\nshuffle_tokens = 128");
    scratch.write("run.toml", text);
    scratch.train("r", &[]);
    let documents = |step: &str| -> Vec<String> {
        let said = scratch.pipeline(&["why", "r", "--json", "--step", step]).succeeds().stdout;
        let answer: serde_json::Value = serde_json::from_str(said.trim()).unwrap();
        answer["documents"].as_array().unwrap().iter().map(|of| of["id"].as_str().unwrap().to_owned()).collect()
    };
    let before: Vec<String> = ["1", "2", "3", "4"].iter().flat_map(|step| documents(step)).collect();
    let new = documents("5").into_iter().find(|id| !before.contains(id)).expect("a new document");
    scratch.write("list.txt", new);
}

fn sources(scratch: &Scratch) {
    scratch.write("prepare.toml", PREPARATION);
    scratch.write("SOURCE.json", r#"{"name": "two files", "licence": "CC0"}"#);
    let lines: Vec<String> = corpus(150)[120..]
        .iter()
        .enumerate()
        .map(|(id, text)| format!("{{\"id\":\"j{id}\",\"text\":{text:?}}}\n"))
        .collect();
    scratch.write("more.jsonl", lines.concat());
}

fn trained(scratch: &Scratch) -> BTreeMap<String, Vec<u8>> {
    let files = ["model.safetensors", "optimizer.safetensors"];
    let mut all: BTreeMap<String, Vec<u8>> =
        files.iter().map(|file| ((*file).to_owned(), scratch.last("r", file))).collect();
    all.insert("metrics".into(), scratch.numbers("r").join("\n").into_bytes());
    assert!(!scratch.path("r/quarantine.jsonl").exists(), "sound documents are quarantined");
    all
}

/// The files of the last version.
fn prepared(scratch: &Scratch) -> BTreeMap<String, Vec<u8>> {
    let last = (1..).take_while(|n| scratch.path(&format!("p/v{n}")).exists()).last().expect("a version");
    let entries = std::fs::read_dir(scratch.path(&format!("p/v{last}"))).unwrap();
    entries
        .map(|e| e.unwrap())
        .map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap()))
        .collect()
}

/// The library to preload; `None` if it cannot be compiled here.
fn library(folder: &Path) -> Option<PathBuf> {
    let (source, library) = (folder.join("inject.c"), folder.join("inject.so"));
    std::fs::write(&source, include_str!("faults/inject.c")).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl");
    match compiler.output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(library)
        }
        Err(_) => {
            println!("skipped: there is no C compiler `cc` here");
            None
        }
    }
}

/// The command with call number `at` of a kind failing; what it did, and how many calls of each kind there were.
fn run(
    scratch: &Scratch,
    library: &Path,
    command: &[&str],
    fault: Option<(&str, i32, u64)>,
) -> (Ran, BTreeMap<String, u64>) {
    let tools = library.parent().expect("a folder");
    let log = tools.join("calls");
    let _ = std::fs::remove_file(&log);
    let mut process = scratch.command(command);
    let root = scratch.path("run.toml").parent().expect("a folder").to_owned();
    process.env("LD_PRELOAD", library).env("FAULT_ROOT", root).env("FAULT_LOG", &log).stdout(Stdio::piped());
    if let Some((op, code, at)) = fault {
        process.env("FAULT_OP", op).env("FAULT_ERRNO", code.to_string()).env("FAULT_AT", at.to_string());
    }
    let output = process.output().expect("the program starts");
    let calls = std::fs::read_to_string(&log).unwrap_or_default();
    let calls =
        calls.lines().filter_map(|line| line.split_once(' ')).map(|(op, n)| (op.to_owned(), n.parse().unwrap()));
    let ran = Ran {
        command: format!("pipeline {} with {fault:?}", command.join(" ")),
        code: output.status.code(),
        stdout: String::new(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    (ran, calls.collect())
}

/// A scenario, and what it does if nothing disturbs it.
struct Undisturbed<'a> {
    scenario: &'a Scenario,
    library: PathBuf,
    calls: BTreeMap<String, u64>,
    outcome: BTreeMap<String, Vec<u8>>,
}

impl<'a> Undisturbed<'a> {
    /// `None` if the library cannot be compiled here, in `tools`.
    fn of(scenario: &'a Scenario, tools: &Path) -> Option<Self> {
        let (library, whole) = (library(tools)?, scenario.fresh());
        let (ran, calls) = run(&whole, &library, scenario.command, None);
        ran.succeeds();
        Some(Self { scenario, library, calls, outcome: (scenario.outcome)(&whole) })
    }

    fn calls_of(&self, op: &str) -> usize {
        let there = self.calls.get(op).copied().unwrap_or(0);
        assert!(there > 0, "no call of {op} was seen: {:?}", self.calls);
        there as usize
    }

    /// Everything in `scratch` is as if nothing had happened.
    fn check(&self, scratch: &Scratch, what: &str) {
        let found = (self.scenario.outcome)(scratch);
        assert_eq!(found.keys().collect::<Vec<_>>(), self.outcome.keys().collect::<Vec<_>>());
        for (name, content) in &self.outcome {
            assert!(found[name] == *content, "{name} differs after {what}");
        }
    }
}

impl Scenario {
    fn fresh(&self) -> Scratch {
        let scratch = Scratch::new();
        (self.ready)(&scratch);
        scratch
    }
}

fn soak() -> bool {
    std::env::var_os("MILLRACE_SOAK").is_some()
}

/// Seeded by the environment, by the clock in a soak, and otherwise always the same, so that whatever fails was caused by
/// the change.
fn random() -> Random {
    match std::env::var("MILLRACE_FAULT_SEED") {
        Ok(seed) => Random(seed.parse().unwrap()),
        Err(_) if soak() => Random::from_clock(),
        Err(_) => Random(20_261_129),
    }
}

fn disturb(scenario: &Scenario) {
    let tools = tempfile::tempdir().unwrap();
    let Some(whole) = Undisturbed::of(scenario, tools.path()) else { return };
    let mut random = random();
    let seed = random.0;
    for (op, code, message) in FAULTS {
        let there = whole.calls_of(op);
        let chosen: Vec<usize> = match soak() {
            true => (1..=there).collect(),
            false => (0..2).map(|_| 1 + random.below(there)).collect(),
        };
        for at in chosen {
            println!("MILLRACE_FAULT_SEED={seed}: call {at} of {there} of {op} fails with {code}");
            one_fault(&whole, (op, code, at as u64), message);
        }
    }
}

fn one_fault(whole: &Undisturbed, fault: (&str, i32, u64), message: &str) {
    let (scenario, scratch) = (whole.scenario, whole.scenario.fresh());
    let (ran, _) = run(&scratch, &whole.library, scenario.command, Some(fault));
    if ran.code != Some(0) {
        ran.fails(1, &["error: ", message]);
        scratch.pipeline(scenario.again).succeeds();
    }
    whole.check(&scratch, &format!("{fault:?}"));
}

/// Faults and kills at random calls, one after the other, in the same directory.
fn follow_schedules(scenario: &Scenario) {
    let tools = tempfile::tempdir().unwrap();
    let Some(whole) = Undisturbed::of(scenario, tools.path()) else { return };
    let mut seeds = random();
    for _ in 0..if soak() { 50 } else { 2 } {
        let mut random = Random(seeds.0);
        println!("MILLRACE_FAULT_SEED={}: a schedule", seeds.0);
        seeds.below(1);
        let scratch = scenario.fresh();
        let mut schedule = Vec::new();
        for _ in 0..8 {
            let (op, error, message) = FAULTS[random.below(FAULTS.len())];
            let code = if random.below(2) == 0 { KILL } else { error };
            let fault = (op, code, 1 + random.below(whole.calls_of(op)) as u64);
            schedule.push(fault);
            println!("{fault:?}");
            let command = if schedule.len() == 1 { scenario.command } else { scenario.again };
            let (ran, _) = run(&scratch, &whole.library, command, Some(fault));
            match ran.code {
                None => assert_eq!(code, KILL, "{} was killed: {}", ran.command, ran.stderr),
                Some(0) => {}
                Some(_) => drop(ran.fails(1, &["error: ", message])),
            }
        }
        scratch.pipeline(scenario.again).succeeds();
        whole.check(&scratch, &format!("{schedule:?}"));
    }
}
