//! Whatever stands in a packed stream, it ends; what is called intact is the beginning of what was given. The first
//! byte chooses the packing.
#![no_main]
use libfuzzer_sys::fuzz_target;
use std::io::{Cursor, Read};
use text::unpack::{Packing, Unpacked};

fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else { return };
    let packing = [Packing::Gzip, Packing::Zstd, Packing::Bzip2][usize::from(*choice) % 3];
    let mut input = Unpacked::new(Cursor::new(data.to_vec()), packing).unwrap();
    let mut found = 0;
    let mut buffer = [0; 4096];
    // A few bytes may unpack to gigabytes.
    while found < 1 << 24 {
        let n = input.read(&mut buffer).unwrap();
        if n == 0 {
            break;
        }
        found += n as u64;
    }
    if let Some(damage) = input.watch().damage() {
        assert!(damage.intact <= found);
    }
});
