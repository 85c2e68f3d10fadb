//! For unit tests of stages: hand a stage packets, look at what it gives.
use crate::packet::Packet;
use crate::stage::Emit;
use crate::step::{At, Step};
use std::time::Duration;

/// Keeps what a stage gives.
#[derive(Default)]
pub struct Collect(pub Vec<Packet>);

impl Emit for Collect {
    fn give(&mut self, packet: Packet) {
        self.0.push(packet);
    }
}

/// Arrival at port 0 of `step`.
pub fn at(step: Step) -> At {
    At { step, port: 0, waited: Duration::ZERO }
}
