//! `tb/`: what TensorBoard is shown is what `metrics.jsonl` holds, once, also when a run goes on.
use crate::support;
use crate::support::Scratch;
use std::path::PathBuf;
use std::process::Command;
use train::record::SampleLine;
use train::record::tensorboard::{Event, read_events};

const TAGS: [&str; 8] = [
    "loss",
    "validation_loss",
    "bits_per_byte",
    "learning_rate",
    "gradient_norm",
    "tok_per_sec",
    "mfu",
    "data_wait_ms",
];

fn events(scratch: &Scratch, run: &str) -> Vec<Event> {
    let files: Vec<PathBuf> =
        std::fs::read_dir(scratch.path(run).join("tb")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    assert!(files[0].file_name().unwrap().to_str().unwrap().starts_with("events.out.tfevents."));
    read_events(&files[0]).unwrap()
}

/// The event files hold the numbers of `metrics.jsonl`, in its order.
#[track_caller]
fn same_as_metrics(scratch: &Scratch, run: &str) {
    let events = events(scratch, run);
    assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"));
    let scalars = |event: &&Event| event.summary.as_ref().is_some_and(|summary| summary.value[0].tensor.is_none());
    let seen: Vec<&Event> = events.iter().filter(scalars).collect();
    let metrics = scratch.metrics(run);
    assert_eq!(seen.len(), metrics.len());
    for (event, line) in seen.iter().zip(&metrics) {
        assert_eq!((Some(event.step), Some(event.wall_time)), (line["step"].as_i64(), line["time"].as_f64()));
        let values = &event.summary.as_ref().unwrap().value;
        for tag in TAGS {
            let value = values.iter().find(|value| value.tag == tag).and_then(|value| value.simple_value);
            assert_eq!(value, line.get(tag).and_then(|v| v.as_f64()).map(|v| v as f32), "{tag} at step {}", event.step);
        }
    }
}

#[test]
fn a_run_that_goes_on_shows_every_step_once() {
    let scratch = Scratch::new();
    let keys = "[stage.evaluate]\nprompts = [\"kamo\", \"\"]\n";
    scratch.write("run.toml", scratch.read("run.toml").replace("[stage.evaluate]\n", keys));
    scratch.train("r", &[]);
    same_as_metrics(&scratch, "r");
    // As if killed at step 5: the last checkpoint is that of step 3.
    std::fs::remove_dir_all(scratch.path("r/checkpoints/step-00000006")).unwrap();
    scratch.train("r", &["--resume"]);
    same_as_metrics(&scratch, "r");
    let steps: Vec<i64> = events(&scratch, "r").iter().filter(|e| e.summary.is_some()).map(|e| e.step).collect();
    assert_eq!(steps, [1, 2, 3, 4, 4, 4, 5, 6, 6, 6], "two samples follow each validation");
    tensorboard_itself(&scratch);
}

/// Has TensorBoard read the run, where there is one.
fn tensorboard_itself(scratch: &Scratch) {
    let python = support::python();
    let read = "
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
seen = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0, 'tensors': 0})
seen.Reload()
for tag in sorted(seen.Tags()['scalars']):
    print(tag, *(f'{e.step}:{e.value:.9g}' for e in seen.Scalars(tag)))
texts = [(tag, e) for tag in sorted(seen.Tags()['tensors']) for e in seen.Tensors(tag)]
texts = [[e.step, tag, e.tensor_proto.string_val[0].decode()] for tag, e in texts]
assert seen.SummaryMetadata('sample/1').plugin_data.plugin_name == 'text'
print(json.dumps(texts))
";
    let command = |code: &str| Command::new(&python).args(["-c", code]).arg(scratch.path("r/tb")).output();
    if !command("import tensorboard").is_ok_and(|output| output.status.success()) {
        return println!("skipped: no {python} with tensorboard here");
    }
    let output = command(read).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let (said, texts) = said.trim_end().rsplit_once('\n').unwrap();
    let mut texts: Vec<(u64, String, String)> = serde_json::from_str(texts).unwrap();
    texts.sort();
    let samples = scratch.read("r/samples.jsonl");
    let samples = samples.lines().enumerate().map(|(at, line)| {
        let line: SampleLine = serde_json::from_str(line).unwrap();
        (line.step, format!("sample/{}", at % 2 + 1), line.prompt + &line.text)
    });
    assert_eq!(texts, samples.collect::<Vec<_>>());
    let tags: Vec<&str> = said.lines().filter_map(|line| line.split(' ').next()).collect();
    let blocks = ["0", "1", "embedding", "vectors"]
        .iter()
        .flat_map(|block| ["gradient_norm", "weight_norm", "update_ratio"].map(|name| format!("{name}/{block}")));
    let mut expected: Vec<String> = blocks.chain(TAGS.map(str::to_owned)).collect();
    expected.sort();
    assert_eq!(tags, expected);
    let losses = said.lines().find_map(|line| line.strip_prefix("loss ")).unwrap();
    let ours = scratch.losses("r");
    let ours: Vec<(usize, f32)> = ours.iter().enumerate().map(|(i, loss)| (i + 1, *loss as f32)).collect();
    let theirs: Vec<(usize, f32)> = losses
        .split(' ')
        .map(|pair| pair.split_once(':').unwrap())
        .map(|(step, loss)| (step.parse().unwrap(), loss.parse().unwrap()))
        .collect();
    assert_eq!(theirs, ours);
}
