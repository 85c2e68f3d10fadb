//! Splits a MediaWiki dump into its pages without parsing them.
//!
//! In a dump every `<` in a page's text is escaped, so `<page>` and `</page>` always delimit pages. Dumps in an
//! encoding other than UTF-8 declare it in their first line; they are converted to UTF-8 while reading, and offsets
//! refer to the converted text.
use crate::input::decompress::{Decompressed, LONGEST};
use crate::input::mediawiki::page::SiteInfo;
use crate::input::quarantine::Reason;
use crate::support::problem::TextProblem;
use anyhow::Result;
use encoding_rs::{Decoder, Encoding};
use memchr::memmem;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of pages that a thread processes at a time.
const TAKEN: usize = 256 << 10;
/// Maximum size of the header before the first page.
const LONGEST_HEAD: usize = 1 << 20;
const OPEN: &[u8] = b"<page>";
const CLOSE: &[u8] = b"</page>";

/// Raw pages: offset, XML, and whether the page is complete.
pub type Pieces = Vec<(u64, Vec<u8>, Result<(), Reason>)>;

/// A raw page of the dump.
struct Piece<'a> {
    offset: u64,
    content: &'a [u8],
    whole: Result<(), Reason>,
}

/// Splits a dump into its pages.
pub struct Cutter {
    input: BufReader<Decompressed>,
    buffer: Vec<u8>,
    /// The offset of `buffer` in the dump.
    pub start: u64,
    /// Bytes of `buffer` that have been consumed.
    used: usize,
    /// `<mediawiki` has been found.
    pub opened: bool,
    /// `</mediawiki>` has been found.
    pub closed: bool,
    /// The last page is incomplete.
    pub ended_in_a_page: bool,
    /// The header before the pages, once it is complete.
    site: Option<Arc<SiteInfo>>,
    /// The decoder if the dump is not UTF-8; `None` until the first bytes are seen.
    decoder: Option<Option<Decoder>>,
    path: PathBuf,
}

impl Cutter {
    /// A splitter of the dump `input`; `path` is for messages.
    pub fn new(input: Decompressed, path: &Path) -> Self {
        let input = BufReader::with_capacity(1 << 16, input);
        let (site, decoder, path) = (None, None, path.to_path_buf());
        let (opened, closed, ended_in_a_page) = (false, false, false);
        Self { input, buffer: Vec::new(), start: 0, used: 0, opened, closed, ended_in_a_page, site, decoder, path }
    }

    /// Some pages, and the header of the dump; `None` at the end.
    ///
    /// # Errors
    /// [`TextProblem::Corrupt`] if the encoding of the dump is unknown; or if it cannot be read.
    pub fn some(&mut self) -> Result<Option<(Arc<SiteInfo>, Pieces)>> {
        let (mut pieces, mut bytes) = (Vec::new(), 0);
        while bytes < TAKEN
            && let Some(Piece { offset, content, whole }) = self.next()?
        {
            bytes += content.len();
            pieces.push((offset, content.to_vec(), whole));
        }
        let site = self.site.clone().unwrap_or_default();
        Ok((!pieces.is_empty()).then_some((site, pieces)))
    }

    fn next(&mut self) -> Result<Option<Piece<'_>>> {
        self.drop_used();
        loop {
            // Skip to the next page.
            let open = memmem::find(&self.buffer, OPEN);
            let between = open.unwrap_or(self.buffer.len());
            self.look_at(between);
            // Keep what may be the beginning of a tag or of another marker.
            if self.site.is_none() && (open.is_some() || between > LONGEST_HEAD) {
                self.site = Some(Arc::new(SiteInfo::read(&self.buffer[..between])));
            }
            let drop = match (open, &self.site) {
                (Some(_), _) => between,
                (None, None) => 0,
                (None, Some(_)) => between.saturating_sub(1 << 10),
            };
            self.used = drop;
            self.drop_used();
            if open.is_some() {
                break;
            }
            if !self.more()? {
                self.start += self.buffer.len() as u64;
                self.buffer.clear();
                return Ok(None);
            }
        }
        let mut searched = OPEN.len();
        loop {
            let from = searched.saturating_sub(CLOSE.len());
            let close = memmem::find(&self.buffer[from..], CLOSE).map(|at| from + at + CLOSE.len());
            let limit = close.unwrap_or(self.buffer.len());
            // If another page starts before this one has ended, the end of this one is lost.
            let next = memmem::find(&self.buffer[from.max(1)..limit], OPEN).map(|at| from.max(1) + at);
            let (end, whole) = match (next, close) {
                (Some(next), _) => (next, Err(Reason::Page)),
                (None, Some(close)) => (close, Ok(())),
                (None, None) if self.buffer.len() > LONGEST => (self.buffer.len(), Err(Reason::TooLong)),
                (None, None) => {
                    searched = self.buffer.len();
                    if self.more()? {
                        continue;
                    }
                    self.ended_in_a_page = true;
                    // A page cut off by damage is counted there.
                    if self.input.get_ref().state().damage().is_some() {
                        return Ok(None);
                    }
                    (self.buffer.len(), Err(Reason::Cut))
                }
            };
            self.used = end;
            return Ok(Some(Piece { offset: self.start, content: &self.buffer[..end], whole }));
        }
    }

    /// Reads more; `false` at the end.
    fn more(&mut self) -> Result<bool> {
        let more = self.input.fill_buf()?;
        let n = more.len();
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            None => {
                let encoding = declared(more).map_err(|label| {
                    let why = format!("it declares the encoding {label:?}, which is not known; make it UTF-8");
                    TextProblem::Corrupt { file: self.path.clone(), row_group: None, why }
                })?;
                self.decoder.insert(encoding.map(Encoding::new_decoder))
            }
        };
        match decoder {
            None => self.buffer.extend_from_slice(more),
            Some(decoder) => {
                let mut text = String::with_capacity(decoder.max_utf8_buffer_length(n).unwrap_or(4 * n));
                let _ = decoder.decode_to_string(more, &mut text, n == 0);
                self.buffer.extend_from_slice(text.as_bytes());
                if n == 0 {
                    // A decoder that has finished must not be called again.
                    self.decoder = Some(None);
                }
            }
        }
        self.input.consume(n);
        Ok(n > 0)
    }

    fn drop_used(&mut self) {
        self.buffer.drain(..self.used);
        self.start += self.used as u64;
        self.used = 0;
    }

    /// Searches text outside of pages for the root element's tags.
    fn look_at(&mut self, end: usize) {
        let text = &self.buffer[..end];
        self.opened |= memmem::find(text, b"<mediawiki").is_some();
        self.closed |= memmem::find(text, b"</mediawiki>").is_some();
    }
}

/// The encoding that a file's first bytes declare, if it is not UTF-8; or its name if it is unknown.
fn declared(head: &[u8]) -> Result<Option<&'static Encoding>, String> {
    if let Some((encoding, _)) = Encoding::for_bom(head) {
        return Ok(Some(encoding).filter(|encoding| *encoding != encoding_rs::UTF_8));
    }
    let head = &head[..head.len().min(256)];
    let Some(end) = memmem::find(head, b"?>").filter(|_| head.starts_with(b"<?xml")) else { return Ok(None) };
    let Some(at) = memmem::find(&head[..end], b"encoding=") else { return Ok(None) };
    let label = head[at + 9..end].split(|b| matches!(b, b'"' | b'\'')).nth(1).unwrap_or_default();
    match Encoding::for_label(label) {
        None => Err(String::from_utf8_lossy(label).into_owned()),
        encoding => Ok(encoding.filter(|encoding| *encoding != encoding_rs::UTF_8)),
    }
}
