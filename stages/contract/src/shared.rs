//! Values that all workers' copies of a stage share.
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Locks a mutex, also if a thread has panicked while it held it: for values that are right between any two statements.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One value per stage, made by the first worker that asks for it. The engine provides an empty one as a resource of
/// each graph that it runs: see [`Env::shared`](crate::Env::shared).
///
/// ```
/// use millrace_contract::SharedValues;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// let values = SharedValues::default();
/// values.of("count", || AtomicU64::new(3)).fetch_add(1, Ordering::Relaxed);
/// assert_eq!(values.of("count", || AtomicU64::new(3)).load(Ordering::Relaxed), 4);
/// ```
#[derive(Default)]
pub struct SharedValues(Mutex<BTreeMap<String, Arc<dyn Any + Send + Sync>>>);

impl SharedValues {
    /// The value of `stage`.
    ///
    /// # Panics
    /// If the stage's value has another type.
    pub fn of<T: Any + Send + Sync>(&self, stage: &str, make: impl FnOnce() -> T) -> Arc<T> {
        let mut values = lock(&self.0);
        let value = values.entry(stage.to_owned()).or_insert_with(|| Arc::new(make()));
        Arc::clone(value).downcast().unwrap_or_else(|_| panic!("`{stage}` shares a value of another type"))
    }
}
