//! The event loop of the head.
use super::local::{Local, MeshDone};
use super::{Clock, Engine, Events, Host, NotPersisted, Store, run, shorten};
use crate::hosts::messages::{EngineEvent, HeadAction, HeadEvent, Report, ToHead, ToMember};
use crate::hosts::net::frame;
use crate::hosts::net::handshake::{Purpose, Verdict};
use crate::hosts::net::links::{Deliver, LinkEvent, Links};
use crate::hosts::net::listener::{Accept, Listener};
use crate::hosts::net::mesh::Expected;
use crate::hosts::net::secret::Secret;
use crate::hosts::net::socket::Deadline;
use crate::hosts::net::transfer::{Server, Source};
use crate::hosts::types::{Config, Hello, HostId, Link, Outcome, Step};
use crate::hosts::{Head, HeadStart, Notice};
use anyhow::{Context, Result};
use std::collections::{BTreeMap, VecDeque};
use std::net::{TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// How long a host that has proved the secret may take to introduce itself.
const GREETING: Duration = Duration::from_secs(3);

/// How often the user is told about strangers, at most.
const STRANGERS: Duration = Duration::from_secs(60);

/// What happens to the driver.
enum Input {
    Event(HeadEvent),
    Link(TcpStream),
    Mesh(MeshDone),
}

/// A head that is about to run.
pub struct HeadDriver {
    /// The limits.
    pub config: Config,
    /// What it begins with.
    pub start: HeadStart,
    /// The secret.
    pub secret: Secret,
    /// Where hosts connect.
    pub socket: TcpListener,
    /// The commits.
    pub store: Arc<dyn Store>,
    /// The commits, as hosts download them.
    pub source: Arc<dyn Source>,
    /// Tells the user.
    pub say: Box<dyn FnMut(Notice)>,
}

impl HeadDriver {
    /// Runs the head to its end. `engine` makes the engine, which reports to what it is given; so may a signal handler.
    ///
    /// # Errors
    /// If the system refuses threads or sockets at the beginning, or the engine cannot be made.
    pub fn run(self, engine: impl FnOnce(Events<HeadEvent>) -> Result<Box<dyn Engine>>) -> Result<Outcome> {
        let Self { config, start, secret, socket, store, source, say } = self;
        let (inputs, receive) = channel();
        let sender = inputs.clone();
        // If the driver has ended, nobody needs to know.
        let events = Events::new(move |event| drop(sender.send(Input::Event(event))));
        let engine = engine(events.clone())?;
        let mesh = inputs.clone();
        let report = Arc::new(move |done| drop(mesh.send(Input::Mesh(done))));
        let local = Local::new(engine, secret.clone(), &config, report);
        let door = Door { expected: Arc::clone(&local.expected), server: Server::new(source), inputs: inputs.clone() };
        let listener = Listener::start(socket, secret, door)?;
        let clock = Clock::start();
        let persist = spawn_store(Arc::clone(&store), events)?;
        let mut head = Running {
            clock,
            machine: Head::new(config, start, clock.now()),
            local,
            links: Links::default(),
            greeting: BTreeMap::new(),
            obtaining: BTreeMap::new(),
            store,
            persist,
            listener,
            told: (0, None),
            say,
            inputs,
            outcome: None,
        };
        head.event(HeadEvent::Tick);
        let outcome = run(&mut head, clock, &receive);
        head.links.finish();
        Ok(outcome)
    }
}

/// What the listener does with connections.
struct Door {
    expected: Arc<Expected>,
    server: Server,
    inputs: Sender<Input>,
}

impl Accept for Door {
    fn verdict(&self, purpose: Purpose) -> Verdict {
        match purpose {
            Purpose::Control | Purpose::Download => Verdict::Accepted,
            Purpose::Data { epoch, from, to } => self.expected.verdict(epoch, from, to),
        }
    }

    fn accept(&self, purpose: Purpose, stream: TcpStream) {
        match purpose {
            Purpose::Control => drop(self.inputs.send(Input::Link(stream))),
            Purpose::Download => self.server.serve(stream),
            Purpose::Data { epoch, from, .. } => self.expected.accept(epoch, from, stream),
        }
    }
}

/// What the thread that writes commits does next.
enum StoreTask {
    Persist(Step),
    CheckOwner,
}

/// The thread that writes commits.
fn spawn_store(store: Arc<dyn Store>, events: Events<HeadEvent>) -> Result<Sender<StoreTask>> {
    let (tasks, receive) = channel();
    let work = move || {
        for task in receive {
            match task {
                StoreTask::CheckOwner => {
                    if !catch_unwind(AssertUnwindSafe(|| store.is_owner())).unwrap_or(true) {
                        events.send(HeadEvent::Fenced);
                    }
                }
                StoreTask::Persist(step) => {
                    let panicked = |_| Err(NotPersisted::Failed("writing the checkpoint panicked".to_owned()));
                    let done = catch_unwind(AssertUnwindSafe(|| store.persist(step))).unwrap_or_else(panicked);
                    events.send(match done {
                        Ok(()) => HeadEvent::Persisted { step },
                        Err(NotPersisted::Fenced) => HeadEvent::Fenced,
                        Err(NotPersisted::Failed(cause)) => HeadEvent::PersistFailed { step, cause },
                    });
                }
            }
        }
    };
    std::thread::Builder::new().name("commits".to_owned()).spawn(work).context("cannot start a thread")?;
    Ok(tasks)
}

struct Running {
    clock: Clock,
    machine: Head,
    local: Local,
    links: Links,
    /// Links whose `Hello` has not arrived.
    greeting: BTreeMap<Link, Deadline>,
    /// The commits that members have been asked to obtain and have not reported yet.
    obtaining: BTreeMap<Link, Step>,
    store: Arc<dyn Store>,
    persist: Sender<StoreTask>,
    listener: Listener,
    /// How many strangers the user has been told about, and until when nothing is said about more.
    told: (u64, Option<Deadline>),
    say: Box<dyn FnMut(Notice)>,
    inputs: Sender<Input>,
    outcome: Option<Outcome>,
}

impl Host for Running {
    type Input = Input;

    fn deadline(&self) -> Duration {
        self.machine.deadline()
    }

    fn handle(&mut self, input: Input) {
        match input {
            Input::Event(event) => self.event(event),
            Input::Link(stream) => self.open_link(stream),
            Input::Mesh(done) => {
                if let Some(event) = self.local.on_mesh(done, &mut self.say) {
                    self.event(HeadEvent::Engine(event));
                }
            }
        }
    }

    fn tick(&mut self) {
        let late: Vec<Link> =
            self.greeting.iter().filter(|(_, limit)| limit.is_over()).map(|(link, _)| *link).collect();
        for link in late {
            self.greeting.remove(&link);
            self.links.close(link);
        }
        self.tell_about_strangers();
        self.event(HeadEvent::Tick);
    }

    fn receive(&self) {
        self.links.receive();
    }

    fn outcome(&mut self) -> Option<Outcome> {
        self.outcome.clone()
    }
}

impl Running {
    fn open_link(&mut self, stream: TcpStream) {
        let inputs = self.inputs.clone();
        // If the system refuses, the host tries again.
        if let Ok(link) = self.links.add(stream, |link| deliver(link, inputs)) {
            self.greeting.insert(link, Deadline::after(GREETING));
        }
    }

    /// Gives the state machine an event, and does what it says.
    fn event(&mut self, event: HeadEvent) {
        let mut events = VecDeque::from([event]);
        while let Some(mut event) = events.pop_front() {
            self.note(&mut event);
            for action in self.machine.on(self.clock.now(), event) {
                events.extend(self.act(action).map(HeadEvent::Engine));
            }
        }
    }

    /// What the driver itself learns from an event.
    fn note(&mut self, event: &mut HeadEvent) {
        match event {
            HeadEvent::Admitted { link, .. } => drop(self.greeting.remove(link)),
            HeadEvent::Message { link, message: ToHead::Report(Report::Holds { .. } | Report::Prepared { .. }) } => {
                self.obtained(*link);
            }
            HeadEvent::Closed { link } => {
                self.greeting.remove(link);
                self.close(*link);
            }
            HeadEvent::Engine(EngineEvent::Failed { failure, .. }) => shorten(failure),
            _ => {}
        }
    }

    fn act(&mut self, action: HeadAction) -> Option<EngineEvent> {
        match action {
            HeadAction::Send { link, message } => {
                match message {
                    ToMember::Welcome { commit: step, .. } | ToMember::Prepare { from: step, .. } => {
                        self.obtaining.insert(link, step);
                        self.keep();
                    }
                    _ => {}
                }
                self.links.send(link, &message);
            }
            HeadAction::Close { link } => self.close(link),
            HeadAction::Engine(action) => return self.local.act(action, HostId::HEAD, None),
            HeadAction::Drain { epoch } => self.local.drain(epoch),
            HeadAction::Commit { epoch, step } => self.store.commit(epoch, step),
            HeadAction::Discard { epoch } => self.store.discard(epoch),
            HeadAction::Persist { step } => drop(self.persist.send(StoreTask::Persist(step))),
            HeadAction::CheckOwner => drop(self.persist.send(StoreTask::CheckOwner)),
            HeadAction::Say(notice) => (self.say)(notice),
            HeadAction::Exit(outcome) => self.outcome = Some(outcome),
        }
        None
    }

    fn close(&mut self, link: Link) {
        self.links.close(link);
        self.obtained(link);
    }

    /// A member has the commit that it was asked to obtain, or is gone.
    fn obtained(&mut self, link: Link) {
        if self.obtaining.remove(&link).is_some() {
            self.keep();
        }
    }

    fn keep(&self) {
        self.store.keep(&self.obtaining.values().copied().collect());
    }

    fn tell_about_strangers(&mut self) {
        let (told, quiet) = self.told;
        if quiet.is_some_and(|until| !until.is_over()) {
            return;
        }
        let counts = self.listener.counts();
        if counts.dropped() > told {
            self.told = (counts.dropped(), Some(Deadline::after(STRANGERS)));
            (self.say)(Notice::Strangers(counts));
        }
    }
}

/// What happens on the link of a member: it introduces itself, then it sends messages.
fn deliver(link: Link, inputs: Sender<Input>) -> Deliver {
    let mut greeted = false;
    Box::new(move |happened| {
        let event = match happened {
            LinkEvent::Closed => HeadEvent::Closed { link },
            LinkEvent::Frame(bytes) if greeted => HeadEvent::Message { link, message: frame::decode(bytes)? },
            LinkEvent::Frame(bytes) => {
                greeted = true;
                let hello: Hello = frame::decode(bytes)?;
                HeadEvent::Admitted { link, hello }
            }
        };
        let _ = inputs.send(Input::Event(event));
        Ok(())
    })
}
