//! The shards that were written: the result of the second graph of a preparation.
use super::files::FileNote;
use anyhow::{Context, Result};
use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, ListBuilder, RecordBatch, StringArray, UInt32Array, UInt32Builder, UInt64Array,
};
use arrow::datatypes::{UInt32Type, UInt64Type};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A shard that was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardWritten {
    /// Number of tokens of each document, in order, without end-of-text tokens.
    pub tokens: Vec<u32>,
    /// Its files, at least one.
    pub files: Vec<FileNote>,
}

impl ShardWritten {
    /// As records: one row per file; the first one has the token counts of the documents.
    pub(super) fn records(&self, shard: u32) -> Result<RecordBatch> {
        let mut tokens = ListBuilder::new(UInt32Builder::new());
        for at in 0..self.files.len() {
            tokens.values().append_slice(if at == 0 { &self.tokens } else { &[] });
            tokens.append(true);
        }
        let string = |of: fn(&FileNote) -> &String| StringArray::from_iter_values(self.files.iter().map(of));
        let bytes = UInt64Array::from_iter_values(self.files.iter().map(|file| file.bytes));
        let columns: [(&str, ArrayRef); 5] = [
            ("shard", Arc::new(UInt32Array::from_value(shard, self.files.len()))),
            ("tokens", Arc::new(tokens.finish())),
            ("file", Arc::new(string(|file| &file.name))),
            ("bytes", Arc::new(bytes)),
            ("blake3", Arc::new(string(|file| &file.blake3))),
        ];
        Ok(RecordBatch::try_from_iter(columns)?)
    }

    /// The shards in such records, by number.
    ///
    /// # Errors
    /// If the records have other columns.
    pub fn of_records(all: &[RecordBatch]) -> Result<BTreeMap<u32, Self>> {
        let mut shards: BTreeMap<u32, Self> = BTreeMap::new();
        for records in all {
            let column = |name: &str| records.column_by_name(name).with_context(|| format!("records without {name}"));
            let (numbers, tokens) = (column("shard")?.as_primitive::<UInt32Type>(), column("tokens")?.as_list::<i32>());
            let (names, hashes) = (column("file")?.as_string::<i32>(), column("blake3")?.as_string::<i32>());
            let bytes = column("bytes")?.as_primitive::<UInt64Type>();
            for row in 0..records.num_rows() {
                let shard = shards.entry(numbers.value(row)).or_default();
                shard.tokens.extend(tokens.value(row).as_primitive::<UInt32Type>().values());
                let (name, blake3) = (names.value(row).to_owned(), hashes.value(row).to_owned());
                shard.files.push(FileNote { name, bytes: bytes.value(row), blake3 });
            }
        }
        Ok(shards)
    }

    /// Number of documents written, from such records.
    pub fn documents(records: &RecordBatch) -> u64 {
        let tokens: Option<&ListArray> = records.column_by_name("tokens").and_then(|column| column.as_list_opt());
        tokens.map_or(0, |tokens| tokens.values().len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_become_records_and_shards_again() {
        let file = |name: &str, bytes| FileNote { name: name.into(), bytes, blake3: format!("hash of {name}") };
        let both = ShardWritten { tokens: vec![7, 0, 9], files: vec![file("documents", 10), file("dropped", 20)] };
        let dropped = ShardWritten { tokens: vec![], files: vec![file("dropped", 30)] };
        let records = [both.records(3).unwrap(), dropped.records(1).unwrap()];
        assert_eq!(records.iter().map(ShardWritten::documents).collect::<Vec<_>>(), [3, 0]);
        assert_eq!(ShardWritten::of_records(&records).unwrap(), BTreeMap::from([(1, dropped), (3, both)]));
    }
}
