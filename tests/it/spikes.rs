//! Loss spikes: said once when they begin, also in a run that was resumed, and marked in the report.
use crate::support::{Random, Scratch};

#[test]
fn a_spike_is_said_once_and_marked() {
    let scratch = Scratch::new();
    let mut random = Random(7);
    let mut letters = || (0..300).map(|_| char::from(b'a' + random.below(26) as u8)).collect::<String>();
    scratch.documents("noise.parquet", &(0..60).map(|_| letters()).collect::<Vec<_>>());
    let mixed = "[stage.noise]\ntype = \"documents\"\npaths = [\"noise.parquet\"]\nvalidation_every = 9\n\
                 [stage.mix]\ntype = \"mixture\"\nweights = [[0, { read = 1.0 }], [250, { noise = 1.0 }]]\n";
    let run = scratch.read("run.toml").replace("[stage.tokenize]\n", "[stage.tokenize]\ninputs = [\"mix\"]\n");
    let run = run.replace("learning_rate = 1e-2", "learning_rate = 1e-3"); // at 1e-2, the training itself has spikes
    scratch.write("run.toml", run + mixed);
    let keys = ["--set", "run.max_steps=260", "--set", "checkpoint.interval=240", "--set", "evaluate.interval=260"];
    let said = scratch.train("r", &keys).stderr;
    let spike = said.lines().find(|line| line.contains("the loss spikes")).unwrap_or_else(|| panic!("{said}"));
    assert!(
        spike.starts_with("Step 251: the loss spikes: ") && spike.contains("above the mean of 64 steps"),
        "{spike}"
    );
    assert_eq!(said.matches("the loss spikes").count(), 1, "{said}");
    assert!(scratch.read("r/report.html").contains("&quot;name&quot;:&quot;spike&quot;"));
    // The steps before the checkpoint are known from metrics.jsonl.
    std::fs::remove_dir_all(scratch.path("r/checkpoints/step-00000260")).unwrap();
    let resumed = scratch.train("r", &[&keys[..], &["--resume"]].concat()).stderr;
    assert!(resumed.contains(spike) && resumed.matches("the loss spikes").count() == 1, "{resumed}");
    scratch.train("calm", &["--set", "run.max_steps=250", "--set", "evaluate.interval=250"]);
    let calm = scratch.read("calm/report.html");
    assert!(!calm.contains("&quot;spike&quot;"), "{}", scratch.read("calm/metrics.jsonl"));
}
