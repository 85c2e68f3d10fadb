//! Reading any compressed stream ends, and no more bytes are reported as intact than were returned. The first byte
//! selects the codec.
#![no_main]
use libfuzzer_sys::fuzz_target;
use std::io::{Cursor, Read};
use text::input::codec::Codec;
use text::input::decompress::Decompressed;

// Panics of dependencies are caught where they are called, so they are not failures of the target.
fuzz_target!(init: std::panic::set_hook(Box::new(|_| {})), |data: &[u8]| {
    let Some((choice, data)) = data.split_first() else { return };
    let codec = [Codec::Gzip, Codec::Zstd, Codec::Bzip2][usize::from(*choice) % 3];
    let mut input = Decompressed::new(Cursor::new(data.to_vec()), codec).unwrap();
    let mut found = 0;
    let mut buffer = [0; 4096];
    // A few bytes may decompress to gigabytes.
    while found < 1 << 24 {
        let n = input.read(&mut buffer).unwrap();
        if n == 0 {
            break;
        }
        found += n as u64;
    }
    if let Some(damage) = input.state().damage() {
        assert!(damage.intact <= found);
    }
});
