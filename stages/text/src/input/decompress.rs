//! Files as byte streams: uncompressed, or decompressed from gzip (RFC 1952), zstd (RFC 8878) or bzip2 (on every core,
//! [`crate::input::parallel_bzip2`]), with any number of concatenated members, frames or streams.
//!
//! Damage is not an error but ends the stream, with a [`Damage`] that says up to where the bytes are known to be
//! correct. Formats have checksums only at the end of a block or a member, so what was returned after the last one may
//! be wrong; the caller then reads the file again with that [`limit`](Decompressed::limited).
use crate::input::codec::Codec;
use crate::input::parallel_bzip2::ParallelBzip2;
use crate::input::quarantine::Reason;
use crate::support::problem::shielded;
use anyhow::{Context, Result};
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A document, line or page longer than this is quarantined, since it has to fit into memory.
pub const LONGEST: usize = 256 << 20;

/// How a stream ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Truncated or damaged.
    pub reason: Reason,
    /// The decoder's message.
    pub detail: String,
    /// The number of decompressed bytes from the start that are correct.
    pub intact: u64,
}

/// Counters and damage of a stream, shared with its reader.
#[derive(Default)]
pub struct StreamState {
    packed: Cell<u64>,
    given: Cell<u64>,
    verified: Cell<u64>,
    tail: Cell<[u8; 4]>,
    failed: Cell<bool>,
    damage: RefCell<Option<Damage>>,
}

impl StreamState {
    /// Bytes of the file read so far.
    pub fn packed(&self) -> u64 {
        self.packed.get()
    }

    /// Decompressed bytes returned so far.
    pub fn given(&self) -> u64 {
        self.given.get()
    }

    /// How the stream ended, if it ended early.
    pub fn damage(&self) -> Option<Damage> {
        self.damage.borrow().clone()
    }
}

/// Decompressed bytes. Reading fails only if the file cannot be read.
pub struct Decompressed {
    inner: Box<dyn Read>,
    codec: Codec,
    state: Rc<StreamState>,
    limit: u64,
    /// Whether the end at `limit` counts as that of the file.
    is_beginning: bool,
    name: String,
}

impl Decompressed {
    /// Opens a file; its first bytes determine the compression.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut input = BufReader::with_capacity(1 << 18, file);
        let head = input.fill_buf().with_context(|| format!("cannot read {}", path.display()))?;
        let codec = Codec::of(path, head)?;
        let decompressed = Self::new(input, codec).with_context(|| format!("cannot decompress {}", path.display()))?;
        Ok(Self { name: path.display().to_string(), ..decompressed })
    }

    /// A stream over any input.
    pub fn new(input: impl BufRead + Send + 'static, codec: Codec) -> Result<Self> {
        let state = Rc::new(StreamState::default());
        let input = Watched { inner: input, state: state.clone() };
        let inner: Box<dyn Read> = match codec {
            Codec::Plain => Box::new(input),
            Codec::Gzip => Box::new(Parts { open: open_gzip, part: Some(open_gzip(input)?), state: state.clone() }),
            Codec::Zstd => Box::new(Parts { open: open_zstd, part: Some(open_zstd(input)?), state: state.clone() }),
            Codec::Bzip2 => Box::new(Blocks::new(input.inner, state.clone())),
        };
        Ok(Self { inner, codec, state, limit: u64::MAX, is_beginning: false, name: "the input".into() })
    }

    /// Ends after `limit` bytes, as if what follows were damaged.
    pub fn limited(mut self, limit: u64) -> Self {
        self.limit = limit;
        self
    }

    /// Ends after `bytes` bytes, as if the file ended there.
    pub fn beginning(self, bytes: u64) -> Self {
        Self { limit: bytes, is_beginning: true, ..self }
    }

    /// Whether it is compressed, so that damage may still be found later on.
    pub fn is_packed(&self) -> bool {
        self.codec != Codec::Plain
    }

    /// Counters and damage, for use while the stream is being read.
    pub fn state(&self) -> Rc<StreamState> {
        self.state.clone()
    }

    fn ended(&self, reason: Reason, detail: String, intact: u64) -> io::Result<usize> {
        self.state.damage.borrow_mut().get_or_insert(Damage { reason, detail, intact });
        Ok(0)
    }

    /// If a gzip member is not truncated, its last four bytes are its length. If that is about right and yet its end
    /// was not found, the data inside is damaged.
    fn length_is_stated(&self) -> bool {
        let length = (self.state.given.get() - self.state.verified.get()) as u32;
        let stated = u32::from_le_bytes(self.state.tail.get());
        length > 0 && stated.abs_diff(length) < 1 << 20
    }
}

impl Read for Decompressed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let state = self.state.clone();
        if state.damage.borrow().is_some() {
            return Ok(0);
        }
        let room = (self.limit - state.given.get()).min(buffer.len() as u64) as usize;
        if room == 0 && !buffer.is_empty() {
            if self.is_beginning {
                return Ok(0);
            }
            return self.ended(Reason::Damaged, String::new(), self.limit);
        }
        let read = shielded(|| Ok(self.inner.read(&mut buffer[..room])));
        match read {
            Ok(Ok(n)) => {
                state.given.set(state.given.get() + n as u64);
                Ok(n)
            }
            Ok(Err(e)) if e.kind() == ErrorKind::Interrupted => Err(e),
            Ok(Err(e)) if state.failed.get() => {
                Err(io::Error::new(e.kind(), format!("cannot read {}: {e}", self.name)))
            }
            Ok(Err(e)) if e.kind() == ErrorKind::UnexpectedEof => {
                let inside = self.codec == Codec::Gzip && self.length_is_stated();
                let intact = if inside { state.verified.get() } else { state.given.get() };
                self.ended(if inside { Reason::Damaged } else { Reason::Cut }, e.to_string(), intact)
            }
            Ok(Err(e)) => self.ended(Reason::Damaged, e.to_string(), state.verified.get()),
            Err(panic) => self.ended(Reason::Damaged, panic.to_string(), state.verified.get()),
        }
    }
}

/// Counts what is read, and separates files that cannot be read from files with invalid content.
struct Watched<R> {
    inner: R,
    state: Rc<StreamState>,
}

impl<R: BufRead> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

impl<R: BufRead> BufRead for Watched<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let state = &self.state;
        self.inner.fill_buf().inspect_err(|e| state.failed.set(e.kind() != ErrorKind::Interrupted))
    }

    fn consume(&mut self, n: usize) {
        if let (1.., Ok(buffer)) = (n, self.inner.fill_buf()) {
            let mut tail = self.state.tail.get();
            for byte in &buffer[n.saturating_sub(4)..n] {
                tail.rotate_left(1);
                tail[3] = *byte;
            }
            self.state.tail.set(tail);
        }
        self.state.packed.set(self.state.packed.get() + n as u64);
        self.inner.consume(n);
    }
}

/// A gzip member or a zstd frame: reads up to its end and returns the input.
trait Part: Read {
    type Input: BufRead;
    fn into_input(self) -> Self::Input;
}

type Opener<P> = fn(<P as Part>::Input) -> io::Result<P>;

fn open_gzip<R: BufRead>(input: R) -> io::Result<flate2::bufread::GzDecoder<R>> {
    Ok(flate2::bufread::GzDecoder::new(input))
}

impl<R: BufRead> Part for flate2::bufread::GzDecoder<R> {
    type Input = R;
    fn into_input(self) -> R {
        self.into_inner()
    }
}

fn open_zstd<R: BufRead>(input: R) -> io::Result<zstd::Decoder<'static, R>> {
    let mut decoder = zstd::Decoder::with_buffer(input)?.single_frame();
    // For `zstd --long=31`: two gigabytes, if a file requires them.
    decoder.window_log_max(31)?;
    Ok(decoder)
}

impl<R: BufRead> Part for zstd::Decoder<'static, R> {
    type Input = R;
    fn into_input(self) -> R {
        self.finish()
    }
}

/// bzip2, on several threads: everything that it returns is correct.
struct Blocks {
    inner: ParallelBzip2,
    packed: Arc<AtomicU64>,
    state: Rc<StreamState>,
}

impl Blocks {
    fn new(input: impl Read + Send + 'static, state: Rc<StreamState>) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let inner = ParallelBzip2::new(input, threads);
        Self { packed: inner.packed(), inner, state }
    }
}

impl Read for Blocks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer);
        self.state.packed.set(self.packed.load(Ordering::Relaxed));
        self.state.verified.set(self.state.given.get());
        read.inspect_err(|e| {
            self.state.failed.set(!matches!(e.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof));
        })
    }
}

/// Members or frames, one after the other.
struct Parts<P: Part> {
    open: Opener<P>,
    part: Option<P>,
    state: Rc<StreamState>,
}

impl<P: Part> Read for Parts<P> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(part) = &mut self.part {
            let given = self.state.given.get();
            let n = part.read(buffer)?;
            if n > 0 || buffer.is_empty() {
                return Ok(n);
            }
            self.state.verified.set(given);
            if let Some(mut input) = self.part.take().map(P::into_input)
                && !input.fill_buf()?.is_empty()
            {
                self.part = Some((self.open)(input)?);
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pack;
    use proptest::prelude::*;
    use std::io::Cursor;

    const CODECS: [Codec; 3] = [Codec::Gzip, Codec::Zstd, Codec::Bzip2];

    fn decompress(packed: Vec<u8>, codec: Codec) -> (Vec<u8>, Option<Damage>) {
        let mut input = Decompressed::new(Cursor::new(packed), codec).unwrap();
        let mut found = Vec::new();
        input.read_to_end(&mut found).unwrap();
        (found, input.state().damage())
    }

    fn text(lines: usize) -> Vec<u8> {
        (0..lines).flat_map(|i| format!("line {i} of {}\n", i * i % 977).into_bytes()).collect()
    }

    #[test]
    fn parts_one_after_the_other() {
        for codec in CODECS {
            let whole = [pack(codec, b"one, "), pack(codec, b""), pack(codec, b"two")].concat();
            assert_eq!(decompress(whole, codec), (b"one, two".to_vec(), None), "{codec:?}");
        }
    }

    #[test]
    fn a_stream_that_is_cut_short_gives_what_is_there() {
        for codec in CODECS {
            // Random enough not to fit one block.
            let whole = text(200_000);
            let packed = pack(codec, &whole);
            for length in [0, 1, 3, 10, packed.len() / 2, packed.len() - 1] {
                let (found, damage) = decompress(packed[..length].to_vec(), codec);
                let damage = damage.unwrap_or_else(|| panic!("{codec:?} cut to {length} is whole"));
                assert_eq!((damage.reason, damage.intact), (Reason::Cut, found.len() as u64), "{codec:?} {length}");
                assert!(whole.starts_with(&found), "{codec:?} {length}");
                assert!(length < packed.len() / 2 || !found.is_empty(), "{codec:?} {length}");
            }
        }
    }

    #[test]
    fn a_frame_to_skip_is_skipped() {
        let packed = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4], &*pack(Codec::Zstd, b"x")].concat();
        assert_eq!(decompress(packed, Codec::Zstd), (b"x".to_vec(), None));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_called_intact_is(codec in 0usize..3, lines in 1usize..3000, bit in any::<u64>(), parts in 1usize..3) {
            let codec = CODECS[codec];
            let part = text(lines);
            let whole = part.repeat(parts);
            let mut packed = pack(codec, &part).repeat(parts);
            let bit = (bit % (packed.len() as u64 * 8)) as usize;
            packed[bit / 8] ^= 1 << (bit % 8);
            let (found, damage) = decompress(packed, codec);
            match damage {
                None => prop_assert_eq!(found, whole),
                Some(damage) => {
                    let intact = damage.intact as usize;
                    prop_assert!(intact <= found.len() && whole.starts_with(&found[..intact]), "{:?}", damage);
                }
            }
        }
    }
}
