//! What shells complete, and the manual pages.
use crate::support::Scratch;
use millrace_pipelines::cli::COMMANDS;
use std::process::Command;

/// What a shell is offered after `words`, of which the last one is incomplete.
fn offered(scratch: &Scratch, words: &[&str]) -> Vec<String> {
    let mut command = scratch.command(&["--", "pipeline"]);
    let output = command.args(words).env("MILLRACE_COMPLETE", "fish").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn commands_options_stages_and_keys_are_offered() {
    let scratch = Scratch::new();
    assert_eq!(offered(&scratch, &["expl"]), ["explain"]);
    assert_eq!(offered(&scratch, &["run", "run.toml", "--dry"]), ["--dry-run"]);
    assert_eq!(offered(&scratch, &["stages", "adam"]), ["adamw"]);
    assert_eq!(offered(&scratch, &["man", "expo"]), ["export"]);
    assert_eq!(offered(&scratch, &["run", "run.toml", "--stage", "opt"]), ["optimize="]);
    let keys = offered(&scratch, &["run", "run.toml", "--set", "optimize.learning"]);
    assert_eq!(keys, ["optimize.learning_rate="]);
    let keys = offered(&scratch, &["check", "run.toml", "--set", ""]);
    assert!(keys.contains(&"run.max_steps=".into()) && keys.contains(&"forward.layers=".into()), "{keys:?}");
    // The configuration says which model it is.
    let keys = offered(&scratch, &["explain", "run.toml", "--set", "forward.kv_"]);
    assert!(keys.is_empty(), "{keys:?}");
}

#[test]
fn bash_completes_with_the_script() {
    let scratch = Scratch::new();
    let script = scratch.pipeline(&["completions", "bash"]).succeeds().stdout;
    scratch.write("completions.bash", script);
    let ask = "source completions.bash; COMP_WORDS=(pipeline run run.toml --set optimize.war); COMP_CWORD=4; \
               _clap_complete_pipeline pipeline optimize.war --set; echo \"${COMPREPLY[@]}\"";
    let Ok(output) = Command::new("bash").args(["-c", ask]).current_dir(scratch.path("")).output() else { return };
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.trim(), "optimize.warmup_steps=");
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(scratch.pipeline(&["completions", shell]).succeeds().stdout.contains("pipeline"), "{shell}");
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let scratch = Scratch::new();
    scratch.pipeline(&["man", "--dir", "man1"]).succeeds();
    for command in COMMANDS {
        let page = scratch.read(&format!("man1/pipeline-{}.1", command.name));
        assert!(page.starts_with(".ie") || page.contains(".TH pipeline"), "{page}");
        assert_eq!(scratch.pipeline(&["man", command.name]).succeeds().stdout.trim_end(), page.trim_end());
    }
    let page = scratch.pipeline(&["man"]).succeeds().stdout;
    assert!(page.contains("pipeline\\-explain(1)") && page.contains("\\-\\-quiet"), "{page}");
    scratch.pipeline(&["man", "rum"]).fails(2, &["there is no command `rum`"]);
}
