//! What arrives on a control connection, in pieces: an error, or messages that are the same however they were cut.
#![no_main]
use libfuzzer_sys::fuzz_target;
use millrace_pipelines::hosts::net::frame::{Decoder, decode, encode};
use millrace_pipelines::hosts::{Hello, ToHead, ToMember};

fuzz_target!(|data: &[u8]| {
    let Some((cut, bytes)) = data.split_first() else { return };
    let whole = frames(bytes, bytes.len().max(1));
    let pieces = frames(bytes, usize::from(*cut).max(1));
    assert_eq!(whole, pieces);
    for frame in whole.iter().flatten() {
        // What can be read can be sent.
        if let Ok(message) = decode::<ToHead>(frame) {
            assert_eq!(decode::<ToHead>(&encode(&message).unwrap()[4..]).unwrap(), message);
        }
        if let Ok(message) = decode::<ToMember>(frame) {
            assert_eq!(decode::<ToMember>(&encode(&message).unwrap()[4..]).unwrap(), message);
        }
        let _ = decode::<Hello>(frame);
    }
});

/// The frames in bytes that arrive in pieces of this length; nothing if there is an error.
fn frames(bytes: &[u8], length: usize) -> Option<Vec<Vec<u8>>> {
    let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
    for piece in bytes.chunks(length) {
        decoder.push(piece);
        while let Some(frame) = decoder.next_frame().ok()? {
            frames.push(frame.to_vec());
        }
    }
    Some(frames)
}
