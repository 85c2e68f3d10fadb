//! The engine of a host and the sockets of its generation.
use super::{Engine, Generation};
use crate::hosts::Notice;
use crate::hosts::messages::{EngineAction, EngineEvent};
use crate::hosts::net::mesh::{Expected, Mesh, Sockets, Unreachable};
use crate::hosts::net::secret::Secret;
use crate::hosts::net::transfer::Download;
use crate::hosts::types::{Config, Epoch, HostId, Peer, Step};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How connecting the members of a generation has ended.
#[derive(Debug)]
pub struct MeshDone {
    epoch: Epoch,
    members: Vec<Peer>,
    me: HostId,
    result: Result<Sockets, Unreachable>,
}

/// Told about it, from another thread.
pub type Report = Arc<dyn Fn(MeshDone) + Send + Sync>;

/// A generation on this host.
enum State {
    None,
    Connecting { epoch: Epoch, cancelled: Arc<AtomicBool> },
    Connected { epoch: Epoch, members: Vec<Peer>, me: HostId, sockets: Sockets },
    CannotConnect { epoch: Epoch },
    Running { epoch: Epoch },
}

/// What carries out [`EngineAction`]s.
pub struct Local {
    engine: Box<dyn Engine>,
    secret: Secret,
    connect_limit: Duration,
    /// What the listener accepts.
    pub expected: Arc<Expected>,
    report: Report,
    state: State,
    download: Option<Download>,
}

impl Local {
    pub fn new(engine: Box<dyn Engine>, secret: Secret, config: &Config, report: Report) -> Self {
        // The rest is for the reports to the head.
        let connect_limit = config.connect_limit * 3 / 4;
        let (expected, state, download) = (Arc::default(), State::None, None);
        Self { engine, secret, connect_limit, expected, report, state, download }
    }

    /// Does what the state machine says. Returns what it has to be told at once.
    pub fn act(&mut self, action: EngineAction, me: HostId, head: Option<&str>) -> Option<EngineEvent> {
        match action {
            EngineAction::Obtain { step } => {
                self.obtain(step, head);
                None
            }
            EngineAction::Connect { epoch, members } => self.connect(epoch, members, me),
            EngineAction::Start { epoch, from } => {
                self.start(epoch, from);
                None
            }
            EngineAction::Stop { epoch } => self.stop(epoch),
            EngineAction::Committed { step } => {
                self.engine.committed(step);
                None
            }
        }
    }

    /// Ends a generation after the current step.
    pub fn drain(&mut self, epoch: Epoch) {
        if matches!(self.state, State::Running { epoch: running } if running == epoch) {
            self.engine.drain(epoch);
        }
    }

    /// There is nothing to download from any more.
    pub fn cancel_download(&mut self) {
        if let Some(download) = self.download.take() {
            download.cancel();
        }
    }

    /// Connecting has ended. Returns what the state machine has to be told; `say` tells the user why it has failed.
    pub fn on_mesh(&mut self, done: MeshDone, say: &mut dyn FnMut(Notice)) -> Option<EngineEvent> {
        let MeshDone { epoch, members, me, result } = done;
        if !matches!(self.state, State::Connecting { epoch: current, .. } if current == epoch) {
            // It was stopped meanwhile; the sockets are closed here.
            return None;
        }
        match result {
            Ok(sockets) => {
                self.state = State::Connected { epoch, members, me, sockets };
                Some(EngineEvent::Connected { epoch })
            }
            Err(unreachable) => {
                self.state = State::CannotConnect { epoch };
                let peer = unreachable.peer;
                say(Notice::CannotConnect(unreachable));
                Some(EngineEvent::CannotConnect { epoch, peer })
            }
        }
    }

    fn obtain(&mut self, step: Step, head: Option<&str>) {
        self.cancel_download();
        self.download = head.map(|head| Download::new(head.to_owned(), self.secret.clone()));
        self.engine.obtain(step, self.download.clone());
    }

    fn connect(&mut self, epoch: Epoch, members: Vec<Peer>, me: HostId) -> Option<EngineEvent> {
        let cancelled = Arc::new(AtomicBool::new(false));
        self.state = State::Connecting { epoch, cancelled: Arc::clone(&cancelled) };
        let mesh = Mesh { epoch, me, members, secret: self.secret.clone(), limit: self.connect_limit, cancelled };
        let (expected, report) = (Arc::clone(&self.expected), Arc::clone(&self.report));
        let connect = move || {
            let result = mesh.connect(&expected);
            report(MeshDone { epoch, members: mesh.members, me, result });
        };
        match std::thread::Builder::new().name("connect".to_owned()).spawn(connect) {
            Ok(_) => None,
            Err(_) => {
                self.state = State::CannotConnect { epoch };
                Some(EngineEvent::CannotConnect { epoch, peer: HostId::HEAD })
            }
        }
    }

    fn start(&mut self, epoch: Epoch, from: Step) {
        match std::mem::replace(&mut self.state, State::Running { epoch }) {
            State::Connected { epoch: connected, members, me, sockets } if connected == epoch => {
                let index = members.iter().position(|peer| peer.host == me).unwrap_or_default();
                let (members, workers) = members.into_iter().map(|peer| (peer.host, peer.workers)).unzip();
                self.engine.start(Generation { epoch, from, members, workers, index, sockets });
            }
            // The state machine starts only what is connected.
            other => self.state = other,
        }
    }

    fn stop(&mut self, epoch: Epoch) -> Option<EngineEvent> {
        match std::mem::replace(&mut self.state, State::None) {
            // It reports `Stopped` itself.
            State::Running { .. } => {
                self.engine.stop(epoch);
                None
            }
            State::Connecting { epoch: connecting, cancelled } => {
                debug_assert_eq!(connecting, epoch);
                cancelled.store(true, Ordering::Relaxed);
                Some(EngineEvent::Stopped { epoch })
            }
            State::Connected { epoch: stopped, .. } | State::CannotConnect { epoch: stopped } => {
                debug_assert_eq!(stopped, epoch);
                Some(EngineEvent::Stopped { epoch })
            }
            State::None => Some(EngineEvent::Stopped { epoch }),
        }
    }
}
