//! Options of every command: --quiet, --color, --progress, and what `run --json` ends with.
use crate::support::{Scratch, repository};
use serde_json::Value;

const GREEN: &str = "\x1b[32m█";

#[test]
fn quiet_prints_results_and_errors_only() {
    let scratch = Scratch::new();
    let ran = scratch.train("runs/quiet", &["-q"]);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
    let ran =
        scratch.pipeline(&["generate", "runs/quiet", "--quiet", "--prompt", "ka", "--max-tokens", "2"]).succeeds();
    assert!(ran.stdout.starts_with("ka") && ran.stderr.is_empty(), "{}", ran.stderr);
    scratch
        .pipeline(&["-q", "run", "run.toml", "--run-dir", "runs/quiet"])
        .fails(2, &["error: ", "already holds a run"]);
}

#[test]
fn run_ends_with_what_came_of_it_as_json() {
    let scratch = Scratch::new();
    let ran = scratch.train("runs/json", &["--json"]);
    assert_eq!(ran.stdout.lines().count(), 1, "{}", ran.stdout);
    let result: Value = serde_json::from_str(&ran.stdout).unwrap();
    let last = scratch.metrics("runs/json").pop().unwrap();
    assert_eq!((&result["run"], &result["step"], &result["state"]), (&"runs/json".into(), &6.into(), &"done".into()));
    assert_eq!((&result["loss"], &result["bits_per_byte"]), (&last["loss"], &last["bits_per_byte"]));
    assert_eq!(result["checkpoint"], "runs/json/checkpoints/step-00000006");
    let listed = scratch.pipeline(&["runs", "runs/json", "--json"]).succeeds().stdout;
    assert_eq!(serde_json::from_str::<Value>(&listed).unwrap(), result);
}

#[test]
fn check_tells_editors_where_problems_are() {
    let scratch = Scratch::new();
    scratch.write("wrong.toml", "extends = \"run.toml\"\n[stage.forward]\nwidht = 8\n");
    let ran = scratch.pipeline(&["check", "wrong.toml", "--json"]).fails(2, &["unknown key", "widht"]);
    let said: Value = serde_json::from_str(&ran.stdout).unwrap();
    let problem = &said["problems"][0];
    assert_eq!((&said["ok"], &problem["file"], &problem["line"]), (&false.into(), &"wrong.toml".into(), &3.into()));
    assert_eq!(problem["similar"][0], "width");
}

#[test]
fn colour_is_asked_for_or_not_there() {
    let scratch = Scratch::new();
    let stderr = |name: &str, more: &[&str], environment: &[(&str, &str)]| {
        let directory = format!("runs/{name}");
        let mut command = scratch.command(&["run", "run.toml", "--run-dir", &directory]);
        command.args(more).envs(environment.iter().copied());
        String::from_utf8(command.output().unwrap().stderr).unwrap()
    };
    assert!(!stderr("auto", &[], &[]).contains('\x1b'), "a pipe has no colour");
    assert!(stderr("always", &["--color", "always"], &[("NO_COLOR", "1")]).contains(GREEN));
    assert!(!stderr("never", &["--color=never"], &[]).contains('\x1b'));
    let help = scratch.pipeline(&["--help"]).succeeds().stdout;
    let colored = scratch.pipeline(&["--help", "--color", "always"]).succeeds().stdout;
    assert!(!help.contains('\x1b') && colored.contains("\x1b[") && help.contains("--color <auto|always|never>"));
    scratch
        .pipeline(&["check", "none.toml", "--color", "always"])
        .fails(2, &["\x1b[1;31merror:\x1b[0m there is no file"]);
}

#[test]
fn progress_is_shown_as_asked() {
    let scratch = Scratch::new();
    let plain = scratch.train("runs/plain", &["--progress", "plain"]).stderr;
    assert!(plain.contains("\nTraining [") && !plain.contains(['\r', '\x1b']), "{plain}");
    let none = scratch.train("runs/none", &["--progress", "none"]).stderr;
    assert!(!none.contains("Training [") && none.contains("Done: 6 steps"), "{none}");
    scratch.pipeline(&["run", "run.toml", "--progress", "bar"]).fails(2, &["auto, plain, none"]);
}

#[test]
fn results_come_before_the_times_of_stages() {
    let said = Scratch::new().train("runs/order", &[]).stderr;
    let at = |text: &str| said.find(text).unwrap_or_else(|| panic!("{text:?} in {said}"));
    assert!(at("Done: 6 steps") < at("The model is in") && at("The report is ") < at("\nstage "), "{said}");
    assert!(said.contains(" bits per byte\n"), "{said}");
}

#[test]
fn the_rate_of_the_machine_is_measured_once_a_day() {
    let scratch = Scratch::new();
    let rate = |directory: &str| {
        let mut command = scratch.command(&["run", "run.toml", "--run-dir", directory, "--workers", "1"]);
        assert!(command.env_remove("MILLRACE_GEMM_GFLOPS").output().unwrap().status.success());
        let environment: Value = serde_json::from_str(&scratch.read(&format!("{directory}/environment.json"))).unwrap();
        environment["gemm_gflops"].as_f64().expect("a rate")
    };
    let first = rate("runs/first");
    assert!(first > 0.0);
    let mut kept = std::fs::read_dir(scratch.path("cache/machine")).expect("it is kept");
    let path = kept.next().expect("a file").unwrap().path();
    let text = std::fs::read_to_string(&path).unwrap();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["gflops"], first);
    value["gflops"] = 12_345.0.into();
    std::fs::write(&path, value.to_string()).unwrap();
    assert_eq!(rate("runs/second"), 12_345.0, "it was not measured again");
    value["measured"] = (value["measured"].as_u64().unwrap() - 86_400).into();
    std::fs::write(&path, value.to_string()).unwrap();
    assert_ne!(rate("runs/third"), 12_345.0, "a day later it is");
    assert!(scratch.pipeline(&["cache"]).succeeds().stdout.contains("machine"));
}

#[test]
fn the_version_names_the_commit() {
    let scratch = Scratch::new();
    let said = scratch.pipeline(&["--version"]).succeeds().stdout;
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git").args(arguments).current_dir(repository()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["log", "-1", "--abbrev=9", "--format=%h %cs"]).map(|commit| format!(" ({commit})"));
    let version = format!("{}{}", env!("CARGO_PKG_VERSION"), commit.unwrap_or_default());
    assert_eq!(said, format!("pipeline {version}\n"));
    scratch.train("runs/version", &["-q"]);
    assert!(scratch.read("runs/version/environment.json").contains(&format!("\"program\": \"millrace {version}\"")));
}

#[test]
fn the_built_in_graph_needs_no_checkout() {
    let scratch = Scratch::new();
    let text = scratch.read("run.toml");
    let (_, rest) = text.split_once('\n').unwrap();
    scratch.write("apart.toml", format!("extends = \"builtin:base\"\n{rest}"));
    scratch.train("runs/file", &[]);
    scratch.pipeline(&["run", "apart.toml", "--run-dir", "runs/apart"]).succeeds();
    assert_eq!(scratch.last("runs/file", "model.safetensors"), scratch.last("runs/apart", "model.safetensors"));
    assert!(scratch.read("runs/apart/config.toml").contains("# builtin:base:"));
    scratch.write("wrong.toml", "extends = \"builtin:bsae\"\n");
    scratch.pipeline(&["check", "wrong.toml"]).fails(2, &["`builtin:bsae`", "wrong.toml:1", "similar: builtin:base"]);
}
