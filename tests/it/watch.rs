//! `pipeline watch`: lines where there is no terminal, a screen where there is one, and a terminal as it was afterwards.
use crate::support::Scratch;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Begins a colour of text.
const COLOR: &str = "\u{1b}[38;5;";

#[test]
fn a_run_that_has_ended() {
    let scratch = Scratch::new();
    scratch.train("runs/tiny", &[]);
    let said = scratch.pipeline(&["watch"]).succeeds().stdout;
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        matches!(lines[..], [step, validation, end] if step.starts_with("Step 6/6: loss ")
        && validation.starts_with("Step 6: validation loss ") && end == "runs/tiny is done after step 6 of 6"),
        "{said}"
    );
    let json = scratch.pipeline(&["watch", "runs/tiny", "--json"]).succeeds().stdout;
    let line: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(line, Value::Object(scratch.metrics("runs/tiny").pop().unwrap()));
    scratch.pipeline(&["watch", "nowhere"]).fails(2, &["nowhere", "is not a folder"]);
    std::fs::create_dir(scratch.path("empty")).unwrap();
    scratch.pipeline(&["watch", "empty"]).fails(2, &["empty has no runs in it"]);
}

#[test]
fn a_run_in_progress_is_followed_to_its_end() {
    let scratch = Scratch::new();
    let mut long = scratch.command(&["run", "run.toml", "--set", "run.max_steps=1000000", "--run-dir", "runs/long"]);
    let mut run = long.stderr(Stdio::null()).spawn().unwrap();
    while std::fs::metadata(scratch.path("runs/long/metrics.jsonl")).map_or(0, |file| file.len()) == 0 {
        assert!(run.try_wait().unwrap().is_none(), "the run has ended");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut watch = scratch.command(&["watch", "runs/long"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map(Result::unwrap);
    let step = |line: &str| line.strip_prefix("Step ")?.split(['/', ':']).next()?.parse::<u64>().ok();
    let steps: Vec<u64> =
        lines.by_ref().filter(|line| line.contains(": loss ")).filter_map(|line| step(&line)).take(8).collect();
    assert!(steps.windows(2).all(|pair| pair[1] == pair[0] + 1), "every step once: {steps:?}");
    Command::new("kill").args(["-INT", &run.id().to_string()]).status().unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(130));
    let last = lines.last().unwrap();
    assert!(last.starts_with("runs/long is stopped after step ") && last.ends_with(" of 1000000"), "{last}");
    assert!(watch.wait().unwrap().success());
}

/// What `script` recorded of a terminal in which `pipeline watch` ran, and its exit code.
fn recorded(scratch: &Scratch, input: &str, size: (u16, u16), before: &str) -> Option<(String, i32)> {
    if !Command::new("script").arg("--version").output().is_ok_and(|found| found.status.success()) {
        println!("skipped: there is no script(1) of util-linux");
        return None;
    }
    let program = scratch.command(&[]).get_program().to_string_lossy().into_owned();
    let line = format!("stty rows {} cols {}; exec env {before} '{program}' watch", size.1, size.0);
    let shell = format!("{input} | script -qec \"{line}\" /dev/null");
    let mut bash = Command::new("bash");
    bash.args(["-o", "pipefail", "-c", &shell]).env("TERM", "xterm").env_remove("NO_COLOR");
    let output = bash.current_dir(scratch.path("")).output().unwrap();
    Some((String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code().unwrap_or(-1)))
}

#[test]
fn it_ends_with_its_terminal() {
    let scratch = Scratch::new();
    scratch.train("runs/tiny", &[]);
    let program = scratch.command(&[]).get_program().to_string_lossy().into_owned();
    let line = format!("trap '' HUP; echo $$ > pid; exec '{program}' watch");
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").current_dir(scratch.path(""));
    let Ok(mut terminal) = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
        return println!("skipped: there is no script(1) of util-linux");
    };
    // It has drawn something.
    let mut screen = [0; 64];
    std::io::Read::read_exact(terminal.stdout.as_mut().unwrap(), &mut screen).unwrap();
    terminal.kill().unwrap();
    terminal.wait().unwrap();
    let pid = scratch.read("pid").trim().to_owned();
    let lives = || Command::new("kill").args(["-0", &pid]).stderr(Stdio::null()).status().unwrap().success();
    for _ in 0..200 {
        if !lives() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let _ = Command::new("kill").args(["-KILL", &pid]).status();
    panic!("it goes on without its terminal");
}

#[test]
fn the_screen_is_left_as_it_was() {
    let scratch = Scratch::new();
    scratch.train("runs/tiny", &[]);
    // The other screen is entered and left, the cursor is hidden and shown again.
    let pairs = [("\u{1b}[?1049h", "\u{1b}[?1049l"), ("\u{1b}[?25l", "\u{1b}[?25h")];
    let restored = |text: &str| {
        for (on, off) in pairs {
            let (on, off) = (text.find(on).expect("on"), text.rfind(off).expect("off"));
            assert!(on < off, "{text:?}");
        }
    };
    let Some((text, code)) = recorded(&scratch, "(sleep 2; printf q; sleep 1)", (80, 24), "") else { return };
    assert_eq!(code, 0, "{text}");
    restored(&text);
    for piece in ["runs/tiny", "Validation", "(100.0", COLOR, "q quit"] {
        assert!(text.contains(piece), "{piece}: {text:?}");
    }
    let (text, code) = recorded(&scratch, "(sleep 2; printf '\\003'; sleep 1)", (120, 40), "NO_COLOR=1").unwrap();
    assert_eq!(code, 130, "{text}");
    restored(&text);
    assert!(!text.contains(COLOR), "{text:?}");
    let (text, _) = recorded(&scratch, "(sleep 2; printf q; sleep 1)", (60, 20), "").unwrap();
    assert!(text.contains("characters"), "{text:?}");
    let (text, code) = recorded(&scratch, "sleep 4", (80, 24), "timeout --foreground --preserve-status 2").unwrap();
    assert_eq!(code, 143, "SIGTERM: {text}");
    restored(&text);
    let (text, _) = recorded(&scratch, "true", (80, 24), "TERM=dumb").unwrap();
    assert!(text.contains("runs/tiny is done after step 6 of 6") && !text.contains("\u{1b}[?1049h"), "{text:?}");
}
