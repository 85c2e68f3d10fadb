//! An entry of the registry of stages: what a table with its `type` may say, and how it becomes settings.
use crate::keys::{Key, StageKeys};
use crate::pretrained::Pretrained;
use crate::settings::{Problem, Settings};
use anyhow::Result;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;

/// Settings that can be read from a table: every key has a default and documentation.
pub trait StageSettings: Settings + StageKeys + Default + Serialize + DeserializeOwned + 'static {
    /// What the stage does, in a line.
    const SUMMARY: &'static str;
    /// A table that parses, for `pipeline stages` (TOML, without the header).
    const EXAMPLE: &'static str;
    /// Does the stage only observe, so that nothing about it affects results?
    const OBSERVES: bool = false;

    /// The same settings, told the value of `type` that they are registered with.
    #[must_use]
    fn named(self, _type_name: &'static str) -> Self {
        self
    }

    /// The model that a checkpoint's `config.json` describes, or what of it is not supported; `None` if the stage is no
    /// model, or one of another kind.
    fn from_config(_config: &Value) -> Option<Result<Pretrained>> {
        None
    }
}

/// What a member of a family of stages has besides what its family asks for: keys with defaults, and nothing that a thread
/// could not have.
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
    keys: fn() -> Vec<Key>,
    defaults: fn() -> Value,
    parse: fn(&'static str, Value) -> serde_json::Result<Arc<dyn Settings>>,
}

impl StageType {
    /// See [`StageKeys::keys`].
    pub fn keys(&self) -> Vec<Key> {
        (self.keys)()
    }

    /// The key called `name`.
    pub fn key(&self, name: &str) -> Option<Key> {
        self.keys().into_iter().find(|key| key.name == name)
    }

    /// The default of every key, as an object.
    pub fn defaults(&self) -> Value {
        (self.defaults)()
    }

    /// Settings from an object; keys that it lacks have their defaults.
    ///
    /// # Errors
    /// serde's, about an unknown key or a value of another type.
    pub fn parse(&self, table: Value) -> std::result::Result<Arc<dyn Settings>, String> {
        // serde's `deny_unknown_fields` cannot do it where a family's keys stand beside a member's.
        let known = self.keys();
        let unknown =
            table.as_object().into_iter().flatten().find(|(name, _)| known.iter().all(|key| key.name != *name));
        if let Some((name, _)) = unknown {
            let known: Vec<String> = known.iter().map(|key| format!("`{}`", key.name)).collect();
            return Err(format!("unknown field `{name}`, expected one of {}", known.join(", ")));
        }
        (self.parse)(self.name, table).map_err(|error| error.to_string())
    }

    /// What is wrong with `settings`, which were made of `table`: numbers out of their range, and what the stage itself finds.
    pub fn check(&self, table: &Value, settings: &dyn Settings) -> Vec<Problem> {
        let ranges = self.keys().into_iter().filter_map(|key| key.out_of_range(&table[key.name]));
        ranges.chain(settings.check()).collect()
    }
}

/// The registry's entry for settings of type `S`, under the name `name`.
pub const fn stage_type<S: StageSettings>(name: &'static str) -> StageType {
    StageType {
        name,
        summary: S::SUMMARY,
        example: S::EXAMPLE,
        observes: S::OBSERVES,
        from_config: S::from_config,
        keys: S::keys,
        defaults: || serde_json::to_value(S::default()).unwrap_or(Value::Null),
        parse: |name, table| Ok(Arc::new(serde_json::from_value::<S>(table)?.named(name))),
    }
}
