//! `pipeline stages`: the stage types, and their keys.
use super::{Command, Context};
use crate::plan::{defaults, find_type};
use crate::problem::Origin;
use crate::show;
use anyhow::{Error, Result};
use clap::Args;
use contract::StageType;
use serde_json::{Value, json};

/// List the stage types, or show one with its keys and defaults
#[derive(Debug, Args)]
#[command(after_help = "Example: pipeline stages adamw")]
pub struct Stages {
    /// The type to show
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Print one line of JSON per type
    #[arg(long)]
    json: bool,
}

impl Command for Stages {
    fn run(&self, context: &Context) -> Result<()> {
        if !self.json {
            return context.out.line(&show::stages(context.stages, self.name.as_deref()).map_err(Error::new)?);
        }
        let Some(name) = &self.name else {
            return context.stages.iter().try_for_each(|stage_type| context.out.json(&as_json(stage_type)));
        };
        let asked = Origin::Option(format!("pipeline stages {name}"));
        context.out.json(&as_json(find_type(context.stages, name, asked).map_err(Error::new)?))
    }
}

fn as_json(stage_type: &StageType) -> Value {
    let keys = defaults(stage_type);
    let described = |(name, default): (&String, &Value)| {
        let key = stage_type.key(name);
        json!({
            "key": name,
            "default": default,
            "min": key.and_then(|key| key.min),
            "max": key.and_then(|key| key.max),
            "description": key.map(|key| key.documentation),
        })
    };
    let described: Vec<Value> = keys.iter().map(described).collect();
    let settings = stage_type.parse(Value::Object(keys.clone())).ok();
    let takes = settings.as_ref().map(|s| s.takes().iter().map(|port| port.kind.name()).collect::<Vec<_>>());
    let gives = settings.as_ref().map(|s| s.gives().iter().map(|kind| kind.name()).collect::<Vec<_>>());
    json!({
        "name": stage_type.name,
        "summary": stage_type.summary,
        "takes": takes,
        "gives": gives,
        "keys": described,
        "example": stage_type.example,
    })
}
