//! The traits that an experimenter implements.
use crate::packet::Packet;
use crate::saved::Snapshot;
use crate::step::{At, Lane, Step, Turn};
use anyhow::Result;
use serde_json::Value;

/// Where a stage puts what it gives.
pub trait Emit {
    /// Gives `packet` to every consumer of its kind, at the step that is being worked on.
    fn give(&mut self, packet: Packet);
}

/// An operator of the graph, seen from inside.
///
/// The engine promises: steps come in order; all [`Role::State`](crate::Role::State) packets of a step (say, the
/// parameters) come before any [`Role::Stream`](crate::Role::Stream) packet of it (say, a batch); one call at a
/// time. One micro-batch is worked on at a time: a stage that gives [`Activations`](crate::Activations) gets its
/// next stream packet only when they have been dropped.
pub trait Stage: Send {
    /// Called once, before the first step. What is given here on a kind that is fed back (parameters) arrives
    /// at the first step itself, what `step_done` and the others give arrives one step later.
    fn start(&mut self, _out: &mut dyn Emit) -> Result<()> {
        Ok(())
    }

    /// One packet arrived.
    fn packet(&mut self, at: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn>;

    /// The stage said [`Turn::More`] and others have had their turn.
    fn more(&mut self, _step: Step, _out: &mut dyn Emit) -> Result<Turn> {
        Ok(Turn::Done)
    }

    /// Nothing more can arrive for `step`, from any worker. Called once on every worker for every step, in order.
    fn step_done(&mut self, _step: Step, _out: &mut dyn Emit) -> Result<()> {
        Ok(())
    }

    /// What a checkpoint must hold to go on with `lane` after the step that is just done. State belongs to lanes,
    /// so that a run can go on with another number of workers. Called after every step where the graph has a stage
    /// that writes checkpoints.
    fn save(&mut self, _lane: Lane) -> Result<Snapshot> {
        Ok(Snapshot::default())
    }

    /// What [`save`](Stage::save) returned, as JSON, on the worker that owns `lane` now, before `start`.
    fn load(&mut self, _lane: Lane, _state: Value) -> Result<()> {
        Ok(())
    }

    /// Everything this stage will ever get is worked off.
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Where data enters the graph. It runs on a thread of its own, so it may block on files.
pub trait Source: Send {
    /// Gives the next packets of `lane` for `step`.
    ///
    /// Called once for every step and lane. Where a stage downstream pulls, it is called again while that stage is
    /// [`Starved`](crate::Turn::Starved), and giving nothing means that the lane has nothing more for this step.
    /// Where none pulls, it is called again while it returns [`Turn::More`].
    fn next(&mut self, lane: Lane, step: Step, out: &mut dyn Emit) -> Result<Turn>;

    /// As [`Stage::save`]: called after every [`next`](Source::next) of the lane; the last before the next step counts.
    fn save(&mut self, _lane: Lane) -> Result<Snapshot> {
        Ok(Snapshot::default())
    }

    /// As [`Stage::load`].
    fn load(&mut self, _lane: Lane, _state: Value) -> Result<()> {
        Ok(())
    }
}
