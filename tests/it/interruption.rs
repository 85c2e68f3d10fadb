//! Signals: a run that is asked to stop finishes its step, keeps it, and goes on later to the same bits.
#![cfg(unix)]
use crate::support;
use crate::support::{Ran, Random, Scratch};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const LONG: [&str; 4] = ["--set", "run.max_steps=40", "--set", "pack.micro_batches=4"];

/// Starts `run.toml` into `directory`.
fn start(scratch: &Scratch, directory: &str, more: &[&str]) -> Child {
    let mut arguments = vec!["run", "run.toml", "--run-dir", directory];
    arguments.extend(more);
    scratch.command(&arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

fn signal(child: &Child, name: &str) {
    let sent = std::process::Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "cannot send {name}");
}

/// Waits for the end; `said` is what has been read already.
fn end(mut child: Child, mut reader: impl Read, said: String) -> Ran {
    let mut stderr = said;
    reader.read_to_string(&mut stderr).expect("its output");
    let code = child.wait().expect("it ends").code();
    Ran { command: "pipeline run".into(), code, stdout: String::new(), stderr }
}

/// Reads lines until one contains `text`.
fn until(reader: &mut impl BufRead, text: &str) -> String {
    let mut said = String::new();
    while !said.contains(text) {
        assert!(reader.read_line(&mut said).expect("its output") > 0, "it ended before it said {text:?}:\n{said}");
    }
    said
}

#[test]
fn stopped_at_random_moments_it_goes_on_to_the_same_bits() {
    let scratch = Scratch::new();
    scratch.train("whole", &LONG);
    let mut random = Random::from_clock();
    let mut stopped = 0;
    for (round, workers) in ["1", "2", "3", "2", "1", "3"].iter().enumerate() {
        let mut more = vec!["--workers", workers];
        more.extend(LONG);
        if round > 0 {
            more.push("--resume");
        }
        let mut child = start(&scratch, "r", &more);
        let mut reader = BufReader::new(child.stderr.take().expect("its output"));
        let said = until(&mut reader, "Files ");
        std::thread::sleep(Duration::from_millis(random.below(60) as u64));
        let (name, code) = [("INT", 130), ("TERM", 143)][round % 2];
        signal(&child, name);
        let ran = end(child, reader, said);
        let last = scratch.metrics("r").last().map(|line| line["step"].as_u64());
        if last == Some(Some(40)) {
            break; // its last step came before the signal
        }
        stopped += 1;
        let ran = ran.fails(code, &["Stopped after step", "of 40; the checkpoint is r/checkpoints/step-"]);
        let (_, command) = ran.stderr.trim_end().rsplit_once("resume with: ").expect("what to do now");
        assert!(
            command.starts_with("pipeline run run.toml --run-dir r ") && command.ends_with("--resume"),
            "{command}"
        );
        let step = scratch.checkpoints("r").pop().expect("a checkpoint");
        assert!(ran.stderr.contains(&step), "{step} is not the checkpoint that was named: {}", ran.stderr);
        assert_eq!(last, Some(step.trim_start_matches("step-").parse().ok()), "metrics are whole up to the last step");
    }
    assert!(stopped > 0, "no run was stopped within its course");
    scratch.train("r", &[&LONG[..], &["--resume", "--workers", "2"]].concat());
    assert_eq!(scratch.numbers("r"), scratch.numbers("whole"));
    for file in ["model.safetensors", "optimizer.safetensors"] {
        assert!(scratch.last("r", file) == scratch.last("whole", file), "{file} differs");
    }
}

#[test]
fn it_stops_after_the_steps_that_were_asked_for() {
    let scratch = Scratch::new();
    scratch.train("whole", &[]);
    let ran = scratch.train("r", &["--stop-after", "4"]);
    let next = "resume with: pipeline run run.toml --run-dir r --resume";
    assert!(ran.stderr.contains("Stopped after step 4 of 6") && ran.stderr.contains(next), "{}", ran.stderr);
    let run = ["run", "run.toml", "--run-dir", "r", "--resume", "--stop-after"];
    scratch.pipeline(&[&run[..], &["4"]].concat()).fails(2, &["--stop-after 4", "has done 4 steps already"]);
    scratch.pipeline(&[&run[..], &["6"]].concat()).fails(2, &["--stop-after 6", "ends after 6 steps"]);
    scratch.train("r", &["--resume", "--workers", "3"]);
    assert_eq!(scratch.numbers("r"), scratch.numbers("whole"));
    assert!(scratch.last("r", "model.safetensors") == scratch.last("whole", "model.safetensors"));
}

#[test]
fn a_terminal_that_is_gone_leaves_a_checkpoint() {
    let scratch = Scratch::new();
    let endless = ["--set", "run.max_steps=100000"];
    let mut child = start(&scratch, "r", &endless);
    let mut reader = BufReader::new(child.stderr.take().expect("its output"));
    let said = until(&mut reader, "Training [");
    // From the system, and again from the shell.
    signal(&child, "HUP");
    signal(&child, "HUP");
    end(child, reader, said).fails(129, &["SIGHUP: stopping after this step", "r/checkpoints/step-"]);
    assert_eq!(scratch.checkpoints("r").len(), 1);

    let program = scratch.command(&[]).get_program().to_owned();
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(program).args([
        "run",
        "run.toml",
        "--run-dir",
        "nohup",
    ]);
    command.args(endless).current_dir(scratch.path("")).env("MILLRACE_CACHE", scratch.path("cache"));
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut reader = BufReader::new(child.stderr.take().expect("its output"));
    let said = until(&mut reader, "Training [");
    signal(&child, "HUP");
    let more = until(&mut reader, "Training [");
    signal(&child, "INT");
    end(child, reader, said + &more).fails(130, &["SIGINT: stopping after this step"]);
}

#[test]
fn a_run_without_interval_keeps_where_it_stopped() {
    let scratch = Scratch::new();
    let none = ["--set", "run.max_steps=100000", "--set", "checkpoint.interval=0"];
    let mut child = start(&scratch, "r", &none);
    let mut reader = BufReader::new(child.stderr.take().expect("its output"));
    let said = until(&mut reader, "Training [");
    signal(&child, "INT");
    end(child, reader, said).fails(130, &["SIGINT: stopping after this step", "r/checkpoints/step-"]);
    assert_eq!(scratch.checkpoints("r").len(), 1);
    // A stage that writes none says so.
    let text = scratch.read("run.toml");
    let base = support::repository().join("configs/base.toml");
    let without = std::fs::read_to_string(base).unwrap().replace("[stage.checkpoint]\ntype = \"checkpoint\"\n", "");
    scratch.write("base.toml", &without);
    let (_, rest) = text.split_once('\n').expect("a first line");
    let (rest, _) = rest.split_once("[stage.checkpoint]").expect("its last table");
    scratch.write("run.toml", format!("extends = \"base.toml\"\n{rest}"));
    let mut child = start(&scratch, "none", &["--set", "run.max_steps=100000"]);
    let mut reader = BufReader::new(child.stderr.take().expect("its output"));
    let said = until(&mut reader, "Training [");
    signal(&child, "TERM");
    end(child, reader, said).fails(143, &["nothing is kept"]);
}

#[test]
fn a_run_that_was_stopped_has_results_too() {
    let scratch = Scratch::new();
    let words = ["run", "run.toml", "--run-dir", "r", "--json", "--set", "run.max_steps=100000"];
    let mut child =
        scratch.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let (mut reader, mut stdout) = (BufReader::new(child.stderr.take().unwrap()), child.stdout.take().unwrap());
    let said = until(&mut reader, "Training [");
    signal(&child, "INT");
    end(child, reader, said).fails(130, &["resume with: "]);
    let mut result = String::new();
    stdout.read_to_string(&mut result).unwrap();
    let result: serde_json::Value = serde_json::from_str(&result).expect("one object");
    let checkpoint = format!("r/checkpoints/{}", scratch.checkpoints("r").pop().expect("a checkpoint"));
    assert_eq!((&result["state"], &result["checkpoint"]), (&"stopped".into(), &checkpoint.into()));
}

/// A step of this takes half a minute.
const SLOW: [&str; 8] =
    ["--set", "pack.micro_batches=4096", "--set", "forward.width=64", "--set", "run.max_steps=9", "--workers", "2"];

#[test]
fn a_second_signal_leaves_at_once() {
    let scratch = Scratch::new();
    let mut child = start(&scratch, "r", &SLOW);
    let mut reader = BufReader::new(child.stderr.take().expect("its output"));
    let mut said = until(&mut reader, "Files ");
    std::thread::sleep(Duration::from_millis(500));
    signal(&child, "TERM");
    said += &until(&mut reader, "repeat to exit immediately");
    let asked = Instant::now();
    signal(&child, "INT");
    let ran = end(child, reader, said);
    assert!(asked.elapsed() < Duration::from_secs(2), "it took {:?}", asked.elapsed());
    ran.fails(130, &[]);
    assert!(scratch.path("r/checkpoints").read_dir().map_or(0, Iterator::count) == 0);
}

#[test]
fn during_preparation_a_signal_leaves_at_once() {
    let scratch = Scratch::new();
    let lots: Vec<String> = support::corpus(120).iter().cycle().take(30_000).cloned().collect();
    scratch.documents("corpus.parquet", &lots);
    let mut child = start(&scratch, "r", &[]);
    let mut reader = BufReader::new(child.stderr.take().expect("its output"));
    let said = until(&mut reader, "[");
    let asked = Instant::now();
    signal(&child, "INT");
    let ran = end(child, reader, said);
    assert!(asked.elapsed() < Duration::from_secs(2), "it took {:?}", asked.elapsed());
    assert!(!ran.stderr.contains("Files"), "preparation was over too soon for this test: {}", ran.stderr);
    ran.fails(130, &[]);
}
