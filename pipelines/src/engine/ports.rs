//! An operator's inputs and outputs, with the types of timely's channels erased.
use super::packet_batch::{Envelope, PacketBatch};
use super::shared_queue::SharedQueue;
use contract::{Emit, Kind, Packet, Route, Step};
use std::sync::Arc;
use timely::communication::Pull;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::Message;
use timely::dataflow::channels::pact::{ExchangeCore, Pipeline};
use timely::dataflow::channels::pushers::Output;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::{InputHandleCore, OutputBuilder};
use timely::progress::Antichain;

/// An edge of the graph while it is built.
pub type Edge<'scope> = Stream<'scope, Step, PacketBatch>;
/// How batches are built on every edge.
pub type BatchBuilder = CapacityContainerBuilder<PacketBatch>;
/// Reads every packet that has arrived at one input, with its step.
pub type PacketReader = Box<dyn FnMut(&mut dyn FnMut(Step, Packet))>;
/// Moves every message that has arrived at one input to the end of a vector.
pub type Reader<T> = Box<dyn FnMut(&mut Vec<T>)>;

/// Adds an input for packets to the operator being built.
pub fn packet_input<'scope>(
    builder: &mut OperatorBuilder<'scope, Step>,
    edge: Edge<'scope>,
    route: Route,
) -> PacketReader {
    match route {
        // Packets for any worker are in a shared queue: the edge has only a frontier.
        Route::Stay | Route::AnyWorker => packet_reader(builder.new_input(edge, Pipeline)),
        Route::Exchange | Route::Broadcast => {
            let to = |envelope: &Envelope| envelope.to as u64;
            packet_reader(builder.new_input(edge, ExchangeCore::<BatchBuilder, _>::new_core(to)))
        }
    }
}

fn packet_reader<P: Pull<Message<Step, PacketBatch>> + 'static>(
    mut handle: InputHandleCore<Step, PacketBatch, P>,
) -> PacketReader {
    Box::new(move |each| {
        handle.for_each(|capability, batch| {
            // Every message carries the step it was sent at: stages only ever send at one.
            let step = capability.least().copied().unwrap_or_default();
            batch.0.drain(..).for_each(|envelope| each(step, envelope.packet));
        });
    })
}

/// Reads an input that carries messages of the engine itself.
pub fn reader<T: 'static, P: Pull<Message<Step, Vec<T>>> + 'static>(
    mut handle: InputHandleCore<Step, Vec<T>, P>,
) -> Reader<T> {
    Box::new(move |into| handle.for_each(|_, messages| into.append(messages)))
}

/// What one output of an operator carries: all packets of one kind, to one consumer.
#[derive(Clone)]
pub struct OutputSpec {
    /// The kind of packet.
    pub kind: Kind,
    /// To which workers.
    pub route: Route,
    /// Where packets for any worker wait.
    pub queue: Option<Arc<SharedQueue>>,
    /// Only used before the first step: the extra output of a kind that is fed back, for what
    /// [`Stage::start`](contract::Stage::start) emits.
    pub initial: bool,
}

/// One output of an operator.
pub struct OutputPort {
    spec: OutputSpec,
    output: OutputBuilder<Step, BatchBuilder>,
    /// Dropped when nothing will be sent any more.
    capability: Option<Capability<Step>>,
}

impl OutputPort {
    /// Adds an output to the operator being built; returns it and its edge. In timely's eyes an initial output depends
    /// on no input.
    pub fn new<'scope>(builder: &mut OperatorBuilder<'scope, Step>, spec: OutputSpec) -> (Self, Edge<'scope>) {
        let (output, edge): (Output<Step, PacketBatch>, _) = if spec.initial {
            builder.new_output_connection([] as [(usize, Antichain<Step>); 0])
        } else {
            builder.new_output()
        };
        (Self { spec, output: OutputBuilder::from(output), capability: None }, edge)
    }

    /// Sends a packet to the workers that the route says.
    fn send(&mut self, packet: Packet, step: Step, (worker, workers): (usize, usize)) {
        let Some(capability) = &self.capability else { return };
        if let Some(queue) = &self.spec.queue {
            return queue.push(step, packet);
        }
        let capability = capability.delayed(&step);
        let mut output = self.output.activate();
        let mut session = output.session_with_builder(&capability);
        match self.spec.route {
            Route::Stay | Route::AnyWorker => session.give(Envelope { to: worker, packet }),
            Route::Exchange => session.give(Envelope { to: packet.address(), packet }),
            Route::Broadcast => {
                for to in 0..workers {
                    if let Some(packet) = packet.share() {
                        session.give(Envelope { to, packet });
                    }
                }
            }
        }
    }
}

/// All outputs of one operator, with its right to send at the current step.
pub struct OutputPorts {
    ports: Vec<OutputPort>,
    /// This worker and the number of workers.
    worker: (usize, usize),
}

impl OutputPorts {
    /// The outputs of the operator of `worker` (index, number of workers), which may send from step `first` on.
    pub fn new(
        mut ports: Vec<OutputPort>,
        capabilities: Vec<Capability<Step>>,
        first: Step,
        worker: (usize, usize),
    ) -> Self {
        for (port, mut capability) in ports.iter_mut().zip(capabilities) {
            capability.downgrade(&first);
            port.capability = Some(capability);
        }
        Self { ports, worker }
    }

    /// Sends `packet` at `step` to every consumer of its kind. With `initial`, a kind that is fed back goes to this
    /// step instead of the next one.
    pub fn send(&mut self, packet: Packet, step: Step, initial: bool) {
        let (kind, worker) = (packet.kind(), self.worker);
        let initial = initial && self.ports.iter().any(|port| port.spec.kind == kind && port.spec.initial);
        let consumers = self.ports.iter_mut().filter(|port| port.spec.kind == kind && port.spec.initial == initial);
        let mut consumers = consumers.peekable();
        // Every consumer but the last gets a shared copy.
        let mut packet = Some(packet);
        while let Some(port) = consumers.next() {
            let copy = if consumers.peek().is_some() { packet.as_ref().and_then(Packet::share) } else { packet.take() };
            let Some(copy) = copy else { return };
            port.send(copy, step, worker);
        }
    }

    /// Closes the initial outputs: the first step is about to begin.
    pub fn close_initial(&mut self) {
        self.ports.iter_mut().filter(|port| port.spec.initial).for_each(|port| port.capability = None);
    }

    /// Promises that nothing will be sent before `step` any more.
    pub fn advance(&mut self, step: Step) {
        for port in &mut self.ports {
            if let Some(capability) = &mut port.capability {
                capability.downgrade(&step);
            }
        }
    }

    /// Promises that nothing will be sent any more.
    pub fn close(&mut self) {
        self.ports.iter_mut().for_each(|port| port.capability = None);
    }
}

/// The packets that a stage emits during one call.
#[derive(Default)]
pub struct Outbox(pub Vec<Packet>);

impl Emit for Outbox {
    fn give(&mut self, packet: Packet) {
        self.0.push(packet);
    }
}
