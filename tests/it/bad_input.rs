//! What is wrong is said, with its place and the next move, and the exit code says whose it is: 2 usage, 1 data.
mod collection;
mod damaged;
mod prepared;
use crate::support;
use crate::support::{Ran, Scratch, corpus};
use text::{Tokenizer, Vocabulary, write_tokens};

/// Runs `run.toml` with `more`.
fn run(scratch: &Scratch, more: &[&str]) -> Ran {
    scratch.pipeline(&[&["run", "run.toml", "--run-dir", "r", "--workers", "2"], more].concat())
}

/// Each: options of `run`, and pieces of the message.
const USAGE: &[(&[&str], &[&str])] = &[
    (&["--set", "optimize.learning_rat=1"], &["learning_rat", "similar: ", "learning_rate"]),
    (&["--set", "optimise.learning_rate=1"], &["optimise", "optimize"]),
    (&["--set", "run.max_stps=1"], &["max_stps", "max_steps"]),
    (&["--set", "loss.type=cross_entropie"], &["unknown stage type `cross_entropie`", "cross_entropy"]),
    (&["--stage", "loss=../missing.toml"], &["there is no file `../missing.toml`"]),
    (&["--set", "forward.heads=3"], &["3 heads do not divide width 32", "1, 2, 4, 8, 16, 32"]),
    (&["--set", "read.paths=[]"], &["paths", "is empty"]),
    (&["--set", "optimize"], &["--set", "STAGE.KEY=VALUE"]),
    (&["--set", "forward.layers=many"], &["forward.layers", "many"]),
    (&["--set", "checkpoint.keep=0"], &["`checkpoint.keep` is 0, but must be at least 1"]),
    (&["--fast"], &["unexpected argument '--fast'"]),
    (&["--workers", "0"], &["workers"]),
    (&["--epochs", "-1"], &["-1"]),
    (&["--epochs", "nan"], &["--epochs", "not a finite number"]),
    (&["--epochs", "1", "--set", "run.max_steps=3"], &["--epochs 1", "are both given", "leave out one"]),
];

#[test]
fn wrong_options_and_settings_exit_with_2() {
    let scratch = Scratch::new();
    for (more, pieces) in USAGE {
        run(&scratch, more).fails(2, pieces);
        assert!(!scratch.path("r/metrics.jsonl").exists(), "{more:?} ran");
    }
}

#[test]
fn all_problems_are_said_at_once_with_their_lines() {
    let scratch = Scratch::new();
    let config = scratch.read("run.toml").replace("heads = 2", "heads = 5").replace("width = 32", "widht = 32");
    scratch.write("wrong.toml", config + "\n[stage.extra]\ntype = \"extra\"\n");
    for command in ["run", "check"] {
        let ran = scratch.pipeline(&[command, "wrong.toml"]);
        ran.fails(2, &["widht", "similar: width", "unknown stage type `extra`", "wrong.toml:"]);
    }
}

#[test]
fn files_that_are_named_are_looked_at_before_any_work() {
    let scratch = Scratch::new();
    let config = scratch.read("run.toml").replace("corpus.parquet", "corpse.parquet");
    let config = config.replace("vocabulary_size = 300", "tokenizer = \"tokenizer.jso\"");
    scratch.write("wrong.toml", config.replace("max_steps = 6", "max_steps = 6\ninitial_checkpoint = \"runs/none\""));
    for command in ["run", "check"] {
        let ran = scratch.pipeline(&[command, "wrong.toml"]);
        let paths = "`read.paths`: there is no file or folder corpse.parquet; similar: corpus.parquet";
        let tokenizer = "`tokenize.tokenizer`: there is no file or folder tokenizer.jso";
        ran.fails(
            2,
            &[paths, tokenizer, "`run.initial_checkpoint`: there is no file or folder runs/none", "wrong.toml:"],
        );
    }
    assert!(!scratch.path("runs").exists() && !scratch.path("cache/documents").exists());
}

#[test]
fn a_run_that_learned_nothing_says_so() {
    let scratch = Scratch::new();
    let said = scratch.train("r", &["--set", "optimize.learning_rate=300", "--set", "optimize.warmup_steps=0"]).stderr;
    assert!(said.contains("warning: the loss is above 5.7038, which guessing"), "{said}"); // ln 300
    assert!(!scratch.train("sound", &[]).stderr.contains("warning"));
}

#[test]
fn a_missing_configuration_names_its_neighbours() {
    let scratch = Scratch::new();
    scratch.pipeline(&["run", "rum.toml"]).fails(2, &["there is no file `rum.toml`", "similar: run.toml"]);
    scratch.write("broken.toml", "[run\nname = 1");
    scratch.pipeline(&["run", "broken.toml"]).fails(2, &["broken.toml:1", "not TOML"]);
}

#[test]
fn a_stage_of_another_program_is_refused() {
    let scratch = Scratch::new();
    let file = format!("loss={}", support::repository().join("configs/stages/z_loss.toml").display());
    run(&scratch, &["--stage", &file]).fails(2, &["unknown stage type `z_loss`", "z_loss.toml", "pipeline stages"]);
}

#[test]
fn a_file_that_is_missing() {
    let scratch = Scratch::new();
    let of = |path: &str| run(&scratch, &["--set", &format!("read.paths=[{path:?}]")]);
    of("corpus.parket").fails(2, &["corpus.parket", "similar: corpus.parquet"]);
    of("nowhere/corpus.parquet").fails(2, &["nowhere/corpus.parquet"]);
    of("*.jsonl").fails(2, &["*.jsonl holds no file to read", "what can be read: .parquet"]);
    std::fs::create_dir(scratch.path("empty")).unwrap();
    of("empty").fails(2, &["empty holds no file to read"]);
}

#[test]
fn a_column_that_is_not_there_or_not_text() {
    let scratch = Scratch::new();
    run(&scratch, &["--set", "read.column=txt"])
        .fails(2, &["no column \"txt\"", "corpus.parquet; columns: id, text", "similar: text"]);
    run(&scratch, &["--set", "read.column=id"]).fails(2, &["column \"id\"", "Int64", "not string"]);
}

#[test]
fn a_vocabulary_that_is_too_small() {
    let scratch = Scratch::new();
    run(&scratch, &["--set", "tokenize.vocabulary_size=12"])
        .fails(2, &["is 12, but must be at least 257: 256 bytes and end of text"]);
}

#[test]
fn a_vocabulary_that_the_corpus_does_not_give() {
    let scratch = Scratch::new();
    let said = scratch.train("r", &["--set", "tokenize.vocabulary_size=100000", "--set", "run.max_steps=1"]).stderr;
    assert!(said.contains(" ids, not 100000: every word of the corpus is one already"), "{said}");
}

#[test]
fn what_is_not_parquet() {
    let scratch = Scratch::new();
    scratch.write("corpus.parquet", "This is a text and not Parquet.");
    run(&scratch, &[]).fails(1, &["corpus.parquet"]);
    scratch.write("corpus.parquet", "");
    run(&scratch, &[]).fails(1, &["corpus.parquet"]);
    scratch.write("notes.md", "# Notes");
    run(&scratch, &["--set", "read.paths=[\"notes.md\"]"]).fails(2, &["notes.md", "what can be read: .parquet"]);
}

#[test]
fn parquet_that_is_cut_short() {
    let scratch = Scratch::new();
    let whole = scratch.bytes("corpus.parquet");
    for length in [whole.len() - 1, whole.len() / 2, 100, 4] {
        scratch.write("corpus.parquet", &whole[..length]);
        run(&scratch, &[]).fails(1, &["corpus.parquet", "restore the file"]);
    }
}

#[test]
fn parquet_with_bits_flipped_never_panics() {
    let scratch = Scratch::new();
    let whole = scratch.bytes("corpus.parquet");
    let mut seen = 0;
    for part in 0..24 {
        let mut broken = whole.clone();
        let at = 4 + part * (whole.len() - 12) / 24;
        for byte in &mut broken[at..at + 8] {
            *byte ^= 0xa5;
        }
        scratch.write("corpus.parquet", &broken);
        let directory = format!("r{part}");
        let ran = scratch.pipeline(&["run", "run.toml", "--run-dir", &directory, "--set", "run.max_steps=1"]);
        seen += usize::from(scratch.path(&directory).join("quarantine.parquet").exists());
        if ran.code != Some(0) {
            seen += 1;
            let code = ran.code.filter(|code| *code == 2).unwrap_or(1); // 2: a damaged schema lacks the column
            ran.fails(code, &["corpus.parquet"]);
        }
    }
    assert!(seen > 12, "of 24 damaged files {seen} were seen to be");
}

#[test]
fn nothing_to_learn_from() {
    let scratch = Scratch::new();
    scratch.documents("corpus.parquet", &[]);
    run(&scratch, &[]).fails(2, &["the corpus is empty"]);
    scratch.documents("corpus.parquet", &vec![String::new(); 20]);
    run(&scratch, &[]).fails(2, &["the corpus is empty"]);
    scratch.documents("corpus.parquet", &corpus(20)[..1]);
    run(&scratch, &["--set", "read.validation_every=2"]).fails(2, &["corpus"]);
}

#[test]
fn a_corpus_shorter_than_one_sequence() {
    let scratch = Scratch::new();
    scratch.documents("corpus.parquet", &vec!["ka mo".to_owned(); 4]);
    for length in [&["--epochs", "1"], &["--set", "run.max_steps=6"]] {
        let more = [&length[..], &["--set", "pack.sequence_length=512"]].concat();
        let ran = run(&scratch, &more).fails(2, &["fewer than one sequence of 512", "pack.sequence_length"]);
        let dry = run(&scratch, &[&more[..], &["--dry-run"]].concat()).fails(2, &[]);
        let error = |said: &str| said.lines().rfind(|line| line.starts_with("error: ")).map(str::to_owned);
        assert_eq!(error(&ran.stderr), error(&dry.stderr));
    }
    assert!(!scratch.path("r/metrics.jsonl").exists(), "nothing ran");
}

#[test]
fn a_stride_that_would_leave_tokens_out() {
    let scratch = Scratch::new();
    let refused = ["`evaluate.stride` is 33, but a sequence has 32 tokens"];
    for command in [&["check", "run.toml"][..], &["run", "run.toml"]] {
        scratch.pipeline(&[command, &["--set", "evaluate.stride=33"]].concat()).fails(2, &refused);
    }
    run(&scratch, &["--set", "evaluate.stride=0"]).fails(2, &["`evaluate.stride` is 0, but must be at least 1"]);
    run(&scratch, &["--set", "evaluate.stride=32"]).succeeds();
}

#[test]
fn a_tokenizer_file_that_is_none() {
    let scratch = Scratch::new();
    let given = ["--stage", "tokenize=tokenize.toml"];
    scratch.write("tokenize.toml", "type = \"bpe\"\ntokenizer = \"tokenizer.json\"\n");
    run(&scratch, &given).fails(2, &["tokenizer.json"]);
    for garbage in ["", "{}", "garbage", "[1, 2]", "{\"version\": \"1.0\", \"model\": {}}"] {
        scratch.write("tokenizer.json", garbage);
        run(&scratch, &given).fails(2, &["tokenizer tokenizer.json", "not a tokenizer.json"]);
    }
}

/// A configuration that reads tokens.
const OF_TOKENS: &str = "
run = { max_steps = 2 }
stage.read = { type = \"tokens\", paths = [\"tokens.parquet\"], tokenizer = \"tokenizer.json\", validation_every = 10 }
stage.pack = { type = \"concat\", sequence_length = 16, micro_batch_size = 1, micro_batches = 2 }
stage.forward = { type = \"gpt2\", layers = 1, heads = 2, width = 16 }
stage.loss = { type = \"cross_entropy\" }
stage.backward = { type = \"backward\" }
stage.reduce = { type = \"tree_sum\" }
stage.optimize = { type = \"adamw\" }
stage.checkpoint = { type = \"checkpoint\" }
stage.record = { type = \"record\" }
";

#[test]
fn token_files_and_tokenizers_that_disagree() {
    let scratch = Scratch::new();
    let ids: Vec<u32> = (0..50).map(|i| i * 5).collect();
    scratch.train("first", &[]);
    let json = scratch.read("first/tokenizer.json");
    scratch.write("tokenizer.json", &json);
    scratch.write("run.toml", OF_TOKENS);
    let vocabulary = Tokenizer::from_json("trained", json, "<|endoftext|>").unwrap().vocabulary().clone();
    let write = |vocabulary: &Vocabulary, ids: &[u32]| {
        write_tokens(&scratch.path("tokens.parquet"), vocabulary, vec![ids; 40]).unwrap();
    };
    write(&vocabulary, &ids);
    scratch.train("good", &[]);
    write(&Vocabulary { hash: "0".repeat(64), ..vocabulary.clone() }, &ids);
    run(&scratch, &[]).fails(2, &["tokens.parquet", "tokenizer (blake3)", &vocabulary.hash]);
    write(&Vocabulary { size: 999, ..vocabulary.clone() }, &ids);
    run(&scratch, &[]).fails(2, &["tokens.parquet", "vocabulary size is 999, but 300"]);
    write(&Vocabulary { end_of_text: 7, ..vocabulary.clone() }, &ids);
    run(&scratch, &[]).fails(2, &["tokens.parquet", "end-of-text id is 7, but 0"]);
    write(&vocabulary, &[1, 2, 300, 4]);
    run(&scratch, &[])
        .fails(1, &["tokens.parquet, row group 0, row 0: token id 300 is not below the vocabulary size 300"]);
    scratch.documents("tokens.parquet", &corpus(3));
    run(&scratch, &[]).fails(2, &["tokens.parquet", "no column \"tokens\"", "columns: id, text"]);
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run_and_leaves_the_last_good_checkpoint() {
    let scratch = Scratch::new();
    let more = ["--set", "optimize.learning_rate=1e3", "--set", "run.max_steps=60", "--set", "checkpoint.interval=1"];
    let wild =
        ["--set", "optimize.clip_norm=0", "--set", "optimize.schedule=constant", "--set", "optimize.weight_decay=900"];
    run(&scratch, &[&more[..], &wild].concat()).fails(1, &["not finite", "update", "optimize.learning_rate"]);
    let last = scratch.last("r", "model.safetensors");
    let model = safetensors::SafeTensors::deserialize(&last).unwrap();
    for (name, tensor) in model.tensors() {
        let finite = tensor.data().as_chunks::<4>().0.iter().all(|bytes| f32::from_le_bytes(*bytes).is_finite());
        assert!(finite, "{name} of the checkpoint that is left is not finite");
    }
    assert!(scratch.checkpoints("r").iter().all(|name| !name.ends_with(".unfinished")));
}

#[test]
fn a_run_directory_that_cannot_be_written() {
    let scratch = Scratch::new();
    scratch.write("file", "in the way");
    for directory in ["file", "file/below", "/proc/run"] {
        let ran = scratch.pipeline(&["run", "run.toml", "--run-dir", directory]);
        ran.fails(1, &["cannot make the run directory", directory]);
    }
}

#[test]
fn weights_to_start_from_that_are_not_there() {
    let scratch = Scratch::new();
    run(&scratch, &["--set", "run.initial_checkpoint=nowhere"])
        .fails(2, &["`run.initial_checkpoint`: there is no file or folder nowhere"]);
    std::fs::create_dir(scratch.path("empty")).unwrap();
    let empty = ["--set", "run.initial_checkpoint=empty"];
    run(&scratch, &empty).fails(2, &["empty is no model in Hugging Face's layout: it has no config.json"]);
}
