//! `pipeline check`: everything that is wrong with a configuration.
use super::{Changes, Command, Context};
use crate::plan::{Plan, PlannedStage, Scope};
use crate::problem::{Diagnostic, Origin, Problems};
use crate::show;
use anyhow::{Error, Result};
use clap::Args;
use contract::Kind;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Check a configuration and report all of its problems
#[derive(Debug, Args)]
#[command(after_help = "Example: pipeline check configs/wiki.toml --set forward.layers=4")]
pub struct Check {
    /// The configuration (TOML)
    #[arg(value_name = "CONFIG")]
    config: PathBuf,
    /// What it changes.
    #[command(flatten)]
    changes: Changes,
    /// Print one line of JSON: the stages, or the problems
    #[arg(long)]
    json: bool,
}

impl Command for Check {
    fn run(&self, context: &Context) -> Result<()> {
        match Plan::checked(&self.config, &self.changes.overrides(), context.stages, Scope::Run) {
            Ok(plan) => {
                context.out.answer(self.json, &sound(&plan), |_| show::plan_summary(&plan))?;
                plan.notes(plan.run.max_steps).iter().for_each(|note| context.say(&format!("note: {note}")));
                Ok(())
            }
            Err(problems) => {
                if self.json {
                    context.out.json(&unsound(&problems))?;
                }
                Err(Error::new(problems))
            }
        }
    }
}

fn sound(plan: &Plan) -> Value {
    let stages: Vec<Value> = plan.stages.iter().map(|stage| as_json(plan, stage)).collect();
    json!({ "ok": true, "steps": plan.run.max_steps, "epochs": plan.run.max_epochs, "stages": stages,
        "notes": plan.notes(plan.run.max_steps) })
}

fn as_json(plan: &Plan, stage: &PlannedStage) -> Value {
    let ports = stage.settings.takes();
    let takes = ports.iter().zip(&stage.inputs).map(|(port, edges)| {
        let edges = edges.iter().filter(|_| port.kind != Kind::Saved);
        let from = edges.map(|edge| json!({ "stage": plan.stages[edge.from].id, "feedback": edge.feedback }));
        json!({ "kind": port.kind.name(), "from": from.collect::<Vec<_>>() })
    });
    let gives: Vec<&str> = stage.settings.gives().iter().map(|kind| kind.name()).collect();
    json!({ "id": stage.id, "type": stage.type_name, "takes": takes.collect::<Vec<_>>(), "gives": gives })
}

fn unsound(problems: &Problems) -> Value {
    json!({ "ok": false, "problems": problems.0.iter().map(problem).collect::<Vec<_>>() })
}

/// A problem, with the place an editor can jump to; a line counts from 1.
fn problem(problem: &Diagnostic) -> Value {
    let (file, line, option) = match &problem.origin {
        Origin::File { file, line } | Origin::StageFile { file, line } => (Some(file), Some(*line), None),
        Origin::Option(option) => (None, None, Some(option)),
        Origin::Default | Origin::Code => (None, None, None),
    };
    json!({
        "message": problem.message,
        "file": file,
        "line": line.filter(|line| *line > 0),
        "option": option,
        "similar": problem.similar,
        "next": problem.next,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_a_place() {
        let place = Origin::File { file: "a.toml".into(), line: 4 };
        let wrong = Diagnostic::new("unknown key `width_`", place).similar_to("width_", ["width"]).next("see NAME");
        let (whole, option) = (Origin::file("a.toml"), Origin::Option("--set a.b=1".into()));
        let said = unsound(&Problems(vec![wrong, Diagnostic::new("no", whole), Diagnostic::new("no", option)]));
        insta::assert_snapshot!(said, @r#"{"ok":false,"problems":[{"message":"unknown key `width_`","file":"a.toml","line":4,"option":null,"similar":["width"],"next":"see NAME"},{"message":"no","file":"a.toml","line":null,"option":null,"similar":[],"next":null},{"message":"no","file":null,"line":null,"option":"--set a.b=1","similar":[],"next":null}]}"#);
    }
}
