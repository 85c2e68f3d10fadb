//! What people read when a configuration is wrong.
use super::{Scratch, WIKI, sets};
use crate::plan::Overrides;

fn problems(text: &str) -> String {
    Scratch::new(&[("wiki.toml", text)]).problems("wiki.toml", &Overrides::default())
}

#[test]
fn everything_wrong_is_said_at_once() {
    let text = r#"
runs = 1
[run]
max_step = 5
seed = -1
[stage.read]
type = "documents"
paths = "data"
[stage.tokenize]
type = "bp"
[stage.pack]
type = "concat"
sequence_length = 1
[stage.forward]
type = "gpt2"
widht = 3
heads = "four"
[stage.optimize]
type = "adamw"
schedule = { kind = "linaer", warmup = 3 }
clip = nan
"#;
    insta::assert_snapshot!(problems(text), @r#"
    error: unknown key `runs`
      wiki.toml:2   similar: run   (a file has `extends`, `[run]` and `[stage.NAME]`)
    error: unknown key `run.max_step`
      wiki.toml:4   similar: max_steps   (keys: name, seed, max_steps, max_epochs, workers, initial_checkpoint, accept_differences, gemm, prefetch)
    error: `run.seed` is -1, but must be at least 0
      wiki.toml:5
    error: `read.paths` is string "data", expected a list
      wiki.toml:8
    error: unknown stage type `bp`
      wiki.toml:10   similar: bpe   (`pipeline stages` lists all)
    error: `pack.sequence_length` must be at least 2
      wiki.toml:13
    error: unknown key `forward.widht`
      wiki.toml:16   similar: width   (`pipeline stages gpt2` lists all)
    error: `forward.heads` is string "four", expected a whole number
      wiki.toml:17
    error: `optimize.schedule`: there is no `linaer`, expected `constant` or `linear`
      wiki.toml:20   similar: linear
    error: `optimize.clip`: NaN is not a finite number
      wiki.toml:21
    10 problems
    "#);
}

#[test]
fn checks_point_at_the_key_or_at_its_default() {
    let text = WIKI.replace("type = \"gpt2\"", "type = \"gpt2\"\nwidth = 100").replace("1e-3", "-1.0");
    insta::assert_snapshot!(problems(&text), @r"
    error: `forward.heads`: 8 heads do not divide the width, 100
      wiki.toml:12   (its default)
    error: `optimize.learning_rate` must be more than 0
      wiki.toml:23
    2 problems
    ");
}

#[test]
fn stages_without_type_or_of_no_table() {
    insta::assert_snapshot!(problems("[stage.concat]\n[stage]\nx = 3\n"), @r"
    error: stage `concat` has no `type`
      wiki.toml:1   similar: concat   (`pipeline stages` lists all)
    error: stage `x` must be a table
      wiki.toml:3   (write `[stage.x]`)
    2 problems
    ");
    insta::assert_snapshot!(problems("[stage.concat]\n[stage.b]\ntype = 7\n"), @r"
    error: stage `concat` has no `type`
      wiki.toml:1   similar: concat   (`pipeline stages` lists all)
    error: `b.type` must be the name of a stage type, in quotes
      wiki.toml:3   (`pipeline stages` lists all)
    2 problems
    ");
    insta::assert_snapshot!(problems("stage = 1\nrun = 2\nextends = 3"), @r"
    error: `stage` must be a table
      wiki.toml:1   (write `[stage.NAME]`)
    error: `run` must be a table
      wiki.toml:2   (write `[run]`)
    error: `extends` must be the name of a file, in quotes
      wiki.toml:3
    3 problems
    ");
    insta::assert_snapshot!(problems(""), @r"
    error: there is no stage in the configuration
      wiki.toml   (add [stage.NAME] tables; `pipeline stages` lists the types)
    ");
}

#[test]
fn bad_toml_is_shown() {
    insta::assert_snapshot!(problems("[run]\nname = \"x\"\n[stage.read\ntype = 1\n"), @r"
    error: not TOML: unclosed table, expected `]`
      wiki.toml:3   (column 12)
      3 | [stage.read
                     ^
    ");
    insta::assert_snapshot!(problems("[run]\nseed = 1\nseed = 2\n"), @r"
    error: not TOML: duplicate key
      wiki.toml:3   (column 1; `seed` is already on line 2)
      3 | seed = 2
          ^
    ");
}

#[test]
fn files_that_are_not_there() {
    let scratch = Scratch::new(&[("configs/wiki.toml", WIKI), ("configs/tiny.toml", "extends = \"wikki.toml\"")]);
    insta::assert_snapshot!(scratch.problems("configs/wki.toml", &Overrides::default()), @r"
    error: there is no file `configs/wki.toml`
      configs/wki.toml   similar: configs/wiki.toml   (`configs` holds tiny.toml, wiki.toml)
    ");
    insta::assert_snapshot!(scratch.problems("configs/tiny.toml", &Overrides::default()), @r"
    error: there is no file `configs/wikki.toml`
      configs/tiny.toml:1   similar: configs/wiki.toml   (`configs` holds tiny.toml, wiki.toml)
    ");
    insta::assert_snapshot!(scratch.problems("config/wiki.toml", &Overrides::default()), @r"
    error: there is no file `config/wiki.toml`
      config/wiki.toml   (there is no folder `config` either)
    ");
    let circle = Scratch::new(&[("a.toml", "extends = \"b.toml\""), ("b.toml", "extends = \"a.toml\"")]);
    insta::assert_snapshot!(circle.problems("a.toml", &Overrides::default()), @r"
    error: `a.toml` extends itself
      b.toml:1   (take `extends` out of one of the files)
    ");
}

#[test]
fn the_command_line_is_named() {
    let scratch = Scratch::new(&[("wiki.toml", WIKI), ("z.toml", "type = \"cross_entropy\"\nchunks = 1\n")]);
    let overrides = Overrides {
        stage: vec![
            ("los".into(), "z.toml".into()),
            ("loss".into(), scratch.path("z.toml")),
            ("pack".into(), scratch.path("no.toml")),
        ],
        ..sets(&[
            "optimize.learning_rat=1",
            "optimise.learning_rate=1",
            "learning_rate=1",
            "optimize.learning_rate=fast",
            "pack.micro_batches=2.5",
            "forward.layers.x=1",
            "nothing",
            "run.max_epochs=0",
            "optimize.clip=inf",
        ])
    };
    insta::assert_snapshot!(scratch.problems("wiki.toml", &overrides), @r#"
    error: there is no file `no.toml`
      --stage no.toml   (`.` holds wiki.toml, z.toml)
    error: unknown key `loss.chunks`
      --stage z.toml:2   similar: chunk   (`pipeline stages cross_entropy` lists all)
    error: there is no stage `los` to replace
      --stage los=z.toml   similar: loss   (write --stage STAGE=FILE)
    error: there is no key `optimise.learning_rate`
      --set optimise.learning_rate=1   similar: optimize.learning_rate   (write STAGE.KEY=VALUE, for example optimize.learning_rate=3e-4)
    error: there is no key `learning_rate`
      --set learning_rate=1   similar: optimize.learning_rate   (write STAGE.KEY=VALUE, for example optimize.learning_rate=3e-4)
    error: `forward.layers.x`: there is no `x` in a value like 2
      --set forward.layers.x=1   (write STAGE.KEY=VALUE, for example optimize.learning_rate=3e-4)
    error: `nothing` has no `=`
      --set nothing   (write STAGE.KEY=VALUE, for example optimize.learning_rate=3e-4)
    error: inf is not a finite number
      --set optimize.clip=inf   (write STAGE.KEY=VALUE, for example optimize.learning_rate=3e-4)
    error: `run.max_epochs` must be more than 0
      --set run.max_epochs=0
    error: `pack.micro_batches` is the number `2.5`, expected a whole number
      --set pack.micro_batches=2.5
    error: `optimize.learning_rate` is string "fast", expected a number
      --set optimize.learning_rate=fast
    error: unknown key `optimize.learning_rat`
      --set optimize.learning_rat=1   similar: learning_rate   (`pipeline stages adamw` lists all)
    12 problems
    "#);
}

#[test]
fn a_run_has_one_length() {
    insta::assert_snapshot!(problems(&WIKI.replace("max_steps = 600", "max_steps = 600\nmax_epochs = 1").replace("\"wiki\"", "\"a/b\"")), @r"
    error: `run.name` must be a file name: it names the run's directory
      wiki.toml:3
    error: `run.max_epochs` and `run.max_steps` are both given: the run has one length
      wiki.toml:5
    2 problems
    ");
}

#[test]
fn names_of_stages_are_plain() {
    insta::assert_snapshot!(problems("[stage.run]\ntype = \"documents\"\n[stage.\"a/b\"]\ntype = \"documents\""), @r"
    error: a stage cannot be called `run`
      wiki.toml:1   (that is the run's own table)
    error: a stage cannot be called `a/b`
      wiki.toml:3   (use letters, digits, _ and -)
    2 problems
    ");
}

#[test]
fn a_sample_is_of_what_is_read() {
    let scratch = Scratch::new(&[("c.toml", "[stage.source]\r\ntype = \"documents\"\r\n")]);
    let overrides = Overrides { sample: Some(3), ..Overrides::default() };
    insta::assert_snapshot!(scratch.problems("c.toml", &overrides), @r"
    error: `--sample` needs a stage called `read`
      --sample 3   (it sets read.sample)
    ");
}
