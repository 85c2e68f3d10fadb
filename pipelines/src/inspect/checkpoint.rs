//! The folder of a checkpoint: the state of the run, and its tensors.
use super::{fact, tensors};
use crate::problem::Usage;
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use train::checkpoint::{STATE_FILE, list, read_state};
use train::weights::{MODEL_FILE, OPTIMIZER_FILE};

/// What a checkpoint holds.
#[derive(Debug, Serialize)]
pub struct Contents {
    checkpoint: String,
    /// Updates so far; `None` for a model that is not of this program.
    step: Option<u64>,
    /// The decay of the exponential moving average that the weights are.
    #[serde(skip_serializing_if = "Option::is_none")]
    average_decay: Option<f64>,
    /// OpenBLAS's kernel.
    blas_kernel: Option<String>,
    /// The saved state of each stage: stage, lane, state. Long lists and texts are replaced by their length.
    position: BTreeMap<String, BTreeMap<u32, Value>>,
    /// The model as Hugging Face describes it.
    config: Value,
    optimizer: bool,
    model: tensors::Tensors,
}

/// Reads a checkpoint, the last one of a run, or a folder with a Hugging Face model.
///
/// # Errors
/// [`Usage`] if the folder is none of these; otherwise what is wrong with it.
pub fn open(folder: &Path) -> Result<Contents> {
    let is_one = |folder: &Path| folder.join(MODEL_FILE).is_file() || folder.join(STATE_FILE).is_file();
    let last = if is_one(folder) { None } else { list(folder)?.pop().map(|(_, path)| path) };
    let folder = last.as_deref().unwrap_or(folder);
    if !is_one(folder) {
        let at = folder.display();
        return Err(Usage(format!("{at} is not a checkpoint (it has no {MODEL_FILE}) or a run with one")).into());
    }
    let state = folder.join(STATE_FILE).is_file().then(|| read_state(folder)).transpose()?;
    let path = folder.join("config.json");
    let config = match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?,
        Err(_) => Value::Null,
    };
    let mut position: BTreeMap<String, BTreeMap<u32, Value>> = BTreeMap::new();
    for (stage, lane, state) in state.iter().flat_map(|state| &state.saved) {
        if !state.is_null() {
            position.entry(stage.clone()).or_default().insert(*lane, shortened(state));
        }
    }
    Ok(Contents {
        checkpoint: folder.display().to_string(),
        step: state.as_ref().map(|state| state.step),
        average_decay: state.as_ref().and_then(|state| state.average_decay),
        blas_kernel: state.and_then(|state| Some(state.fingerprint?.blas_core)),
        position,
        config,
        optimizer: folder.join(OPTIMIZER_FILE).is_file(),
        model: tensors::open(&folder.join(MODEL_FILE))?,
    })
}

/// Longest text of a state that is shown.
const LONG_TEXT: usize = 64;

fn shortened(state: &Value) -> Value {
    match state {
        Value::Array(items) if items.len() > 8 => format!("{} values", items.len()).into(),
        Value::String(text) if text.len() > LONG_TEXT => format!("{} characters", text.len()).into(),
        Value::Array(items) => items.iter().map(shortened).collect(),
        Value::Object(object) => object.iter().map(|(key, value)| (key.clone(), shortened(value))).collect(),
        other => other.clone(),
    }
}

impl Contents {
    /// For people.
    pub fn text(&self, columns: usize) -> String {
        const INDENT: usize = 12;
        let fact = |name: &str, value: &str| fact(name, value, INDENT, columns);
        let mut out = format!("checkpoint {}\n", self.checkpoint);
        if let Some(step) = self.step {
            out += &fact("  step", &step.to_string());
        }
        // GPT-2's names and Llama's.
        const SIZES: [(&str, &[&str]); 5] = [
            ("layers", &["n_layer", "num_hidden_layers"]),
            ("heads", &["n_head", "num_attention_heads"]),
            ("width", &["n_embd", "hidden_size"]),
            ("positions", &["n_positions", "max_position_embeddings"]),
            ("ids", &["vocab_size"]),
        ];
        let sizes = SIZES.iter().filter_map(|(name, keys)| {
            let size = keys.iter().find_map(|key| self.config[*key].as_u64())?;
            Some(format!("{name} {size}"))
        });
        let model: Vec<String> =
            self.config["model_type"].as_str().map(str::to_owned).into_iter().chain(sizes).collect();
        if !model.is_empty() {
            out += &fact("  model", &model.join(", "));
        }
        if let Some(decay) = self.average_decay {
            out += &fact("  weights", &format!("exponential moving average, decay {decay}"));
        }
        if let Some(kernel) = &self.blas_kernel {
            out += &fact("  kernels", kernel);
        }
        out += &fact("  optimizer", if self.optimizer { "its state is there" } else { "none" });
        for (stage, lanes) in &self.position {
            if let Some((lane, state)) = lanes.first_key_value() {
                let of = if lanes.len() > 1 { format!("lane {lane} of {}: ", lanes.len()) } else { String::new() };
                out += &fact(&format!("  {stage}"), &format!("{of}{state}"));
            }
        }
        out + &format!("\n{}", self.model.listed(columns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn long_lists_and_texts_are_replaced_by_their_length() {
        let state =
            json!({ "pool": ["x".repeat(65)], "name": "x".repeat(64), "tokens": [1, 2, 3], "more": vec![0; 9] });
        let shown =
            json!({ "pool": ["65 characters"], "name": "x".repeat(64), "tokens": [1, 2, 3], "more": "9 values" });
        assert_eq!(shortened(&state), shown);
    }
}
