//! What `check`, `run` and `explain` report before any work, with the real stages.
use super::sets;
use crate::STAGES;
use crate::plan::{Overrides, Plan, Scope};

/// A training configuration, which reads the file `d.jsonl` beside it.
const RUN: &str = r#"extends = "builtin:base"
[run]
max_steps = 3
[stage.read]
paths = ["DIR/d.jsonl"]
[stage.tokenize]
vocabulary_size = 300
[stage.pack]
sequence_length = 16
[stage.forward]
layers = 1
heads = 2
width = 16
[stage.optimize]
warmup_steps = 1
"#;

/// The result of checking `text`, changed by `changes`.
fn checked(text: &str, changes: &Overrides, scope: Scope) -> Result<Plan, String> {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().display().to_string();
    std::fs::write(folder.path().join("d.jsonl"), "{\"text\": \"a\"}\n".repeat(20)).unwrap();
    let file = folder.path().join("run.toml");
    std::fs::write(&file, text.replace("DIR", &dir)).unwrap();
    Plan::checked(&file, changes, STAGES, scope)
        .map_err(|problems| problems.to_string().replace(&format!("{dir}/"), "").replace(&dir, "."))
}

fn problems(text: &str) -> String {
    checked(text, &Overrides::default(), Scope::Run).err().unwrap_or_else(|| "no problem".into())
}

#[test]
fn files_and_values_are_reported_together() {
    let text = RUN
        .replace("d.jsonl", "nothing.jsonl")
        .replace("vocabulary_size = 300", "tokenizer = \"missing.json\"")
        .replace("layers = 1", "layers = -1")
        .replace("max_steps = 3", "max_steps = 3\ninitial_checkpoint = \"DIR/model\"");
    insta::assert_snapshot!(problems(&text), @r"
    error: `run.initial_checkpoint`: there is no file or folder model
      run.toml:4
    error: `read.paths`: there is no file or folder nothing.jsonl
      run.toml:6
    error: `tokenize.tokenizer`: there is no file or folder missing.json
      run.toml:8
    error: `forward.layers` is -1, but must be at least 1
      run.toml:12
    4 problems
    ");
}

#[test]
fn names_of_other_programs_lead_to_ours() {
    let text = RUN
        .replace("layers = 1", "n_layer = 1\nhidden_size = 16\nprecision = \"fp16\"")
        .replace("sequence_length = 16", "block_size = 16\ngradient_accumulation_steps = 4")
        .replace("warmup_steps = 1", "max_steps = 9\nlr = 1");
    insta::assert_snapshot!(problems(&text), @r"
    error: unknown key `pack.block_size`
      run.toml:9   similar: sequence_length   (`pipeline stages concat` lists all)
    error: unknown key `pack.gradient_accumulation_steps`
      run.toml:10   similar: micro_batches   (`pipeline stages concat` lists all)
    error: unknown key `forward.n_layer`
      run.toml:12   similar: layers   (`pipeline stages gpt2` lists all)
    error: unknown key `forward.hidden_size`
      run.toml:13   similar: width   (`pipeline stages gpt2` lists all)
    error: `forward.precision`: there is no `fp16`, expected one of `f32`, `bf16`, `int8`, `auto`
      run.toml:14   similar: bf16   (CPUs compute no fp16 here; bf16 has the range of f32)
    error: unknown key `optimize.max_steps`
      run.toml:18   (`max_steps` is a key of `[run]`)
    error: unknown key `optimize.lr`
      run.toml:19   similar: learning_rate   (`pipeline stages adamw` lists all)
    7 problems
    ");
}

#[test]
fn a_wrong_value_is_shown_as_it_should_be() {
    let text = RUN
        .replace("max_steps = 3", "max_steps = \"1k\"\nseed = -1")
        .replace("layers = 1", "layers = 1.0")
        .replace("heads = 2", "heads = \"2\"");
    insta::assert_snapshot!(problems(&text), @r#"
    error: `run.max_steps` is string "1k", expected a whole number
      run.toml:3   (write 1000)
    error: `run.seed` is -1, but must be at least 0
      run.toml:4
    error: `forward.layers` is the number `1.0`, expected a whole number
      run.toml:12   (write 1)
    error: `forward.heads` is string "2", expected a whole number
      run.toml:13   (write it without quotes: 2)
    4 problems
    "#);
}

#[test]
fn a_wrong_table_is_reported_without_its_consequences() {
    insta::assert_snapshot!(problems(&RUN.replace("[stage.read]", "[stages.read]")), @r"
    error: unknown key `stages`
      run.toml:4   similar: stage   (a file has `extends`, `[run]` and `[stage.NAME]`)
    ");
    insta::assert_snapshot!(problems(&RUN.replace("[stage.forward]", "[forward]")), @r"
    error: unknown key `forward`
      run.toml:10   (write `[stage.forward]`)
    ");
    insta::assert_snapshot!(problems(&RUN.replace("[stage.optimize]", "[stage.optimizer]")), @r"
    error: stage `optimizer` has no `type`
      run.toml:14   similar: optimize   (for the stage `optimize` write [stage.optimize]; a new stage needs a type)
    ");
    insta::assert_snapshot!(problems(&RUN.replace("builtin:base", "bas.toml")), @r"
    error: there is no file `bas.toml`
      run.toml:1   (`.` holds run.toml)
    ");
    insta::assert_snapshot!(problems(&RUN.replace("extends = \"builtin:base\"\n", "")), @r#"
    error: no stage has a `type`: `read`, `tokenize`, `pack`, `forward`, `optimize`
      run.toml:3   (begin the file with extends = "builtin:base", or another configuration that has the types)
    "#);
}

#[test]
fn mistakes_in_toml_have_advice() {
    insta::assert_snapshot!(problems(&RUN.replace("d.jsonl\"]", "d.jsonl]")), @r#"
    error: not TOML: missing comma between array elements, expected `,`
      run.toml:6   (column 1; the string that begins on line 5 with "d.jsonl] is not closed)
      6 | [stage.tokenize]
          ^
    "#);
    insta::assert_snapshot!(problems(&format!("{RUN}[stage.read]\ncolumn = \"text\"\n")), @r"
    error: not TOML: duplicate key
      run.toml:16   (column 8; `[stage.read]` is already on line 4)
      16 | [stage.read]
                  ^
    ");
    insta::assert_snapshot!(problems(&RUN.replace("max_steps = 3", "max_steps = 1k")), @r"
    error: not TOML: string values must be quoted, expected literal string
      run.toml:3   (column 13; 1k is no number: write 1000)
      3 | max_steps = 1k
                      ^
    ");
}

/// Each of these hung, exhausted memory, overflowed or was refused only after the corpus had been counted.
#[test]
fn sizes_are_bounded() {
    for change in [
        "forward.layers=1000000000000",
        "forward.width=99999999999",
        "forward.heads=9223372036854775807",
        "forward.feed_forward=9223372036854775807",
        "tokenize.vocabulary_size=4000000000",
        "pack.micro_batches=4000000000",
        "pack.shuffle_tokens=99999999999",
        "run.workers=100000",
        "run.prefetch=99999999999",
        "run.max_steps=9223372036854775807",
    ] {
        let said = checked(RUN, &sets(&[change]), Scope::Estimate).unwrap_err();
        let key = change.split_once('=').unwrap().0;
        assert!(said.contains(&format!("`{key}`")) && said.contains(&format!("--set {change}")), "{said}");
    }
    let batch = ["pack.sequence_length=1048576", "pack.micro_batch_size=65536"];
    assert!(checked(RUN, &sets(&batch), Scope::Estimate).unwrap_err().contains("68719476736 tokens"));
    let many = ["forward.width=1048576", "forward.layers=10000", "forward.feed_forward=1048576"];
    let said = checked(RUN, &sets(&many), Scope::Estimate).unwrap_err();
    assert!(said.contains("`forward`: the model would have") && said.contains("run.toml:10"), "{said}");
    // 2 layers of 12 · 40,000² parameters take 154 GB, which another machine may have.
    let large = ["forward.width=40000", "forward.layers=2"];
    assert!(checked(RUN, &sets(&large), Scope::Estimate).is_ok());
    if crate::machine::total_memory() < 300 << 30 {
        assert!(checked(RUN, &sets(&large), Scope::Run).unwrap_err().contains("of memory, and this process may use"));
    }
}

#[test]
fn what_is_hardly_meant_is_noted() {
    let plan = checked(RUN, &sets(&["optimize.warmup_steps=100", "optimize.learning_rate=300"]), Scope::Run).unwrap();
    insta::assert_snapshot!(plan.notes(plan.run.max_steps).join("\n"), @r"
    `optimize.learning_rate`: 300 is above 0.1, at which models seldom learn anything (--set optimize.learning_rate=300)
    `optimize.warmup_steps`: the warmup takes 100 steps, longer than the run of 3: the learning rate ends at 9.00e0 instead of 3e2 (--set optimize.warmup_steps=100)
    ");
    assert_eq!(checked(RUN, &Overrides::default(), Scope::Run).unwrap().notes(Some(3)), Vec::<String>::new());
}

#[test]
fn a_path_beside_the_configuration_is_pointed_out() {
    let text = RUN.replace("DIR/d.jsonl", "d.jsonl");
    insta::assert_snapshot!(problems(&text), @r"
    error: `read.paths`: there is no file or folder d.jsonl
      run.toml:5   (paths start in the current folder; beside the configuration there is d.jsonl)
    ");
}

#[test]
fn a_wrong_column_is_seen_in_the_first_rows() {
    insta::assert_snapshot!(problems(&RUN.replace("d.jsonl\"]", "d.jsonl\"]\ncolumn = \"txt\"")), @r#"
    error: `read.column`: no column "txt" in d.jsonl; columns: text; similar: text
      run.toml:6
    "#);
    let text = RUN.replace("d.jsonl\"]", "d.jsonl\"]\nseparator = \"|\"");
    insta::assert_snapshot!(problems(&text), @r"
    error: `read.separator` is for plain text, and none of the files is; remove it
      run.toml:6
    ");
}

/// 20 lines of 14 bytes each, `{"text": "a"}` and a line feed, are at most 280 tokens, one more that ends the last
/// document: a sequence of n needs n + 1.
#[test]
fn a_sequence_that_the_corpus_cannot_fill() {
    let of = |length: &str| RUN.replace("sequence_length = 16", length);
    assert_eq!(problems(&of("sequence_length = 280")), "no problem");
    insta::assert_snapshot!(problems(&of("sequence_length = 281")), @r"
    error: `pack.sequence_length`: the training documents have at most 281 tokens: fewer than one sequence of 281
      run.toml:9   (set it lower or read more)
    ");
    // Another tokenizer may insert tokens; `clean` may make a text longer; what is filtered is not longer.
    let filtered = "[stage.long]\ntype = \"length\"\ninputs = [\"read\"]\n[stage.tokenize]\ninputs = [\"long\"]";
    let text = of("sequence_length = 281").replace("[stage.tokenize]", filtered);
    assert!(problems(&text).contains("at most 281 tokens"), "{}", problems(&text));
    assert_eq!(problems(&text.replace("\"length\"", "\"clean\"")), "no problem");
}

#[test]
fn what_a_run_at_a_checkpoint_does_not_read_may_be_missing() {
    let text = RUN.replace("max_steps = 3", "max_steps = 3\ninitial_checkpoint = \"DIR/model\"");
    for (scope, refused) in
        [(Scope::Estimate, true), (Scope::Run, true), (Scope::Resume, false), (Scope::Evaluate, false)]
    {
        assert_eq!(checked(&text, &Overrides::default(), scope).is_err(), refused, "{scope:?}");
    }
}

#[test]
fn a_preparation_takes_no_sample_of_the_documents_of_a_file() {
    let preparation = r#"
[stage.read]
type = "documents"
paths = ["DIR/d.jsonl"]
sample = 5
[stage.tokenize]
type = "bpe"
tokenizer = "gpt2"
[stage.write]
type = "parquet"
"#;
    insta::assert_snapshot!(problems(preparation), @r"
    error: `read.sample`: selects documents of a single file, which is for training; a preparation reads whole files
      run.toml:5
    ");
}

#[test]
fn a_width_out_of_range_is_the_only_problem_of_its_stage() {
    insta::assert_snapshot!(problems(&RUN.replace("width = 16", "width = 99999999")), @r"
    error: `forward.width` is 99999999, but must be from 1 to 1048576
      run.toml:13
    ");
}
