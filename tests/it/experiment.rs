//! `pipeline experiment` and `pipeline compare`: runs with several seeds, and which configuration is better.
use crate::support::{Scratch, repository};
use serde_json::Value;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

/// Two learning rates and two optimizers with two seeds: eight runs.
const RATES: &str = "extends = \"run.toml\"\n[experiment]\nseeds = [1, 2]\n[arm.adamw]\n[arm.muon]\n\
                     stage.optimize = \"muon.toml\"\n[grid]\n\"optimize.learning_rate\" = [1e-3, 1e-2]\n";
/// One of them, with two seeds.
const TWO: &str =
    "extends = \"run.toml\"\n[experiment]\nseeds = [1, 2]\n[grid]\n\"optimize.learning_rate\" = [1e-3, 1e-2]\n";

fn json(scratch: &Scratch, arguments: &[&str]) -> Value {
    let said = scratch.pipeline(arguments).succeeds().stdout;
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

fn names(scratch: &Scratch, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(scratch.path(folder)).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_arm_is_run_with_every_seed_and_none_twice() {
    let scratch = Scratch::new();
    scratch.write("rates.toml", RATES);
    let dry = scratch.pipeline(&["experiment", "rates.toml", "--dry-run"]).succeeds();
    assert!(dry.stdout.contains("8 runs; 8 to do") && dry.stdout.contains("nothing was trained"), "{}", dry.stdout);
    assert!(!scratch.path("runs/rates/adamw-learning_rate-0.001-seed1").exists());

    let found = json(&scratch, &["experiment", "rates.toml", "--json"]);
    let variants = found["variants"].as_array().unwrap();
    assert_eq!(variants.len(), 4);
    for variant in variants {
        let runs = variant["runs"].as_array().unwrap();
        assert_eq!(runs.len(), 2, "{variant}");
        let losses: Vec<f64> = runs.iter().map(|run| run["validation_loss"].as_f64().unwrap()).collect();
        let mean = variant["loss"].as_f64().unwrap();
        assert!((losses.iter().sum::<f64>() / 2.0 - mean).abs() < 1e-12 && losses[0] != losses[1], "{variant}");
    }
    let differences = found["differences"].as_array().unwrap();
    assert_eq!(differences.len(), 3);
    for difference in differences {
        assert_eq!((&difference["paired_seeds"], &difference["paired_documents"]), (&2.into(), &12.into()));
        assert!(difference["difference"].as_f64().unwrap() > 0.0 && difference["margin"].as_f64().unwrap() > 0.0);
    }
    assert!(found["method"].as_str().unwrap().contains("all 6 pairs (Bonferroni)"), "{}", found["method"]);

    // A run of an experiment is what `pipeline run` makes of the same values.
    let set = ["--set", "optimize.learning_rate=1e-3", "--set", "run.seed=2"];
    scratch.train("alone", &set);
    assert_eq!(scratch.numbers("alone"), scratch.numbers("runs/rates/adamw-learning_rate-0.001-seed2"));
    let page = scratch.read("runs/rates/experiment.html");
    assert!(
        page.contains("href=\"adamw-learning_rate-0.001-seed2/report.html\"")
            && page.contains("&quot;class&quot;:&quot;of3&quot;")
    );

    // Nothing is run again, also if a seed is added.
    let metrics = scratch.path("runs/rates/adamw-learning_rate-0.001-seed2/metrics.jsonl");
    let written = std::fs::metadata(&metrics).unwrap().modified().unwrap();
    let again = scratch.pipeline(&["experiment", "rates.toml"]).succeeds();
    assert!(again.stderr.contains("8 runs, 8 finished") && again.stdout.contains("Verdict: "), "{}", again.stdout);
    assert!(again.stdout.lines().all(|line| line.chars().count() <= 80), "{}", again.stdout);
    scratch.write("rates.toml", RATES.replace("[1, 2]", "[1, 2, 3]"));
    let more = scratch.pipeline(&["experiment", "rates.toml"]).succeeds();
    assert!(more.stderr.contains("12 runs, 8 finished; 4 to do"), "{}", more.stderr);
    assert_eq!(std::fs::metadata(&metrics).unwrap().modified().unwrap(), written);

    // Another configuration under the same name is no reason to mix its runs with the old ones.
    scratch.write("run.toml", scratch.read("run.toml").replace("width = 32", "width = 48"));
    let pieces = ["holds a run of another configuration", "forward.width was 32, is 48", "--dir"];
    scratch.pipeline(&["experiment", "rates.toml"]).fails(2, &pieces);
}

/// Each run is on the backend of its arm, whatever the others use, and so is its fingerprint.
#[test]
fn arms_can_differ_in_the_gemm_backend() {
    let scratch = Scratch::new();
    let file = "extends = \"run.toml\"\n[experiment]\nseeds = [1]\n[arm.portable]\nrun.gemm = \"portable\"\n\
                [arm.openblas]\nrun.gemm = \"openblas\"\n";
    scratch.write("backends.toml", file);
    json(&scratch, &["experiment", "backends.toml", "--json"]);
    let backend = |arm: &str| {
        let environment = scratch.read(&format!("runs/backends/{arm}-seed1/environment.json"));
        serde_json::from_str::<Value>(&environment).unwrap()["gemm"].clone()
    };
    assert_eq!((backend("portable"), backend("openblas")), ("portable".into(), "openblas".into()));
    let again = scratch.pipeline(&["experiment", "backends.toml"]).succeeds();
    assert!(again.stderr.contains("2 runs, 2 finished"), "{}", again.stderr);
}

/// A run of one micro-batch keeps one core busy: where there are more, several run at once, to the same bits.
#[test]
fn runs_that_cannot_use_all_cores_run_at_once() {
    let scratch = Scratch::new();
    scratch.write("two.toml", TWO);
    let one = ["--set", "pack.micro_batches=1"];
    let dry = json(&scratch, &[&["experiment", "two.toml", "--dry-run", "--json"], &one[..]].concat());
    assert!(dry["each"].as_array().unwrap().iter().all(|run| run["workers"] == 1), "{dry}");
    let cores = std::thread::available_parallelism().unwrap().get() as u64;
    assert!((1..=cores).contains(&dry["at_once"].as_u64().unwrap()), "{dry}");
    scratch.pipeline(&[&["experiment", "two.toml"], &one[..]].concat()).succeeds();
    scratch.train("alone", &[&one[..], &["--set", "run.seed=2", "--set", "optimize.learning_rate=1e-2"]].concat());
    assert_eq!(scratch.numbers("alone"), scratch.numbers("runs/two/learning_rate-0.01-seed2"));
}

/// Eight learning rates with two seeds: after 2 steps four go on, and after 4 steps two.
#[test]
fn halving_runs_the_better_half_to_the_end() {
    let scratch = Scratch::new();
    let text = "extends = \"run.toml\"\n[experiment]\nseeds = [1, 2]\nhalving = [2, 4]\n[grid]\n\
                \"optimize.learning_rate\" = [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 1.0]\n";
    scratch.write("rates.toml", text);
    let every = ["--set", "evaluate.interval=2"];
    let dry = json(&scratch, &[&["experiment", "rates.toml", "--dry-run", "--json"], &every[..]].concat());
    let expected: f64 = dry["each"].as_array().unwrap().iter().map(|run| run["expected"].as_f64().unwrap()).sum();
    assert_eq!(expected, 16.0 * 3.0 + 8.0 * 2.0 + 4.0 * 1.0, "validation after two steps is part of the third");

    let ran = scratch.pipeline(&[&["experiment", "rates.toml", "--json"], &every[..]].concat());
    let found: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stderr));
    let names = |ranked: &Value| {
        let names = ranked.as_array().unwrap().iter().map(|one| one["variant"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    let rungs = found["halving"].as_array().unwrap();
    let sizes: Vec<_> = rungs
        .iter()
        .map(|rung| (rung["step"].as_u64().unwrap(), names(&rung["go_on"]).len(), names(&rung["stopped"]).len()))
        .collect();
    assert_eq!(sizes, [(2, 4, 4), (4, 2, 2)]);
    assert!(names(&rungs[0]["stopped"]).contains(&"learning_rate-1.0".to_owned()), "{}", rungs[0]);
    let finished: Vec<&Value> =
        found["variants"].as_array().unwrap().iter().filter(|row| !row["loss"].is_null()).collect();
    assert_eq!(finished.len(), 2);
    for row in &finished {
        let name = row["variant"].as_str().unwrap();
        assert!(names(&rungs[1]["go_on"]).contains(&name.to_owned()), "{name}");
        // Stopping and going on changes nothing.
        let rate = name.strip_prefix("learning_rate-").unwrap();
        let set = [format!("optimize.learning_rate={rate}"), "run.seed=2".into()];
        scratch.train(name, &[&["--set", &set[0], "--set", &set[1]], &every[..]].concat());
        assert_eq!(scratch.numbers(name), scratch.numbers(&format!("runs/rates/{name}-seed2")));
    }
    let steps = |run: &Value| run["step"].as_u64().unwrap();
    let runs = found["variants"].as_array().unwrap().iter().flat_map(|row| row["runs"].as_array().unwrap());
    assert_eq!(runs.map(steps).filter(|step| *step < 6).max(), Some(5));

    let again = scratch.pipeline(&[&["experiment", "rates.toml"], &every[..]].concat()).succeeds();
    assert!(again.stderr.contains("16 runs, 4 finished, 12 stopped by halving"), "{}", again.stderr);
    assert!(again.stdout.contains("Halving after 2 steps, by bits per byte: went on: "), "{}", again.stdout);
    assert!(again.stdout.lines().all(|line| line.chars().count() <= 80), "{}", again.stdout);
    // Without halving, those that were stopped go on.
    scratch.write("rates.toml", text.replace("halving = [2, 4]\n", "").replace(", 1.0]", "]"));
    let whole = scratch.pipeline(&[&["experiment", "rates.toml"], &every[..]].concat()).succeeds();
    assert!(whole.stderr.contains("14 runs, 4 finished; 10 to do"), "{}", whole.stderr);
}

#[test]
fn halving_that_would_change_nothing_is_refused() {
    let scratch = Scratch::new();
    let with = |keys: &str| TWO.replace("seeds = [1, 2]", &format!("seeds = [1, 2]\n{keys}"));
    for (keys, pieces) in [
        ("halving = [4, 2]", ["ascending", "halving = [100, 300]"]),
        ("halving = [3]", ["validates every 2", "give multiples of 2"]),
        ("halving = [6]", ["after 6 steps, but `learning_rate-0.001` has 6", "give fewer steps"]),
        ("halving = [2, 4]", ["after 4 steps, when one variant is left", "remove this number"]),
    ] {
        scratch.write("two.toml", with(keys));
        let wrong = scratch.pipeline(&["experiment", "two.toml", "--set", "evaluate.interval=2"]);
        wrong.fails(2, &[&["two.toml:4"], &pieces[..]].concat());
    }
    scratch.write("two.toml", with("halving = [2]").replace("[1e-3, 1e-2]", "[1e-3]"));
    scratch.pipeline(&["experiment", "two.toml"]).fails(2, &["stops nothing, as there is only one variant"]);
}

#[test]
fn problems_of_all_runs_are_reported_together() {
    let scratch = Scratch::new();
    let text = "extends = \"run.toml\"\n[experiment]\nseeds = [1]\n[arm.a]\nstage.optimise = \"muon.toml\"\n[arm.b]\n\
                forward.layer = 3\n[arm.c]\nforward.heads = 7\n[arm.d]\nstage.optimize = \"moun.toml\"\n";
    scratch.write("wrong.toml", text);
    let ran = scratch.pipeline(&["experiment", "wrong.toml"]);
    let pieces = [
        "wrong.toml:5",
        "there is no stage `optimise` to replace",
        "similar: optimize",
        "wrong.toml:7",
        "similar: layers",
        "wrong.toml:9",
        "there is no file `moun.toml`",
        "wrong.toml:11",
        "4 problems",
    ];
    let ran = ran.fails(2, &pieces);
    assert!(!scratch.path("runs").exists(), "{}", ran.stderr);
    scratch.write("two.toml", TWO);
    let seed = ["experiment", "two.toml", "--set", "run.seed=3"];
    scratch.pipeline(&seed).fails(2, &["`run.seed` is given to each run by the experiment"]);
    scratch.write("same.toml", "extends = \"run.toml\"\n[experiment]\nseeds = [1]\n[arm.a]\n[arm.b]\n");
    scratch.pipeline(&["experiment", "same.toml"]).fails(2, &["same.toml:5", "are the same configuration: `b`"]);
    scratch.pipeline(&["check", "same.toml"]).fails(2, &["`pipeline experiment` runs it"]);
}

#[test]
fn a_failed_run_does_not_stop_the_others_and_is_tried_again() {
    let scratch = Scratch::new();
    scratch.write("two.toml", TWO);
    let in_the_way = scratch.path("runs/two/learning_rate-0.001-seed1/tb");
    std::fs::create_dir_all(in_the_way.parent().unwrap()).unwrap();
    scratch.write("runs/two/experiment.lock", "");
    scratch.write("runs/two/learning_rate-0.001-seed1/tb", "in the way");
    scratch.write("runs/two/learning_rate-0.001-seed1/config.toml", "");
    let ran = scratch.pipeline(&["experiment", "two.toml"]);
    let ran = ran.fails(1, &["learning_rate-0.001-seed1 failed: ", "1 runs failed; the same command tries them again"]);
    assert!(ran.stdout.contains("not compared, as they are not finished"), "{}", ran.stdout);
    std::fs::remove_file(in_the_way).unwrap();
    let again = scratch.pipeline(&["experiment", "two.toml"]).succeeds();
    assert!(again.stderr.contains("4 runs, 3 finished; 1 to do"), "{}", again.stderr);
}

/// Killed with SIGKILL, and interrupted: the same command continues from the checkpoints, to the same bits.
#[test]
fn a_killed_experiment_goes_on() {
    let scratch = Scratch::new();
    let longer = TWO.replace("[grid]", "[arm.long]\nrun.max_steps = 1500\ncheckpoint.interval = 5\n[grid]");
    scratch.write("two.toml", longer.replace("[1, 2]", "[1]"));
    let first = "runs/two/long-learning_rate-0.001-seed1/checkpoints";
    for signal in ["-KILL", "-INT"] {
        let mut command = scratch.command(&["experiment", "two.toml"]);
        let mut child = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let began = SystemTime::now();
        let written = || std::fs::metadata(scratch.path(first)).and_then(|folder| folder.modified());
        while !written().is_ok_and(|time| time > began) {
            assert!(began.elapsed().unwrap() < Duration::from_secs(60), "the experiment does not begin");
            std::thread::sleep(Duration::from_millis(10));
        }
        if signal == "-KILL" {
            child.kill().unwrap();
        } else {
            let sent = std::process::Command::new("kill").args([signal, &child.id().to_string()]).status();
            assert!(sent.unwrap().success());
        }
        let code = child.wait().unwrap().code();
        assert_eq!(code, if signal == "-INT" { Some(130) } else { None });
        // The runs of a killed experiment stop by themselves, and write a checkpoint.
        let running = || scratch.pipeline(&["runs", "runs/two"]).succeeds().stdout.contains("running");
        while running() {
            assert!(began.elapsed().unwrap() < Duration::from_secs(60), "a run does not stop");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let ran = scratch.pipeline(&["experiment", "two.toml"]).succeeds();
    assert!(ran.stderr.contains("2 runs"), "{}", ran.stderr);
    let set = ["optimize.learning_rate=1e-3", "run.max_steps=1500", "checkpoint.interval=5"];
    let set: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
    scratch.train("alone", &set);
    assert_eq!(scratch.numbers("alone"), scratch.numbers("runs/two/long-learning_rate-0.001-seed1"));
    assert!(names(&scratch, "runs/two").contains(&"long-learning_rate-0.01-seed1".to_owned()));
    assert!(repository().join("configs/experiments/optimizers.toml").exists());
}

#[test]
fn runs_that_exist_are_compared() {
    let scratch = Scratch::new();
    for (run, seed, rate) in [("a", 1, "1e-3"), ("b", 2, "1e-3"), ("c", 1, "1e-2"), ("d", 2, "1e-2")] {
        let set = [format!("run.seed={seed}"), format!("optimize.learning_rate={rate}")];
        scratch.train(run, &["--set", &set[0], "--set", &set[1]]);
    }
    let found = json(&scratch, &["compare", "a", "b", "c", "d", "--json"]);
    let differs = found["runs_differ"]["configuration"].as_array().unwrap();
    assert_eq!(differs.len(), 1, "{differs:?}");
    assert_eq!(differs[0]["what"], "optimize.learning_rate");
    assert_eq!(differs[0]["values"], serde_json::json!(["0.001", "0.001", "0.01", "0.01"]));
    assert!(found["runs_differ"]["data"].as_array().unwrap().is_empty());
    assert_eq!(found["variants"][0]["variant"], "optimize.learning_rate=0.01");
    assert!(found["differences"][0]["paired_documents"] == 12, "{found}");
    let text = scratch.pipeline(&["compare", "a", "b", "c", "d", "--page", "page.html"]).succeeds().stdout;
    assert!(scratch.read("page.html").contains("href=\"a/report.html\""));
    let unwrapped = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for piece in ["optimize.learning_rate: 0.001 (2 runs), 0.01 (2 runs)", "Kernels: the same", "12 held-out documents"]
    {
        assert!(unwrapped.contains(piece), "{piece}: {text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    // The same runs by a value of their configurations, the best first.
    let listed = |more: &[&str]| {
        let ran = scratch.pipeline(&[&["runs", ".", "--group", "optimize.learning_rate"], more].concat()).succeeds();
        ran.stdout
    };
    let groups = listed(&["--sort", "bits_per_byte", "--json"]);
    let groups: Vec<Value> = groups.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let values: Vec<f64> = groups.iter().map(|g| g["values"]["optimize.learning_rate"].as_f64().unwrap()).collect();
    assert_eq!(values, [0.01, 0.001]);
    assert_eq!(groups[0]["validation_loss"]["mean"], found["variants"][0]["loss"]);
    assert_eq!(groups[0]["validation_loss"]["spread"], found["variants"][0]["spread"]);
    assert!(listed(&[]).lines().nth(1).unwrap().starts_with("0.001"), "{}", listed(&[]));
    let wrong = ["runs", ".", "--group", "optimize.learning_rat"];
    scratch.pipeline(&wrong).fails(2, &["no run has the key", "similar: optimize.learning_rate"]);
    // Without the losses of documents, as older runs are.
    std::fs::remove_file(scratch.path("a/documents.jsonl")).unwrap();
    let text = scratch.pipeline(&["compare", "a", "b", "c", "d"]).succeeds().stdout;
    assert!(text.contains("not paired by document"), "{text}");
    let text = scratch.pipeline(&["compare", "a", "c"]).succeeds().stdout;
    assert!(text.contains("No verdict: ") && text.contains("with one run of a variant"), "{text}");
    let text = scratch.pipeline(&["compare", "a", "d"]).succeeds().stdout;
    assert!(text.contains("not paired by seed"), "{text}");
    scratch.pipeline(&["compare", "a", "a"]).fails(2, &["a is given twice"]);
    scratch.pipeline(&["compare", "a", "corpus.parquet"]).fails(2, &["corpus.parquet is not a run"]);
}
