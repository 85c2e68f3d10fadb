//! Messages as bytes: four bytes with the length (little-endian), and that many bytes of JSON.
//!
//! Only what has proved the secret sends frames ([`handshake`](super::handshake) reads a fixed number of bytes before).
//! Still no length is trusted: it is checked before anything is allocated, and memory grows with what has arrived.
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{Error, ErrorKind, Read, Result, Write};

/// The longest frame, without its length. The longest message is a `Prepare` with a line for each of the hosts.
pub const LIMIT: usize = 1 << 20;

const HEADER: usize = 4;

/// A message as a frame.
///
/// # Errors
/// If it is longer than [`LIMIT`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>> {
    let mut frame = vec![0; HEADER];
    serde_json::to_writer(&mut frame, message)?;
    let length = frame.len() - HEADER;
    if length > LIMIT {
        return Err(too_long(length));
    }
    frame[..HEADER].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(frame)
}

/// The message in a frame, without its length.
///
/// # Errors
/// If it is none.
pub fn decode<T: DeserializeOwned>(frame: &[u8]) -> Result<T> {
    serde_json::from_slice(frame).map_err(|error| invalid(format!("a message cannot be read: {error}")))
}

/// Writes a message.
///
/// # Errors
/// If the connection fails, or the message is longer than [`LIMIT`].
pub fn write<T: Serialize>(out: &mut impl Write, message: &T) -> Result<()> {
    out.write_all(&encode(message)?)
}

/// Reads a message, and nothing after it.
///
/// # Errors
/// If the connection fails or ends, or what arrives is no message.
pub fn read<T: DeserializeOwned>(input: &mut impl Read) -> Result<T> {
    let mut header = [0; HEADER];
    input.read_exact(&mut header)?;
    let length = length(header)?;
    let mut frame = Vec::new();
    input.take(length as u64).read_to_end(&mut frame)?;
    if frame.len() < length {
        return Err(Error::new(ErrorKind::UnexpectedEof, "the connection was closed within a message"));
    }
    decode(&frame)
}

/// Cuts what arrives, in whatever pieces, into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// How many of the bytes have been returned.
    used: usize,
}

impl Decoder {
    /// Adds what has arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.used);
        self.used = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next complete frame, without its length. Call it until it returns `None`, before the next
    /// [`push`](Self::push).
    ///
    /// # Errors
    /// If a frame is longer than [`LIMIT`]; the connection is then useless.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>> {
        let Some((header, rest)) = self.bytes[self.used..].split_first_chunk::<HEADER>() else { return Ok(None) };
        let length = length(*header)?;
        if rest.len() < length {
            return Ok(None);
        }
        let start = self.used + HEADER;
        self.used = start + length;
        Ok(Some(&self.bytes[start..self.used]))
    }
}

fn length(header: [u8; HEADER]) -> Result<usize> {
    let length = u32::from_le_bytes(header) as usize;
    if length > LIMIT { Err(too_long(length)) } else { Ok(length) }
}

fn too_long(length: usize) -> Error {
    invalid(format!("a message of {length} bytes is longer than {LIMIT} bytes"))
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::{Epoch, Failure, HostId, Loss, Outcome, Peer, Rejection, Report, RunId, ToHead, ToMember, Work};
    use proptest::prelude::*;

    const EPOCH: Epoch = Epoch { incarnation: u64::MAX, generation: 3 };

    fn to_head() -> Vec<ToHead> {
        let failure = Failure { host: "a\u{1F980}\n\"".into(), stage: "loss".into(), step: None, cause: "x".into() };
        let reports = [
            Report::Holds { step: u64::MAX },
            Report::Prepared { epoch: EPOCH },
            Report::Connected { epoch: EPOCH },
            Report::CannotConnect { epoch: EPOCH, peer: HostId(u32::MAX) },
            Report::Broken { epoch: EPOCH, peer: HostId(1) },
            Report::Failed(failure),
        ];
        let work = Work { step: 1, units: 2, waiting: true };
        let others = [
            ToHead::Beat { work: None },
            ToHead::Beat { work: Some((EPOCH, work)) },
            ToHead::Leave { signal: 15 },
            ToHead::Goodbye,
        ];
        reports.into_iter().map(ToHead::Report).chain(others).collect()
    }

    fn to_member() -> Vec<ToMember> {
        let why = Rejection::Version { head: "1".into(), host: "2".into() };
        let members = vec![Peer { host: HostId(7), address: "[::1]:9".into(), workers: 2 }];
        vec![
            ToMember::Welcome { run: RunId(u64::MAX), incarnation: 1, host: HostId(3), commit: 0 },
            ToMember::Rejected(why),
            ToMember::Beat,
            ToMember::Committed { step: 9 },
            ToMember::Prepare { epoch: EPOCH, from: 5, members },
            ToMember::Connect { epoch: EPOCH },
            ToMember::Start { epoch: EPOCH },
            ToMember::Idle,
            ToMember::Expelled(Loss::Hung),
            ToMember::Dismissed(Outcome::Unreachable { cause: "no".into() }),
        ]
    }

    /// What a decoder makes of bytes that arrive in pieces of these lengths.
    fn decoded(bytes: &[u8], lengths: &[usize]) -> Result<Vec<Vec<u8>>> {
        let (mut decoder, mut frames, mut rest) = (Decoder::default(), Vec::new(), bytes);
        for length in lengths.iter().copied().chain([bytes.len()]) {
            let (piece, after) = rest.split_at(length.min(rest.len()));
            rest = after;
            decoder.push(piece);
            while let Some(frame) = decoder.next_frame()? {
                frames.push(frame.to_vec());
            }
        }
        Ok(frames)
    }

    proptest! {
        /// Messages arrive as they were sent, however they are cut.
        #[test]
        fn every_message_survives(lengths in prop::collection::vec(0_usize..40, 0..60)) {
            let (messages, answers) = (to_head(), to_member());
            let sent: Vec<u8> = messages.iter().flat_map(|message| encode(message).unwrap()).collect();
            let frames = decoded(&sent, &lengths).unwrap();
            let read: Vec<ToHead> = frames.iter().map(|frame| decode(frame).unwrap()).collect();
            prop_assert_eq!(read, messages);
            let sent: Vec<u8> = answers.iter().flat_map(|message| encode(message).unwrap()).collect();
            let frames = decoded(&sent, &lengths).unwrap();
            let read: Vec<ToMember> = frames.iter().map(|frame| decode(frame).unwrap()).collect();
            prop_assert_eq!(&read, &answers);
            let mut input = sent.as_slice();
            for answer in answers {
                prop_assert_eq!(read_one(&mut input), answer);
            }
        }

        /// Bytes that no host has sent are an error or nothing, and all readers agree about them.
        #[test]
        fn garbage_is_no_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..300),
            small in any::<bool>(),
            lengths in prop::collection::vec(0_usize..40, 0..20),
        ) {
            if small && bytes.len() > HEADER {
                bytes[1..HEADER].fill(0);
            }
            let whole = decoded(&bytes, &[]);
            let cut = decoded(&bytes, &lengths);
            prop_assert_eq!(whole.is_err(), cut.is_err());
            if let (Ok(whole), Ok(cut)) = (whole, cut) {
                prop_assert_eq!(&whole, &cut);
                for frame in whole {
                    let _ = decode::<ToHead>(&frame);
                    let _ = decode::<ToMember>(&frame);
                }
            }
            let _ = read::<ToMember>(&mut bytes.as_slice());
        }
    }

    fn read_one(input: &mut &[u8]) -> ToMember {
        read(input).unwrap()
    }

    #[test]
    fn nothing_is_allocated_for_a_length_that_is_only_claimed() {
        let mut claims = (LIMIT as u32).to_le_bytes().to_vec();
        claims.push(b'{');
        let mut decoder = Decoder::default();
        decoder.push(&claims);
        assert!(decoder.next_frame().unwrap().is_none());
        assert!(decoder.bytes.capacity() < 1024);
        let error = decoded(&(LIMIT as u32 + 1).to_le_bytes(), &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(read::<ToHead>(&mut u32::MAX.to_le_bytes().as_slice()).is_err());
        assert!(encode(&"x".repeat(LIMIT)).is_err());
    }

    #[test]
    fn a_deep_message_is_an_error() {
        assert!(decode::<ToHead>("[".repeat(LIMIT).as_bytes()).is_err());
        assert!(decode::<serde_json::Value>("[".repeat(LIMIT).as_bytes()).is_err());
    }
}
