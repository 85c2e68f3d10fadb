//! The shards to write, and how one is assembled: columns from the catalog, texts from this run's temporary files or
//! from the previous version, tokens from this run or from the previous version.
use super::files::{Documents, Footer, Sequences};
use super::sequences::Packer;
use super::written::ShardWritten;
use crate::corpus::split::{Part, Split};
use crate::parquet::documents::DocumentStore;
use crate::parquet::tokens::TokenStore;
use crate::prepare::catalog::Catalog;
use anyhow::{Context, Result, ensure};
use arrow::array::{Array, AsArray, ListArray};
use arrow::datatypes::UInt32Type;
use contract::Rows;
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
    /// Its documents, by id.
    pub kept: Vec<RowToWrite>,
    /// Rows of the catalog that go to `dropped-*.parquet`, by id, with the reason.
    pub dropped: Vec<(u32, String)>,
}

/// All shards to write, and their inputs.
pub struct Work {
    /// Where the files go.
    pub folder: PathBuf,
    /// The shards.
    pub shards: Vec<Shard>,
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
    /// The rule for holding out documents.
    pub split: Split,
}

impl Work {
    /// The row of [`texts`](Self::texts) that holds the text of the catalog's `row`.
    pub fn text_row(&self, row: u32) -> Result<u64> {
        let at = self.text_rows.get(row as usize).copied().filter(|at| *at != u64::MAX);
        at.with_context(|| format!("the text of {} is nowhere (please report this)", self.catalog.id(row as usize)))
    }

    /// Writes `shard`. `fresh` and `tokens` are packets of the texts that had no tokens yet, and of their tokens.
    pub(super) fn write(&self, shard: &Shard, fresh: Vec<Rows>, tokens: &[ListArray]) -> Result<ShardWritten> {
        let mut written = ShardWritten::default();
        if !shard.kept.is_empty() {
            self.write_kept(shard, fresh, tokens, &mut written)?;
        }
        if !shard.dropped.is_empty() {
            let plain = Footer { vocabulary: None, ..self.footer.clone() };
            let mut dropped = Documents::create(&self.folder, "dropped", shard.number, &plain, true)?;
            for (row, reason) in &shard.dropped {
                let text = self.texts.get(self.text_row(*row)?)?.unwrap_or_default();
                dropped.push(&self.catalog, *row, &text, None, reason)?;
            }
            written.files.push(dropped.close(&self.catalog)?);
        }
        Ok(written)
    }

    fn write_kept(
        &self,
        shard: &Shard,
        fresh: Vec<Rows>,
        tokens: &[ListArray],
        written: &mut ShardWritten,
    ) -> Result<()> {
        let with_tokens = self.footer.vocabulary.is_some();
        let mut fresh = Fresh::new(fresh, if with_tokens { tokens } else { &[] });
        let mut documents = Documents::create(&self.folder, "documents", shard.number, &self.footer, false)?;
        let mut packed = match &self.footer.vocabulary {
            Some(vocabulary) if self.sequence_length > 0 => {
                let file = Sequences::create(&self.folder, shard.number, self.sequence_length, &self.footer)?;
                let packer = || Packer::new(self.sequence_length, vocabulary.end_of_text);
                Some((file, [(Part::Train, packer()), (Part::Validation, packer())]))
            }
            _ => None,
        };
        let mut ids = Vec::new();
        for kept in &shard.kept {
            let part = self.part(kept.row);
            let text = match kept.tokens {
                None => fresh.text(&mut ids, with_tokens)?,
                Some(at) => {
                    let old =
                        self.tokens.as_ref().context("the last version's tokens are gone (please report this)")?;
                    old.each([at], |found| {
                        ids.clear();
                        ids.extend_from_slice(found);
                    })?;
                    self.texts.get(self.text_row(kept.row)?)?.unwrap_or_default()
                }
            };
            documents.push(&self.catalog, kept.row, &text, with_tokens.then_some(&ids), part.name())?;
            written.tokens.push(ids.len() as u32);
            if let Some((file, packers)) = &mut packed {
                for (_, packer) in packers.iter_mut().filter(|(of, _)| *of == part) {
                    packer.push(&ids, &mut |tokens, starts| file.push(tokens, starts, part.name()))?;
                }
            }
        }
        fresh.finish()?;
        written.files.push(documents.close(&self.catalog)?);
        if let Some((mut file, packers)) = packed {
            for (part, packer) in packers {
                packer.finish(&mut |tokens, starts| file.push(tokens, starts, part.name()))?;
            }
            written.files.push(file.close()?);
        }
        Ok(())
    }

    /// The part of the corpus that a document belongs to.
    pub fn part(&self, row: u32) -> Part {
        let content = self.catalog.content(row as usize);
        let hash = u64::from_le_bytes(std::array::from_fn(|i| content[i]));
        if self.split.holds_out(0, hash) { Part::Validation } else { Part::Train }
    }
}

/// Texts and tokens from packets, one after the other.
struct Fresh<'a> {
    rows: Vec<Rows>,
    tokens: &'a [ListArray],
    packet: usize,
    row: usize,
}

impl<'a> Fresh<'a> {
    fn new(rows: Vec<Rows>, tokens: &'a [ListArray]) -> Self {
        let mut fresh = Self { rows, tokens, packet: 0, row: 0 };
        fresh.skip_empty();
        fresh
    }

    fn skip_empty(&mut self) {
        while self.rows.get(self.packet).is_some_and(|rows| self.row >= rows.records.num_rows()) {
            (self.packet, self.row) = (self.packet + 1, 0);
        }
    }

    /// The next text; its tokens are appended to `ids`.
    fn text(&mut self, ids: &mut Vec<u32>, with_tokens: bool) -> Result<String> {
        let rows = self.rows.get(self.packet).context("a text has not come (please report this)")?;
        let text = rows.records["text"].as_string::<i64>().value(self.row).to_owned();
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
