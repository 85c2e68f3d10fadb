//! The network under the protocol.
//!
//! - [`secret`]: the secret that all hosts share, and proofs that one knows it
//! - [`handshake`]: how a connection begins
//! - [`frame`]: messages as bytes
//! - [`socket`]: options and time limits of sockets
//! - [`listener`]: accepts connections that prove the secret
//! - [`links`]: control connections
//! - [`mesh`]: the sockets of a generation
//! - [`transfer`]: the state of a commit, from the head to a host that joins
//! - [`driver`]: the event loops of head and member
pub mod driver;
pub mod frame;
pub mod handshake;
pub mod links;
pub mod listener;
pub mod mesh;
pub mod secret;
pub mod socket;
pub mod transfer;

#[cfg(test)]
mod tests;
