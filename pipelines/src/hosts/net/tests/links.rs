//! Control connections.
use super::{S, eventually};
use crate::hosts::net::frame;
use crate::hosts::net::links::{LinkEvent, Links};
use crate::hosts::{Link, Loss, ToMember};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Instant;

/// Both ends of a connection.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

/// Adds a link whose messages arrive in a channel; `None` when it is closed.
fn add(links: &mut Links, stream: TcpStream, heard: Sender<Option<ToMember>>) -> Link {
    links
        .add(stream, |_| {
            Box::new(move |event| {
                let message = match event {
                    LinkEvent::Frame(bytes) => Some(frame::decode(bytes)?),
                    LinkEvent::Closed => None,
                };
                let _ = heard.send(message);
                Ok(())
            })
        })
        .unwrap()
}

fn linked() -> (Links, Link, Receiver<Option<ToMember>>, TcpStream) {
    let (near, far) = pair();
    let (mut links, (sender, heard)) = (Links::default(), channel());
    let link = add(&mut links, near, sender);
    (links, link, heard, far)
}

#[test]
fn messages_arrive_in_order_and_numbers_are_not_reused() {
    let (mut links, link, heard, mut far) = linked();
    for step in 0..1000 {
        far.write_all(&frame::encode(&ToMember::Committed { step }).unwrap()).unwrap();
    }
    for step in 0..1000 {
        assert_eq!(heard.recv_timeout(20 * S).unwrap(), Some(ToMember::Committed { step }));
    }
    links.close(link);
    let (stream, _far) = pair();
    assert_ne!(add(&mut links, stream, channel().0), link);
    links.finish();
}

#[test]
fn what_was_sent_before_closing_arrives_although_input_is_unread() {
    let (mut links, link, _heard, mut far) = linked();
    // The peer is about to send more, which would reset a connection that is closed at once.
    let mut talks = far.try_clone().unwrap();
    let talking = std::thread::spawn(move || {
        while talks.write_all(&frame::encode(&ToMember::Beat).unwrap()).is_ok() {
            std::thread::sleep(S / 1000);
        }
    });
    // More than the peer's buffer holds, so that some of it is still in this end's when it is closed.
    let text = "x".repeat(100_000);
    for _ in 0..20 {
        links.send(link, &text);
    }
    links.send(link, &ToMember::Expelled(Loss::Hung));
    links.close(link);
    let closed = Instant::now();
    links.send(link, &ToMember::Beat);
    // What the peer sends meanwhile is read.
    std::thread::sleep(S / 4);
    let mut read = || -> std::io::Result<()> {
        for _ in 0..20 {
            assert!(frame::read::<String>(&mut far)? == text);
        }
        assert_eq!(frame::read::<ToMember>(&mut far)?, ToMember::Expelled(Loss::Hung));
        assert_eq!(far.read(&mut [0])?, 0);
        Ok(())
    };
    let end = read();
    // Unless this machine is so busy that the time for that is over.
    assert!(end.is_ok() || closed.elapsed() > S, "{end:?}");
    links.finish();
    drop(far);
    talking.join().unwrap();
}

#[test]
fn a_link_that_breaks_or_carries_garbage_is_closed_once() {
    type Ending = fn(TcpStream) -> Option<TcpStream>;
    let endings: [Ending; 3] = [
        |far| {
            drop(far);
            None
        },
        |mut far| {
            far.write_all(&frame::encode(&"no message").unwrap()).unwrap();
            Some(far)
        },
        |mut far| {
            far.write_all(&u32::MAX.to_le_bytes()).unwrap();
            Some(far)
        },
    ];
    for end in endings {
        let (links, _, heard, far) = linked();
        let _far = end(far);
        assert_eq!(heard.recv_timeout(20 * S).unwrap(), None);
        links.receive();
        assert_ne!(heard.try_recv(), Ok(None));
        links.finish();
    }
}

#[test]
fn everything_that_has_arrived_is_received_before_receive_returns() {
    for _ in 0..200 {
        let (links, _, heard, mut far) = linked();
        let begun = Instant::now();
        far.write_all(&frame::encode(&ToMember::Beat).unwrap()).unwrap();
        // On loopback it is in the other end's buffer when `write` has returned.
        links.receive();
        let found = heard.try_recv();
        // Delivered by this thread or by the link's, but before this one goes on.
        assert_eq!(found, Ok(Some(ToMember::Beat)), "after {:?}", begun.elapsed());
        assert_eq!(heard.try_recv(), Err(TryRecvError::Empty));
        drop(far);
        links.finish();
    }
}

#[test]
fn a_peer_that_does_not_read_blocks_nobody() {
    let (links, link, heard, _far) = linked();
    let text = "x".repeat(100_000);
    let begun = Instant::now();
    // 400 MB, which no buffer holds.
    for _ in 0..4_000 {
        links.send(link, &text);
    }
    assert!(begun.elapsed() < 30 * S);
    assert_eq!(heard.recv_timeout(20 * S).unwrap(), None, "it is given up");
    let begun = Instant::now();
    links.finish();
    assert!(begun.elapsed() < 30 * S);
    eventually("closed", || heard.try_recv() == Err(TryRecvError::Disconnected));
}
