//! The network under the protocol. **Not used by a command yet.**
//!
//! - [`secret`]: the secret that all hosts share, and proofs that one knows it
//! - [`handshake`]: how a connection begins
//! - [`socket`]: options and time limits of sockets
pub mod handshake;
pub mod secret;
pub mod socket;
