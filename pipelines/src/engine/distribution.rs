//! Which stages of a graph run on which process, when several run it together.
//!
//! Lanes, and everything that is gathered in one place, belong to the first process, the head: it alone has the data and
//! the run directory. Stages that compute leaves, and those that take their gradients, run everywhere.
use super::graph::{Connection, connections};
use super::wire_format;
use crate::plan::{Edge, PlannedStage};
use crate::problem::Usage;
use anyhow::Result;
use contract::{At, Built, Emit, Kind, Lane, Packet, Route, Source, Stage, Step, Turn};

/// The stages of a graph for several processes: each stage is followed by the one that completes its work across
/// processes, if it has one.
///
/// # Errors
/// If packets that have no wire format would have to cross processes.
pub fn across_processes(stages: &[PlannedStage]) -> Result<Vec<PlannedStage>> {
    let more: Vec<_> = stages.iter().map(|stage| stage.settings.across_processes()).collect();
    // The index of the stage whose output stands for that of each stage.
    let completed: Vec<usize> = (0..stages.len()).map(|at| at + more[..=at].iter().flatten().count()).collect();
    let mut all = Vec::new();
    for (stage, more) in stages.iter().zip(more) {
        let edges = |port: &Vec<Edge>| port.iter().map(|edge| Edge { from: completed[edge.from], ..*edge }).collect();
        let inputs = stage.inputs.iter().map(edges).collect();
        all.push(PlannedStage { inputs, ..stage.clone() });
        if let Some(settings) = more {
            let id = format!("{} across processes", stage.id);
            let inputs = settings.takes().iter().map(|_| vec![Edge { from: all.len() - 1, feedback: false }]).collect();
            all.push(PlannedStage { id, settings, inputs, ..stage.clone() });
        }
    }
    let connections = connections(&all);
    let everywhere = everywhere(&all, &connections);
    for connection in &connections {
        let Connection { from, to, kind, route, .. } = *connection;
        let crosses = route == Route::AnyWorker || everywhere[from] && route != Route::Stay;
        // Only lanes are saved, and they are in the first process.
        let stays = kind.is_replicated() || kind == Kind::Saved;
        if crosses && !stays && !wire_format::has_format(kind) {
            let (from, to, kind) = (&all[from].id, &all[to].id, kind.name());
            let why = format!("`{from}` would have to send {kind} to `{to}` in other processes, which is not possible");
            return Err(Usage(format!("{why}: run the configuration in one process")).into());
        }
    }
    Ok(all)
}

/// Whether each stage runs on process `process`. All run on the first one.
pub fn runs_here(stages: &[PlannedStage], process: usize) -> Vec<bool> {
    if process == 0 { vec![true; stages.len()] } else { everywhere(stages, &connections(stages)) }
}

/// Whether each stage runs on every process: stages that take packets for any worker, and those that their packets reach
/// without being gathered.
fn everywhere(stages: &[PlannedStage], connections: &[Connection]) -> Vec<bool> {
    let any_worker = |stage: &PlannedStage| stage.settings.takes().iter().any(|port| port.route == Route::AnyWorker);
    let mut everywhere: Vec<bool> = stages.iter().map(any_worker).collect();
    let spreads = |c: &Connection| match c.route {
        Route::Stay | Route::Broadcast | Route::Owners => true,
        Route::Exchange => c.kind == Kind::Gradient,
        Route::AnyWorker => false,
    };
    while let Some(found) = connections.iter().find(|c| everywhere[c.from] && !everywhere[c.to] && spreads(c)) {
        everywhere[found.to] = true;
    }
    everywhere
}

/// What stands for a stage that runs on another process: no packet reaches it, and it sends none.
pub fn elsewhere(stage: &PlannedStage) -> Built {
    if stage.settings.takes().is_empty() {
        Built::Source(Box::new(Elsewhere))
    } else {
        Built::Stage(Box::new(Elsewhere))
    }
}

struct Elsewhere;

impl Stage for Elsewhere {
    fn packet(&mut self, _: At, packet: Packet, _: &mut dyn Emit) -> Result<Turn> {
        anyhow::bail!("{} arrived at a process without this stage", packet.kind().name())
    }
}

impl Source for Elsewhere {
    fn next(&mut self, lane: Lane, _: Step, _: &mut dyn Emit) -> Result<Turn> {
        anyhow::bail!("lane {lane} was asked for at a process without this source")
    }
}
