//! Parallel decompression of bzip2 files of one or several streams.
//!
//! A bzip2 stream consists of blocks of up to 900 kB that can be decoded independently; each starts with a magic
//! number, at any bit offset. One thread finds the blocks; each is wrapped as a stream of its own and decoded on one of
//! several threads, and the results are returned in order. The checksum of every block is verified, and blocks must be
//! adjacent; the checksum of a whole stream, which is computed from those of its blocks, is not verified. (The format:
//! <https://github.com/dsnet/compress/blob/master/doc/bzip2-format.pdf>.)
use crate::support::problem::shielded;
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Read, Result};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};

/// The magic numbers at the start of a block and at the end of a stream: 48 bits.
const BLOCK: u64 = 0x3141_5926_5359;
const END: u64 = 0x1772_4538_5090;
/// Bits of a stream's header, and of its trailer: magic number and checksum.
const HEADER: u64 = 32;
const FOOTER: u64 = 80;
/// An upper bound on the compressed size of a block of 900 kB.
const LONGEST: usize = 2 << 20;
/// Bytes per read.
const CHUNK: usize = 1 << 20;

/// Decompressed bytes, in order. Reading fails if the file is damaged ([`ErrorKind::InvalidData`]) or truncated
/// ([`ErrorKind::UnexpectedEof`]); everything returned before that is correct. Dropping it ends the threads.
pub struct ParallelBzip2 {
    results: Option<Receiver<(u64, Result<Vec<u8>>)>>,
    early: BTreeMap<u64, Result<Vec<u8>>>,
    next: u64,
    /// The number of results, once the last piece has been cut.
    total: Arc<OnceLock<u64>>,
    current: Vec<u8>,
    at: usize,
    packed: Arc<AtomicU64>,
}

impl ParallelBzip2 {
    /// Decodes `input` on this many threads; one more thread reads it and finds the blocks.
    pub fn new(input: impl Read + Send + 'static, threads: usize) -> Self {
        let threads = threads.max(1);
        let (cut_in, cut_out) = sync_channel::<(u64, Result<Vec<u8>>)>(threads * 2);
        let (result_in, results) = sync_channel(threads * 2);
        let cut_out = Arc::new(Mutex::new(cut_out));
        let packed = Arc::new(AtomicU64::new(0));
        let total = Arc::new(OnceLock::new());
        let (count, all) = (packed.clone(), total.clone());
        std::thread::spawn(move || {
            let mut cutter = Cutter { out: cut_in, number: 0, start: 0, buffer: Vec::new() };
            if let Err(e) = cutter.run(input, &count) {
                cutter.send(Err(e));
            }
            let _ = all.set(cutter.number);
        });
        for _ in 0..threads {
            let (cut_out, result_in) = (cut_out.clone(), result_in.clone());
            std::thread::spawn(move || {
                loop {
                    let cut = cut_out.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).recv();
                    let Ok((number, bits)) = cut else { return };
                    if result_in.send((number, bits.and_then(|bits| decoded(&bits)))).is_err() {
                        return;
                    }
                }
            });
        }
        Self { results: Some(results), early: BTreeMap::new(), next: 0, total, current: Vec::new(), at: 0, packed }
    }

    /// Bytes of the file read so far: a counter that can be shared.
    pub fn packed(&self) -> Arc<AtomicU64> {
        self.packed.clone()
    }

    /// The next block, if there is one.
    fn block(&mut self) -> Option<Result<Vec<u8>>> {
        loop {
            if let Some(found) = self.early.remove(&self.next) {
                self.next += 1;
                return Some(found);
            }
            match self.results.as_ref()?.recv() {
                Ok((number, decoded)) => drop(self.early.insert(number, decoded)),
                // All threads have ended.
                Err(_) if self.total.get() == Some(&self.next) => return None,
                Err(_) => return Some(Err(Error::other("a thread that decompresses bzip2 has died"))),
            }
        }
    }
}

impl Read for ParallelBzip2 {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        while self.at == self.current.len() {
            match self.block() {
                Some(Ok(bytes)) => (self.current, self.at) = (bytes, 0),
                Some(Err(e)) => {
                    (self.results, self.next) = (None, u64::MAX);
                    return Err(e);
                }
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.current.len() - self.at);
        buffer[..n].copy_from_slice(&self.current[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// Splits a file at the magic numbers.
struct Cutter {
    out: SyncSender<(u64, Result<Vec<u8>>)>,
    number: u64,
    /// The bit offset in the file at which `buffer` starts.
    start: u64,
    buffer: Vec<u8>,
}

impl Cutter {
    /// Whether the receiver still exists.
    fn send(&mut self, bits: Result<Vec<u8>>) -> bool {
        self.number += 1;
        self.out.send((self.number - 1, bits)).is_ok()
    }

    fn run(&mut self, mut input: impl Read, count: &AtomicU64) -> Result<()> {
        // Bit offsets in the buffer: the start of the current block, and how far has been searched.
        let (mut open, mut searched) = (None::<usize>, 0usize);
        // The bit offset in the file of the first block of the next stream.
        let mut expected = HEADER;
        loop {
            let more = input.by_ref().take(CHUNK as u64).read_to_end(&mut self.buffer)?;
            count.fetch_add(more as u64, Ordering::Relaxed);
            while let Some((bit, magic)) = find(&self.buffer, searched) {
                match open.take() {
                    Some(from) => {
                        let block = bits(&self.buffer, from, bit);
                        if !self.send(Ok(block)) {
                            return Ok(());
                        }
                    }
                    None if self.start + bit as u64 != expected => return Err(damaged("a block is missing")),
                    None => {}
                }
                if magic == BLOCK {
                    open = Some(bit);
                } else {
                    expected = (self.start + bit as u64 + FOOTER).next_multiple_of(8) + HEADER;
                }
                searched = bit + 48;
            }
            if more == 0 {
                let total = self.start + self.buffer.len() as u64 * 8;
                return match total.cmp(&(expected - HEADER)) {
                    _ if open.is_some() || total == 0 => Err(ErrorKind::UnexpectedEof.into()),
                    std::cmp::Ordering::Less => Err(ErrorKind::UnexpectedEof.into()),
                    std::cmp::Ordering::Equal => Ok(()),
                    // Too few bytes for a header and a magic number.
                    _ if total < expected + 48 => Err(ErrorKind::UnexpectedEof.into()),
                    _ => Err(damaged("there is no block where one should begin")),
                };
            }
            searched = searched.max((self.buffer.len() * 8).saturating_sub(48 + 7));
            if open.is_some_and(|from| self.buffer.len() - from / 8 > LONGEST) {
                return Err(damaged("a block does not end"));
            }
            let keep = open.unwrap_or(searched).min(searched) / 8;
            self.buffer.drain(..keep);
            self.start += keep as u64 * 8;
            searched -= keep * 8;
            open = open.map(|from| from - keep * 8);
        }
    }
}

fn damaged(why: &str) -> Error {
    Error::new(ErrorKind::InvalidData, why)
}

/// The next magic number at or after bit `from`.
fn find(bytes: &[u8], from: usize) -> Option<(usize, u64)> {
    let mut at = from / 8;
    while at + 8 <= bytes.len() {
        // Whatever its bit offset, the magic number covers the whole byte after the one it starts in.
        if SECOND[usize::from(bytes[at + 1])] {
            let word = u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
            for shift in 0..8 {
                let magic = word << shift >> 16;
                if (magic == BLOCK || magic == END) && at * 8 + shift >= from {
                    return Some((at * 8 + shift, magic));
                }
            }
        }
        at += 1;
    }
    // The last bytes, as if followed by zeros.
    while at + 6 <= bytes.len() {
        let mut last = [0; 8];
        last[..bytes.len() - at].copy_from_slice(&bytes[at..]);
        let word = u64::from_be_bytes(last);
        let left = (bytes.len() - at) * 8;
        for shift in (0..8).filter(|shift| shift + 48 <= left) {
            let magic = word << shift >> 16;
            if (magic == BLOCK || magic == END) && at * 8 + shift >= from {
                return Some((at * 8 + shift, magic));
            }
        }
        at += 1;
    }
    None
}

/// The values that the byte after a magic number's first may have, over all bit offsets.
const SECOND: [bool; 256] = {
    let mut second = [false; 256];
    let mut shift = 0;
    while shift < 8 {
        second[(BLOCK >> (32 + shift) & 0xff) as usize] = true;
        second[(END >> (32 + shift) & 0xff) as usize] = true;
        shift += 1;
    }
    second
};

/// Bits `from` to `to`, aligned to the first bit of a byte and padded with zeros at the end.
fn bits(bytes: &[u8], from: usize, to: usize) -> Vec<u8> {
    let shift = from % 8;
    let length = to - from;
    let byte = |at: usize| u16::from(bytes.get(at).copied().unwrap_or_default());
    let mut out: Vec<u8> =
        (from / 8..).take(length.div_ceil(8)).map(|at| ((byte(at) << 8 | byte(at + 1)) << shift >> 8) as u8).collect();
    if let Some(last) = out.last_mut().filter(|_| !length.is_multiple_of(8)) {
        *last &= 0xff << (8 - length % 8);
    }
    out.push((length % 8) as u8);
    out
}

/// [`decode`]; if the decoder panics, the block is damaged.
fn decoded(bits: &[u8]) -> Result<Vec<u8>> {
    shielded(|| Ok(decode(bits))).unwrap_or_else(|panic| Err(damaged(&panic.to_string())))
}

/// Decodes one block, wrapped as a stream: header, block, trailer, and its checksum, which equals the block's.
fn decode(bits: &[u8]) -> Result<Vec<u8>> {
    let (over, block) = bits.split_last().ok_or_else(|| damaged("an empty block"))?;
    let check = block.get(6..10).ok_or_else(|| damaged("a block without check sum"))?;
    let mut stream = Vec::with_capacity(block.len() + 16);
    stream.extend_from_slice(b"BZh9");
    stream.extend_from_slice(block);
    let end = [&END.to_be_bytes()[2..], check].concat();
    match over {
        0 => stream.extend_from_slice(&end),
        over => {
            let last = stream.len() - 1;
            stream[last] |= end[0] >> over;
            stream.extend(end.windows(2).map(|two| two[0] << (8 - over) | two[1] >> over));
            stream.push(end[end.len() - 1] << (8 - over));
        }
    }
    let mut out = Vec::with_capacity(900_000);
    bzip2::read::BzDecoder::new(stream.as_slice()).read_to_end(&mut out).map_err(|e| damaged(&e.to_string()))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{Cursor, Write};

    fn packed(bytes: &[u8], level: u32) -> Vec<u8> {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::new(level));
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn decompressed(packed: Vec<u8>, threads: usize) -> (Vec<u8>, Option<ErrorKind>) {
        let mut out = Vec::new();
        let ended = ParallelBzip2::new(Cursor::new(packed), threads).read_to_end(&mut out);
        (out, ended.err().map(|e| e.kind()))
    }

    /// Text that packs badly, so that there are many blocks.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8 & 0x3f
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn streams_and_blocks_at_any_bit() {
        let bytes = noise(1_500_000);
        let plain = packed(&bytes, 1);
        let multistream: Vec<u8> = bytes.chunks(333_333).flat_map(|part| packed(part, 9)).collect();
        for threads in [1, 3] {
            assert!(decompressed(plain.clone(), threads) == (bytes.clone(), None));
            assert!(decompressed(multistream.clone(), threads) == (bytes.clone(), None));
        }
        assert_eq!(decompressed(packed(b"", 1), 2), (vec![], None));
    }

    #[test]
    fn damage_ends_it_and_all_before_is_right() {
        let bytes = noise(500_000);
        let whole = packed(&bytes, 1);
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 4;
        let (out, why) = decompressed(flipped, 2);
        assert!(bytes.starts_with(&out) && out.len() > 100_000 && why == Some(ErrorKind::InvalidData));
        for length in [0, 1, 9, 10, whole.len() / 2, whole.len() - 1] {
            let (out, why) = decompressed(whole[..length].to_vec(), 2);
            assert!(bytes.starts_with(&out) && why == Some(ErrorKind::UnexpectedEof), "{length}");
        }
        assert_eq!(decompressed(b"this is not bzip2 at all".to_vec(), 2).1, Some(ErrorKind::InvalidData));
    }

    #[test]
    fn the_death_of_a_thread_is_not_the_end_of_the_file() {
        struct Dies(Cursor<Vec<u8>>);
        impl Read for Dies {
            fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
                match self.0.read(buffer)? {
                    0 => panic!("reading dies here"),
                    n => Ok(n),
                }
            }
        }
        let mut found = Vec::new();
        let packed = packed(&noise(200_000), 1);
        let ended = ParallelBzip2::new(Dies(Cursor::new(packed)), 2).read_to_end(&mut found);
        assert_eq!(ended.unwrap_err().to_string(), "a thread that decompresses bzip2 has died");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn damage_is_found(length in 1usize..300_000, parts in 1usize..3, bit in any::<prop::sample::Index>()) {
            let part = noise(length);
            let whole = part.repeat(parts);
            let mut bytes = packed(&part, 1).repeat(parts);
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (out, why) = decompressed(bytes, 2);
            prop_assert!(whole.starts_with(&out) && (why.is_some() || out == whole));
        }
    }
}
