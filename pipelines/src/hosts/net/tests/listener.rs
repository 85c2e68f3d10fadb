//! Hosts and strangers at a listener.
use super::{S, eventually};
use crate::hosts::net::handshake::{self, Purpose, Verdict};
use crate::hosts::net::listener::{Accept, Listener, MOST_UNPROVED, bind};
use crate::hosts::net::secret::Secret;
use crate::hosts::net::socket::Deadline;
use crate::hosts::{Epoch, HostId};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Takes control connections and passes them on.
struct Control(Sender<(Purpose, TcpStream)>);

impl Accept for Control {
    fn verdict(&self, purpose: Purpose) -> Verdict {
        match purpose {
            Purpose::Control => Verdict::Accepted,
            Purpose::Data { .. } => Verdict::NotNow,
            Purpose::Download => Verdict::NeverHere,
        }
    }

    fn accept(&self, purpose: Purpose, stream: TcpStream) {
        let _ = self.0.send((purpose, stream));
    }
}

fn listener() -> (Listener, Secret, Receiver<(Purpose, TcpStream)>) {
    let secret = Secret::random().unwrap();
    let (sender, accepted) = channel();
    let listener = Listener::start(bind("127.0.0.1:0").unwrap(), secret.clone(), Control(sender)).unwrap();
    (listener, secret, accepted)
}

fn dial(listener: &Listener, purpose: Purpose, secret: &Secret) -> std::io::Result<TcpStream> {
    handshake::dial(&listener.address().to_string(), purpose, secret, Deadline::after(20 * S))
}

#[test]
fn a_host_is_let_in_and_its_first_bytes_are_not_lost() {
    let (listener, secret, accepted) = listener();
    let mut near = dial(&listener, Purpose::Control, &secret).unwrap();
    near.write_all(b"hello").unwrap();
    let (purpose, mut far) = accepted.recv_timeout(20 * S).unwrap();
    assert_eq!(purpose, Purpose::Control);
    let mut heard = [0; 5];
    far.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
    assert_eq!(far.read_timeout().unwrap(), None);
    assert!(near.nodelay().unwrap() && far.nodelay().unwrap());
    assert_eq!((listener.counts().proved, listener.counts().dropped()), (1, 0));
}

#[test]
fn a_host_that_is_not_let_in_knows_why() {
    let (listener, secret, accepted) = listener();
    let error = dial(&listener, Purpose::Control, &Secret::random().unwrap()).unwrap_err().to_string();
    assert!(error.starts_with(&listener.address().to_string()) && error.contains("another secret"), "{error}");
    let data = Purpose::Data { epoch: Epoch::default(), from: HostId(2), to: HostId(1) };
    let error = dial(&listener, data, &secret).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
    let error = dial(&listener, Purpose::Download, &secret).unwrap_err().to_string();
    assert!(error.contains("not the head"), "{error}");
    eventually("counted", || listener.counts().other_secret == 1);
    assert!(accepted.try_recv().is_err());

    let address = listener.address().to_string();
    let error = bind(&address).unwrap_err().to_string();
    assert!(error.contains(&address) && error.contains("another program listens there"), "{error}");
    drop(listener);
    let error = handshake::dial(&address, Purpose::Control, &secret, Deadline::after(20 * S)).unwrap_err().to_string();
    assert!(error.contains(&address) && error.contains("no program listens there"), "{error}");
    assert!(bind("127.0.0.1").is_err() && bind("192.0.2.1:0").is_err());
}

#[test]
fn another_program_or_protocol_is_named() {
    for (reply, expected) in [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "not a host of a run"),
        (b"MLRHOSTS\x63\x00".to_vec(), "version 99 of the protocol"),
        (Vec::new(), "closed the connection"),
    ] {
        let socket = bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let other = std::thread::spawn(move || {
            let (mut stream, _) = socket.accept().unwrap();
            stream.read_exact(&mut [0; handshake::OPENING]).unwrap();
            stream.write_all(&reply).unwrap();
        });
        let secret = Secret::random().unwrap();
        let dialled = handshake::dial(&address, Purpose::Control, &secret, Deadline::after(20 * S));
        let error = dialled.unwrap_err().to_string();
        assert!(error.starts_with(&address) && error.contains(expected), "{error}");
        other.join().unwrap();
    }
}

#[test]
fn who_says_nothing_or_little_is_dropped() {
    let (listener, _, _accepted) = listener();
    let _silent = TcpStream::connect(listener.address()).unwrap();
    let mut slow = TcpStream::connect(listener.address()).unwrap();
    let mut chatty = TcpStream::connect(listener.address()).unwrap();
    chatty.write_all(&[b'x'; 10_000]).unwrap();
    eventually("dropped", || {
        // A byte now and then does not give it more time.
        let _ = slow.write_all(b"M");
        std::thread::sleep(Duration::from_millis(100));
        listener.counts().dropped() == 3
    });
    assert_eq!((listener.counts().too_slow, listener.counts().garbage), (2, 1));
    assert!(listener.counts().to_string().starts_with("3 connections"), "{}", listener.counts());
}

#[test]
fn a_thousand_idle_connections_do_not_keep_a_host_out() {
    let (listener, secret, accepted) = listener();
    let mut dropped = 0;
    for _ in 0..5 {
        // As many as this process may well have open.
        let idle: Vec<_> = (0..200).map(|_| TcpStream::connect(listener.address()).unwrap()).collect();
        dropped += idle.len() - MOST_UNPROVED;
        eventually("closed", || listener.counts().too_many >= dropped as u64);
        eventually("let in", || dial(&listener, Purpose::Control, &secret).is_ok());
        accepted.recv_timeout(20 * S).unwrap();
        drop(idle);
        eventually("all gone", || {
            let counts = listener.counts();
            counts.too_slow + counts.garbage + counts.too_many >= 200
        });
    }
}
