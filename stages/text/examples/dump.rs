//! Reads a MediaWiki dump and prints how long it takes to decompress it on every core, and to decompress it and convert
//! it to text: `cargo run --release -p millrace-text --example dump -- FILE`.
use millrace_text::input::decompress::Decompressed;
use millrace_text::input::document::ReaderItem;
use millrace_text::input::mediawiki::dump;
use std::path::Path;
use std::time::Instant;

fn main() -> anyhow::Result<()> {
    let Some(file) = std::env::args().nth(1) else { anyhow::bail!("usage: dump FILE.xml.bz2") };
    let path = Path::new(&file);
    for run in 1..=3 {
        let start = Instant::now();
        let bytes = std::io::copy(&mut Decompressed::open(path)?, &mut std::io::sink())?;
        let decompressed = start.elapsed();
        let start = Instant::now();
        let mut text = 0;
        let pages = dump::read(Decompressed::open(path)?, path, &mut |found| {
            if let ReaderItem::Document(document) = found {
                text += document.text.len();
            }
            Ok(())
        })?;
        let read = start.elapsed();
        let ratio = read.as_secs_f64() / decompressed.as_secs_f64();
        println!(
            "run {run}: {bytes} bytes decompressed in {decompressed:.3?}; {} articles, {text} bytes of text in {read:.3?}: {ratio:.2} x",
            pages.articles
        );
    }
    Ok(())
}
