//! The traits that a new kind of stage implements.
use crate::packet::Packet;
use crate::saved::Snapshot;
use crate::step::{At, Lane, Step, Turn};
use anyhow::Result;
use serde_json::Value;

/// The output of a stage.
pub trait Emit {
    /// Emits `packet` at the current step, to every consumer of its kind.
    fn give(&mut self, packet: Packet);
}

/// An operator of the graph, without the dataflow around it.
///
/// The engine guarantees: steps come in order; all [`Role::State`](crate::Role::State) packets of a step (for example
/// the parameters) arrive before any [`Role::Stream`](crate::Role::Stream) packet of it (for example a batch); calls
/// never overlap. One micro-batch is in flight at a time: a stage that emits [`Activations`](crate::Activations) gets
/// its next stream packet only after they have been dropped.
pub trait Stage: Send {
    /// Called once, before the first step. Packets emitted here on a kind that is fed back (parameters) arrive at the
    /// first step itself; those emitted by `step_done` and the other methods arrive one step later.
    fn start(&mut self, _out: &mut dyn Emit) -> Result<()> {
        Ok(())
    }

    /// One packet arrived.
    fn packet(&mut self, at: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn>;

    /// Called after the stage has returned [`Turn::More`] and other operators have had their turn.
    fn more(&mut self, _step: Step, _out: &mut dyn Emit) -> Result<Turn> {
        Ok(Turn::Done)
    }

    /// Called once on every worker for every step, in order, when no further packet can arrive for `step` from any
    /// worker.
    fn step_done(&mut self, _step: Step, _out: &mut dyn Emit) -> Result<()> {
        Ok(())
    }

    /// The state that a checkpoint needs to continue `lane` after the step that has just ended. State belongs to lanes,
    /// so that a run can be resumed with another number of workers. Called after every step if the graph has a stage
    /// that writes checkpoints.
    fn save(&mut self, _lane: Lane) -> Result<Snapshot> {
        Ok(Snapshot::default())
    }

    /// Restores what [`save`](Stage::save) returned, as JSON, on the worker that now owns `lane`. Called before
    /// `start`.
    fn load(&mut self, _lane: Lane, _state: Value) -> Result<()> {
        Ok(())
    }

    /// Called once after the last packet.
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

/// An entry point of data into the graph. It runs on a thread of its own, so it may block on files.
pub trait Source: Send {
    /// Emits the next packets of `lane` for `step`.
    ///
    /// Called once for every step and lane. If a stage downstream pulls, it is called again while that stage returns
    /// [`Starved`](crate::Turn::Starved); emitting nothing means that the lane has no more data for this step. If no
    /// stage pulls, it is called again while it returns [`Turn::More`].
    fn next(&mut self, lane: Lane, step: Step, out: &mut dyn Emit) -> Result<Turn>;

    /// Like [`Stage::save`], but called after every [`next`](Source::next) of the lane; the last call before the next
    /// step counts.
    fn save(&mut self, _lane: Lane) -> Result<Snapshot> {
        Ok(Snapshot::default())
    }

    /// Like [`Stage::load`].
    fn load(&mut self, _lane: Lane, _state: Value) -> Result<()> {
        Ok(())
    }
}
