//! Stage `signatures`: emits a row of the catalog for every row that has passed the stages upstream, and stores its
//! text.
use crate::clean::RESIDUE;
use crate::filter::texts;
use crate::parquet::columns::{BANDS, INPUT_HASH, INPUT_ROW, UNHANDLED, about, dropped};
use crate::prepare::catalog::{lines, short};
use crate::prepare::text_files::{TextFiles, TextWriter};
use anyhow::{Context, Result, bail};
use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeBinaryBuilder, ListArray, RecordBatch, StringArray, UInt32Builder,
    UInt64Builder, new_empty_array, new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field};
use contract::{At, Built, Emit, Env, Kind, Packet, Port, Records, Rows, Settings, Stage, Turn};
use std::sync::Arc;

/// Settings of stage `signatures`, which occurs only in graphs built in code. It needs [`TextFiles`], and emits
/// [`lines`] of the catalog.
pub struct Signatures;

impl Settings for Signatures {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(Kind::Rows)]
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Records]
    }

    fn build(&self, env: &Env) -> Result<Built> {
        let files: Arc<TextFiles> = env.resource("where texts are put aside (TextFiles)")?;
        let keep_dropped = files.keep_dropped;
        Ok(Built::Stage(Box::new(SignatureStage { keep_dropped, texts: TextWriter::new(files, env.worker) })))
    }
}

struct SignatureStage {
    keep_dropped: bool,
    texts: TextWriter,
}

impl Stage for SignatureStage {
    fn packet(&mut self, _: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn> {
        let Packet::Rows(Rows { lane, records, .. }) = packet else {
            bail!("signatures takes rows, not {}", packet.kind().name())
        };
        out.give(Packet::Records(Records { lane, records: self.lines(&records)? }));
        Ok(Turn::Done)
    }

    fn finish(&mut self) -> Result<()> {
        self.texts.close()
    }
}

impl SignatureStage {
    /// The catalog rows of `rows`, whose texts have been stored.
    fn lines(&mut self, rows: &RecordBatch) -> Result<RecordBatch> {
        let texts = texts(rows)?;
        let ids = column(rows, "id")?.as_string_opt::<i32>().context("the column `id` of rows is not string")?;
        let given = dropped(rows)?;
        let mut contents = FixedSizeBinaryBuilder::with_capacity(rows.num_rows(), 16);
        let (mut bytes, mut reasons) = (UInt64Builder::new(), Vec::new());
        let (mut files, mut places) = (UInt32Builder::new(), UInt64Builder::new());
        for row in 0..rows.num_rows() {
            let text = texts.value(row);
            let reason = given.filter(|given| given.is_valid(row)).map(|given| given.value(row));
            let reason = reason.or_else(|| text.is_empty().then_some("empty"));
            contents.append_value(short(blake3::hash(text.as_bytes())))?;
            bytes.append_value(text.len() as u64);
            let is_put = reason.is_none() || self.keep_dropped;
            let (file, place) = is_put.then(|| self.texts.put(ids.value(row), text)).transpose()?.unzip();
            files.append_option(file);
            places.append_option(place);
            reasons.push(reason);
        }
        let mut found: Vec<ArrayRef> = vec![column(rows, INPUT_ROW)?.clone()];
        for field in about() {
            found.push(column(rows, field.name())?.clone());
        }
        found.extend([
            column(rows, INPUT_HASH)?.clone(),
            Arc::new(contents.finish()),
            Arc::new(bytes.finish()),
            Arc::new(StringArray::from(reasons)),
            column(rows, UNHANDLED)?.clone(),
            rows.column_by_name(RESIDUE).cloned().unwrap_or_else(|| new_null_array(&DataType::Utf8, rows.num_rows())),
            rows.column_by_name(BANDS).cloned().unwrap_or_else(|| no_bands(rows.num_rows())),
            Arc::new(files.finish()),
            Arc::new(places.finish()),
        ]);
        Ok(RecordBatch::try_new(lines(), found)?)
    }
}

fn column<'a>(rows: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    rows.column_by_name(name).with_context(|| format!("a stage above has lost the column `{name}` of its rows"))
}

/// The column [`BANDS`] of rows that are not compared.
pub(super) fn no_bands(rows: usize) -> ArrayRef {
    let (item, none) = (Arc::new(Field::new_list_field(DataType::UInt64, false)), new_empty_array(&DataType::UInt64));
    Arc::new(ListArray::new(item, OffsetBuffer::new_zeroed(rows), none, None))
}
