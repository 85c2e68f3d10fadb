//! What other stages and other programs read of a prepared corpus.
use super::{PLAN, documents, prepare, write};
use crate::support::{Random, Scratch, python, repository};

#[test]
fn tokens_train_as_the_text_does() {
    let scratch = Scratch::new();
    scratch.write("prepare.toml", PLAN);
    write(&scratch, "in.parquet", &documents(60, &mut Random(9)));
    prepare(&scratch, "out", &[]).succeeds();
    let base = repository().join("configs/tiny.toml");
    let rest = "[stage.pack]\nsequence_length = 16\nmicro_batch_size = 2\nmicro_batches = 2\n\
                [stage.forward]\nlayers = 1\nheads = 2\nwidth = 16\n[run]\nmax_steps = 4\n\
                [stage.evaluate]\ninterval = 2\n[stage.checkpoint]\ninterval = 4\n";
    let read = "paths = [\"out/v1/documents-*.parquet\"]\nvalidation_fraction = 0.2\n";
    scratch.write("run.toml", format!("extends = {base:?}\n{rest}\n[stage.read]\n{read}[stage.tokenize]\nvocabulary_size = 50257\ntokenizer = \"gpt2\"\n"));
    scratch.train("text", &[]);
    let tokens = std::fs::read_to_string(repository().join("configs/wiki-tokens.toml")).unwrap();
    scratch.write("tokens.toml", tokens);
    scratch.write("run.toml", format!("extends = \"tokens.toml\"\n{rest}\n[stage.read]\n{read}[stage.optimize]\nlearning_rate = 3e-3\nwarmup_steps = 10\n"));
    scratch.train("tokens", &[]);
    assert_eq!(scratch.numbers("text"), scratch.numbers("tokens"));
}

/// Needs a Python with pyarrow, duckdb and datasets: `$MILLRACE_PYTHON`, or `python3`.
#[test]
fn pyarrow_duckdb_and_datasets_read_what_is_written() {
    let program = python();
    let run = |arguments: &[&str]| std::process::Command::new(&program).args(arguments).output();
    if !run(&["-c", "import pyarrow, duckdb, datasets"]).is_ok_and(|found| found.status.success()) {
        println!("skipped: {program} has no pyarrow, duckdb and datasets; set MILLRACE_PYTHON to one that has");
        return;
    }
    let scratch = Scratch::new();
    scratch.write("prepare.toml", PLAN);
    write(&scratch, "in.parquet", &documents(40, &mut Random(11)));
    prepare(&scratch, "out", &[]).succeeds();
    let script = repository().join("tests/it/prepared_elsewhere.py");
    let (version, cache) = (scratch.path("out/v1"), scratch.path("hf"));
    let arguments = [&script, &version, &cache].map(|path| path.to_string_lossy().into_owned());
    let output = run(&arguments.each_ref().map(String::as_str)).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
