//! Helpers for unit tests of stages: pass packets to a stage and look at what it emits.
use crate::packet::Packet;
use crate::stage::Emit;
use crate::step::{At, Step};
use std::time::Duration;

/// Collects what a stage emits.
#[derive(Default)]
pub struct Collect(pub Vec<Packet>);

impl Emit for Collect {
    fn give(&mut self, packet: Packet) {
        self.0.push(packet);
    }
}

/// An arrival at port 0 at `step`.
pub fn at(step: Step) -> At {
    At { step, port: 0, waited: Duration::ZERO }
}
