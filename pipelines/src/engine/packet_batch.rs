//! The container that timely moves along every edge of the graph.
use contract::Packet;
use std::io::Write;
use timely::Accountable;
use timely::bytes::arc::Bytes;
use timely::container::{DrainContainer, PushInto, SizableContainer};
use timely::dataflow::channels::ContainerBytes;

/// A packet and the worker it is for.
pub struct Envelope {
    /// The receiving worker; edges that stay on one worker ignore it.
    pub to: usize,
    /// The packet.
    pub packet: Packet,
}

/// Packets that travel in one message.
#[derive(Default)]
pub struct PacketBatch(pub Vec<Envelope>);

/// Packets per message. One, because a packet is large: the receiver can start on it at once.
const CAPACITY: usize = 1;

impl Accountable for PacketBatch {
    fn record_count(&self) -> i64 {
        self.0.len() as i64
    }
}

impl DrainContainer for PacketBatch {
    type Item<'a> = Envelope;
    type DrainIter<'a> = std::vec::Drain<'a, Envelope>;
    fn drain(&mut self) -> Self::DrainIter<'_> {
        self.0.drain(..)
    }
}

impl SizableContainer for PacketBatch {
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

impl PushInto<Envelope> for PacketBatch {
    fn push_into(&mut self, envelope: Envelope) {
        self.0.push(envelope);
    }
}

/// timely requires this of every container that may be sent to another worker, although all workers are threads of one
/// process and containers are moved as they are. [`execute`](super::execute) only starts threads, so none of these
/// methods is ever called.
impl ContainerBytes for PacketBatch {
    fn from_bytes(_: Bytes) -> Self {
        unreachable!("workers are threads of one process: packets are never serialized")
    }
    fn length_in_bytes(&self) -> usize {
        unreachable!("workers are threads of one process: packets are never serialized")
    }
    fn into_bytes<W: Write>(&self, _: &mut W) {
        unreachable!("workers are threads of one process: packets are never serialized")
    }
}
