//! Data that cannot be read: good rows go on, bad ones are listed, counted, and never too many.
use super::run;
use crate::support::{Scratch, corpus, tiny};
use arrow::array::{Array, AsArray};
use arrow::datatypes::UInt64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::io::Write;

/// A run's `quarantine.parquet`: path, row group, row, line, documents, reason.
pub type Listed = (String, Option<u64>, Option<u64>, Option<u64>, u64, String);

pub fn quarantine(scratch: &Scratch, directory: &str) -> Vec<Listed> {
    let file = std::fs::File::open(scratch.path(directory).join("quarantine.parquet")).expect("quarantine.parquet");
    let mut all = Vec::new();
    for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
        let batch = batch.unwrap();
        let text = |name: &str, row| batch.column_by_name(name).unwrap().as_string::<i32>().value(row).to_string();
        let number = |name: &str, row| {
            let column = batch.column_by_name(name).unwrap().as_primitive::<UInt64Type>();
            column.is_valid(row).then(|| column.value(row))
        };
        all.extend((0..batch.num_rows()).map(|row| {
            let [row_group, at, line] = ["row_group", "row", "line"].map(|name| number(name, row));
            (text("path", row), row_group, at, line, number("documents", row).unwrap(), text("reason", row))
        }));
    }
    all
}

/// Damages the second of eight row groups of `corpus.parquet`.
pub fn damage_a_row_group(scratch: &Scratch) {
    let mut bytes = scratch.bytes("corpus.parquet");
    let word = corpus(120)[20].clone();
    let at = bytes.windows(word.len()).position(|w| w == word.as_bytes()).expect("the texts stand there as they are");
    bytes[at - 40..at + 600].fill(0xff);
    scratch.write("corpus.parquet", bytes);
}

#[test]
fn a_bad_row_group_goes_to_quarantine_and_good_rows_go_on() {
    let scratch = Scratch::new();
    damage_a_row_group(&scratch);
    run(&scratch, &[]).fails(1, &["16 of 120 documents", "16 row group cannot be decoded", "max_bad_fraction", "0.05"]);
    let stop = ["--set", "read.on_bad_data=\"stop\""];
    run(&scratch, &stop).fails(1, &["corpus.parquet, row group 1: row group cannot be decoded", "on_bad_data"]);
    let more = ["--set", "read.max_bad_fraction=0.2"];
    for (directory, workers) in [("one", "1"), ("three", "3")] {
        let ran = scratch.train(directory, &[&more[..], &["--workers", workers]].concat());
        assert!(
            ran.stderr.contains(
                "16 of 120 documents cannot be read: 16 row group cannot be decoded (see quarantine.parquet)"
            ),
            "{}",
            ran.stderr
        );
        let lost = ("corpus.parquet".to_string(), Some(1), None, None, 16, "row group cannot be decoded".to_string());
        assert_eq!(quarantine(&scratch, directory), [lost]);
    }
    assert_eq!(scratch.numbers("one"), scratch.numbers("three"));
    assert_eq!(scratch.bytes("one/quarantine.parquet"), scratch.bytes("three/quarantine.parquet"));
    // A run goes on whatever is now allowed, and with the same numbers.
    scratch.train("parts", &[&more[..], &["--set", "run.max_steps=3", "--set", "optimize.schedule_steps=6"]].concat());
    scratch.train("parts", &["--resume", "--set", "read.max_bad_fraction=0.9"]);
    assert_eq!(scratch.numbers("parts"), scratch.numbers("one"));
    assert_eq!(scratch.bytes("parts/quarantine.parquet"), scratch.bytes("one/quarantine.parquet"));
}

#[test]
fn lines_that_are_not_json() {
    let scratch = Scratch::new();
    let mut lines: Vec<Vec<u8>> =
        corpus(120).iter().map(|text| format!("{{\"text\": \"{text}\"}}\n").into_bytes()).collect();
    lines[6] = b"{\"text\": \"cut\n".to_vec();
    lines[7] = b"{\"txet\": \"misspelt\"}\n".to_vec();
    lines[8] = b"{\"text\": \"caf\xe9\"}\n".to_vec();
    // 50 MB of one line.
    lines[9] = [vec![b'x'; 50 << 20], b"\n".to_vec()].concat();
    scratch.write("corpus.jsonl", lines.concat());
    scratch.write("run.toml", tiny("paths = [\"corpus.jsonl\"]"));
    let mut first = None;
    for directory in ["made", "cached"] {
        let ran = scratch.train(directory, &[]);
        let counts = "4 of 120 documents cannot be read: 1 not UTF-8, 2 not JSON, 1 no such column";
        assert!(ran.stderr.contains(counts), "{}", ran.stderr);
        let listed = quarantine(&scratch, directory);
        let lines: Vec<_> = listed.iter().map(|bad| (bad.3, bad.5.as_str())).collect();
        let expected = [(7, "not JSON"), (8, "no such column"), (9, "not UTF-8"), (10, "not JSON")];
        assert_eq!(lines, expected.map(|(line, reason)| (Some(line), reason)));
        let bytes = scratch.bytes(&format!("{directory}/quarantine.parquet"));
        assert_eq!(first.get_or_insert(bytes.clone()), &bytes);
    }
    run(&scratch, &["--set", "read.on_bad_data=\"stop\""]).fails(1, &["corpus.jsonl: line 7", "not JSON"]);
    run(&scratch, &["--set", "read.column=txt"]).fails(2, &["no column \"txt\" in corpus.jsonl; columns: text"]);
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zstd(content: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

pub fn bzip2(content: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn packed_streams_that_are_cut_short_or_have_a_bit_flipped() {
    let scratch = Scratch::new();
    let texts = corpus(240);
    let (first, second) = (texts[..200].join("\n|\n") + "\n|\n", texts[200..].join("\n|\n"));
    let more = ["--set", "read.separator=\"|\"", "--set", "read.max_bad_fraction=0.9", "--set", "run.max_steps=1"];
    for (name, pack) in [("a.txt.gz", gzip as fn(&[u8]) -> Vec<u8>), ("a.txt.zst", zstd), ("a.txt.bz2", bzip2)] {
        let (head, tail) = (pack(first.as_bytes()), pack(second.as_bytes()));
        let cut = [&head[..], &tail[..tail.len() / 2]].concat();
        let mut flipped = [&head[..], &tail[..]].concat();
        flipped[head.len() + tail.len() / 2] ^= 16;
        scratch.write("run.toml", tiny(&format!("paths = [\"{name}\"]")));
        for (damage, content, reason) in [("cut", cut, "cut short"), ("flipped", flipped, "damaged")] {
            scratch.write(name, content);
            let directory = format!("{name}.{damage}");
            let ran = scratch.train(&directory, &more);
            let listed = quarantine(&scratch, &directory);
            assert_eq!((listed.len(), listed[0].0.as_str()), (1, name), "{directory}: {listed:?}");
            // Where the rest reads as if it had been cut off, it is called that.
            assert!(
                listed[0].5 == reason || damage == "flipped" && listed[0].5 == "cut short",
                "{directory}: {listed:?}"
            );
            assert!(ran.stderr.contains(&format!("{} {}", listed[0].4, listed[0].5)), "{}", ran.stderr);
        }
    }
}

#[test]
fn text_that_is_not_utf8() {
    let scratch = Scratch::new();
    let mut text = corpus(120).join("|").into_bytes();
    text[5000] = 0xff;
    scratch.write("corpus.txt", text);
    scratch.write("run.toml", tiny("paths = [\"corpus.txt\"]\nseparator = \"|\""));
    scratch.train("good", &[]);
    let listed = quarantine(&scratch, "good");
    assert_eq!((listed.len(), listed[0].4, listed[0].5.as_str()), (1, 1, "not UTF-8"));
    scratch.write("corpus.txt", [0xff; 5000]);
    run(&scratch, &[]).fails(1, &["1 of 1 documents cannot be read: 1 not UTF-8", "corpus.txt: byte 0"]);
}

#[test]
fn a_dump_that_is_cut_within_a_page() {
    let scratch = Scratch::new();
    let texts = corpus(60);
    let page = |(id, text)| {
        format!("<page><title>T</title><ns>0</ns><id>{id}</id><revision><text>{text}</text></revision></page>\n")
    };
    let dump = format!("<mediawiki>\n{}</mediawiki>", texts.iter().enumerate().map(page).collect::<String>());
    scratch.write("wiki.xml", &dump[..dump.len() - 100]);
    scratch.write("run.toml", tiny("paths = [\"wiki.xml\"]"));
    let ran = scratch.train("good", &[]);
    assert!(ran.stderr.contains("1 of 60 documents cannot be read: 1 cut short"));
    scratch.write("wiki.xml", "<html></html>");
    run(&scratch, &[]).fails(1, &["wiki.xml: there is no page in it"]);
}

#[test]
fn nothing_in_any_format_is_an_empty_corpus() {
    let scratch = Scratch::new();
    // Nothing is decompressed to see that.
    let (plain, packed) = ("fewer than one sequence of 32", "the corpus is empty");
    for (name, content, said) in [
        ("a.jsonl", vec![], plain),
        ("a.txt", b"\n \n".to_vec(), plain),
        ("a.ndjson.gz", gzip(b""), packed),
        ("a.json.zst", zstd(b"\n"), packed),
    ] {
        scratch.write(name, content);
        scratch.write("run.toml", tiny(&format!("paths = [\"{name}\"]")));
        run(&scratch, &[]).fails(2, &[said]);
    }
    scratch.write("a.txt.gz", "not gzip");
    scratch.write("run.toml", tiny("paths = [\"a.txt.gz\"]"));
    run(&scratch, &[]).fails(1, &["a.txt.gz: its name ends in .gz, but"]);
}

#[test]
fn wrong_settings_of_what_may_be_bad() {
    let scratch = Scratch::new();
    run(&scratch, &["--set", "read.on_bad_data=\"ignore\""]).fails(2, &["read.on_bad_data", "quarantine", "stop"]);
    run(&scratch, &["--set", "read.max_bad_fraction=1.5"]).fails(2, &["read.max_bad_fraction", "from 0 to 1"]);
}

#[cfg(unix)]
#[test]
fn a_folder_without_permission() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    let locked = scratch.path("data/locked");
    std::fs::create_dir_all(&locked).unwrap();
    scratch.documents("data/corpus.parquet", &corpus(20));
    std::fs::set_permissions(&locked, PermissionsExt::from_mode(0o000)).unwrap();
    if std::fs::read_dir(&locked).is_ok() {
        println!("skipped: no folder is closed to root");
    } else {
        run(&scratch, &["--set", "read.paths=[\"data\"]"])
            .fails(1, &["cannot list", "data/locked", "ermission denied"]);
    }
    std::fs::set_permissions(&locked, PermissionsExt::from_mode(0o755)).unwrap();
}
