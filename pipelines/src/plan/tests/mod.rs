//! Tests of the plan as a whole, on toy stages.
mod hostile;
mod messages;
mod whole;
mod wiring;

use super::toys::{Optimize, Read, Schedule, TOYS};
use super::{Overrides, Plan, files};
use crate::problem::Problems;

/// A whole training configuration.
pub(super) const WIKI: &str = r#"
[run]
name = "wiki"
max_steps = 600
[stage.read]
type = "documents"
paths = ["data/x.parquet"]
[stage.tokenize]
type = "bpe"
[stage.pack]
type = "concat"
[stage.forward]
type = "gpt2"
[stage.loss]
type = "cross_entropy"
[stage.backward]
type = "backward"
[stage.reduce]
type = "tree"
[stage.optimize]
type = "adamw"
learning_rate = 1e-3
[stage.record]
type = "record"
"#;

/// The settings of the stage of type `S`.
fn of<S: 'static>(plan: &Plan) -> &S {
    let settings = plan.stages.iter().map(|stage| &*stage.settings as &dyn std::any::Any);
    settings.filter_map(|settings| settings.downcast_ref()).next().unwrap()
}

/// Files in a scratch folder; messages show paths relative to it.
pub(super) struct Scratch(tempfile::TempDir);

impl Scratch {
    pub fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Self(folder)
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    pub fn load(&self, name: &str, overrides: &Overrides) -> Result<Plan, Problems> {
        Plan::load(&self.path(name), overrides, TOYS)
    }

    pub fn shown(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.0.path().display()), "").replace(&self.0.path().display().to_string(), ".")
    }

    pub fn problems(&self, name: &str, overrides: &Overrides) -> String {
        match self.load(name, overrides) {
            Ok(_) => "no problem".into(),
            Err(problems) => self.shown(&problems.to_string()),
        }
    }
}

/// `--set` for each of `values`.
pub(super) fn sets(values: &[&str]) -> Overrides {
    Overrides { set: values.iter().map(|text| (*text).to_owned()).collect(), ..Overrides::default() }
}

fn wiki(overrides: &Overrides) -> Plan {
    Scratch::new(&[("wiki.toml", WIKI)]).load("wiki.toml", overrides).unwrap()
}

#[test]
fn the_toys_keep_the_rules_of_a_registry() {
    assert_eq!(super::check_registry(TOYS), Vec::<String>::new());
    assert_eq!(super::check_registry(&[TOYS[0], TOYS[0]]), ["`documents` is registered twice"]);
}

#[test]
fn a_plan_has_every_stage_in_its_order_with_its_settings() {
    let plan = wiki(&Overrides::default());
    let ids: Vec<&str> = plan.stages.iter().map(|stage| stage.id.as_str()).collect();
    assert_eq!(ids, ["read", "tokenize", "pack", "forward", "loss", "backward", "reduce", "optimize", "record"]);
    assert_eq!((plan.run.name.as_str(), plan.run.seed, plan.run.max_steps), ("wiki", 1, Some(600)));
    assert_eq!(of::<Optimize>(&plan).learning_rate, 1e-3);
    assert_eq!(of::<Read>(&plan).paths, ["data/x.parquet"]);
    assert_eq!(plan.order(), (0..9).collect::<Vec<_>>());
}

#[test]
fn the_command_line_changes_values() {
    let stages = Scratch::new(&[("o.toml", "type = \"adamw\"\nclip = 0.5\n")]);
    let plan = wiki(&Overrides {
        stage: vec![("optimize".into(), stages.path("o.toml"))],
        sample: Some(100),
        epochs: Some(1.0),
        workers: Some(2),
        ..sets(&[
            "optimize.learning_rate=3e-4",
            "stage.read.column=body",
            "optimize.schedule.kind=linear",
            "optimize.schedule.warmup=7",
            "run.name=\"other\"",
        ])
    });
    let optimize = of::<Optimize>(&plan);
    assert_eq!((optimize.learning_rate, optimize.clip), (3e-4, Some(0.5)));
    assert_eq!(optimize.schedule, Schedule::Linear { warmup: 7 });
    let read = of::<Read>(&plan);
    assert_eq!((read.column.as_str(), read.sample), ("body", Some(100)));
    assert_eq!((plan.run.max_steps, plan.run.max_epochs, plan.run.workers), (None, Some(1.0), Some(2)));
    assert_eq!(plan.run.name, "other");
}

#[test]
fn files_extend_others() {
    let scratch = Scratch::new(&[
        ("base/wiki.toml", WIKI),
        ("mid.toml", "extends = \"base/wiki.toml\"\nrun.max_epochs = 2\n[stage.read]\ncolumn = \"body\"\n"),
        (
            "top.toml",
            "extends = \"mid.toml\"\n[stage.end]\ntype = \"tokens\"\n[stage.tokenize]\nvocabulary_size = 99\n",
        ),
    ]);
    let plan = scratch.load("top.toml", &Overrides::default()).unwrap();
    assert_eq!(plan.stages.last().unwrap().id, "end");
    assert_eq!((plan.run.max_steps, plan.run.max_epochs), (None, Some(2.0)));
    let read = of::<Read>(&plan);
    assert_eq!((read.column.as_str(), read.paths.len()), ("body", 1));
    let other = "extends = \"base/wiki.toml\"\n[stage.optimize]\ntype = \"clean\"\n";
    let scratch = Scratch::new(&[("base/wiki.toml", WIKI), ("top.toml", other)]);
    assert!(
        !scratch.problems("top.toml", &Overrides::default()).contains("learning_rate"),
        "keys of another type stay"
    );
}

#[test]
fn an_alternative_takes_the_place_of_a_key_that_is_inherited() {
    let scratch = Scratch::new(&[("base.toml", "[run]\nmax_epochs = 2\n[stage.loss]\ntype = \"cross_entropy\"\n")]);
    let mut raw = files::load(scratch.path("base.toml").as_path(), &mut Problems::default());
    let keys = |raw: &files::Raw| {
        let tables = [Some(&raw.run), raw.stage("read")].into_iter().flatten();
        tables.flat_map(|table| table.entries.iter().map(|(key, _)| key.clone())).collect::<Vec<_>>()
    };
    assert_eq!(keys(&raw), ["max_epochs"]);
    for (file, left) in [
        ("[run]\nmax_steps = 3\n[stage.read]\nvalidation_fraction = 0.1", vec!["max_steps", "validation_fraction"]),
        ("[stage.read]\nvalidation_every = 3", vec!["max_steps", "validation_every"]),
        ("[run]\nmax_epochs = 1\n[stage.read]\nvalidation_fraction = 0.2", vec!["max_epochs", "validation_fraction"]),
    ] {
        let upper = Scratch::new(&[("upper.toml", file)]);
        raw.overlay(files::load(upper.path("upper.toml").as_path(), &mut Problems::default()));
        assert_eq!(keys(&raw), left);
    }
}

/// A configuration with values from every place.
fn with_overrides() -> (Scratch, Plan) {
    let scratch = Scratch::new(&[("wiki.toml", WIKI), ("l.toml", "type = \"cross_entropy\"\nchunk = 8\n")]);
    let overrides = Overrides {
        stage: vec![("loss".into(), scratch.path("l.toml"))],
        epochs: Some(2.0),
        ..sets(&["optimize.schedule={kind=\"linear\", warmup=5}", "read.column=a \"b\"", "forward.inputs=[\"pack\"]"])
    };
    let plan = scratch.load("wiki.toml", &overrides).unwrap();
    (scratch, plan)
}

#[test]
fn the_resolved_configuration_loads_again() {
    let (_scratch, plan) = with_overrides();
    let text = plan.resolved.to_toml();
    let again = Scratch::new(&[("again.toml", &text)]).load("again.toml", &Overrides::default());
    let again = again.map_err(|e| format!("{e}\n{text}")).unwrap();
    assert_eq!(again.resolved, plan.resolved);
    assert_eq!(again.run, plan.run);
    for (a, b) in again.stages.iter().zip(&plan.stages) {
        assert_eq!((&a.id, a.type_name, &a.inputs), (&b.id, b.type_name, &b.inputs));
    }
    assert_eq!(of::<Optimize>(&again), of::<Optimize>(&plan));
}

#[test]
fn the_resolved_configuration_says_where_values_come_from() {
    let (scratch, plan) = with_overrides();
    let text = plan.resolved.to_toml();
    insta::assert_snapshot!(scratch.shown(&text), @r#"
    # The resolved configuration: every value, and where it comes from.
    # Relative paths are relative to the directory in which the run was started.

    [run]
    name = "wiki"                                    # wiki.toml:3
    seed = 1                                         # default
    # max_steps is not set                           # default
    max_epochs = 2.0                                 # --epochs 2.0
    # workers is not set                             # default
    # initial_checkpoint is not set                  # default
    accept_differences = []                          # default
    gemm = "auto"                                    # default
    prefetch = 2                                     # default

    [stage.read]
    type = "documents"                               # wiki.toml:6
    paths = ["data/x.parquet"]                       # wiki.toml:7
    column = 'a "b"'                                 # --set read.column=a "b"
    # sample is not set                              # default

    [stage.tokenize]
    type = "bpe"                                     # wiki.toml:9
    # vocabulary_size is not set                     # default

    [stage.pack]
    type = "concat"                                  # wiki.toml:11
    sequence_length = 128                            # default
    micro_batches = 2                                # default
    micro_batch_size = 16                            # default

    [stage.forward]
    type = "gpt2"                                    # wiki.toml:13
    inputs = ["pack"]                                # --set forward.inputs=["pack"]
    layers = 2                                       # default
    width = 256                                      # default
    heads = 8                                        # default

    [stage.loss]
    type = "cross_entropy"                           # --stage l.toml:1
    chunk = 8                                        # --stage l.toml:2

    [stage.backward]
    type = "backward"                                # wiki.toml:17

    [stage.reduce]
    type = "tree"                                    # wiki.toml:19

    [stage.optimize]
    type = "adamw"                                   # wiki.toml:21
    learning_rate = 0.001                            # wiki.toml:22
    clip = 1.0                                       # default
    schedule = { kind = "linear", warmup = 5 }       # --set optimize.schedule={kind="linear", warmup=5}

    [stage.record]
    type = "record"                                  # wiki.toml:24
    "#);
}

#[test]
fn the_name_is_the_files_if_none_is_given() {
    let scratch = Scratch::new(&[("tiny.toml", "[stage.read]\ntype = \"documents\"\n[stage.end]\ntype = \"rows\"\n")]);
    assert_eq!(scratch.load("tiny.toml", &Overrides::default()).unwrap().run.name, "tiny");
}
