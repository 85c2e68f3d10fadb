//! Values that one stage, or the run, provides and other stages use.
use std::any::{Any, TypeId};
use std::sync::Arc;

/// Values by the stage that provides them and by type: a tokenizer, an index of a corpus. Two stages can provide values
/// of the same type. What belongs to no stage, such as the progress display, is provided by the run.
///
/// ```
/// use millrace_contract::Resources;
/// use std::sync::Arc;
///
/// let mut resources = Resources::default();
/// resources.provide("wiki", Arc::new(3_u64));
/// resources.provide("books", Arc::new(5_u64));
/// resources.insert(Arc::new("of the run"));
/// assert_eq!(resources.of::<u64>("books").as_deref(), Some(&5));
/// assert_eq!(resources.all::<u64>().map(|(stage, n)| (stage, *n)).collect::<Vec<_>>(), [("wiki", 3), ("books", 5)]);
/// assert!(resources.get::<u64>().is_none() && resources.get::<&str>().is_some());
/// ```
#[derive(Clone, Default)]
pub struct Resources(Vec<Resource>);

#[derive(Clone)]
struct Resource {
    /// The stage's id; empty for resources of the run.
    stage: Arc<str>,
    type_id: TypeId,
    value: Arc<dyn Any + Send + Sync>,
}

/// The owner of resources that belong to no stage.
const RUN: &str = "";

impl Resources {
    /// Provides `value` as a resource of the run, replacing any other of its type.
    pub fn insert<T: Any + Send + Sync>(&mut self, value: Arc<T>) {
        self.provide(RUN, value);
    }

    /// Provides `value` as a resource of `stage`, replacing any other of its type.
    pub fn provide<T: Any + Send + Sync>(&mut self, stage: &str, value: Arc<T>) {
        let type_id = TypeId::of::<T>();
        self.0.retain(|other| other.type_id != type_id || *other.stage != *stage);
        self.0.push(Resource { stage: stage.into(), type_id, value });
    }

    /// The run's value of type `T`.
    pub fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.of(RUN)
    }

    /// The value of type `T` that `stage` provides.
    pub fn of<T: Any + Send + Sync>(&self, stage: &str) -> Option<Arc<T>> {
        let type_id = TypeId::of::<T>();
        let found = self.0.iter().find(|resource| resource.type_id == type_id && *resource.stage == *stage)?;
        Arc::clone(&found.value).downcast().ok()
    }

    /// All values of type `T` that stages provide, each with its stage, in the order in which they were provided.
    pub fn all<T: Any + Send + Sync>(&self) -> impl Iterator<Item = (&str, Arc<T>)> {
        let of_type = |resource: &&Resource| resource.type_id == TypeId::of::<T>() && *resource.stage != *RUN;
        self.0
            .iter()
            .filter(of_type)
            .filter_map(|resource| Some((&*resource.stage, Arc::clone(&resource.value).downcast().ok()?)))
    }
}
