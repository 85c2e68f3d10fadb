//! `pipeline schema`: the JSON Schema of a configuration, for editors.
use super::{Command, Context};
use crate::plan::{RunSettings, defaults, shorten_floats};
use anyhow::Result;
use clap::Args;
use contract::{Key, StageKeys, StageType};
use serde_json::{Map, Value, json};

/// Print the JSON Schema of a configuration
#[derive(Debug, Args)]
#[command(after_help = "Editors complete and check keys with it, such as VS Code with Even Better TOML, or taplo: save
it, and begin the configuration with the line `#:schema ./pipeline.schema.json`.

Example: pipeline schema > pipeline.schema.json")]
pub struct Schema {}

impl Command for Schema {
    fn run(&self, context: &Context) -> Result<()> {
        context.out.line(&serde_json::to_string_pretty(&schema(context.stages))?)
    }
}

/// The JSON Schema (draft 2020-12) of a configuration with the stages of `registry`. `$defs.stage` is the schema of a
/// single stage's table, as in a file for `--stage`.
fn schema(registry: &[StageType]) -> Value {
    let mut definitions = Map::new();
    definitions.insert("stage".into(), any_stage(registry));
    for stage_type in registry {
        definitions.insert(format!("type.{}", stage_type.name), one_stage(stage_type));
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of Millrace",
        "type": "object",
        "properties": {
            "extends": {
                "type": "string",
                "description": "File that this one changes, relative to it, or \"builtin:base\".",
            },
            "run": run(),
            "stage": {
                "type": "object",
                "description": "The stages by name, in the order in which data meets them.",
                "additionalProperties": { "$ref": "#/$defs/stage" },
            },
        },
        "additionalProperties": false,
        "$defs": definitions,
    })
}

/// A table with a `type` has the keys of that type. A table without one, because the configuration it extends has it,
/// may have the keys of any type.
fn any_stage(registry: &[StageType]) -> Value {
    let names: Vec<&str> = registry.iter().map(|stage_type| stage_type.name).collect();
    let reference = |name: &&str| json!({ "$ref": format!("#/$defs/type.{name}") });
    let mut cases: Vec<Value> = Vec::new();
    for name in &names {
        let is_named = json!({ "properties": { "type": { "const": name } }, "required": ["type"] });
        cases.push(json!({ "if": is_named, "then": reference(name) }));
    }
    let untyped = json!({ "not": { "required": ["type"] } });
    cases.push(json!({ "if": untyped, "then": { "anyOf": names.iter().map(reference).collect::<Vec<_>>() } }));
    json!({ "type": "object", "properties": { "type": { "enum": names } }, "allOf": cases })
}

fn one_stage(stage_type: &StageType) -> Value {
    let parses = |value| stage_type.parse(value).map(drop);
    let mut properties = Map::new();
    properties.insert("type".into(), json!({ "const": stage_type.name, "description": stage_type.summary }));
    let inputs = "Names of the stages that feed this one; the nearest above that give what it takes if not given.";
    properties.insert("inputs".into(), json!({ "type": "array", "items": text(), "description": inputs }));
    properties.extend(keys(&stage_type.keys(), &defaults(stage_type), &parses));
    json!({
        "type": "object",
        "description": stage_type.summary,
        "properties": properties,
        "additionalProperties": false,
    })
}

fn run() -> Value {
    let mut defaults = match serde_json::to_value(RunSettings::default()).map(shorten_floats) {
        Ok(Value::Object(defaults)) => defaults,
        _ => Map::new(),
    };
    // The default depends on the file's name.
    defaults.remove("name");
    let parses =
        |value: Value| serde_json::from_value::<RunSettings>(value).map(drop).map_err(|error| error.to_string());
    json!({
        "type": "object",
        "description": "What a run is, apart from its stages.",
        "properties": keys(&RunSettings::keys(), &defaults, &parses),
        "additionalProperties": false,
    })
}

type Parses<'a> = &'a dyn Fn(Value) -> Result<(), String>;

/// The properties for `keys`.
fn keys(keys: &[Key], defaults: &Map<String, Value>, parses: Parses) -> Map<String, Value> {
    let property = |key: &Key| {
        let accepts = |value: Value| {
            let mut table = defaults.clone();
            table.insert(key.name.into(), value);
            parses(Value::Object(table))
        };
        let mut property = type_of(&accepts);
        limit(&mut property, key);
        property.insert("description".into(), key.documentation.into());
        if let Some(default) = defaults.get(key.name).filter(|default| !default.is_null()) {
            property.insert("default".into(), default.clone());
        }
        (key.name.to_owned(), Value::Object(property))
    };
    keys.iter().map(property).collect()
}

/// Adds the range of `key` to the schema of its numbers.
fn limit(property: &mut Map<String, Value>, key: &Key) {
    if let Some(Value::Object(items)) = property.get_mut("items") {
        limit(items, key);
    }
    if ["integer", "number"].iter().any(|number| property.get("type").is_some_and(|found| found == number)) {
        let bounds = [("minimum", key.min), ("maximum", key.max)];
        // An integer is written as 1, not 1.0.
        let written = |bound: f64| if bound.fract() == 0.0 { json!(bound as i64) } else { json!(bound) };
        property.extend(bounds.into_iter().filter_map(|(name, bound)| Some((name.to_owned(), written(bound?)))));
    }
}

/// The type of a value, found by passing one value of each type to the parser. An unknown type accepts everything.
fn type_of(accepts: Parses) -> Map<String, Value> {
    let is = |value: Value| accepts(value).is_ok();
    let found = if is(json!(true)) {
        json!({ "type": "boolean" })
    } else if is(json!(0.5)) {
        json!({ "type": "number" })
    } else if is(json!(-1)) {
        json!({ "type": "integer" })
    } else if is(json!(1)) {
        json!({ "type": "integer", "minimum": 0 })
    } else if is(json!([])) && is(json!({})) {
        json!({})
    } else if is(json!([])) {
        json!({ "type": "array", "items": type_of(&|item| accepts(json!([item]))) })
    } else {
        match accepts(json!(NO_VARIANT)) {
            Ok(()) => text(),
            Err(error) => variants(&error).map_or(json!({}), |variants| json!({ "enum": variants })),
        }
    };
    match found {
        Value::Object(found) => found,
        _ => Map::new(),
    }
}

const NO_VARIANT: &str = "no such variant";

fn text() -> Value {
    json!({ "type": "string" })
}

/// The values of an enum, taken from serde's error about an unknown one, which lists them in backquotes.
fn variants(error: &str) -> Option<Vec<&str>> {
    let (_, expected) = error.strip_prefix("unknown variant")?.split_once("expected ")?;
    Some(expected.split('`').skip(1).step_by(2).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::STAGES;
    use crate::plan::json_of_item;
    use std::path::Path;

    /// Whether `value` is valid. Supports the keywords that [`schema`] uses; others are an error.
    fn valid(root: &Value, schema: &Value, value: &Value) -> bool {
        let holds = |schema: &Value| valid(root, schema, value);
        let all = |schemas: &Value, value: &Value| {
            schemas.as_array().unwrap().iter().filter(|schema| valid(root, schema, value)).count()
        };
        schema.as_object().unwrap().iter().all(|(keyword, of)| match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" | "default" | "then" => true,
            "$ref" => holds(root.pointer(of.as_str().unwrap().strip_prefix('#').unwrap()).unwrap()),
            "const" => of == value,
            "enum" => of.as_array().unwrap().contains(value),
            "type" => match of.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "integer" => value.is_i64(),
                "number" => value.is_number(),
                other => panic!("type {other}"),
            },
            "minimum" => value.as_f64().is_none_or(|number| number >= of.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|number| number <= of.as_f64().unwrap()),
            "items" => value.as_array().is_none_or(|items| items.iter().all(|item| valid(root, of, item))),
            "required" => value.as_object().is_none_or(|object| {
                of.as_array().unwrap().iter().all(|key| object.contains_key(key.as_str().unwrap()))
            }),
            "properties" => value.as_object().is_none_or(|object| {
                object.iter().all(|(key, value)| of.get(key).is_none_or(|schema| valid(root, schema, value)))
            }),
            "additionalProperties" => value.as_object().is_none_or(|object| {
                let known = |key: &String| schema.get("properties").is_some_and(|known| known.get(key).is_some());
                let mut others = object.iter().filter(|(key, _)| !known(key));
                others.all(|(_, value)| if of == false { false } else { valid(root, of, value) })
            }),
            "allOf" => all(of, value) == of.as_array().unwrap().len(),
            "anyOf" => all(of, value) > 0,
            "not" => !holds(of),
            "if" => !holds(of) || holds(&schema["then"]),
            other => panic!("keyword {other}"),
        })
    }

    fn is_configuration(toml: &str) -> bool {
        let document: toml_edit::DocumentMut = toml.parse().unwrap();
        let schema = schema(STAGES);
        valid(&schema, &schema, &json_of_item(document.as_item()).unwrap())
    }

    #[test]
    fn every_configuration_of_the_repository_is_valid() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
        let mut seen = 0;
        for entry in folder.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                assert!(is_configuration(&std::fs::read_to_string(&path).unwrap()), "{}", path.display());
                seen += 1;
            }
        }
        assert!(seen >= 7, "{seen} files");
        let muon = std::fs::read_to_string(folder.join("stages/muon.toml")).unwrap();
        assert!(is_configuration(&format!("[stage.optimize]\n{muon}")));
    }

    #[test]
    fn every_example_and_all_defaults_are_valid() {
        for stage_type in STAGES {
            let given: Map<String, Value> = defaults(stage_type).into_iter().filter(|(_, v)| !v.is_null()).collect();
            let mut table = given.clone();
            table.insert("type".into(), stage_type.name.into());
            let schema = schema(STAGES);
            assert!(valid(&schema, &schema, &json!({ "stage": { "s": table } })), "{}", stage_type.name);
            let header =
                if stage_type.example.contains("type =") { "" } else { &format!("type = \"{}\"", stage_type.name) };
            assert!(is_configuration(&format!("[stage.s]\n{header}\n{}", stage_type.example)), "{}", stage_type.name);
        }
    }

    #[test]
    fn what_is_unknown_or_of_another_type_is_invalid() {
        for toml in [
            "extend = \"base.toml\"",
            "[run]\nsteps = 1",
            "[run]\nmax_steps = -1",
            "[stage.optimize]\ntype = \"adamw\"\nlearn_rate = 1.0",
            "[stage.optimize]\ntype = \"adamw\"\nlearning_rate = \"high\"",
            "[stage.optimize]\ntype = \"adamw\"\nschedule = \"step\"",
            "[stage.optimize]\ntype = \"adamw\"\nmomentum = 0.9",
            "[stage.optimize]\ntype = \"adamw\"\nfinal_fraction = 1.5",
            "[stage.forward]\ntype = \"llama\"\nlayers = 0",
            "[stage.repetition]\ntype = \"gopher_repetition\"\nmax_top_ngram_character_fractions = [0.5, 2]",
            "[stage.optimize]\ntype = \"adam\"",
            "[stage.optimize]\nlearn_rate = 1.0",
            "[stage.forward]\ntype = \"gpt2\"\nlayers = 1.5",
            "[stage.read]\ntype = \"documents\"\npaths = [1]",
        ] {
            assert!(!is_configuration(toml), "{toml}");
        }
    }

    #[test]
    fn a_key_has_type_default_and_description() {
        let schema = schema(STAGES);
        let adamw = &schema["$defs"]["type.adamw"]["properties"];
        let schedule = json!({
            "enum": ["constant", "linear", "cosine", "wsd"],
            "description": "The learning rate after warmup: \"constant\", \"linear\", \"cosine\" or \"wsd\" (constant until a \
                            linear decay at the end).",
            "default": "cosine",
        });
        assert_eq!(adamw["schedule"], schedule);
        assert_eq!((&adamw["beta1"]["type"], &adamw["beta1"]["default"]), (&json!("number"), &json!(0.9)));
        assert_eq!(schema["properties"]["run"]["properties"]["name"].get("default"), None);
    }
}
