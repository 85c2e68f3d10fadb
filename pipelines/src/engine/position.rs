//! Where a worker is among the workers of all processes, and to which of them its packets go.
//!
//! timely numbers the workers of all processes: process by process, each with equally many. Stages know their worker
//! within its process.
use contract::{Env, Lane, Packet, Purpose, Route, process_of_leaf};
use std::sync::Arc;

/// A worker's position.
#[derive(Clone, Debug)]
pub struct Position {
    /// The index of the worker in its process.
    pub worker: usize,
    /// Number of workers of each process.
    pub workers: usize,
    /// The index of its process.
    pub process: usize,
    /// The shares of the leaves that the processes compute, one for each.
    shares: Arc<[u32]>,
    /// Number of leaves of a step.
    leaves: Lane,
}

impl Position {
    /// The position of the worker that `env` belongs to.
    pub fn of(env: &Env) -> Self {
        let Env { worker, workers, process, ref shares, .. } = *env;
        Self { worker, workers, process, shares: Arc::clone(shares), leaves: env.shape.micro_batches }
    }

    /// Number of processes.
    pub fn processes(&self) -> usize {
        self.shares.len()
    }

    /// The index of the worker among all.
    pub fn index(&self) -> usize {
        self.process * self.workers + self.worker
    }

    /// Number of workers of all processes.
    pub fn peers(&self) -> usize {
        self.processes() * self.workers
    }

    /// Whether the worker `peer` is one of this process.
    pub fn is_here(&self, peer: usize) -> bool {
        peer / self.workers == self.process
    }

    /// The workers to which a packet with this route goes, among all.
    pub fn recipients(&self, route: Route, packet: &Packet) -> Vec<usize> {
        let replicated = packet.kind().is_replicated();
        let workers_of = |process: usize| process * self.workers..(process + 1) * self.workers;
        match route {
            Route::Stay => vec![self.index()],
            Route::Exchange if replicated && self.process != 0 => Vec::new(),
            Route::Exchange => vec![packet.address()],
            Route::Broadcast if replicated => workers_of(self.process).collect(),
            Route::Broadcast => (0..self.peers()).collect(),
            Route::Owners => {
                let owner = packet.address() % self.workers;
                (0..self.processes()).map(|process| workers_of(process).start + owner).collect()
            }
            Route::AnyWorker => {
                let (process, lane) = (self.process_for(packet), packet.lane().unwrap_or_default() as usize);
                vec![workers_of(process).start + lane % self.workers]
            }
        }
    }

    /// The process whose workers take a packet for any worker: that of its leaf. Validation batches are dealt in turn.
    fn process_for(&self, packet: &Packet) -> usize {
        match packet {
            Packet::Batch(batch) if batch.purpose == Purpose::Validate => {
                (batch.leaf as usize + batch.part as usize) % self.processes()
            }
            _ => process_of_leaf(packet.lane().unwrap_or_default(), &self.shares, self.leaves),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::{Gradient, Norms, ParameterPiece, Tensor};

    fn at(process: usize, worker: usize) -> Position {
        Position { worker, workers: 2, process, shares: Arc::new([1, 1, 1]), leaves: 6 }
    }

    #[test]
    fn every_packet_goes_to_those_whom_it_is_for() {
        let gradient = |owner| {
            let data = Tensor::zeros([1]);
            Packet::Gradient(Gradient { leaves: 0..1, section: 0, owner, targets: 1, data })
        };
        let norms = Packet::Norms(Norms { section: 0, targets: 1, blocks: Vec::new() });
        let data = Arc::new(Tensor::zeros([1]));
        let parameters = Packet::Parameters(ParameterPiece { tensor: 0, data, average: None });
        let to = |position: Position, route, packet: &Packet| position.recipients(route, packet);
        assert_eq!(to(at(1, 1), Route::Stay, &norms), [3]);
        assert_eq!(to(at(1, 1), Route::Exchange, &gradient(4)), [4]);
        assert_eq!(to(at(1, 1), Route::Owners, &gradient(3)), [1, 3, 5]);
        assert_eq!(to(at(1, 1), Route::Broadcast, &norms), [0, 1, 2, 3, 4, 5]);
        assert_eq!(to(at(1, 1), Route::Broadcast, &parameters), [2, 3]);
        assert_eq!(to(at(1, 1), Route::Exchange, &parameters), [0; 0]);
        assert_eq!(to(at(0, 1), Route::Exchange, &parameters), [0]);
    }

    #[test]
    fn batches_go_to_the_process_of_their_leaf_and_those_for_validation_in_turn() {
        let batch = |leaf, purpose, part| {
            let none = || Vec::new().into();
            let (tokens, targets, document_starts) = (none(), none(), none());
            Packet::Batch(contract::Batch {
                leaf,
                purpose,
                part,
                sequences: 0,
                length: 1,
                tokens,
                targets,
                document_starts,
                documents: Vec::new().into(),
            })
        };
        let processes = |purpose, part| -> Vec<usize> {
            let worker = |leaf| at(0, 0).recipients(Route::AnyWorker, &batch(leaf, purpose, part))[0];
            (0..6).map(|leaf| worker(leaf) / 2).collect()
        };
        assert_eq!(processes(Purpose::Train, 0), [0, 0, 1, 1, 2, 2]);
        assert_eq!(processes(Purpose::Validate, 1), [1, 2, 0, 1, 2, 0]);
    }
}
