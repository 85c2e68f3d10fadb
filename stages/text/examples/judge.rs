//! Prints the verdicts of the heuristic filters on the first rows of a Parquet file, one line per row, as tab-separated
//! values, for comparison with another implementation: `cargo run -p millrace-text --example judge -- FILE ROWS`.
use millrace_text::filter::{Rule, Verdict};
use millrace_text::input::ingest::DocumentFile;
use millrace_text::{C4, Cache, DocumentStore, FineWeb, GopherQuality, GopherRepetition};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(file), Some(rows)) = (arguments.next(), arguments.next()) else {
        anyhow::bail!("usage: judge FILE.parquet ROWS")
    };
    let cache = Cache::new(None);
    let store = DocumentStore::open(&[DocumentFile::new(file, "text")], &cache)?;
    let rules: [&dyn Rule; 4] =
        [&GopherQuality::default(), &GopherRepetition::default(), &C4::default(), &FineWeb::default()];
    store.each(0..rows.parse::<u64>()?.min(store.rows()), |text| {
        let said = rules.map(|rule| match rule.judge(text.unwrap_or_default()) {
            Verdict::Drop(reason) => reason,
            Verdict::Keep | Verdict::Replace(_) => "",
        });
        println!("{}", said.join("\t"));
    })
}
