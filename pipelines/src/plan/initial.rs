//! What the model that a run starts from says about the run: the model's shape, and its tokenizer.
use super::files::Raw;
use super::registry::types_giving;
use super::values::{Entry, Table};
use crate::pretrained;
use crate::problem::Origin;
use compute::models::config::end_of_text;
use contract::{Kind, StageType};
use serde_json::Value;
use std::path::Path;
use text::tokenizer::hugging_face::spelling;

/// Sets the keys of the model, and which tokenizer is used, to those of the model that `run.initial_checkpoint` names,
/// where the configuration says nothing else. (If that model cannot be read, this is reported when the plan is checked.)
pub(super) fn fill(raw: &mut Raw, registry: &[StageType]) {
    let folder = raw.run.get("initial_checkpoint").and_then(|entry| entry.value.as_str()).map(str::to_owned);
    let Some(folder) = folder.as_deref().map(Path::new) else { return };
    let Ok(config) = pretrained::config(folder) else { return };
    let found = registry.iter().find_map(|known| Some((known.name, (known.keys_from_config)(&config)?)));
    let Some((name, Value::Object(mut keys))) = found else { return };
    let origin = Origin::file(folder.join("config.json").display().to_string());
    if let Some(context) = keys.get("context").and_then(Value::as_u64) {
        raw.stages.iter_mut().for_each(|(_, table)| fill_length(table, registry, context, &origin));
        let lengths = raw.stages.iter().filter_map(|(_, table)| table.get("sequence_length")?.value.as_u64());
        if lengths.max() > Some(context) {
            // Rotary positions are not limited; a table of positions that is too short is a difference.
            keys.remove("context");
        }
    }
    let models = types_giving(registry, Kind::Activations);
    let type_of = |table: &Table| table.get("type").and_then(|entry| entry.value.as_str()).map(str::to_owned);
    for (_, table) in &mut raw.stages {
        match type_of(table) {
            Some(other) if models.contains(&other) => fill_model(table, name, &keys, &origin),
            Some(other) if tokenizes(registry, &other) => fill_tokenizer(table, folder, &config),
            _ => {}
        }
    }
}

/// Sets the type of a model, unless a file of the user names another one, and the keys that are not set.
fn fill_model(table: &mut Table, name: &str, keys: &serde_json::Map<String, Value>, origin: &Origin) {
    let entry = |value: &Value| Entry { value: value.clone(), origin: origin.clone() };
    let of_type = table.get("type");
    if of_type.is_some_and(|given| given.value != name) {
        let built_in =
            of_type.and_then(|given| given.origin.file_name()).is_some_and(|file| file.starts_with("builtin:"));
        if !built_in {
            return;
        }
        table.set("type", entry(&name.into()));
    }
    for (key, value) in keys {
        if table.get(key).is_none() {
            table.set(key, entry(value));
        }
    }
}

/// Sets the length of sequences to the model's `context`, where the configuration does not set it and the default is longer.
fn fill_length(table: &mut Table, registry: &[StageType], context: u64, origin: &Origin) {
    const KEY: &str = "sequence_length";
    let known = registry.iter().find(|known| table.get("type").is_some_and(|entry| entry.value == known.name));
    let default = known.and_then(|known| known.defaults()[KEY].as_u64());
    if table.get(KEY).is_none() && default.is_some_and(|default| default > context) {
        table.set(KEY, Entry { value: context.into(), origin: origin.clone() });
    }
}

/// Whether stages of this type turn texts into tokens with a tokenizer that the configuration names.
fn tokenizes(registry: &[StageType], type_name: &str) -> bool {
    let known = registry.iter().find(|known| known.name == type_name && known.key("tokenizer").is_some());
    let settings = known.and_then(|known| known.parse(known.defaults()).ok());
    settings.is_some_and(|settings| {
        settings.gives() == [Kind::Tokens] && settings.takes().iter().any(|port| port.kind == Kind::Rows)
    })
}

/// Names the tokenizer beside the model, unless the configuration names one or trains one.
fn fill_tokenizer(table: &mut Table, folder: &Path, config: &Value) {
    let path = folder.join("tokenizer.json");
    let given = ["tokenizer", "vocabulary_size"].iter().any(|key| table.get(key).is_some());
    let Some(json) = std::fs::read_to_string(&path).ok().filter(|_| !given) else { return };
    let origin = Origin::file(path.display().to_string());
    if let (None, Some(token)) = (table.get("end_of_text"), end_of_text(config).and_then(|id| spelling(&json, id))) {
        table.set("end_of_text", Entry { value: token.into(), origin: origin.clone() });
    }
    table.set("tokenizer", Entry { value: path.display().to_string().into(), origin });
}
