//! Checks that every registered stage type is complete.
use super::files;
use super::resolve;
use crate::problem::{Diagnostic, Origin, Problems};
use contract::{Kind, StageType};
use serde_json::Value;
use std::collections::BTreeSet;

/// The type called `name`, or a problem at `origin` with the closest match.
pub fn find_type<'a>(registry: &'a [StageType], name: &str, origin: Origin) -> Result<&'a StageType, Problems> {
    registry.iter().find(|stage_type| stage_type.name == name).ok_or_else(|| {
        Diagnostic::new(format!("unknown stage type `{name}`"), origin)
            .similar_to(name, registry.iter().map(|stage_type| stage_type.name))
            .next("`pipeline stages` lists all")
            .into()
    })
}

/// Registered types that emit `kind` with their default settings.
pub(crate) fn types_giving(registry: &[StageType], kind: Kind) -> Vec<String> {
    let gives = |t: &&StageType| t.parse(t.defaults()).is_ok_and(|settings| settings.gives().contains(&kind));
    registry.iter().filter(gives).map(|t| t.name.to_owned()).collect()
}

/// Problems of a registry: names must be unique, every key documented, defaults and examples must parse.
pub fn check_registry(registry: &[StageType]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut names = BTreeSet::new();
    for stage_type in registry {
        let name = stage_type.name;
        if !names.insert(name) {
            wrong.push(format!("`{name}` is registered twice"));
        }
        if stage_type.summary.trim().is_empty() || stage_type.summary.contains('\n') {
            wrong.push(format!("`{name}`: the summary must be one line"));
        }
        check_keys(stage_type, &mut wrong);
        if let Err(error) = stage_type.parse(stage_type.defaults()) {
            wrong.push(format!("`{name}`: the defaults do not parse: {error}"));
        }
        let mut problems = Problems::default();
        let place = Origin::file(format!("example of `{name}`"));
        if let Some(table) = files::parse_table(name, stage_type.example, place, &mut problems) {
            resolve::stage(name, &table, stage_type, &[], &mut problems);
        }
        wrong.extend(problems.0.iter().map(|problem| problem.to_string()));
    }
    wrong
}

fn check_keys(stage_type: &StageType, wrong: &mut Vec<String>) {
    let name = stage_type.name;
    let Value::Object(defaults) = stage_type.defaults() else {
        return wrong.push(format!("`{name}`: the defaults are not a table"));
    };
    for key in defaults.keys() {
        if resolve::COMMON.contains(&key.as_str()) {
            wrong.push(format!("`{name}`: the key `{key}` belongs to every stage"));
        }
        if stage_type.key(key).is_none_or(|key| key.documentation.is_empty()) {
            wrong.push(format!("`{name}`: the key `{key}` is not documented"));
        }
    }
    let mut seen = BTreeSet::new();
    for key in stage_type.keys() {
        if !defaults.contains_key(key.name) {
            wrong.push(format!("`{name}`: the documented key `{}` has no default", key.name));
        }
        if !seen.insert(key.name) {
            wrong.push(format!("`{name}`: its family has a key `{}` too", key.name));
        }
    }
}
