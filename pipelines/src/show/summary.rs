//! What `pipeline check` and `pipeline stages` print.
use super::human::{width, wrap};
use super::table::{Align, table};
use crate::plan::{Plan, find_type};
use crate::problem::{Origin, Problems};
use contract::{Kind, StageType};
use serde_json::Value;

const COLUMNS: usize = 80;

/// The plan as a table: each stage, its type, and what it takes from whom; then `ok`.
pub fn plan_summary(plan: &Plan) -> String {
    let rows: Vec<Vec<String>> = plan
        .stages
        .iter()
        .map(|stage| {
            let takes = stage.settings.takes();
            let ports = takes.iter().zip(&stage.inputs).map(|(port, edges)| {
                let from: Vec<String> = edges
                    .iter()
                    .map(|edge| {
                        format!("{}{}", plan.stages[edge.from].id, if edge.feedback { " (last step)" } else { "" })
                    })
                    .collect();
                match port.kind {
                    Kind::Saved => "saved state".into(),
                    kind => format!("{} ← {}", kind.name(), if from.is_empty() { "-".into() } else { from.join(", ") }),
                }
            });
            let ports: Vec<String> = ports.collect();
            vec![stage.id.clone(), stage.type_name.to_owned(), ports.join("; ")]
        })
        .collect();
    let heads = [("stage", Align::Left), ("type", Align::Left), ("takes ← from", Align::Left)];
    format!("{}\n\nok: {} stages", table(&heads, &rows, COLUMNS), plan.stages.len())
}

/// `pipeline stages [NAME]`: all types with their summaries, or one with its keys, defaults and example.
pub fn stages(registry: &[StageType], name: Option<&str>) -> Result<String, Problems> {
    match name {
        None => Ok(list(registry)),
        Some(name) => Ok(page(find_type(registry, name, Origin::Option(format!("pipeline stages {name}")))?)),
    }
}

fn list(registry: &[StageType]) -> String {
    let indent = registry.iter().map(|t| t.name.len()).max().unwrap_or(0) + 2;
    let mut out = String::new();
    for stage_type in registry {
        for (i, line) in wrap(stage_type.summary, COLUMNS - indent).iter().enumerate() {
            let name = if i == 0 { stage_type.name } else { "" };
            out += &format!("{name:<indent$}{line}\n");
        }
    }
    out + "\n`pipeline stages NAME` shows a type with its keys, defaults and an example."
}

fn page(stage_type: &StageType) -> String {
    let mut out = wrap(&format!("{}: {}", stage_type.name, stage_type.summary), COLUMNS).join("\n");
    let defaults = crate::plan::defaults(stage_type);
    if let Ok(settings) = (stage_type.parse)(Value::Object(defaults.clone())) {
        let takes: Vec<&str> = settings.takes().iter().map(|port| port.kind.name()).collect();
        let gives: Vec<&str> = settings.gives().iter().map(|kind| kind.name()).collect();
        let or_nothing = |names: Vec<&str>| if names.is_empty() { "nothing".into() } else { names.join(", ") };
        for line in wrap(&format!("takes {}; gives {}", or_nothing(takes), or_nothing(gives)), COLUMNS) {
            out += &format!("\n{line}");
        }
    }
    for (key, value) in &defaults {
        out += &match crate::plan::toml_of(value) {
            Some(value) if width(&value) + width(key) + 3 <= COLUMNS => format!("\n\n{key} = {value}"),
            Some(_) => format!("\n\n{key} = … (long)"),
            None => format!("\n\n{key}   (not set)"),
        };
        let docs = stage_type.keys.iter().find(|(known, _)| known == key).map_or("", |(_, docs)| docs);
        for line in wrap(docs, COLUMNS - 4) {
            out += &format!("\n    {line}");
        }
    }
    out += "\n\nExample:\n";
    let header = if stage_type.example.contains("type =") { "" } else { &format!("type = \"{}\"\n", stage_type.name) };
    for line in format!("[stage.{}]\n{header}{}", stage_type.name, stage_type.example.trim()).lines() {
        out += &format!("    {line}\n");
    }
    out.trim_end().to_owned()
}
