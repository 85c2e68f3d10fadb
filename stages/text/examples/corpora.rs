//! Corpora for measurements, as Parquet of zstd:
//!
//! - `corpora edit IN OUT N`: the documents of IN, of which every Nth has changed; 0: none
//! - `corpora generate DOCUMENTS OUT`: made-up documents of about 300 words, one in ten nearly like one before it, and
//!   one in a hundred a copy; the same every time
//! - `corpora clusters OUT`: 20,000 documents that differ in a word each, and 5,000 of which each is like the next only
//! - `corpora feed FILE…`: tokens a second from token files, in the order of an epoch, one thread; the first epoch decodes
use arrow::array::{Array, AsArray, LargeStringArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use millrace_text::support::permutation::Permutation;
use millrace_text::{Cache, TokenStore};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["edit", from, to, every] => edit(from, to, every.parse()?),
        ["generate", documents, to] => generate(documents.parse()?, to),
        ["clusters", to] => clusters(to),
        ["feed", ref files @ ..] => feed(files),
        _ => anyhow::bail!("usage: corpora edit IN OUT N | generate DOCUMENTS OUT | clusters OUT | feed FILE…"),
    }
}

struct Out(ArrowWriter<File>, Arc<Schema>);

impl Out {
    fn create(path: &str) -> anyhow::Result<Self> {
        let field = |name, kind| Field::new(name, kind, false);
        let schema = Arc::new(Schema::new(vec![field("id", DataType::Utf8), field("text", DataType::LargeUtf8)]));
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(Default::default())).build();
        Ok(Self(ArrowWriter::try_new(File::create(path)?, schema.clone(), Some(properties))?, schema))
    }

    fn write(&mut self, ids: Vec<String>, texts: Vec<String>) -> anyhow::Result<()> {
        let columns: Vec<Arc<dyn Array>> =
            vec![Arc::new(StringArray::from(ids)), Arc::new(LargeStringArray::from(texts))];
        self.0.write(&RecordBatch::try_new(self.1.clone(), columns)?)?;
        Ok(self.0.flush()?)
    }
}

fn edit(from: &str, to: &str, every: u64) -> anyhow::Result<()> {
    let (mut out, mut row) = (Out::create(to)?, 0_u64);
    for batch in ParquetRecordBatchReaderBuilder::try_new(File::open(from)?)?.with_batch_size(1024).build()? {
        let batch = batch?;
        let column = |name: &str| arrow::compute::cast(&batch[name], &DataType::Utf8);
        let (ids, texts) = (column("id")?, column("text")?);
        let texts = texts.as_string::<i32>().iter().map(Option::unwrap_or_default).map(|text| {
            row += 1;
            format!("{text}{}", if every > 0 && row.is_multiple_of(every) { " It has been edited since." } else { "" })
        });
        let ids = ids.as_string::<i32>().iter().map(|id| id.unwrap_or_default().to_owned());
        out.write(ids.collect(), texts.collect())?;
    }
    out.0.close()?;
    Ok(())
}

fn generate(documents: u64, to: &str) -> anyhow::Result<()> {
    let mut out = Out::create(to)?;
    let mut state = 1_u64;
    let mut below = move |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    // Frequencies that fall as those of words do.
    let words: Vec<String> =
        (0..20_000).map(|_| (0..2 + below(7)).map(|_| b"etaoinshrdlucmfw"[below(16)] as char).collect()).collect();
    let (mut ids, mut texts, mut last) = (Vec::new(), Vec::new(), vec![String::new(); 64]);
    for number in 0..documents {
        let earlier = last[below(64)].clone();
        let text = match below(100) {
            0 if !earlier.is_empty() => earlier,
            1..=10 if !earlier.is_empty() => format!("{earlier} and {}", words[below(words.len())]),
            _ => {
                let length = 150 + below(300);
                let word = |_| words[below(words.len()) * below(words.len()) / words.len()].as_str();
                (0..length).map(word).collect::<Vec<_>>().join(" ")
            }
        };
        last[number as usize % 64].clone_from(&text);
        ids.push(format!("made-{number}"));
        texts.push(text);
        if ids.len() == 1000 || number + 1 == documents {
            out.write(std::mem::take(&mut ids), std::mem::take(&mut texts))?;
        }
    }
    out.0.close()?;
    Ok(())
}

fn clusters(to: &str) -> anyhow::Result<()> {
    let mut out = Out::create(to)?;
    let words = |from: usize, count: usize| (from..from + count).map(|n| format!("word{n}")).collect::<Vec<_>>();
    let template = words(0, 300).join(" ");
    let alike = (0..20_000).map(|n| (format!("alike-{n}"), format!("{template} page{n}")));
    // Neighbours share 285 of 300 words in a row, the 21st after one nothing.
    let chain = (0..5_000).map(|n| (format!("chain-{n}"), words(1_000 + 15 * n, 300).join(" ")));
    let (ids, texts) = alike.chain(chain).unzip();
    out.write(ids, texts)?;
    out.0.close()?;
    Ok(())
}

fn feed(files: &[&str]) -> anyhow::Result<()> {
    let paths: Vec<PathBuf> = files.iter().map(Into::into).collect();
    let store = TokenStore::open(&paths, None, &Cache::new(None))?;

    for run in 0..4 {
        let order = Permutation::new(store.rows(), 1, run);
        let (start, mut tokens, mut sum, mut next) = (Instant::now(), 0, 0_u64, 0);
        while next < store.rows() {
            let some = next..store.rows().min(next + 64);
            let lists = store.take(some.map(|at| order.at(at)))?;
            let ids = lists.values().as_primitive::<arrow::datatypes::UInt32Type>().values();
            sum += ids.iter().map(|id| u64::from(*id)).sum::<u64>();
            (tokens, next) = (tokens + ids.len(), next + 64);
        }
        let rate = tokens as f64 / start.elapsed().as_secs_f64() / 1e6;
        println!("epoch {run}: {tokens} tokens (sum {sum}), {rate:.0} M tokens/s");
    }
    Ok(())
}
