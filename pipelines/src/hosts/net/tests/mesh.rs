//! The sockets of generations.
use super::S;
use crate::hosts::net::handshake::{self, Purpose, Verdict};
use crate::hosts::net::listener::{Accept, Listener, bind};
use crate::hosts::net::mesh::{Expected, Mesh, Sockets, Unreachable};
use crate::hosts::net::secret::Secret;
use crate::hosts::net::socket::Deadline;
use crate::hosts::{Epoch, HostId, Peer};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const EPOCH: Epoch = Epoch { incarnation: 3, generation: 8 };

struct Door(Arc<Expected>);

impl Accept for Door {
    fn verdict(&self, purpose: Purpose) -> Verdict {
        match purpose {
            Purpose::Data { epoch, from, to } => self.0.verdict(epoch, from, to),
            _ => Verdict::NeverHere,
        }
    }

    fn accept(&self, purpose: Purpose, stream: TcpStream) {
        if let Purpose::Data { epoch, from, .. } = purpose {
            self.0.accept(epoch, from, stream);
        }
    }
}

/// Hosts with listeners, which are not the hosts 0, 1, … of their run.
struct Hosts {
    secret: Secret,
    listeners: Vec<(Listener, Arc<Expected>)>,
    members: Vec<Peer>,
    cancelled: Arc<AtomicBool>,
}

impl Hosts {
    fn new(count: u32) -> Self {
        let secret = Secret::random().unwrap();
        let listen = |_| {
            let expected = Arc::new(Expected::default());
            let door = Door(Arc::clone(&expected));
            (Listener::start(bind("127.0.0.1:0").unwrap(), secret.clone(), door).unwrap(), expected)
        };
        let listeners: Vec<_> = (0..count).map(listen).collect();
        let peer = |(at, (listener, _)): (usize, &(Listener, _))| Peer {
            host: HostId(at as u32 * 3),
            address: listener.address().to_string(),
            workers: 1,
        };
        let members = listeners.iter().enumerate().map(peer).collect();
        Self { secret, listeners, members, cancelled: Arc::default() }
    }

    /// Connects one of them in a thread, after a pause.
    fn connect(
        &self,
        at: usize,
        epoch: Epoch,
        pause: Duration,
        limit: Duration,
    ) -> JoinHandle<Result<Sockets, Unreachable>> {
        let (me, members) = (self.members[at].host, self.members.clone());
        let (secret, cancelled) = (self.secret.clone(), Arc::clone(&self.cancelled));
        let (mesh, expected) =
            (Mesh { epoch, me, members, secret, limit, cancelled }, Arc::clone(&self.listeners[at].1));
        std::thread::spawn(move || {
            std::thread::sleep(pause);
            mesh.connect(&expected)
        })
    }
}

/// Every member tells every other one its index.
fn check_sockets(all: Vec<Sockets>) {
    for (at, sockets) in all.iter().enumerate() {
        assert_eq!(sockets.len(), all.len());
        for (peer, socket) in sockets.iter().enumerate() {
            assert_eq!(socket.is_none(), peer == at);
            if let Some(mut socket) = socket.as_ref() {
                socket.write_all(&[at as u8]).unwrap();
            }
        }
    }
    for sockets in all {
        for (peer, socket) in sockets.into_iter().enumerate() {
            let Some(mut socket) = socket else { continue };
            let mut index = [255];
            socket.set_read_timeout(Some(20 * S)).unwrap();
            socket.read_exact(&mut index).unwrap();
            assert_eq!(usize::from(index[0]), peer);
        }
    }
}

#[test]
fn all_pairs_are_connected_whoever_begins() {
    for (count, rising) in [(1, true), (2, true), (2, false), (5, true), (5, false)] {
        let hosts = Hosts::new(count as u32);
        let pause = |at: usize| S / 20 * if rising { at } else { count - at } as u32;
        let connect = |at| hosts.connect(at, EPOCH, pause(at), 30 * S);
        let running: Vec<_> = (0..count).map(connect).collect();
        check_sockets(running.into_iter().map(|running| running.join().unwrap().unwrap()).collect());
    }
}

#[test]
fn who_cannot_be_reached_is_named() {
    let mut hosts = Hosts::new(3);
    // The address of the last one leads nowhere, and nothing of the second one arrives.
    hosts.members[1].address = "127.0.0.1:1".into();
    let limit = 2 * S;
    let running: Vec<_> = [0, 2].map(|at| hosts.connect(at, EPOCH, Duration::ZERO, limit)).into();
    let results: Vec<_> = running.into_iter().map(|running| running.join().unwrap().unwrap_err()).collect();
    assert_eq!(results[0].peer, hosts.members[1].host);
    assert!(results[0].cause.contains("127.0.0.1:1: it has not connected"), "{}", results[0].cause);
    assert_eq!(results[1].peer, hosts.members[1].host);
    assert!(results[1].cause.contains("127.0.0.1:1: connection refused"), "{}", results[1].cause);
}

#[test]
fn another_generation_is_not_accepted_nor_a_host_that_is_not_in_it() {
    let hosts = Hosts::new(2);
    let other = Epoch { generation: EPOCH.generation - 1, ..EPOCH };
    let running = [hosts.connect(0, EPOCH, Duration::ZERO, 2 * S), hosts.connect(1, other, Duration::ZERO, 2 * S)];
    let results = running.map(|running| running.join().unwrap().unwrap_err());
    assert!(results[1].cause.contains("does not take part in this generation"), "{}", results[1].cause);

    let connecting = hosts.connect(0, EPOCH, Duration::ZERO, 3 * S);
    let address = &hosts.members[0].address;
    let (member, head) = (hosts.members[1].host, hosts.members[0].host);
    for (from, to) in [(HostId(77), head), (member, HostId(77)), (head, head)] {
        let purpose = Purpose::Data { epoch: EPOCH, from, to };
        let error = handshake::dial(address, purpose, &hosts.secret, Deadline::after(20 * S)).unwrap_err();
        assert!(error.to_string().contains("does not take part"), "{error}");
    }
    assert_eq!(connecting.join().unwrap().unwrap_err().peer, member);
}

#[test]
fn connecting_ends_when_it_is_cancelled() {
    let hosts = Hosts::new(2);
    let begun = Instant::now();
    let connecting = hosts.connect(0, EPOCH, Duration::ZERO, 600 * S);
    hosts.cancelled.store(true, Ordering::Relaxed);
    assert!(connecting.join().unwrap().is_err());
    assert!(begun.elapsed() < 60 * S);
}
