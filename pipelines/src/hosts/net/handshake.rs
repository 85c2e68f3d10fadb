//! How a connection begins: both sides prove the secret, and the side that connects says what for.
//!
//! ```text
//! dialer → listener  opening: "MLRHOSTS", protocol, nonce, purpose     68 bytes
//! listener → dialer  reply:   "MLRHOSTS", protocol, nonce, proof       74 bytes
//! dialer → listener  proof                                             32 bytes
//! listener → dialer  verdict                                            1 byte
//! ```
//!
//! Lengths are fixed, so strangers decide about no allocation. The listener proves the secret first, so a dialer with
//! another secret knows why it fails. Both proofs cover both nonces and the purpose ([`secret`](super::secret)).
//!
//! What is here does no input or output, except for [`dial`]; [`listener`](super::listener) does it for the other side.
use super::secret::{LENGTH, Nonce, Proof, Secret, Side};
use super::socket::{self, Deadline};
use crate::hosts::types::{Epoch, HostId};
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;

/// Increased when bytes or messages between hosts change their meaning. Programs with different versions but the same
/// protocol can tell each other so ([`Rejection`](crate::hosts::Rejection)).
pub const PROTOCOL: u16 = 1;

const MAGIC: &[u8; 8] = b"MLRHOSTS";
const PREFIX: usize = MAGIC.len() + 2;
const PURPOSE: usize = 26;

/// The length of an opening.
pub const OPENING: usize = PREFIX + LENGTH + PURPOSE;
const REPLY: usize = PREFIX + 2 * LENGTH;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The control connection of a host that wants to join.
    Control,
    /// A socket of a generation's dataflow.
    Data {
        /// The generation.
        epoch: Epoch,
        /// The member that connects.
        from: HostId,
        /// The member that it means to reach.
        to: HostId,
    },
    /// Downloads of commits.
    Download,
}

impl Purpose {
    fn to_bytes(self) -> [u8; PURPOSE] {
        let mut bytes = [0; PURPOSE];
        match self {
            Self::Control => bytes[0] = 1,
            Self::Data { epoch, from, to } => {
                bytes[0] = 2;
                bytes[2..10].copy_from_slice(&epoch.incarnation.to_le_bytes());
                bytes[10..18].copy_from_slice(&epoch.generation.to_le_bytes());
                bytes[18..22].copy_from_slice(&from.0.to_le_bytes());
                bytes[22..].copy_from_slice(&to.0.to_le_bytes());
            }
            Self::Download => bytes[0] = 3,
        }
        bytes
    }

    fn from_bytes(bytes: &[u8; PURPOSE]) -> Option<Self> {
        let long = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let short = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let purpose = match bytes[0] {
            1 => Self::Control,
            2 => Self::Data {
                epoch: Epoch { incarnation: long(2)?, generation: long(10)? },
                from: HostId(short(18)?),
                to: HostId(short(22)?),
            },
            3 => Self::Download,
            _ => return None,
        };
        // One purpose has one form.
        (purpose.to_bytes() == *bytes).then_some(purpose)
    }
}

/// The listener's last word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The connection is what it was asked to be.
    Accepted = 0,
    /// The dialer's proof is wrong.
    WrongSecret = 1,
    /// The listener does not expect this: a generation that it does not connect now, or a host that is not in it.
    NotNow = 2,
    /// The listener does not do this: it is no head.
    NeverHere = 3,
}

/// What a listener knows about a connection after its opening.
#[derive(Debug)]
pub struct Opened {
    purpose: Purpose,
    subject: [u8; PURPOSE],
    dialer: Nonce,
    listener: Nonce,
}

/// What the listener does about an opening.
#[derive(Debug)]
pub enum Response {
    /// Sends this reply and expects a proof.
    Reply([u8; REPLY], Opened),
    /// Sends this reply, which only tells the version of the protocol, and closes the connection.
    OtherProtocol([u8; REPLY]),
    /// Closes the connection: this is no host.
    Garbage,
}

/// Answers an opening. `listener` is a new nonce.
pub fn respond(opening: &[u8; OPENING], listener: Nonce, secret: &Secret) -> Response {
    let Some(protocol) = protocol(opening) else { return Response::Garbage };
    let mut reply = [0; REPLY];
    reply[..PREFIX].copy_from_slice(&prefix());
    if protocol != PROTOCOL {
        return Response::OtherProtocol(reply);
    }
    let (Some(dialer), Some(subject)) = (opening[PREFIX..].first_chunk(), opening.last_chunk()) else {
        return Response::Garbage;
    };
    let Some(purpose) = Purpose::from_bytes(subject) else { return Response::Garbage };
    let opened = Opened { purpose, subject: *subject, dialer: *dialer, listener };
    reply[PREFIX..PREFIX + LENGTH].copy_from_slice(&listener);
    let proof = secret.prove(Side::Listener, &opened.dialer, &listener, subject);
    reply[PREFIX + LENGTH..].copy_from_slice(&proof);
    Response::Reply(reply, opened)
}

impl Opened {
    /// What the connection is for, if the dialer's proof is right.
    pub fn prove(&self, proof: &Proof, secret: &Secret) -> Option<Purpose> {
        secret.accepts(proof, Side::Dialer, &self.dialer, &self.listener, &self.subject).then_some(self.purpose)
    }
}

/// Connects to `address` for `purpose`. The connection has no time limits afterwards.
///
/// # Errors
/// If this does not succeed until the deadline. The message names the address.
pub fn dial(address: &str, purpose: Purpose, secret: &Secret, deadline: Deadline) -> Result<TcpStream> {
    let named = |error: Error| Error::new(error.kind(), format!("{address}: {}", socket::explain(&error)));
    let mut stream = socket::connect(address, deadline).map_err(named)?;
    prove(&mut stream, purpose, secret, deadline).map_err(named)?;
    socket::clear_limits(&stream).map_err(named)?;
    Ok(stream)
}

/// The dialer's side.
fn prove(stream: &mut TcpStream, purpose: Purpose, secret: &Secret, deadline: Deadline) -> Result<()> {
    let (subject, dialer) = (purpose.to_bytes(), super::secret::nonce()?);
    let mut opening = [0; OPENING];
    opening[..PREFIX].copy_from_slice(&prefix());
    opening[PREFIX..PREFIX + LENGTH].copy_from_slice(&dialer);
    opening[PREFIX + LENGTH..].copy_from_slice(&subject);
    deadline.limit(stream)?;
    stream.write_all(&opening)?;

    let mut reply = [0; REPLY];
    // The prefix first: another protocol may have a shorter reply.
    let (head, tail) = reply.split_at_mut(PREFIX);
    read_exact(stream, head, deadline)?;
    match protocol(head) {
        None => return Err(refused("what answers there is not a host of a run: check the address and the port")),
        Some(PROTOCOL) => {}
        Some(other) => {
            let message = format!(
                "it speaks version {other} of the protocol between hosts, and this program version {PROTOCOL}: install \
                 the same version of the program on all hosts"
            );
            return Err(refused(&message));
        }
    }
    read_exact(stream, tail, deadline)?;
    let (Some(listener), Some(proof)) = (tail.first_chunk(), tail.last_chunk()) else {
        return Err(refused("its reply is too short"));
    };
    if !secret.accepts(proof, Side::Listener, &dialer, listener, &subject) {
        return Err(refused("it has another secret: copy the head's secret file to this host"));
    }
    deadline.limit(stream)?;
    stream.write_all(&secret.prove(Side::Dialer, &dialer, listener, &subject))?;
    let mut verdict = [0];
    read_exact(stream, &mut verdict, deadline)?;
    match verdict[0] {
        0 => Ok(()),
        1 => Err(refused("it does not accept the secret of this host: copy the head's secret file to this host")),
        2 => Err(Error::new(ErrorKind::WouldBlock, "it does not take part in this generation, or not yet")),
        _ => Err(refused("it is not the head of a run: name the host and port of the head")),
    }
}

/// `read_exact` with a limit for all of it.
fn read_exact(stream: &mut TcpStream, mut into: &mut [u8], deadline: Deadline) -> Result<()> {
    while !into.is_empty() {
        deadline.limit(stream)?;
        match stream.read(into) {
            Ok(0) => return Err(Error::new(ErrorKind::UnexpectedEof, "it closed the connection")),
            Ok(count) => into = &mut into[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn prefix() -> [u8; PREFIX] {
    let mut prefix = [0; PREFIX];
    prefix[..MAGIC.len()].copy_from_slice(MAGIC);
    prefix[MAGIC.len()..].copy_from_slice(&PROTOCOL.to_le_bytes());
    prefix
}

/// The version of the protocol, if these are a host's first bytes.
fn protocol(bytes: &[u8]) -> Option<u16> {
    let version = bytes.strip_prefix(MAGIC)?.first_chunk()?;
    Some(u16::from_le_bytes(*version))
}

fn refused(message: &str) -> Error {
    Error::new(ErrorKind::PermissionDenied, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::net::secret::nonce;

    const DATA: Purpose =
        Purpose::Data { epoch: Epoch { incarnation: 2, generation: u64::MAX }, from: HostId(4), to: HostId(u32::MAX) };

    #[test]
    fn a_purpose_has_one_form() {
        for purpose in [Purpose::Control, DATA, Purpose::Download] {
            let bytes = purpose.to_bytes();
            assert_eq!(Purpose::from_bytes(&bytes), Some(purpose));
            let mut other = bytes;
            other[1] = 1;
            assert_eq!(Purpose::from_bytes(&other), None);
        }
        assert_eq!(Purpose::from_bytes(&[0; PURPOSE]), None);
        assert_eq!(Purpose::from_bytes(&[255; PURPOSE]), None);
    }

    #[test]
    fn replies_cannot_be_replayed_or_reflected() {
        let secret = Secret::random().unwrap();
        let mut opening = [0; OPENING];
        opening[..PREFIX].copy_from_slice(&prefix());
        opening[PREFIX..PREFIX + LENGTH].copy_from_slice(&nonce().unwrap());
        opening[PREFIX + LENGTH..].copy_from_slice(&DATA.to_bytes());
        let open = |opening: &[u8; OPENING]| match respond(opening, nonce().unwrap(), &secret) {
            Response::Reply(reply, opened) => (reply, opened),
            other => panic!("{other:?}"),
        };
        let (reply, opened) = open(&opening);
        // A stranger that has recorded a connection, or connects to the listener itself, knows only these proofs.
        let reflected: &Proof = reply.last_chunk().unwrap();
        assert_eq!(opened.prove(reflected, &secret), None);
        let proof = secret.prove(Side::Dialer, &opened.dialer, &opened.listener, &DATA.to_bytes());
        assert_eq!(opened.prove(&proof, &secret), Some(DATA));
        let (_, again) = open(&opening);
        assert_eq!(again.prove(&proof, &secret), None, "the listener's nonce is new");

        let mut control = opening;
        control[PREFIX + LENGTH..].copy_from_slice(&Purpose::Control.to_bytes());
        let Response::Reply(_, mut control) = respond(&control, opened.listener, &secret) else { panic!() };
        control.listener = opened.listener;
        assert_eq!(control.prove(&proof, &secret), None, "the proof covers the purpose");
    }

    #[test]
    fn openings_of_strangers_and_of_other_protocols() {
        let secret = Secret::random().unwrap();
        let respond = |opening: &[u8; OPENING]| respond(opening, [7; LENGTH], &secret);
        let http = b"GET / HTTP/1.1\r\nHost: example.org\r\nAccept: */*\r\nUser-Agent: x12345\r\n";
        assert!(matches!(respond(http), Response::Garbage));
        let mut opening = [0; OPENING];
        opening[..PREFIX].copy_from_slice(&prefix());
        assert!(matches!(respond(&opening), Response::Garbage), "no purpose");
        opening[MAGIC.len()] = 99;
        assert!(matches!(respond(&opening), Response::OtherProtocol(reply) if reply[PREFIX..].iter().all(|b| *b == 0)));
    }
}
