//! Encodes the texts of a Parquet file on one thread, with the encoder of this crate and with Hugging Face's library,
//! and prints the speed of both: `cargo run --release -p millrace-text --example encode -- FILE [TOKENIZER]`.
use millrace_text::input::ingest::DocumentFile;
use millrace_text::tokenizer::END_OF_TEXT;
use millrace_text::{Cache, DocumentStore, Encoder, Tokenizer};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let Some(file) = arguments.next() else { anyhow::bail!("usage: encode FILE.parquet [tokenizer.json]") };
    let cache = Cache::new(None);
    let tokenizer = match arguments.next() {
        Some(path) => Tokenizer::from_file(Path::new(&path), END_OF_TEXT)?,
        None => Tokenizer::gpt2(&cache, END_OF_TEXT)?,
    };
    let tokenizer = Arc::new(tokenizer);
    let store = DocumentStore::open(&[DocumentFile::new(file, "text")], &cache)?;
    let mut texts = Vec::new();
    store.each(0..store.rows(), |text| texts.push(text.unwrap_or_default().to_string()))?;
    let bytes: usize = texts.iter().map(String::len).sum();
    let megabytes = bytes as f64 / 1e6;

    let mut fast = Vec::new();
    for run in 1..=3 {
        fast.clear();
        let mut encoder = Encoder::new(tokenizer.clone());
        let start = Instant::now();
        for text in &texts {
            encoder.encode(text, &mut fast)?;
        }
        println!("millrace      run {run}: {:8.1} MB/s", megabytes / start.elapsed().as_secs_f64());
    }
    let start = Instant::now();
    let mut slow = Vec::new();
    for text in &texts {
        slow.extend(tokenizer.encode_slowly(text)?);
    }
    println!("tokenizers    run 1: {:8.1} MB/s", megabytes / start.elapsed().as_secs_f64());
    println!("{bytes} bytes, {} ids, equal: {}", slow.len(), slow == fast);
    for (name, text) in [("10 MB of a", "a".repeat(10 << 20)), ("10 MB of spaces", " ".repeat(10 << 20))] {
        let start = Instant::now();
        let ids = tokenizer.encode(&text)?.len();
        println!("{name}: {ids} ids, {:.2} s", start.elapsed().as_secs_f64());
    }
    Ok(())
}
