//! A run killed at any instant and resumed is, bit for bit, the run that was never killed.
use crate::support;
use crate::support::{Random, Scratch};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

const LONG: [&str; 4] = ["--set", "run.max_steps=40", "--set", "pack.micro_batches=4"];

/// The run that nothing happens to, in `whole`.
fn whole(scratch: &Scratch) {
    scratch.train("whole", &LONG);
}

#[track_caller]
fn is_the_whole_run(scratch: &Scratch, directory: &str) {
    assert_eq!(scratch.numbers(directory), scratch.numbers("whole"), "metrics.jsonl of {directory}");
    assert_eq!(scratch.checkpoints(directory), ["step-00000039", "step-00000040"], "of {directory}");
    let (files, whole) = (scratch.checkpoint_files(directory), scratch.checkpoint_files("whole"));
    for (name, content) in &whole {
        assert!(files.get(name) == Some(content), "{name} of {directory} differs");
    }
    assert_eq!(
        (files.len(), whole.len()),
        (18, 18),
        "each has weights, optimizer, state, model card, three configurations, tokenizer, hashes"
    );
}

#[test]
fn killed_at_random_instants() {
    let scratch = Scratch::new();
    whole(&scratch);
    let mut random = Random::from_clock();
    let mut kills = Vec::new();
    for (round, workers) in ["1", "2", "3", "2", "1", "3", "2", "1"].iter().enumerate() {
        let mut arguments = vec!["run", "run.toml", "--run-dir", "killed", "--workers", workers];
        arguments.extend(LONG);
        if round > 0 {
            arguments.push("--resume");
        }
        // Some lines of output place the kill in the run's course, some milliseconds within a step.
        let (lines, after) = (random.below(22), Duration::from_micros(random.below(20_000) as u64));
        let mut command = scratch.command(&arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let said = BufReader::new(child.stderr.take().expect("its output"));
        let last = said.lines().take(lines).map_while(Result::ok).last().unwrap_or_default();
        std::thread::sleep(after);
        let alive = child.try_wait().expect("it can be asked").is_none();
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
        kills.push(format!(
            "{workers} workers, alive {alive}, {after:?} after `{}`",
            last.split('|').next().unwrap_or("")
        ));
    }
    println!("killed:\n{}", kills.join("\n"));
    let mut last = vec!["--resume", "--workers", "2"];
    last.extend(LONG);
    scratch.train("killed", &last);
    is_the_whole_run(&scratch, "killed");
}

#[test]
fn what_a_killed_run_left_unfinished_is_removed() {
    let scratch = Scratch::new();
    whole(&scratch);
    let mut short = vec!["--set", "checkpoint.keep=9"];
    short.extend(LONG);
    scratch.train("left", &short);
    // As after a kill while step 12 was written: later checkpoints are not there, this one is half there.
    for name in scratch.checkpoints("left").iter().filter(|name| name.as_str() > "step-00000009") {
        std::fs::remove_dir_all(scratch.path("left/checkpoints").join(name)).unwrap();
    }
    std::fs::create_dir(scratch.path("left/checkpoints/step-00000012.unfinished")).unwrap();
    scratch.write("left/checkpoints/step-00000012.unfinished/model.safetensors", "half");
    let metrics = scratch.read("left/metrics.jsonl");
    scratch.write("left/metrics.jsonl", &metrics[..metrics.len() / 2]); // ends within a line
    let mut last = vec!["--resume"];
    last.extend(LONG);
    scratch.train("left", &last);
    assert!(!scratch.path("left/checkpoints/step-00000012.unfinished").exists());
    is_the_whole_run(&scratch, "left");
}

#[test]
fn where_there_is_nothing_to_go_on_from_it_begins_and_says_so() {
    let scratch = Scratch::new();
    let said = scratch.train("new", &["--resume", "--set", "run.max_steps=1"]).stderr;
    assert!(said.contains("note: new has no checkpoint to resume from: the run starts from the beginning"), "{said}");
}

#[test]
fn from_a_checkpoint_that_is_named() {
    let scratch = Scratch::new();
    whole(&scratch);
    let mut keep = vec!["--set", "checkpoint.keep=99"];
    keep.extend(LONG);
    scratch.train("named", &keep);
    let mut last = vec!["--resume=named/checkpoints/step-00000012", "--workers", "3"];
    last.extend(LONG);
    let said = scratch.train("named", &last).stderr;
    assert!(said.contains("resuming from named/checkpoints/step-00000012 after 12 steps"), "{said}");
    assert!(said.contains("no longer part of the run: named/checkpoints/abandoned-1-step-00000015"), "{said}");
    is_the_whole_run(&scratch, "named");
}

/// Stochastic rounding depends on the step, not on how many gradients have been rounded before.
#[test]
fn in_eight_bits() {
    let scratch = Scratch::new();
    let int8 = ["--set", "forward.precision=int8", "--set", "checkpoint.keep=99"];
    scratch.train("whole", &int8);
    scratch.train("resumed", &int8);
    let from = "resumed/checkpoints/step-00000003";
    scratch.train("resumed", &[&int8[..], &["--workers", "3", &format!("--resume={from}")]].concat());
    assert_eq!(scratch.numbers("resumed"), scratch.numbers("whole"));
    for file in ["model.safetensors", "optimizer.safetensors"] {
        assert!(scratch.last("resumed", file) == scratch.last("whole", file), "{file} differs");
    }
}

#[test]
fn with_another_precision() {
    let scratch = Scratch::new();
    let three = ["--set", "run.max_steps=3", "--set", "optimize.schedule_steps=6"];
    scratch.train("r", &three);
    let other = ["--set", "optimize.schedule_steps=6", "--set", "forward.precision=bf16", "--resume"];
    let said = scratch.train("r", &other).stderr;
    for piece in ["forward.precision was \"f32\" and is \"bf16\" from here on", "resuming from"] {
        assert!(said.contains(piece), "{piece}: {said}");
    }
    assert_eq!(scratch.losses("r").len(), 6);
    // Then it is a run in bf16, and goes on as one.
    let whole = ["--set", "optimize.schedule_steps=6", "--set", "run.max_steps=8", "--set", "forward.precision=bf16"];
    let said = scratch.train("r", &[&whole[..], &["--resume"]].concat()).stderr;
    assert!(!said.contains("forward.precision was"), "{said}");
    let wrong =
        ["run", "run.toml", "--run-dir", "r", "--resume", "--set", "forward.precision=int8", "--set", "pack.lanes=1"];
    scratch.pipeline(&wrong).fails(2, &["contradicts the checkpoint", "pack.lanes"]);
}

#[test]
fn what_was_written_after_a_named_checkpoint_is_set_aside() {
    let scratch = Scratch::new();
    scratch.train("r", &["--set", "checkpoint.keep=2", "--set", "checkpoint.interval=1", "--set", "run.max_steps=6"]);
    assert_eq!(scratch.checkpoints("r"), ["step-00000005", "step-00000006"]);
    let from = ["--resume=r/checkpoints/step-00000005", "--set", "checkpoint.keep=2", "--set", "run.max_steps=6"];
    let model = scratch.last("r", "model.safetensors");
    scratch.train("r", &[&from[..], &["--set", "checkpoint.interval=1"]].concat());
    // The abandoned one is not counted by `keep`, and is not what the run's model is read from.
    assert_eq!(scratch.checkpoints("r"), ["step-00000005", "step-00000006"]);
    assert!(scratch.path("r/checkpoints/abandoned-1-step-00000006/model.safetensors").exists());
    assert_eq!(scratch.last("r", "model.safetensors"), model);
}

#[test]
fn another_model_another_optimizer_and_an_average() {
    let scratch = Scratch::new();
    scratch.write("average.toml", scratch.read("muon.toml") + "average_decay = 0.9\n");
    for swap in ["forward=llama.toml", "optimize=muon.toml", "optimize=average.toml"] {
        scratch.train(swap, &["--stage", swap]);
        let outcome = || {
            let of = |file| scratch.last(swap, file);
            (of("model.safetensors"), of("optimizer.safetensors"), scratch.numbers(swap))
        };
        let whole = outcome();
        let from = format!("--resume={swap}/checkpoints/step-00000003");
        scratch.train(swap, &["--stage", swap, &from, "--workers", "3"]);
        assert!(outcome() == whole, "{swap}");
        // At its end, a run only validates.
        scratch.train(swap, &["--stage", swap, "--resume"]);
        assert!(outcome() == whole, "{swap}, resumed at its end");
    }
}

#[test]
fn only_the_last_checkpoints_are_kept() {
    let scratch = Scratch::new();
    scratch.train("two", &[]);
    assert_eq!(scratch.checkpoints("two"), ["step-00000003", "step-00000006"]);
    scratch.train("one", &["--set", "checkpoint.keep=1"]);
    assert_eq!(scratch.checkpoints("one"), ["step-00000006"]);
}

#[test]
fn with_another_setting_it_is_refused() {
    let scratch = Scratch::new();
    scratch.train("r", &[]);
    let resume = |set: &str| scratch.pipeline(&["run", "run.toml", "--run-dir", "r", "--resume", "--set", set]);
    resume("optimize.learning_rate=2e-2").fails(2, &["optimize.learning_rate was 0.01, is 0.02", "r/checkpoints"]);
    resume("forward.layers=3").fails(2, &["forward.layers was 2, is 3"]);
    resume("run.seed=2").fails(2, &["run.seed was 1, is 2"]);
    resume("pack.micro_batches=4").fails(2, &["pack.micro_batches was 2, is 4"]);
    resume("pack.lanes=1").fails(2, &["pack.lanes was 2, is 1"]);
    // The default, given.
    assert_eq!(resume("pack.lanes=2").code, Some(0));
    scratch.documents("corpus.parquet", &support::corpus(121));
    resume("run.prefetch=1").fails(2, &["content of documents was"]);
    // All of it at once.
    let two = ["--set", "optimize.beta1=0.8", "--set", "pack.micro_batch_size=1"];
    let ran = scratch.pipeline(&[&["run", "run.toml", "--run-dir", "r", "--resume"][..], &two].concat());
    ran.fails(2, &["optimize.beta1 was 0.9, is 0.8", "pack.micro_batch_size was 2, is 1", "content of documents was"]);
}

#[test]
fn a_directory_with_a_run_is_not_run_into() {
    let scratch = Scratch::new();
    scratch.train("r", &[]);
    let before = scratch.bytes("r/metrics.jsonl");
    let again = scratch.pipeline(&["run", "run.toml", "--run-dir", "r"]);
    again.fails(2, &["r already holds a run", "--resume", "--run-dir"]);
    assert_eq!(scratch.bytes("r/metrics.jsonl"), before);
}

#[test]
fn what_is_no_checkpoint_is_refused() {
    let scratch = Scratch::new();
    let resume = |from: &str| scratch.pipeline(&["run", "run.toml", "--run-dir", "r", &format!("--resume={from}")]);
    resume("nowhere").fails(1, &["nowhere is not a checkpoint of this program", "state.json"]);
    scratch.train("r", &[]);
    let state = scratch.read("r/checkpoints/step-00000006/state.json");
    scratch.write("r/checkpoints/step-00000006/state.json", &state[..100]);
    resume("r/checkpoints/step-00000006")
        .fails(1, &["r/checkpoints/step-00000006 is damaged: its state.json is not what was written"]);
    let model = scratch.bytes("r/checkpoints/step-00000003/model.safetensors");
    scratch.write("r/checkpoints/step-00000003/model.safetensors", &model[..model.len() - 1]);
    resume("r/checkpoints/step-00000003").fails(1, &["step-00000003 is damaged: its model.safetensors"]);
}

/// `run.toml` has a warmup of 2 steps to 0.01, then a cosine to a tenth of it. At step 3 of 6, a quarter of the cosine is
/// done: 0.01 (0.1 + 0.9 (1 + cos π/4) / 2) = 8.6820e-3; of 12 steps, a tenth is: 9.7798e-3.
#[test]
fn a_longer_run_keeps_its_learning_rate_or_is_refused() {
    let scratch = Scratch::new();
    scratch.train("r", &[]);
    let longer = ["run", "run.toml", "--run-dir", "r", "--set", "run.max_steps=12"];
    let refused = ["8.6820e-3 was planned for step 3", "would be 9.7798e-3", "--set optimize.schedule_steps=6"];
    let from_the_third = [&longer[..], &["--resume=r/checkpoints/step-00000003"]].concat();
    scratch.pipeline(&from_the_third).fails(2, &refused);
    assert_eq!(scratch.checkpoints("r"), ["step-00000003", "step-00000006"], "nothing was moved");
    // A shorter run decays faster.
    let shorter = ["run", "run.toml", "--run-dir", "r", "--resume=r/checkpoints/step-00000003", "--set"];
    scratch.pipeline(&[&shorter[..], &["run.max_steps=5"]].concat()).fails(2, &["optimize.schedule_steps=6"]);
    // What it says to type: the rate stays at its last value, and the run is the one that was never interrupted.
    let kept = ["--set", "run.max_steps=12", "--set", "optimize.schedule_steps=6"];
    scratch.train("r", &[&kept[..], &["--resume"]].concat());
    scratch.train("never-interrupted", &kept);
    assert!(scratch.last("r", "model.safetensors") == scratch.last("never-interrupted", "model.safetensors"));
    let rates: Vec<f64> =
        scratch.metrics("r").iter().filter_map(|line| line["learning_rate"].as_f64()).skip(6).collect();
    assert!(rates.len() == 6 && rates.iter().all(|rate| (rate - 1e-3).abs() < 1e-9), "{rates:?}");
    // The checkpoint remembers the schedule and not the length of the run.
    let again = ["run", "run.toml", "--run-dir", "r", "--resume", "--set", "run.max_steps=20"];
    scratch.pipeline(&again).fails(2, &["decays over 6 steps", "of this run decays over 20", "schedule_steps=6"]);
}

#[test]
fn a_constant_learning_rate_may_go_on_for_longer() {
    let scratch = Scratch::new();
    let constant = ["--set", "optimize.schedule=constant"];
    scratch.train("whole", &constant);
    scratch.train("parts", &[&constant[..], &["--set", "run.max_steps=3"]].concat());
    scratch.train("parts", &[&constant[..], &["--resume"]].concat());
    assert!(scratch.last("whole", "model.safetensors") == scratch.last("parts", "model.safetensors"));
    let useless = [&["check", "run.toml", "--set", "optimize.schedule_steps=9"][..], &constant].concat();
    scratch.pipeline(&useless).fails(2, &["schedule_steps", "a constant learning rate does not decay"]);
}

/// Of 6 steps, "wsd" decays in the last 3 here, and of 12 in the last 6: the rates of the first 4 steps are equal.
#[test]
fn the_stable_phase_of_wsd_may_be_extended() {
    let scratch = Scratch::new();
    let wsd = ["--set", "optimize.schedule=wsd", "--set", "optimize.decay_fraction=0.5", "--set"];
    scratch.train("whole", &[&wsd[..], &["run.max_steps=12"]].concat());
    scratch.train("parts", &[&wsd[..], &["run.max_steps=6"]].concat());
    let longer = [&["run", "run.toml", "--run-dir", "parts"], &wsd[..], &["run.max_steps=12"]].concat();
    let decayed = [&longer[..], &["--resume=parts/checkpoints/step-00000006"]].concat();
    scratch.pipeline(&decayed).fails(2, &["schedule of the checkpoint", "--set optimize.schedule_steps=6"]);
    let ran = scratch.pipeline(&[&longer[..], &["--resume=parts/checkpoints/step-00000003"]].concat()).succeeds();
    assert!(ran.stderr.contains("decays from step 6 on"), "{}", ran.stderr);
    assert!(scratch.last("whole", "model.safetensors") == scratch.last("parts", "model.safetensors"));
}
