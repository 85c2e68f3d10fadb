//! Source `scan`: every document once, in order, for graphs that prepare a corpus or count it.
//!
//! Documents are emitted in [`Chunks`]: at step `s` lane `l` of `L` emits chunk `s × L + l`. Rows that are no documents
//! are not emitted.
use crate::corpus::survey::Survey;
use crate::parquet::documents::{BATCH_BYTES, DocumentStore, records};
use anyhow::Result;
use contract::{Built, Emit, Env, Kind, Lane, Packet, Port, Purpose, Rows, Settings, Source, Step, Turn};
use std::sync::Arc;

/// Maximum number of documents of a chunk.
const CHUNK: usize = 256;

/// The documents of a survey in chunks of bounded size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunks {
    /// The rows of the documents.
    rows: Vec<u64>,
    /// The first document of each chunk.
    starts: Vec<usize>,
}

impl Chunks {
    /// Chunks of the documents of `survey`, of at most [`CHUNK`]. `read` surveys the same rows as they are read, before
    /// any stage: a chunk of which more than [`BATCH_BYTES`] are read is one document.
    pub fn of(survey: &Survey, read: &Survey) -> Self {
        let (mut starts, mut bytes, mut first) = (Vec::new(), 0, 0);
        let mut sizes = read.rows.iter().zip(&read.bytes).peekable();
        for (document, row) in survey.rows.iter().enumerate() {
            while sizes.next_if(|(other, _)| *other < row).is_some() {}
            let size = sizes.next_if(|(other, _)| *other == row).map_or(0, |(_, size)| *size);
            if starts.is_empty() || bytes + size > BATCH_BYTES as u64 || document - first >= CHUNK {
                starts.push(document);
                (bytes, first) = (0, document);
            }
            bytes += size;
        }
        Self { rows: survey.rows.clone(), starts }
    }

    /// The number of steps that `lanes` lanes need.
    pub fn steps(&self, lanes: u32) -> u64 {
        (self.starts.len() as u64).div_ceil(u64::from(lanes.max(1)))
    }

    /// The rows of chunk `number`; none after the last one.
    fn rows(&self, number: u64) -> &[u64] {
        let start = |number: u64| self.starts.get(number as usize).copied().unwrap_or(self.rows.len());
        &self.rows[start(number)..start(number + 1)]
    }
}

/// Settings of source `scan`, which occurs only in graphs built in code.
#[derive(Clone)]
pub struct Scan {
    store: Arc<DocumentStore>,
    chunks: Arc<Chunks>,
}

impl Scan {
    /// A scan of the documents of `store` in these chunks.
    pub fn new(store: Arc<DocumentStore>, chunks: Arc<Chunks>) -> Self {
        Self { store, chunks }
    }
}

impl Settings for Scan {
    fn takes(&self) -> Vec<Port> {
        Vec::new()
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Rows]
    }

    fn build(&self, env: &Env) -> Result<Built> {
        let lanes = u64::from(env.shape.lanes);
        Ok(Built::Source(Box::new(Scanner { scan: self.clone(), lanes })))
    }
}

struct Scanner {
    scan: Scan,
    lanes: u64,
}

impl Source for Scanner {
    fn next(&mut self, lane: Lane, step: Step, out: &mut dyn Emit) -> Result<Turn> {
        let rows = self.scan.chunks.rows(step * self.lanes + u64::from(lane));
        if !rows.is_empty() {
            let records = records(self.scan.store.take(rows.iter().copied())?)?;
            out.give(Packet::Rows(Rows { lane, source: 0, purpose: Purpose::Train, last: false, records }));
        }
        Ok(Turn::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survey(sizes: &[u64]) -> Survey {
        // Two rows in three are no documents.
        let rows = (0..sizes.len() as u64).map(|document| 3 * document + 1).collect();
        Survey { all_rows: 3 * sizes.len() as u64, rows, bytes: sizes.to_vec(), ..Survey::default() }
    }

    #[test]
    fn chunks_are_bounded_by_documents_and_bytes() {
        let (mega, limit) = (1 << 20, BATCH_BYTES as u64);
        let chunks = |sizes: &[u64]| Chunks::of(&survey(sizes), &survey(sizes));
        let starts = |sizes: &[u64]| chunks(sizes).starts;
        assert_eq!(starts(&[10; 600]), [0, 256, 512]);
        assert_eq!(starts(&[2 * mega; 5]), [0, 2, 4], "4 MiB each");
        assert_eq!(starts(&[1, limit, 1, 3 * limit, 0, 1]), [0, 1, 2, 3, 4], "a large document is a chunk of its own");
        let large = chunks(&[2 * mega; 5]);
        let rows: Vec<&[u64]> = (0..4).map(|number| large.rows(number)).collect();
        assert_eq!(rows, [&[1, 4][..], &[7, 10], &[13], &[]]);
        assert_eq!((large.steps(2), chunks(&[]).steps(2)), (2, 0));
    }

    #[test]
    fn the_size_that_counts_is_the_one_before_stages() {
        let read = survey(&[3 << 20; 4]);
        let after = Survey { rows: vec![1, 7, 8], bytes: vec![1; 3], ..Survey::default() };
        assert_eq!(Chunks::of(&after, &read).starts, [0, 1], "row 8 is empty when it is read");
    }
}
