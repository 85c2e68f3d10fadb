//! The event loop of a host that joins.
use super::local::{Local, MeshDone};
use super::{Clock, Engine, Events, Host, run, shorten};
use crate::hosts::messages::{EngineAction, EngineEvent, MemberAction, MemberEvent, ToMember};
use crate::hosts::net::frame;
use crate::hosts::net::handshake::{self, Purpose, Verdict};
use crate::hosts::net::links::{Deliver, LinkEvent, Links};
use crate::hosts::net::listener::{Accept, Listener};
use crate::hosts::net::mesh::Expected;
use crate::hosts::net::secret::Secret;
use crate::hosts::net::socket::Deadline;
use crate::hosts::types::{Config, Hello, HostId, Link, Outcome};
use crate::hosts::{Member, Notice};
use anyhow::Result;
use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// What happens to the driver.
enum Input {
    Event(MemberEvent),
    Dialled { attempt: u64, result: std::io::Result<TcpStream> },
    Mesh(MeshDone),
}

/// A host that is about to join.
pub struct MemberDriver {
    /// The limits.
    pub config: Config,
    /// The head's `HOST:PORT`.
    pub head: String,
    /// The secret.
    pub secret: Secret,
    /// Where other hosts connect.
    pub socket: TcpListener,
    /// What it tells the head about itself. If [`Hello::address`] is empty, it becomes the port of `socket` at the
    /// address from which this host reaches the head.
    pub hello: Hello,
    /// Tells the user.
    pub say: Box<dyn FnMut(Notice)>,
}

impl MemberDriver {
    /// Runs the host to its end. `engine` makes the engine, which reports to what it is given; so may a signal handler.
    ///
    /// # Errors
    /// If the system refuses threads or sockets at the beginning, or the engine cannot be made.
    pub fn run(self, engine: impl FnOnce(Events<MemberEvent>) -> Result<Box<dyn Engine>>) -> Result<Outcome> {
        let Self { config, head, secret, socket, hello, say } = self;
        let (inputs, receive) = channel();
        let sender = inputs.clone();
        // If the driver has ended, nobody needs to know.
        let engine = engine(Events::new(move |event| drop(sender.send(Input::Event(event)))))?;
        let mesh = inputs.clone();
        let report = Arc::new(move |done| drop(mesh.send(Input::Mesh(done))));
        let local = Local::new(engine, secret.clone(), &config, report);
        let listener = Listener::start(socket, secret.clone(), Door(Arc::clone(&local.expected)))?;
        let clock = Clock::start();
        let mut member = Running {
            clock,
            // The rest is for the head's answer.
            dial_limit: config.dial_limit * 3 / 4,
            machine: Member::new(config, clock.now()),
            local,
            links: Links::default(),
            listener,
            head,
            secret,
            hello,
            me: HostId::HEAD,
            attempt: 0,
            link: None,
            say,
            inputs,
            outcome: None,
        };
        member.event(MemberEvent::Tick);
        let outcome = run(&mut member, clock, &receive);
        member.local.cancel_download();
        member.links.finish();
        Ok(outcome)
    }
}

/// What the listener does with connections.
struct Door(Arc<Expected>);

impl Accept for Door {
    fn verdict(&self, purpose: Purpose) -> Verdict {
        match purpose {
            Purpose::Data { epoch, from, to } => self.0.verdict(epoch, from, to),
            Purpose::Control | Purpose::Download => Verdict::NeverHere,
        }
    }

    fn accept(&self, purpose: Purpose, stream: TcpStream) {
        if let Purpose::Data { epoch, from, .. } = purpose {
            self.0.accept(epoch, from, stream);
        }
    }
}

struct Running {
    clock: Clock,
    dial_limit: Duration,
    machine: Member,
    local: Local,
    links: Links,
    listener: Listener,
    head: String,
    secret: Secret,
    hello: Hello,
    /// Which host the head has made of this one.
    me: HostId,
    /// The last attempt to reach the head.
    attempt: u64,
    /// The newest link.
    link: Option<Link>,
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
            Input::Dialled { attempt, result } if attempt == self.attempt => {
                let event = match result.and_then(|stream| self.open_link(stream)) {
                    Ok(link) => MemberEvent::Linked { attempt, link },
                    Err(error) => MemberEvent::DialFailed { attempt, cause: error.to_string() },
                };
                self.event(event);
            }
            Input::Dialled { .. } => {}
            Input::Mesh(done) => {
                if let Some(event) = self.local.on_mesh(done, &mut self.say) {
                    self.event(MemberEvent::Engine(event));
                }
            }
        }
    }

    fn tick(&mut self) {
        self.event(MemberEvent::Tick);
    }

    fn receive(&self) {
        self.links.receive();
    }

    fn outcome(&mut self) -> Option<Outcome> {
        self.outcome.clone()
    }
}

impl Running {
    fn open_link(&mut self, stream: TcpStream) -> std::io::Result<Link> {
        let mut hello = self.hello.clone();
        if hello.address.is_empty() {
            hello.address = SocketAddr::new(stream.local_addr()?.ip(), self.listener.address().port()).to_string();
        }
        let inputs = self.inputs.clone();
        let link = self.links.add(stream, |link| deliver(link, inputs))?;
        self.links.send(link, &hello);
        self.link = Some(link);
        Ok(link)
    }

    /// Gives the state machine an event, and does what it says.
    fn event(&mut self, event: MemberEvent) {
        let mut events = VecDeque::from([event]);
        while let Some(mut event) = events.pop_front() {
            self.note(&mut event);
            for action in self.machine.on(self.clock.now(), event) {
                events.extend(self.act(action).map(MemberEvent::Engine));
            }
        }
    }

    /// What the driver itself learns from an event.
    fn note(&mut self, event: &mut MemberEvent) {
        match event {
            MemberEvent::Message { message: ToMember::Welcome { host, .. }, .. } => self.me = *host,
            MemberEvent::Closed { link } => self.close(*link),
            MemberEvent::Engine(EngineEvent::Failed { failure, .. }) => shorten(failure),
            _ => {}
        }
    }

    fn act(&mut self, action: MemberAction) -> Option<EngineEvent> {
        match action {
            MemberAction::Dial { attempt } => self.dial(attempt),
            MemberAction::Send { link, message } => self.links.send(link, &message),
            MemberAction::Close { link } => self.close(link),
            MemberAction::Engine(mut action) => {
                if let EngineAction::Connect { members, .. } = &mut action {
                    // The address by which this host has reached the head is one that works.
                    for peer in members.iter_mut().filter(|peer| peer.host == HostId::HEAD) {
                        peer.address.clone_from(&self.head);
                    }
                }
                return self.local.act(action, self.me, Some(&self.head));
            }
            MemberAction::Say(notice) => (self.say)(notice),
            MemberAction::Exit(outcome) => self.outcome = Some(outcome),
        }
        None
    }

    fn close(&mut self, link: Link) {
        self.links.close(link);
        if self.link == Some(link) {
            self.local.cancel_download();
        }
    }

    fn dial(&mut self, attempt: u64) {
        self.attempt = attempt;
        let (head, secret, inputs) = (self.head.clone(), self.secret.clone(), self.inputs.clone());
        let deadline = Deadline::after(self.dial_limit);
        let dial = move || {
            let result = handshake::dial(&head, Purpose::Control, &secret, deadline);
            let _ = inputs.send(Input::Dialled { attempt, result });
        };
        if let Err(error) = std::thread::Builder::new().name("dial the head".to_owned()).spawn(dial) {
            let _ = self.inputs.send(Input::Dialled { attempt, result: Err(error) });
        }
    }
}

/// What happens on the link to the head.
fn deliver(link: Link, inputs: Sender<Input>) -> Deliver {
    Box::new(move |happened| {
        let event = match happened {
            LinkEvent::Closed => MemberEvent::Closed { link },
            LinkEvent::Frame(bytes) => MemberEvent::Message { link, message: frame::decode(bytes)? },
        };
        let _ = inputs.send(Input::Event(event));
        Ok(())
    })
}
