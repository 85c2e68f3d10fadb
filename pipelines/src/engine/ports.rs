//! The inputs and outputs of an operator, with the types of timely's channels erased.
use super::parcel::{Envelope, Parcel};
use contract::{Emit, Kind, Packet, Route, Step};
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
pub type Edge<'scope> = Stream<'scope, Step, Parcel>;
/// How containers are built on every edge.
pub type ParcelBuilder = CapacityContainerBuilder<Parcel>;
/// Takes whatever has arrived at one input and hands it on with its step.
pub type Intake = Box<dyn FnMut(&mut dyn FnMut(Step, Packet))>;

/// An input of the operator being built.
pub fn intake<'scope>(builder: &mut OperatorBuilder<'scope, Step>, edge: Edge<'scope>, route: Route) -> Intake {
    match route {
        Route::Stay => drain(builder.new_input(edge, Pipeline)),
        Route::Exchange | Route::Broadcast => {
            let to = |envelope: &Envelope| envelope.to as u64;
            drain(builder.new_input(edge, ExchangeCore::<ParcelBuilder, _>::new_core(to)))
        }
    }
}

fn drain<P: Pull<Message<Step, Parcel>> + 'static>(mut handle: InputHandleCore<Step, Parcel, P>) -> Intake {
    Box::new(move |each| {
        handle.for_each(|capability, parcel| {
            // Every message carries the step it was sent at: stages only ever send at one.
            let step = capability.least().copied().unwrap_or_default();
            parcel.0.drain(..).for_each(|envelope| each(step, envelope.packet));
        });
    })
}

/// One output of the operator: everything of one kind that one consumer takes.
pub struct Outlet {
    /// What it carries.
    pub kind: Kind,
    /// How it gets there.
    pub route: Route,
    /// May only be used before the first step.
    pub seed: bool,
    output: OutputBuilder<Step, ParcelBuilder>,
    capability: Option<Capability<Step>>,
}

impl Outlet {
    /// A new output of the operator being built, and the edge that leaves it. With `seed`, one that carries what
    /// [`Stage::start`](contract::Stage::start) gives on a kind that is fed back: it follows from no input.
    pub fn new<'scope>(
        builder: &mut OperatorBuilder<'scope, Step>,
        kind: Kind,
        route: Route,
        seed: bool,
    ) -> (Self, Edge<'scope>) {
        let (output, edge): (Output<Step, Parcel>, _) = if seed {
            builder.new_output_connection([] as [(usize, Antichain<Step>); 0])
        } else {
            builder.new_output()
        };
        (Self { kind, route, seed, output: OutputBuilder::from(output), capability: None }, edge)
    }
}

/// All outputs of one operator, and its capability to send at the current step.
pub struct Outlets {
    outlets: Vec<Outlet>,
    worker: usize,
    workers: usize,
}

impl Outlets {
    /// The outputs of a worker's operator, which may send from step `first` on.
    pub fn new(
        mut outlets: Vec<Outlet>,
        capabilities: Vec<Capability<Step>>,
        first: Step,
        env: (usize, usize),
    ) -> Self {
        for (outlet, mut capability) in outlets.iter_mut().zip(capabilities) {
            capability.downgrade(&first);
            outlet.capability = Some(capability);
        }
        Self { outlets, worker: env.0, workers: env.1 }
    }

    /// Sends `packet` at `step` to every consumer of its kind. Before the first step (`seed`), what is fed back
    /// takes the way that does not lead to the next step.
    pub fn send(&mut self, packet: Packet, step: Step, seed: bool) {
        let (kind, worker, workers) = (packet.kind(), self.worker, self.workers);
        let fed_back = seed && self.outlets.iter().any(|o| o.kind == kind && o.seed);
        let takers = self.outlets.iter_mut().filter(|o| o.kind == kind && o.seed == fed_back);
        let mut rest = Some(packet);
        let mut takers = takers.peekable();
        while let Some(outlet) = takers.next() {
            let Some(packet) =
                (if takers.peek().is_some() { rest.as_ref().and_then(Packet::share) } else { rest.take() })
            else {
                return;
            };
            let Some(capability) = &outlet.capability else { continue };
            let capability = capability.delayed(&step);
            let mut output = outlet.output.activate();
            let mut session = output.session_with_builder(&capability);
            match outlet.route {
                Route::Stay => session.give(Envelope { to: worker, packet }),
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

    /// The first step is about to begin: what is fed back now takes the long way.
    pub fn end_start(&mut self) {
        self.outlets.iter_mut().filter(|o| o.seed).for_each(|o| o.capability = None);
    }

    /// Nothing will be sent before `step` any more.
    pub fn advance(&mut self, step: Step) {
        for outlet in &mut self.outlets {
            if let Some(capability) = &mut outlet.capability {
                capability.downgrade(&step);
            }
        }
    }

    /// Nothing will be sent any more.
    pub fn close(&mut self) {
        self.outlets.iter_mut().for_each(|o| o.capability = None);
    }
}

/// What a stage gives during one call.
#[derive(Default)]
pub struct Tray(pub Vec<Packet>);

impl Emit for Tray {
    fn give(&mut self, packet: Packet) {
        self.0.push(packet);
    }
}
