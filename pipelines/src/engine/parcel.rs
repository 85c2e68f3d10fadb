//! The container on every edge of the graph.
use contract::Packet;
use std::io::Write;
use timely::Accountable;
use timely::bytes::arc::Bytes;
use timely::container::{DrainContainer, PushInto, SizableContainer};
use timely::dataflow::channels::ContainerBytes;

/// A packet on its way to one worker.
pub struct Envelope {
    /// The worker it is for; edges that stay on the worker ignore it.
    pub to: usize,
    /// What is inside.
    pub packet: Packet,
}

/// Some envelopes that travel together.
#[derive(Default)]
pub struct Parcel(pub Vec<Envelope>);

/// Envelopes a parcel holds at most: a packet is worth a message of its own, so that work starts early.
const CAPACITY: usize = 1;

impl Accountable for Parcel {
    fn record_count(&self) -> i64 {
        self.0.len() as i64
    }
}

impl DrainContainer for Parcel {
    type Item<'a> = Envelope;
    type DrainIter<'a> = std::vec::Drain<'a, Envelope>;
    fn drain(&mut self) -> Self::DrainIter<'_> {
        self.0.drain(..)
    }
}

impl SizableContainer for Parcel {
    fn at_capacity(&self) -> bool {
        self.0.len() >= CAPACITY
    }
    fn ensure_capacity(&mut self, stash: &mut Option<Self>) {
        if let Some(spare) = stash.take()
            && self.0.capacity() == 0
        {
            self.0 = spare.0;
            self.0.clear();
        }
    }
}

impl PushInto<Envelope> for Parcel {
    fn push_into(&mut self, envelope: Envelope) {
        self.0.push(envelope);
    }
}

/// timely asks this of every container that may change workers, even where workers are threads of one process
/// and containers move as they are. [`execute`](super::execute()) starts nothing but threads, so none is ever called.
impl ContainerBytes for Parcel {
    fn from_bytes(_: Bytes) -> Self {
        unreachable!("workers are threads of one process: parcels are never encoded")
    }
    fn length_in_bytes(&self) -> usize {
        unreachable!("workers are threads of one process: parcels are never encoded")
    }
    fn into_bytes<W: Write>(&self, _: &mut W) {
        unreachable!("workers are threads of one process: parcels are never encoded")
    }
}
