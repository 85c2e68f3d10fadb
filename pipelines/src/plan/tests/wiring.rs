//! Which stage feeds which.
use super::{Scratch, WIKI, wiki};
use crate::plan::toys::{Clean, Read, Tokenize};
use crate::plan::{Edge, Overrides, Plan};
use contract::{Kind, Port, Route, Settings};
use std::sync::Arc;

/// A configuration of stages `id type [inputs]`, one a line.
fn config(stages: &str) -> String {
    let mut text = String::new();
    for line in stages.lines().filter(|line| !line.trim().is_empty()) {
        let mut words = line.split_whitespace();
        let (id, kind) = (words.next().unwrap(), words.next().unwrap());
        text += &format!("[stage.{id}]\ntype = \"{kind}\"\n");
        let inputs: Vec<String> = words.map(|word| format!("{word:?}")).collect();
        if !inputs.is_empty() {
            text += &format!("inputs = [{}]\n", inputs.join(", "));
        }
    }
    text
}

/// Each stage with what feeds it, or the problems.
fn wired(stages: &str) -> String {
    let scratch = Scratch::new(&[("c.toml", &config(stages))]);
    match scratch.load("c.toml", &Overrides::default()) {
        Ok(plan) => crate::show::plan_summary(&plan),
        Err(problems) => scratch.shown(&problems.to_string()),
    }
}

#[test]
fn a_training_graph_drawn() {
    let plan = wiki(&Overrides::default());
    insta::assert_snapshot!(crate::show::graph(&plan, 80), @r"
    ╭──────────╮
    │ read     │ documents
    ╰─────┬────╯
          ▼ rows (stay, stream)
    ╭─────┴────╮
    │ tokenize │ bpe
    ╰─────┬────╯
          ▼ tokens (stay, stream)
    ╭─────┴────╮
    │ pack     │ concat
    ╰─────┬────╯
          ▼ batch (stay, stream)
    ╭─────┴────╮
    │ forward  │ gpt2
    │          │ ◀─ parameters (broadcast, state, feedback + 1 step) ─ optimize
    ╰─────┬────╯
          ▼ activations (stay, stream)
    ╭─────┴────╮
    │ loss     │ cross_entropy
    ╰─────┬────╯
          ▼ loss gradient (stay, stream)
    ╭─────┴────╮
    │ backward │ backward
    ╰─────┬────╯
          ▼ gradient (exchange, stream)
    ╭─────┴────╮
    │ reduce   │ tree
    ╰─────┬────╯
          │ gradient (stay, stream)
          ▼ norms (broadcast, stream)
    ╭─────┴────╮
    │ optimize │ adamw
    ╰─────┬────╯
          ▼ metrics (exchange, stream)
    ╭─────┴────╮
    │ record   │ record
    │          │ ◀─ metrics (exchange, stream) ─ loss
    │          │ ◀─ saved (stay, stream) ─ every stage
    ╰──────────╯
    ");
}

#[test]
fn a_training_graph() {
    let plan = wiki(&Overrides::default());
    insta::assert_snapshot!(crate::show::plan_summary(&plan), @r"
    stage     type           takes ← from
    read      documents
    tokenize  bpe            rows ← read
    pack      concat         tokens ← tokenize
    forward   gpt2           batch ← pack
                             parameters ← optimize (previous step)
    loss      cross_entropy  activations ← forward
    backward  backward       loss gradient ← loss
    reduce    tree           gradient ← backward
    optimize  adamw          gradient ← reduce
                             norms ← reduce
    record    record         metrics ← loss, optimize
                             saved ← every stage

    ok: 9 stages, 600 steps
    ");
    assert_eq!(plan.stages[3].inputs[1], [Edge { from: 7, feedback: true }]);
    assert_eq!(plan.stages[3].inputs[1], [Edge { from: 7, feedback: true }]);
    assert_eq!(plan.stages[6].inputs[0], [Edge { from: 5, feedback: false }]);
}

#[test]
fn the_nearest_of_a_chain_feeds() {
    insta::assert_snapshot!(wired("read documents\nclean clean\nagain clean\ntokenize bpe\nend tokens"), @r"
    stage     type       takes ← from
    read      documents
    clean     clean      rows ← read
    again     clean      rows ← clean
    tokenize  bpe        rows ← again
    end       tokens     tokens ← tokenize

    ok: 5 stages
    ");
}

#[test]
fn two_sources_need_inputs() {
    insta::assert_snapshot!(wired("a documents\nb documents\ntokenize bpe\nend tokens"), @r#"
    error: `a` and `b` both give rows: which does `tokenize` take?
      c.toml:5   (write inputs = ["a"], or ["b"])
    "#);
    insta::assert_snapshot!(wired("a documents\nleft clean a\nright clean a\ntokenize bpe\nend tokens"), @r#"
    error: `left` and `right` both give rows: which does `tokenize` take?
      c.toml:9   (write inputs = ["left"], or ["right"])
    "#);
}

#[test]
fn several_sources_meet_where_they_are_mixed() {
    insta::assert_snapshot!(wired("a documents\nb documents\ntokenize bpe a b\nend tokens"), @r"
    error: `tokenize` gets input from `a` and `b`, but cannot mix sources
      c.toml:7   (mix them above it with a stage of type `mixture`, or leave one of them in `inputs`)
    ");
    insta::assert_snapshot!(wired("a documents\nb documents\nclean clean b\nmix mixture a clean\ntokenize bpe\nend tokens"), @r"
    stage     type       takes ← from
    a         documents
    b         documents
    clean     clean      rows ← b
    mix       mixture    rows ← a
                         rows ← clean
    tokenize  bpe        rows ← mix
    end       tokens     tokens ← tokenize

    ok: 6 stages
    ");
    insta::assert_snapshot!(wired("a documents\nleft clean a\nright clean a\ntokenize bpe left right\nend tokens"), @r"
    error: `tokenize` gets input from `left` and `right`, but cannot mix sources
      c.toml:11   (mix them above it with a stage of type `mixture`, or leave one of them in `inputs`)
    ");
}

#[test]
fn what_a_stage_gives_is_taken() {
    insta::assert_snapshot!(wired("read documents\ntokenize bpe read\nquality clean read\nend tokens"), @r#"
    error: no stage uses the rows of `quality`
      c.toml:8   (move it above `tokenize`, or write tokenize.inputs = ["quality"])
    "#);
    // Where the other stage is one of the extended file, this one cannot be moved above it.
    let own = "extends = \"base.toml\"\n".to_owned() + &config("quality clean");
    let base = config("read documents\ntokenize bpe\nend tokens");
    for own in [own.clone(), own + "[stage.tokenize]\nvocabulary_size = 300\n"] {
        let scratch = Scratch::new(&[("c.toml", &own), ("base.toml", &base)]);
        let problems = scratch.load("c.toml", &Overrides::default()).unwrap_err();
        insta::allow_duplicates! { insta::assert_snapshot!(scratch.shown(&problems.to_string()), @r#"
        error: no stage uses the rows of `quality`
          c.toml:2   (write tokenize.inputs = ["quality"])
        "#) };
    }
    insta::assert_snapshot!(wired("read documents\ntokenize bpe"), @r"
    error: no stage uses the tokens of `tokenize`
      c.toml:3   (add a stage that uses them, or remove this one)
    ");
}

#[test]
fn a_stage_that_compares_documents_is_the_last_of_those_that_work_on_rows() {
    insta::assert_snapshot!(wired("read documents\nsame minhash\nclean clean\nend rows"), @r"
    error: `clean` stands below `same`, which compares what the stages above it leave
      c.toml:5   (move it above `same`)
    ");
    insta::assert_snapshot!(wired("read documents\nsame minhash\nagain minhash\nend rows"), @r"
    error: `again` is the second stage after `same` that compares all documents
      c.toml:5   (one is enough: remove this one)
    ");
    let training = WIKI
        .replace("[stage.pack]", "[stage.same]\ntype = \"minhash\"\n[stage.pack]")
        .replace("[stage.tokenize]\ntype = \"bpe\"\n", "");
    let training = training.replace("[stage.pack]", "[stage.tokenize]\ntype = \"bpe\"\n[stage.pack]");
    let scratch = Scratch::new(&[("c.toml", &training)]);
    insta::assert_snapshot!(scratch.problems("c.toml", &Overrides::default()), @r"
    error: `same` compares all documents of a corpus, which is not possible in a training graph
      c.toml:8   (put it into a preparation, a graph that ends in a stage of type `parquet`, and train on what that writes)
    ");
    // Also if no stage uses its rows: no place in this graph would be right.
    let appended = format!("{WIKI}\n[stage.same]\ntype = \"minhash\"\ninputs = [\"read\"]\n");
    let scratch = Scratch::new(&[("c.toml", &appended)]);
    let problems = scratch.problems("c.toml", &Overrides::default());
    assert!(problems.contains("`same` compares all") && !problems.contains("no stage uses"), "{problems}");
}

#[test]
fn what_cannot_be_wired() {
    insta::assert_snapshot!(wired("read documents\npack concat"), @r"
    error: `pack` needs tokens, which no stage produces
      c.toml:3   (types that do: bpe)
    ");
    insta::assert_snapshot!(wired("tokenize bpe\nread documents"), @r"
    error: `tokenize` takes rows, which only `read` below it gives
      c.toml:1   (move `read` above `tokenize`)
    ");
    insta::assert_snapshot!(wired("clean clean"), @r"
    error: `clean` needs rows, which no stage produces
      c.toml:1   (types that do: documents, clean, mixture, minhash)
    ");
    insta::assert_snapshot!(wired("read documents\ntokenize bpe raed"), @r"
    error: `tokenize.inputs` names a stage `raed` that is not there
      c.toml:5   similar: read
    ");
    insta::assert_snapshot!(wired("read documents\ntokenize bpe\npack concat read"), @r"
    error: `pack` takes tokens, and its input `read` gives rows
      c.toml:7
    ");
    insta::assert_snapshot!(wired("a clean b\nb clean a\nt bpe b"), @r"
    error: a cycle within one step: `b` → `a` → `b`
      c.toml:6   (take one out of `inputs`)
    ");
    insta::assert_snapshot!(wired("read documents\nself clean self"), @r"
    error: a cycle within one step: `self` → `self`
      c.toml:5   (take one out of `inputs`)
    ");
}

#[test]
fn what_has_one_owner_goes_to_one_stage() {
    let text = WIKI
        .replace("[stage.record]", "[stage.loss2]\ntype = \"cross_entropy\"\ninputs = [\"forward\"]\n[stage.record]");
    let scratch = Scratch::new(&[("wiki.toml", &text)]);
    insta::assert_snapshot!(scratch.problems("wiki.toml", &Overrides::default()), @r"
    error: `loss` and `loss2` both take the activations of `forward`
      wiki.toml:25   (it can go to one stage only)
    ");
}

#[test]
fn inputs_may_name_stages_below() {
    let text = config("tokenize bpe read\nread documents\nend tokens");
    let plan = Scratch::new(&[("c.toml", &text)]).load("c.toml", &Overrides::default());
    let plan = plan.unwrap();
    assert_eq!(plan.stages[0].inputs, [vec![Edge { from: 1, feedback: false }]]);
    assert_eq!(plan.order(), [1, 0, 2]);
    insta::assert_snapshot!(crate::show::plan_summary(&plan), @r"
    stage     type       takes ← from
    read      documents
    tokenize  bpe        rows ← read
    end       tokens     tokens ← tokenize

    ok: 3 stages
    ");
}

/// Takes state from a queue that workers share.
struct SharedState;

impl Settings for SharedState {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(Kind::Rows).by(Route::AnyWorker).state()]
    }
    fn gives(&self) -> Vec<Kind> {
        Vec::new()
    }
    fn build(&self, _: &contract::Env) -> anyhow::Result<contract::Built> {
        anyhow::bail!("it is never built")
    }
}

#[test]
fn state_is_not_for_any_worker() {
    let stages: Vec<(String, Arc<dyn Settings>)> =
        vec![("read".into(), Arc::new(Read::default())), ("end".into(), Arc::new(SharedState))];
    insta::assert_snapshot!(Plan::of(stages).unwrap_err(), @r"
    error: `end` asks for rows as state that any worker takes
      (made in code)   (every worker needs the state itself)
    ");
}

#[test]
fn plans_can_be_made_in_code() {
    let stages = || -> Vec<(String, Arc<dyn Settings>)> {
        vec![
            ("read".into(), Arc::new(Read::default())),
            ("clean".into(), Arc::new(Clean::default())),
            ("tokenize".into(), Arc::new(Tokenize::default())),
        ]
    };
    let plan = Plan::of(stages()).unwrap();
    assert_eq!(plan.stages[2].inputs, [vec![Edge { from: 1, feedback: false }]]);
    let problems = Plan::of(stages().into_iter().skip(2).collect()).unwrap_err();
    insta::assert_snapshot!(problems, @r"
    error: `tokenize` needs rows, which no stage produces
      (made in code)
    ");
}

#[test]
fn names_in_code_are_unique_too() {
    let read = || -> (String, Arc<dyn Settings>) { ("read".into(), Arc::new(Read::default())) };
    insta::assert_snapshot!(Plan::of(vec![read(), read()]).unwrap_err(), @r"
    error: two stages are called `read`
      (made in code)
    ");
}

#[test]
fn metrics_of_metrics_make_no_cycle() {
    let extra = "[stage.a]\ntype = \"evaluate\"\n[stage.b]\ntype = \"evaluate\"\n";
    let text = format!("{extra}{WIKI}");
    let plan = Scratch::new(&[("wiki.toml", &text)]).load("wiki.toml", &Overrides::default()).unwrap();
    let sources = |id| -> Vec<&str> {
        plan.stage(id).unwrap().inputs[0].iter().map(|edge| plan.stages[edge.from].id.as_str()).collect()
    };
    assert_eq!(sources("a"), ["loss", "optimize"]);
    assert_eq!(sources("b"), ["a", "loss", "optimize"]);
    assert_eq!(sources("record"), ["a", "b", "loss", "optimize"]);
    assert_eq!(plan.order().len(), plan.stages.len());
}
