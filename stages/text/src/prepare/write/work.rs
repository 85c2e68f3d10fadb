//! The shards to write, in pieces of bounded size, and their inputs.
use super::files::Footer;
use crate::corpus::split::Part;
use crate::parquet::documents::{BATCH_BYTES, DocumentStore};
use crate::parquet::tokens::TokenStore;
use crate::prepare::catalog::Catalog;
use anyhow::{Context, Result};
use contract::{Lane, Step};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// A document to write.
#[derive(Clone, Copy, Debug)]
pub struct RowToWrite {
    /// Its row of the catalog.
    pub row: u32,
    /// Its row of [`Work::tokens`], if it has tokens already.
    pub tokens: Option<u64>,
}

/// A shard to write.
#[derive(Clone, Debug, Default)]
pub struct Shard {
    /// Its number.
    pub number: u32,
    /// Its documents: those for training before those for validation, each by id.
    pub kept: Vec<RowToWrite>,
    /// Rows of the catalog that go to `dropped-*.parquet`, by id, with the reason.
    pub dropped: Vec<(u32, String)>,
}

/// Maximum number of documents of a piece.
const PIECE: usize = 128;

/// Documents of a shard that are read, tokenized and written at one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Index of the shard among those to write.
    pub shard: usize,
    /// Which of its documents.
    pub kept: Range<usize>,
    /// Whether the shard ends with it.
    pub is_last: bool,
}

/// What each lane writes, by lane and step. Shards are written one after the other; lane `l` of `L` has the shards `l`,
/// `l + L`, ….
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pieces(Vec<Vec<Piece>>);

impl Pieces {
    /// Pieces of `shards` of at most [`PIECE`] documents and [`BATCH_BYTES`], or one document, for `lanes` lanes. `bytes`:
    /// the size of a row's text.
    pub fn of(shards: &[Shard], bytes: impl Fn(u32) -> u64, lanes: u32) -> Self {
        let mut pieces = vec![Vec::new(); lanes.max(1) as usize];
        for (number, shard) in shards.iter().enumerate() {
            let lane = number % pieces.len();
            let (mut first, mut size) = (0, 0);
            for (document, kept) in shard.kept.iter().enumerate() {
                let more = bytes(kept.row);
                if document > first && (document - first == PIECE || size + more > BATCH_BYTES as u64) {
                    pieces[lane].push(Piece { shard: number, kept: first..document, is_last: false });
                    (first, size) = (document, 0);
                }
                size += more;
            }
            pieces[lane].push(Piece { shard: number, kept: first..shard.kept.len(), is_last: true });
        }
        Self(pieces)
    }

    /// The number of steps until all shards have been written.
    pub fn steps(&self) -> u64 {
        self.0.iter().map(|pieces| pieces.len() as u64).max().unwrap_or_default()
    }

    /// What `lane` writes at `step`.
    pub fn get(&self, lane: Lane, step: Step) -> Option<&Piece> {
        self.0.get(lane as usize)?.get(step as usize)
    }
}

/// All shards to write, and their inputs.
pub struct Work {
    /// Where the files go.
    pub folder: PathBuf,
    /// The shards.
    pub shards: Vec<Shard>,
    /// The order in which they are written.
    pub pieces: Pieces,
    /// The catalog of the documents.
    pub catalog: Catalog,
    /// Texts: those stored by this run, and those of the previous version.
    pub texts: Arc<DocumentStore>,
    /// By row of the catalog: its row of `texts`; `u64::MAX` if it has none.
    pub text_rows: Vec<u64>,
    /// Tokens of the previous version.
    pub tokens: Option<TokenStore>,
    /// The metadata in the footers.
    pub footer: Footer,
    /// Tokens of a packed sequence; 0: no sequences.
    pub sequence_length: u32,
}

impl Work {
    /// The row of [`texts`](Self::texts) that holds the text of the catalog's `row`.
    pub fn text_row(&self, row: u32) -> Result<u64> {
        let at = self.text_rows.get(row as usize).copied().filter(|at| *at != u64::MAX);
        at.with_context(|| format!("the text of {} is nowhere (please report this)", self.catalog.id(row as usize)))
    }

    /// The part of the corpus that a document belongs to.
    pub fn part(&self, row: u32) -> Part {
        self.catalog.part(row as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_bounded_and_each_document_is_written_once() {
        let shard = |rows: Range<u32>| {
            let kept = rows.map(|row| RowToWrite { row, tokens: None }).collect();
            Shard { kept, ..Shard::default() }
        };
        // 300 small documents, three of 3 MiB, none, and one of 9 MiB.
        let shards = [shard(0..300), shard(300..303), shard(0..0), shard(303..304)];
        let bytes = |row: u32| match row {
            0..300 => 10,
            300..303 => 3 << 20,
            _ => 9 << 20,
        };
        let piece = |shard, kept, is_last| Piece { shard, kept, is_last };
        let first = [piece(0, 0..128, false), piece(0, 128..256, false), piece(0, 256..300, true)];
        let second = [piece(1, 0..1, false), piece(1, 1..2, false), piece(1, 2..3, true)];
        let (third, last) = ([piece(2, 0..0, true)], [piece(3, 0..1, true)]);
        let pieces = Pieces::of(&shards, bytes, 2);
        assert_eq!(pieces, Pieces(vec![[&first[..], &third].concat(), [&second[..], &last].concat()]));
        assert_eq!((pieces.steps(), Pieces::of(&[], bytes, 2).steps()), (4, 0));
        assert_eq!((pieces.get(1, 3), pieces.get(0, 4), pieces.get(2, 0)), (Some(&last[0]), None, None));
    }
}
