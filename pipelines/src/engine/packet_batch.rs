//! The container that timely moves along every edge of the graph.
use super::wire_format::{self, Message};
use anyhow::Context;
use contract::Packet;
use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::Arc;
use timely::Accountable;
use timely::bytes::arc::Bytes;
use timely::container::{DrainContainer, PushInto, SizableContainer};
use timely::dataflow::channels::ContainerBytes;

/// A packet and the worker it is for.
pub struct Envelope {
    /// The receiving worker, among those of all processes; edges that stay on one worker ignore it.
    pub to: usize,
    content: RefCell<Option<Content>>,
}

/// What an envelope holds.
enum Content {
    Owned(Packet),
    /// For another process: only to be written.
    Message(Arc<Message>),
}

impl Envelope {
    /// An envelope for one worker.
    pub fn new(to: usize, packet: Packet) -> Self {
        Self { to, content: RefCell::new(Some(Content::Owned(packet))) }
    }

    /// An envelope for a worker of another process.
    pub fn message(to: usize, message: &Arc<Message>) -> Self {
        Self { to, content: RefCell::new(Some(Content::Message(Arc::clone(message)))) }
    }

    /// The packet that has arrived.
    pub fn open(self) -> Option<Packet> {
        match self.content.into_inner()? {
            Content::Owned(packet) => Some(packet),
            Content::Message(message) => Arc::into_inner(message).map(Packet::from),
        }
    }

    /// The message in it, for a worker of another process.
    ///
    /// # Panics
    /// If it is for a worker of this process.
    fn outgoing(&self) -> Arc<Message> {
        match &*self.content.borrow() {
            Some(Content::Message(message)) => Arc::clone(message),
            _ => panic!("a packet for worker {} is not for this process", self.to),
        }
    }
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

/// How a batch is sent to another process: after the number of its packets, each with its length, the receiving worker
/// and its content. Between threads, batches are moved as they are.
impl ContainerBytes for PacketBatch {
    /// # Panics
    /// If these are not the bytes of a batch. They come from this program on a host that has proved that it may send them.
    fn from_bytes(bytes: Bytes) -> Self {
        let read = |bytes: &mut &[u8]| -> anyhow::Result<Envelope> {
            let (length, to) = (number(bytes)?, number(bytes)?);
            let (packet, rest) = bytes.split_at_checked(length).context("a packet ends early")?;
            *bytes = rest;
            Ok(Envelope::new(to, wire_format::read(packet)?.into()))
        };
        let mut rest = &bytes[..];
        let packets = number(&mut rest).and_then(|count| (0..count).map(|_| read(&mut rest)).collect());
        Self(packets.unwrap_or_else(|error| panic!("a message of another process cannot be read: {error:#}")))
    }

    fn length_in_bytes(&self) -> usize {
        let packet = |envelope: &Envelope| 2 * size_of::<u64>() + wire_format::length(&envelope.outgoing());
        size_of::<u64>() + self.0.iter().map(packet).sum::<usize>()
    }

    /// Writes the packets and drops them: timely keeps the container for its next message.
    fn into_bytes<W: Write>(&self, out: &mut W) {
        let mut write = || -> io::Result<()> {
            out.write_all(&(self.0.len() as u64).to_le_bytes())?;
            for envelope in &self.0 {
                let message = envelope.outgoing();
                let numbers = [wire_format::length(&message), envelope.to];
                numbers.into_iter().try_for_each(|n| out.write_all(&(n as u64).to_le_bytes()))?;
                wire_format::write(&message, out)?;
                envelope.content.take();
            }
            Ok(())
        };
        write().unwrap_or_else(|error| panic!("a message for another process cannot be written: {error}"));
    }
}

fn number(bytes: &mut &[u8]) -> anyhow::Result<usize> {
    let (number, rest) = bytes.split_first_chunk().context("a number ends early")?;
    *bytes = rest;
    Ok(usize::try_from(u64::from_le_bytes(*number))?)
}
