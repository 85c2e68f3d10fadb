//! An operator's inputs and outputs, with the types of timely's channels erased.
use super::packet_batch::{Envelope, PacketBatch};
use super::position::Position;
use super::shared_queue::SharedQueue;
use super::wire_format;
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
    processes: usize,
) -> PacketReader {
    match route {
        Route::Stay => packet_reader(builder.new_input(edge, Pipeline)),
        // Packets for any worker are in a shared queue: the edge has only a frontier, and packets of other processes.
        Route::AnyWorker if processes == 1 => packet_reader(builder.new_input(edge, Pipeline)),
        Route::Exchange | Route::Broadcast | Route::Owners | Route::AnyWorker => {
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
            batch.0.drain(..).filter_map(Envelope::open).for_each(|packet| each(step, packet));
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
    fn send(&mut self, packet: Packet, step: Step, position: &Position) {
        let Some(capability) = &self.capability else { return };
        let recipients = position.recipients(self.spec.route, &packet);
        if let (Some(queue), [to]) = (&self.spec.queue, &recipients[..])
            && position.is_here(*to)
        {
            return queue.push(step, packet);
        }
        let capability = capability.delayed(&step);
        let (here, elsewhere): (Vec<_>, Vec<_>) = recipients.into_iter().partition(|to| position.is_here(*to));
        let packet = if elsewhere.is_empty() { packet } else { self.send_elsewhere(packet, &elsewhere, &capability) };
        let mut output = self.output.activate();
        let mut session = output.session_with_builder(&capability);
        let mut packet = Some(packet);
        for (at, to) in here.iter().enumerate() {
            // Every worker but the last gets a shared copy.
            let copy = if at + 1 < here.len() { packet.as_ref().and_then(Packet::share) } else { packet.take() };
            copy.into_iter().for_each(|packet| session.give(Envelope::new(*to, packet)));
        }
    }

    /// Sends a packet to workers of other processes, and returns it: timely has written it to the buffers of their sockets.
    ///
    /// # Panics
    /// If the packet has no wire format, which [`across_processes`](super::distribution::across_processes) has checked, or
    /// if timely has kept it.
    fn send_elsewhere(&mut self, packet: Packet, to: &[usize], capability: &Capability<Step>) -> Packet {
        let message = wire_format::Message::try_from(packet).map_err(|packet| packet.kind().name());
        let message = Arc::new(message.expect("a kind that can be sent to another process"));
        let mut output = self.output.activate();
        let mut session = output.session_with_builder(capability);
        to.iter().for_each(|to| session.give(Envelope::message(*to, &message)));
        drop(session);
        drop(output);
        let message = Arc::into_inner(message);
        message.expect("a container for another process is written at once, and drops its packets then").into()
    }
}

/// All outputs of one operator, with its right to send at the current step.
pub struct OutputPorts {
    ports: Vec<OutputPort>,
    /// Of the worker.
    position: Position,
}

impl OutputPorts {
    /// The outputs of the operator of the worker at `position`, which may send from step `first` on.
    pub fn new(
        mut ports: Vec<OutputPort>,
        capabilities: Vec<Capability<Step>>,
        first: Step,
        position: Position,
    ) -> Self {
        for (port, mut capability) in ports.iter_mut().zip(capabilities) {
            capability.downgrade(&first);
            port.capability = Some(capability);
        }
        Self { ports, position }
    }

    /// Sends `packet` at `step` to every consumer of its kind. With `initial`, a kind that is fed back goes to this
    /// step instead of the next one.
    pub fn send(&mut self, packet: Packet, step: Step, initial: bool) {
        let kind = packet.kind();
        let initial = initial && self.ports.iter().any(|port| port.spec.kind == kind && port.spec.initial);
        let consumers = self.ports.iter_mut().filter(|port| port.spec.kind == kind && port.spec.initial == initial);
        let mut consumers = consumers.peekable();
        // Every consumer but the last gets a shared copy.
        let mut packet = Some(packet);
        while let Some(port) = consumers.next() {
            let copy = if consumers.peek().is_some() { packet.as_ref().and_then(Packet::share) } else { packet.take() };
            let Some(copy) = copy else { return };
            port.send(copy, step, &self.position);
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
