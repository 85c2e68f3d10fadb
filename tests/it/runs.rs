//! `pipeline runs`: what ran and how it stands, also when its process could not say so.
use crate::support::Scratch;
use serde_json::Value;
use std::process::{Child, Stdio};
use std::time::{Duration, SystemTime};

fn listed(scratch: &Scratch) -> Vec<Value> {
    let said = scratch.pipeline(&["runs", "--json"]).succeeds().stdout;
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A run that goes on after `steps` steps.
fn begun(scratch: &Scratch, arguments: &[&str], steps: usize) -> Child {
    let (metrics, began) = (scratch.path("runs/long/metrics.jsonl"), SystemTime::now());
    let child = scratch.command(arguments).stderr(Stdio::null()).spawn().unwrap();
    // What an earlier process wrote does not count.
    let written = || std::fs::metadata(&metrics).and_then(|file| file.modified()).is_ok_and(|time| time > began);
    let lines = || std::fs::read_to_string(&metrics).map_or(0, |text| text.lines().count());
    while !(written() && lines() >= steps) {
        assert!(began.elapsed().unwrap() < Duration::from_secs(60), "the run does not begin");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

#[test]
fn running_done_stopped_and_failed_are_told_apart() {
    let scratch = Scratch::new();
    scratch.pipeline(&["runs"]).fails(2, &["runs is not a folder", "when it first runs"]);
    scratch.train("runs/a", &[]);
    std::fs::create_dir(scratch.path("runs/f")).unwrap();
    scratch.write("runs/f/config.toml", "");
    scratch.write("runs/f/tb", "in the way");
    scratch.pipeline(&["run", "run.toml", "--run-dir", "runs/f"]).fails(1, &["record"]);
    std::fs::create_dir(scratch.path("runs/no-run")).unwrap();
    let none = ["run", "run.toml", "--run-dir", "runs/g", "--set", "pack.sequence_length=100000"];
    scratch.pipeline(&none).fails(2, &["fewer than one sequence"]);

    let arguments = ["run", "run.toml", "--run-dir", "runs/long", "--set", "run.max_steps=1000000"];
    let mut child = begun(&scratch, &arguments, 8);
    let while_alive = listed(&scratch);
    scratch
        .pipeline(&["run", "run.toml", "--run-dir", "runs/long", "--resume"])
        .fails(2, &["another process is using runs/long", "--run-dir"]);
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
    let after = listed(&scratch);

    let states = |runs: &[Value]| -> Vec<String> {
        runs.iter().map(|run| format!("{} {}", run["run"].as_str().unwrap(), run["state"].as_str().unwrap())).collect()
    };
    assert_eq!(states(&while_alive), ["runs/a done", "runs/f failed", "runs/g failed", "runs/long running"]);
    assert_eq!(states(&after), ["runs/a done", "runs/f failed", "runs/g failed", "runs/long stopped"]);
    let last = scratch.metrics("runs/a").pop().unwrap();
    for key in ["step", "loss", "validation_loss", "bits_per_byte"] {
        assert_eq!(after[0][key], last[key], "{key}");
    }
    assert_eq!((&after[0]["steps"], &after[3]["steps"]), (&6.into(), &1_000_000.into()));
    assert!(after[3]["step"].as_u64().unwrap() >= 8 && after[0]["tok_per_sec"].as_f64().unwrap() > 0.0);

    // Interrupted, it says itself where it stands.
    let mut child = begun(&scratch, &[&arguments[..], &["--resume"]].concat(), 16);
    let interrupt = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupt.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(listed(&scratch)[3]["state"], "stopped");
    let report = scratch.read("runs/long/report.html");
    assert!(report.contains("state stopped") && report.contains("<td>forward</td>"), "with the time of each stage");

    let table = scratch.pipeline(&["runs"]).succeeds().stdout;
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    for piece in ["bits/byte", "6/6", "/1000000", "f failed: stage `record`", "g failed: the training documents have"] {
        assert!(table.contains(piece), "{piece} in {table}");
    }
    assert_eq!(scratch.pipeline(&["runs", "runs/a"]).succeeds().stdout.lines().count(), 2);
}
