//! One micro-batch at a time on each worker.
use contract::Ticket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use timely::scheduling::SyncActivator;

/// Whether a micro-batch of this worker has activations in memory. The next one begins when they are dropped.
pub struct MicroBatchInFlight {
    flag: Arc<AtomicBool>,
    wake: SyncActivator,
}

impl MicroBatchInFlight {
    /// None yet, for the operator that `wake` wakes.
    pub fn none(wake: SyncActivator) -> Self {
        Self { flag: Arc::default(), wake }
    }

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        !self.flag.load(Ordering::Acquire)
    }

    /// The ticket that travels with the activations; when it is dropped, the operator runs again.
    pub fn begin(&self) -> Ticket {
        self.flag.store(true, Ordering::Release);
        let (flag, wake) = (Arc::clone(&self.flag), self.wake.clone());
        Ticket::new(move || {
            flag.store(false, Ordering::Release);
            // Fails if the worker has ended; then there is no operator to wake.
            let _ = wake.activate();
        })
    }
}
