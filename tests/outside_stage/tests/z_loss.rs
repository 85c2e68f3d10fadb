//! A stage of another crate trains like one of the program's own.
#[allow(dead_code, reason = "it uses a part of what the tests of the program share")]
#[path = "../../it/support/mod.rs"]
mod support;
use support::Scratch;

fn z_loss() -> String {
    format!("loss={}", support::repository().join("configs/stages/z_loss.toml").display())
}

#[test]
fn it_trains_and_cross_entropy_is_reported_beside_it() {
    let scratch = Scratch::of(env!("CARGO_BIN_EXE_outside_stage"));
    scratch.train("r", &["--stage", &z_loss(), "--set", "loss.weight=1e-2", "--set", "run.max_steps=20"]);
    let lines = scratch.metrics("r");
    for line in &lines {
        let (loss, trained) = (line["loss"].as_f64().unwrap(), line["trained_loss"].as_f64().unwrap());
        assert!(trained > loss, "the penalty comes on top: {line:?}");
        assert!(trained < loss + 1.0, "of 1e-2 log², about 0.3: {line:?}");
    }
    assert!(lines[19]["loss"].as_f64() < lines[0]["loss"].as_f64());
    let said = scratch.pipeline(&["evaluate", "r", "--json"]).succeeds().stdout;
    assert!(said.contains("validation_loss"), "{said}");
}

#[test]
fn workers_change_no_bit_of_it() {
    let scratch = Scratch::of(env!("CARGO_BIN_EXE_outside_stage"));
    scratch.train("one", &["--stage", &z_loss(), "--workers", "1"]);
    scratch.train("two", &["--stage", &z_loss(), "--workers", "2"]);
    assert!(scratch.last("one", "model.safetensors") == scratch.last("two", "model.safetensors"));
}

#[test]
fn it_is_listed_and_its_settings_are_checked() {
    let scratch = Scratch::of(env!("CARGO_BIN_EXE_outside_stage"));
    assert!(scratch.pipeline(&["stages"]).succeeds().stdout.contains("z_loss"));
    let run = |set: &str| scratch.pipeline(&["run", "run.toml", "--stage", &z_loss(), "--set", set]);
    run("loss.weight=-1").fails(2, &["`weight` must be 0 or more"]);
    run("loss.wight=1").fails(2, &["wight", "similar: weight"]);
}
