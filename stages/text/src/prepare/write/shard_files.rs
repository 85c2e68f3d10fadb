//! The files of a shard while it is written, a piece at a time: columns from the catalog, texts from this run's temporary
//! files or from the previous version, tokens from this run or from the previous version.
use super::files::{Documents, Footer, OF_PARTS, Sequences, kind_of_part};
use super::sequences::Packer;
use super::work::{RowToWrite, Shard, Work};
use super::written::ShardWritten;
use crate::corpus::split::Part;
use anyhow::{Context, Result, ensure};
use arrow::array::{Array, AsArray, ListArray};
use arrow::datatypes::UInt32Type;
use contract::Rows;

/// The files of a shard that have been begun.
#[derive(Default)]
pub(super) struct ShardFiles {
    documents: Vec<(Part, Documents)>,
    sequences: Vec<(Part, Sequences, Packer)>,
    /// Number of tokens of each document so far.
    counts: Vec<u32>,
}

impl ShardFiles {
    /// Adds `kept`, documents of `shard`. `fresh` and `tokens` are packets of the texts among them that had no tokens yet,
    /// and of their tokens.
    pub(super) fn write(
        &mut self,
        work: &Work,
        shard: &Shard,
        kept: &[RowToWrite],
        fresh: &[Rows],
        tokens: &[ListArray],
    ) -> Result<()> {
        let with_tokens = work.footer.vocabulary.is_some();
        let mut fresh = Fresh::new(fresh, if with_tokens { tokens } else { &[] });
        let mut ids = Vec::new();
        for kept in kept {
            match kept.tokens {
                None => {
                    let text = fresh.text(&mut ids, with_tokens)?;
                    self.push(work, shard, kept.row, text, &ids)?;
                }
                Some(at) => {
                    let old =
                        work.tokens.as_ref().context("the last version's tokens are gone (please report this)")?;
                    old.each([at], |found| {
                        ids.clear();
                        ids.extend_from_slice(found);
                    })?;
                    let text = work.texts.get(work.text_row(kept.row)?)?.unwrap_or_default();
                    self.push(work, shard, kept.row, &text, &ids)?;
                }
            }
        }
        fresh.finish()
    }

    fn push(&mut self, work: &Work, shard: &Shard, row: u32, text: &str, ids: &[u32]) -> Result<()> {
        let part = work.part(row);
        if self.documents.last().is_none_or(|(last, _)| *last != part) {
            self.begin(work, shard, part)?;
        }
        let (_, documents) = self.documents.last_mut().context("a file that was just created")?;
        documents.push(&work.catalog, row, text, work.footer.vocabulary.is_some().then_some(ids), part.name())?;
        self.counts.push(ids.len() as u32);
        if let Some((_, file, packer)) = self.sequences.last_mut() {
            packer.push(ids, &mut |tokens, starts| file.push(tokens, starts, part.name()))?;
        }
        Ok(())
    }

    /// Creates the files of documents and sequences of `part`.
    fn begin(&mut self, work: &Work, shard: &Shard, part: Part) -> Result<()> {
        let [documents, sequences] = OF_PARTS.map(|kind| kind_of_part(kind, part));
        let documents = Documents::create(&work.folder, &documents, shard.number, &work.footer, false)?;
        self.documents.push((part, documents));
        if let Some(vocabulary) = work.footer.vocabulary.as_ref().filter(|_| work.sequence_length > 0) {
            let length = work.sequence_length;
            let file = Sequences::create(&work.folder, &sequences, shard.number, length, &work.footer)?;
            self.sequences.push((part, file, Packer::new(length, vocabulary.end_of_text)));
        }
        Ok(())
    }

    /// Completes the files, and writes that of dropped documents.
    pub(super) fn close(self, work: &Work, shard: &Shard) -> Result<ShardWritten> {
        let mut written = ShardWritten { tokens: self.counts, files: Vec::new() };
        for (_, documents) in self.documents {
            written.files.push(documents.close(&work.catalog)?);
        }
        for (part, mut file, packer) in self.sequences {
            packer.finish(&mut |tokens, starts| file.push(tokens, starts, part.name()))?;
            written.files.push(file.close()?);
        }
        if !shard.dropped.is_empty() {
            let plain = Footer { vocabulary: None, ..work.footer.clone() };
            let mut dropped = Documents::create(&work.folder, "dropped", shard.number, &plain, true)?;
            for (row, reason) in &shard.dropped {
                let text = work.texts.get(work.text_row(*row)?)?.unwrap_or_default();
                dropped.push(&work.catalog, *row, &text, None, reason)?;
            }
            written.files.push(dropped.close(&work.catalog)?);
        }
        Ok(written)
    }
}

/// Texts and tokens from packets, one after the other.
struct Fresh<'a> {
    rows: &'a [Rows],
    tokens: &'a [ListArray],
    packet: usize,
    row: usize,
}

impl<'a> Fresh<'a> {
    fn new(rows: &'a [Rows], tokens: &'a [ListArray]) -> Self {
        let mut fresh = Self { rows, tokens, packet: 0, row: 0 };
        fresh.skip_empty();
        fresh
    }

    fn skip_empty(&mut self) {
        while self.rows.get(self.packet).is_some_and(|rows| self.row >= rows.records.num_rows()) {
            (self.packet, self.row) = (self.packet + 1, 0);
        }
    }

    /// The next text; `ids` become its tokens.
    fn text(&mut self, ids: &mut Vec<u32>, with_tokens: bool) -> Result<&'a str> {
        let rows = self.rows.get(self.packet).context("a text has not come (please report this)")?;
        let text = rows.records["text"].as_string::<i64>().value(self.row);
        if with_tokens {
            let lists = self.tokens.get(self.packet).filter(|lists| lists.len() == rows.records.num_rows());
            let lists = lists.context("the tokenizing stage gives other packets than it takes")?;
            ids.clear();
            ids.extend_from_slice(lists.value(self.row).as_primitive::<UInt32Type>().values());
        }
        self.row += 1;
        self.skip_empty();
        Ok(text)
    }

    fn finish(&self) -> Result<()> {
        ensure!(self.packet == self.rows.len(), "more texts came than the shard has (please report this)");
        Ok(())
    }
}
