//! The output of `pipeline check` and `pipeline stages`.
use super::human::{width, wrap};
use super::table::{Align, table};
use crate::plan::{Plan, PlannedStage, find_type};
use crate::problem::{Origin, Problems};
use contract::{Kind, StageType};
use serde_json::Value;

const COLUMNS: usize = 80;

/// The plan as a table: each stage, its type, and its inputs; then `ok`.
pub fn plan_summary(plan: &Plan) -> String {
    let widest = |f: fn(&PlannedStage) -> &str| plan.stages.iter().map(|stage| width(f(stage))).max().unwrap_or(0);
    let room = COLUMNS.saturating_sub(widest(|stage| &stage.id).max(5) + widest(|stage| stage.type_name).max(4) + 4);
    let mut rows: Vec<Vec<String>> = Vec::new();
    for stage in plan.order().into_iter().map(|at| &plan.stages[at]) {
        let mut lines: Vec<String> = Vec::new();
        for (port, edges) in stage.settings.takes().iter().zip(&stage.inputs) {
            let from = edges.iter().map(|edge| {
                let when = if edge.feedback { " (previous step)" } else { "" };
                format!("{}{when}", plan.stages[edge.from].id)
            });
            let from = match port.kind {
                Kind::Saved => "every stage".into(),
                _ if edges.is_empty() => "no stage".into(),
                _ => from.collect::<Vec<_>>().join(", "),
            };
            lines.extend(wrap(&format!("{} ← {from}", port.kind.name()), room.max(20)));
        }
        let mut names = [stage.id.clone(), stage.type_name.to_owned()];
        for line in if lines.is_empty() { vec![String::new()] } else { lines } {
            let [id, type_name] = std::mem::take(&mut names);
            rows.push(vec![id, type_name, line]);
        }
    }
    let heads = [("stage", Align::Left), ("type", Align::Left), ("takes ← from", Align::Left)];
    let stages = if plan.stages.len() == 1 { "1 stage".into() } else { format!("{} stages", plan.stages.len()) };
    let length = match (plan.run.max_steps, plan.run.max_epochs) {
        (Some(steps), _) => format!(", {steps} steps"),
        (None, Some(epochs)) => format!(", {epochs} epochs"),
        (None, None) => String::new(),
    };
    format!("{}\n\nok: {stages}{length}", table(&heads, &rows, COLUMNS))
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
    if let Ok(settings) = stage_type.parse(Value::Object(defaults.clone())) {
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
        let documentation = stage_type.key(key).map(|key| key.described()).unwrap_or_default();
        for line in wrap(&documentation, COLUMNS - 4) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::toys::TOYS;

    #[test]
    fn all_types() {
        insta::assert_snapshot!(stages(TOYS, None).unwrap(), @r"
        documents      Reads documents from Parquet.
        clean          Cleans text.
        bpe            Turns text into tokens.
        concat         Packs documents into sequences.
        gpt2           A GPT-2.
        cross_entropy  Cross-entropy.
        backward       Runs the model backward.
        tree           Sums gradients over leaves.
        adamw          AdamW.
        evaluate       Sums validation losses up.
        record         Writes metrics.
        rows           Ends a graph of rows.
        tokens         Ends a graph of tokens.
        mixture        Mixes sources.
        minhash        Compares documents.

        `pipeline stages NAME` shows a type with its keys, defaults and an example.
        ");
    }

    #[test]
    fn one_type() {
        insta::assert_snapshot!(stages(TOYS, Some("adamw")).unwrap(), @r#"
        adamw: AdamW.
        takes gradient, norms; gives parameters, metrics

        learning_rate = 0.0003
            peak learning rate

        clip = 1.0
            largest global norm

        schedule = { kind = "constant" }
            how the learning rate goes

        Example:
            [stage.adamw]
            type = "adamw"
            learning_rate = 1e-3
            schedule = { kind = "linear", warmup = 100 }
        "#);
    }

    #[test]
    fn no_such_type() {
        insta::assert_snapshot!(stages(TOYS, Some("adam")).unwrap_err(), @r"
        error: unknown stage type `adam`
          pipeline stages adam   similar: adamw   (`pipeline stages` lists all)
        ");
    }

    #[test]
    fn never_wider_than_eighty_columns() {
        for stage_type in TOYS {
            assert!(page(stage_type).lines().all(|line| width(line) <= COLUMNS));
        }
    }
}
