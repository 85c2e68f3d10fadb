//! What the tests of the program share: a scratch directory, a small corpus, a tiny configuration, and running it.
mod random;

pub use random::Random;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// The repository.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.ancestors().find(|folder| folder.join("configs/base.toml").exists());
    root.expect("configs/base.toml above this crate").to_owned()
}

/// A file of the shared data; says so where there is none.
pub fn shared(path: &str) -> Option<PathBuf> {
    let path = repository().join("../shared").join(path);
    if !path.exists() {
        println!("skipped: {} is not here", path.display());
        return None;
    }
    Some(path)
}

/// A Python for what other programs read of ours: `$MILLRACE_PYTHON`, else `python3`.
pub fn python() -> String {
    std::env::var("MILLRACE_PYTHON").unwrap_or_else(|_| "python3".into())
}

/// Runs a Python script in the scratch directory and returns the JSON of its last line; `None`, after a line that says
/// so, if one of `modules` cannot be imported.
pub fn script(scratch: &Scratch, modules: &str, script: &str) -> Option<Value> {
    static IMPORTED: Mutex<BTreeMap<String, bool>> = Mutex::new(BTreeMap::new());
    let program = python();
    let imports = || {
        let tried = Command::new(&program).args(["-c", &format!("import {modules}")]).output();
        tried.is_ok_and(|output| output.status.success())
    };
    if !*IMPORTED.lock().unwrap().entry(modules.to_owned()).or_insert_with(imports) {
        println!("skipped: {program} cannot import {modules}; set MILLRACE_PYTHON to one that can");
        return None;
    }
    scratch.write("script.py", script);
    let mut command = Command::new(&program);
    command.arg("script.py").current_dir(scratch.path("")).env("HF_HUB_OFFLINE", "1");
    let output = command.output().expect("python starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_str(said.lines().last().unwrap_or_default()).unwrap_or_else(|e| panic!("{e}: {said}")))
}

/// A directory of one test, with a corpus `corpus.parquet`, a configuration `run.toml`, tables of another model and
/// another optimizer to swap in (`--stage forward=llama.toml`, `--stage optimize=muon.toml`), and a cache of its own.
pub struct Scratch {
    folder: TempDir,
    program: PathBuf,
}

/// What a command did.
pub struct Ran {
    pub command: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Scratch {
    /// For the program `pipeline`.
    pub fn new() -> Self {
        let Some(program) = option_env!("CARGO_BIN_EXE_pipeline") else { panic!("for tests of the root package") };
        Self::of(program)
    }

    /// For another program.
    pub fn of(program: &str) -> Self {
        let scratch = Self { folder: tempfile::tempdir().expect("a scratch directory"), program: program.into() };
        scratch.documents("corpus.parquet", &corpus(120));
        scratch.write("run.toml", tiny("paths = [\"corpus.parquet\"]"));
        for model in ["llama", "qwen3", "nanochat"] {
            let keys = "layers = 2\nheads = 4\nkv_heads = 2\nwidth = 32\n";
            scratch.write(&format!("{model}.toml"), format!("type = \"{model}\"\n{keys}"));
        }
        scratch.write("muon.toml", "type = \"muon\"\nlearning_rate = 1e-2\nwarmup_steps = 2\n");
        scratch
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap_or_else(|e| panic!("{name}: {e}"));
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Document Parquet with columns `id` and `text`, 16 rows a row group.
    pub fn documents(&self, name: &str, texts: &[String]) {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..texts.len() as i64));
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
        let batch = RecordBatch::try_from_iter([("id", ids), ("text", texts)]).expect("equal columns");
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(16)).build();
        let file = std::fs::File::create(self.path(name)).expect("a file");
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).expect("a writer");
        writer.write(&batch).expect("rows are written");
        writer.close().expect("a footer is written");
    }

    /// The command, not started. `RUST_BACKTRACE` is set: not even then may a user see one.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env("MILLRACE_CACHE", self.path("cache")).env("RUST_BACKTRACE", "1");
        // Measuring the machine takes a second, and no test asks how fast it is.
        command.env("MILLRACE_GEMM_GFLOPS", "100");
        command
    }

    pub fn pipeline(&self, arguments: &[&str]) -> Ran {
        let output = self.command(arguments).output().expect("the program starts");
        Ran {
            command: format!("pipeline {}", arguments.join(" ")),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs `run.toml` into `directory` to its end.
    pub fn train(&self, directory: &str, more: &[&str]) -> Ran {
        let mut arguments = vec!["run", "run.toml", "--run-dir", directory];
        arguments.extend(more);
        self.pipeline(&arguments).succeeds()
    }

    /// The lines of a run's `metrics.jsonl`.
    pub fn metrics(&self, directory: &str) -> Vec<Map<String, Value>> {
        let text = self.read(&format!("{directory}/metrics.jsonl"));
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    }

    /// The same as text, without what depends on time.
    pub fn numbers(&self, directory: &str) -> Vec<String> {
        let mut lines = self.metrics(directory);
        for line in &mut lines {
            line.retain(|key, _| !["tok_per_sec", "mfu", "data_wait_ms", "time"].contains(&key.as_str()));
        }
        lines.iter().map(|line| Value::Object(line.clone()).to_string()).collect()
    }

    /// The losses of a run.
    pub fn losses(&self, directory: &str) -> Vec<f64> {
        self.metrics(directory).iter().map(|line| line["loss"].as_f64().expect("a loss")).collect()
    }

    /// Names of a run's checkpoints, oldest first; without those that it was resumed from before.
    pub fn checkpoints(&self, directory: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(directory).join("checkpoints")).expect("checkpoints");
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.starts_with("abandoned-"));
        names.sort();
        names
    }

    /// Every file of a run's checkpoints, by its path among them.
    pub fn checkpoint_files(&self, directory: &str) -> BTreeMap<String, Vec<u8>> {
        let of_one = |name: String| {
            let folder = format!("{directory}/checkpoints/{name}");
            let files = std::fs::read_dir(self.path(&folder)).expect("a checkpoint").map(move |file| {
                let file = file.unwrap().file_name().into_string().unwrap();
                (format!("{name}/{file}"), self.bytes(&format!("{folder}/{file}")))
            });
            files.collect::<Vec<_>>()
        };
        self.checkpoints(directory).into_iter().flat_map(of_one).collect()
    }

    /// A file of a run's last checkpoint.
    pub fn last(&self, directory: &str, file: &str) -> Vec<u8> {
        let last = self.checkpoints(directory).pop().expect("a checkpoint");
        self.bytes(&format!("{directory}/checkpoints/{last}/{file}"))
    }
}

impl Ran {
    #[track_caller]
    pub fn succeeds(self) -> Self {
        assert_eq!(self.code, Some(0), "`{}` failed:\n{}", self.command, self.stderr);
        self
    }

    /// It must exit with `code` and say every one of `pieces`, without a panic's traces.
    #[track_caller]
    pub fn fails(self, code: i32, pieces: &[&str]) -> Self {
        let said = format!("`{}` exited with {:?} and said:\n{}", self.command, self.code, self.stderr);
        assert_eq!(self.code, Some(code), "expected {code}: {said}");
        for piece in pieces {
            assert!(self.stderr.contains(piece), "expected {piece:?}: {said}");
        }
        for trace in ["panicked", "backtrace", "RUST_BACKTRACE", "unwrap"] {
            assert!(!self.stderr.contains(trace), "a trace of a panic: {said}");
        }
        self
    }
}

/// A model that trains in a blink, on documents of which `source` (TOML) says where they are.
pub fn tiny(source: &str) -> String {
    let base = repository().join("configs/base.toml");
    format!(
        "extends = {base:?}

[run]
name = \"tiny\"
max_steps = 6

[stage.read]
{source}
validation_every = 10

[stage.tokenize]
vocabulary_size = 300

[stage.pack]
sequence_length = 32
micro_batch_size = 2
micro_batches = 2

[stage.forward]
layers = 2
heads = 2
width = 32

[stage.optimize]
learning_rate = 1e-2
warmup_steps = 2

[stage.evaluate]
interval = 4

[stage.checkpoint]
interval = 3
keep = 2
"
    )
}

/// Documents of made-up words, some of them frequent: something to learn. The same every time.
pub fn corpus(documents: usize) -> Vec<String> {
    const SYLLABLES: [&str; 12] = ["ka", "mo", "ri", "te", "su", "no", "la", "vi", "en", "dor", "pa", "gu"];
    let mut random = Random(1);
    let mut below = move |n: usize| random.below(n);
    let words: Vec<String> =
        (0..150).map(|_| (0..1 + below(4)).map(|_| SYLLABLES[below(SYLLABLES.len())]).collect()).collect();
    let mut document = || {
        let length = 30 + below(60);
        let chosen: Vec<&str> =
            (0..length).map(|_| below(words.len()) * below(words.len()) / 150).map(|i| &*words[i]).collect();
        format!("{}.", chosen.join(" "))
    };
    (0..documents).map(|_| document()).collect()
}

/// The words of a command line as a shell sees them, as far as documents here need it: double quotes hold spaces.
pub fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    for letter in line.chars() {
        match letter {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            letter => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}
