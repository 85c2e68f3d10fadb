//! `mlruns/`: MLflow reads the metrics, settings and samples of a run from it, also when the run goes on.
use crate::support::{Scratch, script};
use serde_json::{Value, json};

const READ: &str = r#"
import json, os
os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
from mlflow import MlflowClient
client = MlflowClient("file://" + os.path.abspath("r/mlruns"))
[experiment] = client.search_experiments()
[run] = client.search_runs([experiment.experiment_id])
samples = client.list_artifacts(run.info.run_id, "samples")
history = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
print(json.dumps({
    "experiment": experiment.name,
    "name": run.info.run_name,
    "status": run.info.status,
    "params": run.data.params,
    "samples": {item.path: open(client.download_artifacts(run.info.run_id, item.path)).read() for item in samples},
    "history": {key: [[m.step, m.value, m.timestamp] for m in values] for key, values in history.items()},
}))
"#;

#[test]
fn mlflow_reads_a_run_that_went_on() {
    let scratch = Scratch::new();
    let sinks = "record.sinks=[\"jsonl\", \"mlflow\"]";
    let run = ["--set", sinks, "--set", "evaluate.prompts=[\"kamo\"]"];
    scratch.train("r", &run);
    // As if killed after step 3, of which there is the last checkpoint.
    std::fs::remove_dir_all(scratch.path("r/checkpoints/step-00000006")).unwrap();
    scratch.train("r", &[&run[..], &["--resume"]].concat());
    assert!(!scratch.path("r/tb").exists());
    let Some(read) = script(&scratch, "mlflow", READ) else { return };
    assert_eq!(
        (&read["experiment"], &read["name"], &read["status"]),
        (&json!("Default"), &json!("r"), &json!("FINISHED"))
    );
    let lines = scratch.metrics("r");
    let names = ["loss", "validation_loss", "bits_per_byte", "learning_rate", "gradient_norm", "tok_per_sec", "mfu"];
    for name in names {
        let expected = lines.iter().filter_map(|line| {
            let milliseconds = (line["time"].as_f64().unwrap() * 1e3).round() as u64;
            Some(json!([line["step"], line.get(name)?.as_f64()?, milliseconds]))
        });
        let expected: Vec<Value> = expected.collect();
        assert_eq!(read["history"][name].as_array(), Some(&expected), "{name}");
    }
    let fingerprint: Value = serde_json::from_str(&scratch.read("r/fingerprint.json")).unwrap();
    assert_eq!(read["params"]["forward.width"], fingerprint["configuration"]["forward.width"]);
    assert_eq!(
        read["params"].as_object().map(serde_json::Map::len),
        fingerprint["configuration"].as_object().map(serde_json::Map::len)
    );
    let samples = scratch.read("r/samples.jsonl");
    for line in samples.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let name = format!("samples/step-{:08}.txt", line["step"].as_u64().unwrap());
        assert_eq!(read["samples"][&name], format!("kamo{}\n", line["text"].as_str().unwrap()), "{name}");
    }
    assert_eq!(read["samples"].as_object().map(serde_json::Map::len), Some(samples.lines().count()));
}
