//! The registry of stages: one entry per `type`, with its keys and how a table is parsed into settings.
use crate::keys::{Key, StageKeys};
use crate::pretrained::Pretrained;
use crate::settings::{Problem, Settings};
use anyhow::Result;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;

/// Settings that can be parsed from a table: every key has a default and documentation.
pub trait StageSettings: Settings + StageKeys + Default + Serialize + DeserializeOwned + 'static {
    /// What the stage does, on one line.
    const SUMMARY: &'static str;
    /// A table that parses, shown by `pipeline stages` (TOML, without the header).
    const EXAMPLE: &'static str;
    /// Whether the stage only observes, so that none of its keys affects results.
    const OBSERVES: bool = false;

    /// The same settings, given the `type` under which they are registered.
    #[must_use]
    fn named(self, _type_name: &'static str) -> Self {
        self
    }

    /// The model that a checkpoint's `config.json` describes, or an error that names what is not supported; `None` if
    /// the stage is not a model, or is a model of another kind.
    fn from_config(_config: &Value) -> Option<Result<Pretrained>> {
        None
    }

    /// The values of its keys with which the stage is the model that a checkpoint's `config.json` describes: an object
    /// without keys that do not depend on it. `None` if [`from_config`](Self::from_config) is none or an error.
    fn keys_from_config(_config: &Value) -> Option<Value> {
        None
    }
}

/// What a family of stages requires of a member besides the family's own trait: keys with defaults, and types that can
/// be shared between threads.
pub trait Member: StageKeys + Default + Clone + Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<T: StageKeys + Default + Clone + Serialize + DeserializeOwned + Send + Sync + 'static> Member for T {}

/// An entry of the registry of stages.
#[derive(Clone, Copy)]
pub struct StageType {
    /// The value of `type` in the configuration.
    pub name: &'static str,
    /// See [`StageSettings::SUMMARY`].
    pub summary: &'static str,
    /// See [`StageSettings::EXAMPLE`].
    pub example: &'static str,
    /// See [`StageSettings::OBSERVES`].
    pub observes: bool,
    /// See [`StageSettings::from_config`].
    pub from_config: fn(&Value) -> Option<Result<Pretrained>>,
    /// See [`StageSettings::keys_from_config`].
    pub keys_from_config: fn(&Value) -> Option<Value>,
    keys: fn() -> Vec<Key>,
    defaults: fn() -> Value,
    parse: fn(&'static str, Value) -> serde_json::Result<Arc<dyn Settings>>,
}

impl StageType {
    /// See [`StageKeys::keys`].
    pub fn keys(&self) -> Vec<Key> {
        (self.keys)()
    }

    /// The key with name `name`.
    pub fn key(&self, name: &str) -> Option<Key> {
        self.keys().into_iter().find(|key| key.name == name)
    }

    /// The defaults of all keys, as an object.
    pub fn defaults(&self) -> Value {
        (self.defaults)()
    }

    /// Settings from an object; missing keys have their defaults.
    ///
    /// # Errors
    /// serde's error for an unknown key or a value of the wrong type.
    pub fn parse(&self, table: Value) -> std::result::Result<Arc<dyn Settings>, String> {
        // serde's `deny_unknown_fields` does not work for a family, whose keys are in the same table as its member's.
        let known = self.keys();
        let unknown =
            table.as_object().into_iter().flatten().find(|(name, _)| known.iter().all(|key| key.name != *name));
        if let Some((name, _)) = unknown {
            let known: Vec<String> = known.iter().map(|key| format!("`{}`", key.name)).collect();
            return Err(format!("unknown field `{name}`, expected one of {}", known.join(", ")));
        }
        (self.parse)(self.name, table).map_err(|error| error.to_string())
    }

    /// Problems of `settings`, which were parsed from `table`: numbers out of range, and what the stage itself checks.
    pub fn check(&self, table: &Value, settings: &dyn Settings) -> Vec<Problem> {
        let ranges = self.keys().into_iter().filter_map(|key| key.out_of_range(&table[key.name]));
        ranges.chain(settings.check()).collect()
    }
}

/// The registry entry for settings of type `S`, with `type = name`.
pub const fn stage_type<S: StageSettings>(name: &'static str) -> StageType {
    StageType {
        name,
        summary: S::SUMMARY,
        example: S::EXAMPLE,
        observes: S::OBSERVES,
        from_config: S::from_config,
        keys_from_config: S::keys_from_config,
        keys: S::keys,
        defaults: || serde_json::to_value(S::default()).unwrap_or(Value::Null),
        parse: |name, table| Ok(Arc::new(serde_json::from_value::<S>(table)?.named(name))),
    }
}
