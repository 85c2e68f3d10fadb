//! Files of every format: what is read, and what is said of those that cannot be.
mod common;
use arrow::array::{ArrayRef, DictionaryArray, LargeStringArray, RecordBatch, StringArray, StringViewArray};
use arrow::array::{BinaryArray, Int64Array};
use arrow::datatypes::Int32Type;
use common::{pack_all, separated, settings, stopping, store, texts, with_limit, write_parquet, write_texts};
use millrace_text::input::quarantine::Reason;
use millrace_text::{
    CorpusIndex, Part, ReadDocuments, ReadTokens, Split, Survey, TextProblem, Vocabulary, silent, write_tokens,
};
use proptest::prelude::*;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

#[test]
fn every_string_type_and_nulls() {
    let folder = tempfile::tempdir().unwrap();
    let values = [Some("one"), None, Some("drei é"), Some(""), Some("five, long enough not to be inlined")];
    let columns: [(&str, ArrayRef); 5] = [
        ("string", Arc::new(StringArray::from(values.to_vec()))),
        ("large_string", Arc::new(LargeStringArray::from(values.to_vec()))),
        ("string_view", Arc::new(StringViewArray::from(values.to_vec()))),
        ("dictionary", Arc::new(values.into_iter().collect::<DictionaryArray<Int32Type>>())),
        ("binary", Arc::new(values.iter().map(|v| v.map(str::as_bytes)).collect::<BinaryArray>())),
    ];
    let path = folder.path().join("a.parquet");
    write_parquet(&path, 2, &columns);
    for (column, _) in &columns {
        let settings = ReadDocuments { column: column.to_string(), ..settings(&[&path, &path], folder.path()) };
        let store = settings.ingest(1, &mut silent()).and_then(|found| found.open(1)).unwrap();
        assert_eq!(texts(&store), values.map(|v| v.map(str::to_string)), "{column}");
        let taken = store.take([4, 1, 0]).unwrap();
        assert_eq!(taken.iter().flatten().collect::<Vec<_>>(), [values[4].unwrap(), "", "one"]);
        assert_eq!(store.position(4).unwrap().to_string(), format!("{}, row group 2, row 0", path.display()));
        assert!(store.get(5).is_err());
        let survey = Survey::of(&store, Split::Every(5), &mut silent()).unwrap();
        assert_eq!((survey.all_rows, survey.rows), (5, vec![0, 2, 4]));
        assert_eq!(survey.parts, [Part::Validation, Part::Train, Part::Train]);
    }
}

#[test]
fn a_sample_is_fixed_by_the_seed() {
    let folder = tempfile::tempdir().unwrap();
    let all: Vec<String> = (0..100).map(|i| i.to_string()).collect();
    let path = folder.path().join("a.parquet");
    write_texts(&path, 7, &all.iter().map(|t| Some(t.as_str())).collect::<Vec<_>>());
    let settings = ReadDocuments { sample: Some(10), ..settings(&[&path], folder.path()) };
    let open = |seed| settings.ingest(seed, &mut silent()).and_then(|found| found.open(seed)).unwrap();
    let (one, again, two) = (open(1), open(1), open(2));
    assert_eq!((texts(&one).len(), texts(&one)), (10, texts(&again)));
    assert_eq!(one.content_hash(), again.content_hash());
    assert_ne!((one.content_hash(), texts(&one)), (two.content_hash(), texts(&two)));
    assert_eq!(texts(&one)[3], Some(one.file_row(3).to_string()));
}

#[test]
fn errors_say_what_is_wrong_and_where() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("X.parquet");
    let numbers = Arc::new(Int64Array::from(vec![1])) as ArrayRef;
    write_parquet(&path, 9, &[("text", Arc::new(StringArray::from(vec!["a"]))), ("n", numbers)]);
    let open = |column: &str| {
        let error = ReadDocuments { column: column.into(), ..settings(&[&path], folder.path()) }
            .ingest(1, &mut silent())
            .and_then(|found| found.open(1));
        let error = error.err().unwrap();
        assert!(error.downcast_ref::<TextProblem>().unwrap().is_usage());
        error.to_string()
    };
    assert!(open("txt").ends_with("X.parquet; columns: text, n; similar: text"));
    assert!(open("n").ends_with("is of type Int64, not string"));
}

/// 400 texts in four row groups, the second of which cannot be decoded.
fn with_a_damaged_row_group(path: &Path) -> Vec<String> {
    let all: Vec<String> = (0..400).map(|i| format!("text number {i} {}", i * i)).collect();
    write_texts(path, 100, &all.iter().map(|t| Some(t.as_str())).collect::<Vec<_>>());
    let mut bytes = std::fs::read(path).unwrap();
    let second = bytes.windows(15).position(|w| w == b"text number 150").unwrap();
    bytes[second - 1200..second + 1200].fill(0xff);
    std::fs::write(path, bytes).unwrap();
    all
}

#[test]
fn a_damaged_row_group_is_set_aside_and_the_others_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let all = with_a_damaged_row_group(&path);
    let settings = with_limit(0.25, settings(&[&path], &folder.path().join("cache")));
    let mut first = None;
    for run in ["made", "from the cache"] {
        let mut store = settings.ingest(1, &mut silent()).and_then(|found| found.open(1)).unwrap();
        assert_eq!(store.get(350).unwrap().unwrap(), all[350]);
        let error = store.get(150).unwrap_err();
        assert!(!error.downcast_ref::<TextProblem>().unwrap().is_usage());
        assert!(error.to_string().contains("a.parquet, row group 1: cannot be decoded"), "{error}");
        let survey = Survey::cached(&store, Split::Every(9), &settings.conversion.cache(), &mut silent()).unwrap();
        assert_eq!(survey.all_rows, 400);
        assert!(survey.rows.iter().copied().eq((0..100).chain(200..400)));
        let bad = &survey.bad[0];
        assert_eq!((survey.bad.len(), bad.reason, bad.row_group, bad.row), (1, Reason::RowGroup, Some(1), None));
        assert_eq!(bad.documents, 100);
        let strict = with_limit(0.24, settings.clone());
        let said = store.set_aside(&survey.bad, strict.conversion.max_bad_fraction).unwrap_err().to_string();
        assert!(said.starts_with("100 of 400 documents cannot be read: 100 row group cannot be decoded;"), "{said}");
        assert!(said.contains("a.parquet, row group 1: row group cannot be decoded"), "{said}");
        let quarantine = store.set_aside(&survey.bad, settings.conversion.max_bad_fraction).unwrap();
        assert_eq!((quarantine.counts().documents(), store.get(150).unwrap()), (100, None));
        assert_eq!(first.get_or_insert(survey.clone()), &survey, "{run}");
        let strict = stopping(settings.clone());
        let store = strict.ingest(1, &mut silent()).and_then(|found| found.open(1)).unwrap();
        let said = Survey::cached(&store, Split::Every(9), &settings.conversion.cache(), &mut silent())
            .unwrap_err()
            .to_string();
        assert!(said.contains("a.parquet, row group 1: row group cannot be decoded"), "{said}");
    }
}

#[test]
fn of_a_sample_only_what_is_in_it_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    with_a_damaged_row_group(&path);
    let settings = ReadDocuments { sample: Some(40), ..settings(&[&path], folder.path()) };
    let mut store = settings.ingest(1, &mut silent()).and_then(|found| found.open(1)).unwrap();
    let survey = Survey::of(&store, Split::Every(9), &mut silent()).unwrap();
    let lost = (0..40).filter(|row| (100..200).contains(&store.file_row(*row))).count() as u64;
    let summary = store.quarantine(&survey.bad).summary();
    assert!(summary.starts_with(&format!("{lost} of 40 documents cannot be read: ")), "{summary}");
    assert!(lost > 0 && store.set_aside(&survey.bad, settings.conversion.max_bad_fraction).is_err());
}

#[test]
fn one_row_that_is_not_utf8_costs_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let all: Vec<String> = (0..250).map(|i| format!("text number {i} é")).collect();
    let texts: Vec<Option<&str>> = all.iter().enumerate().map(|(i, t)| (i % 5 > 0).then_some(t.as_str())).collect();
    for (nullable, texts) in [(true, texts), (false, all.iter().map(|t| Some(t.as_str())).collect())] {
        write_texts(&path, 100, &texts);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = (0..bytes.len()).filter(|at| bytes[*at..].starts_with("text number 123 é".as_bytes()));
        // In the dictionary and in the statistics.
        at.collect::<Vec<_>>().into_iter().for_each(|at| bytes[at + 16] = b'x');
        std::fs::write(&path, bytes).unwrap();
        let mut store = store(&[&path], folder.path()).unwrap();
        let survey = Survey::of(&store, Split::Every(9), &mut silent()).unwrap();
        store.lose(millrace_text::input::quarantine::lost_row_groups(&survey.bad));
        let bad = &survey.bad[0];
        assert_eq!((survey.bad.len(), bad.reason, bad.documents), (1, Reason::NotUtf8, 1), "nullable: {nullable}");
        assert_eq!((bad.row_group, bad.row, bad.detail.as_str()), (Some(1), Some(23), "at its byte 17"));
        for (row, text) in common::texts(&store).into_iter().enumerate() {
            assert_eq!(text.as_deref(), texts[row].filter(|_| row != 123), "row {row}");
        }
    }
}

/// Documents in every format and packing: `(name, content)`. Each has `n` documents.
fn every_format(n: usize) -> Vec<(String, Vec<u8>)> {
    let text = |i: usize| format!("document {i} of {n}");
    let jsonl: String = (0..n).map(|i| format!("{{\"id\": \"doc {i}\", \"text\": \"{}\"}}\n", text(i))).collect();
    let pages = (0..n).map(|i| {
        format!("<page><title>T</title><ns>0</ns><id>{i}</id><revision><text>{}</text></revision></page>", text(i))
    });
    let xml = format!("<mediawiki>{}</mediawiki>", pages.collect::<String>());
    let plain = (0..n).map(text).collect::<Vec<_>>().join("\n===\n");
    let mut all = Vec::new();
    for (name, content) in [("a.jsonl", jsonl), ("a.xml", xml), ("a.txt", plain)] {
        all.push((name.to_string(), content.clone().into_bytes()));
        all.extend(pack_all(content.as_bytes()).map(|(ending, packed)| (format!("{name}.{ending}"), packed)));
    }
    all
}

#[test]
fn all_formats_in_one_corpus() {
    let folder = tempfile::tempdir().unwrap();
    let (data, cache) = (folder.path().join("data"), folder.path().join("cache"));
    std::fs::create_dir_all(data.join("deep/er")).unwrap();
    for (name, content) in every_format(20) {
        std::fs::write(data.join("deep").join(name), content).unwrap();
    }
    let expected: Vec<String> = (0..20).map(|i| format!("document {i} of 20")).collect();
    write_texts(&data.join("deep/er/z.parquet"), 7, &expected.iter().map(|t| Some(t.as_str())).collect::<Vec<_>>());
    let settings = separated(settings(&[&data], &cache));
    let mut store = settings.ingest(1, &mut silent()).and_then(|found| found.open(1)).unwrap();
    let found: Vec<String> = texts(&store).into_iter().flatten().collect();
    assert_eq!(found.len(), 13 * 20);
    found.chunks(20).for_each(|file| assert_eq!(file, expected));
    let survey = Survey::of(&store, Split::Fraction(0.1), &mut silent()).unwrap();
    assert!(store.set_aside(&survey.bad, settings.conversion.max_bad_fraction).unwrap().is_empty());
}

/// Have all of its members, frames or streams an end? Then nobody can tell that others followed.
fn is_whole(name: &str, content: &[u8]) -> bool {
    let mut decompressed = Vec::new();
    match name.rsplit('.').next() {
        Some("gz") => flate2::read::MultiGzDecoder::new(content).read_to_end(&mut decompressed).is_ok(),
        Some("zst") => zstd::Decoder::new(content).and_then(|mut d| d.read_to_end(&mut decompressed)).is_ok(),
        Some("bz2") => bzip2::read::MultiBzDecoder::new(content).read_to_end(&mut decompressed).is_ok(),
        _ => true,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Nothing that was not there is read, and nothing panics, whatever is cut off or flipped. Formats without a check
    /// sum of their own are only cut: what a flipped bit made of them cannot be told from what was there.
    #[test]
    fn damage_gives_no_document_that_was_not_there(n in 1usize..400, which in 0usize..12, at in any::<u64>(), cut in any::<bool>()) {
        let folder = tempfile::tempdir().unwrap();
        let (name, mut content) = every_format(n).swap_remove(which);
        let plain = !name.ends_with("gz") && !name.ends_with("zst") && !name.ends_with("bz2");
        let at = (at % (content.len() as u64 * 8)) as usize;
        if cut || plain {
            content.truncate(at / 8);
        } else {
            content[at / 8] ^= 1 << (at % 8);
        }
        let (whole, text_only) = ((cut || plain) && is_whole(&name, &content), name.starts_with("a.txt"));
        let path = folder.path().join(&name);
        std::fs::write(&path, content).unwrap();
        let settings = separated(settings(&[&path], &folder.path().join("cache")));
        let damaged = match settings.ingest(1, &mut silent()).and_then(|found| found.open(1)) {
            Ok(store) => store,
            Err(e) => {
                prop_assert!(e.downcast_ref::<TextProblem>().is_some(), "{:#}", e);
                return Ok(());
            }
        };
        let found = texts(&damaged);
        prop_assert!(found.len() <= n);
        for (i, text) in found.iter().flatten().enumerate() {
            let complete = text == &format!("document {i} of {n}");
            // Of plain text that is cut, nobody can tell that its last document goes on.
            prop_assert!(complete || whole && text_only && i + 1 == found.len(), "{}: {:?}", name, text);
        }
        if found.len() < n && !(whole && text_only) {
            let survey = Survey::of(&damaged, Split::Every(2), &mut silent()).unwrap();
            // A JSON Lines file that is cut at the end of a line is whole.
            let seen = damaged.quarantine(&survey.bad).counts().documents() > 0;
            prop_assert!(seen || whole && name.starts_with("a.jsonl"), "{}: {} of {}", name, found.len(), n);
        }
    }

    /// The same of Parquet: only a page with a check sum can be told to be damaged, so that here nothing may panic.
    #[test]
    fn damaged_parquet_is_read_or_refused(n in 1usize..300, at in any::<u64>(), cut in any::<bool>()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        let all: Vec<String> = (0..n).map(|i| format!("document {i}")).collect();
        write_texts(&path, 64, &all.iter().map(|t| Some(t.as_str())).collect::<Vec<_>>());
        let mut content = std::fs::read(&path).unwrap();
        let at = (at % (content.len() as u64 * 8)) as usize;
        if cut { content.truncate(at / 8) } else { content[at / 8] ^= 1 << (at % 8) }
        std::fs::write(&path, content).unwrap();
        let read = store(&[&path], folder.path()).and_then(|mut store| {
            let survey = Survey::of(&store, Split::Every(2), &mut silent())?;
            store.lose(millrace_text::input::quarantine::lost_row_groups(&survey.bad));
            Ok((survey, texts(&store).len()))
        });
        match read {
            Ok((survey, rows)) => prop_assert!(!cut && rows == n && survey.all_rows == n as u64),
            Err(e) => prop_assert!(e.downcast_ref::<TextProblem>().is_some(), "{:#}", e),
        }
    }
}

#[test]
fn a_line_of_50_mb() {
    let folder = tempfile::tempdir().unwrap();
    let long = "word ".repeat(10 << 20);
    let jsonl = folder.path().join("a.jsonl");
    std::fs::write(&jsonl, format!("{{\"text\": \"{long}\"}}\n{{\"text\": \"b\"}}\n")).unwrap();
    let plain = folder.path().join("b.txt");
    std::fs::write(&plain, format!("{long}|b")).unwrap();
    let settings = ReadDocuments { separator: Some("|".into()), ..settings(&[&jsonl, &plain], folder.path()) };
    let store = settings.ingest(1, &mut silent()).and_then(|found| found.open(1)).unwrap();
    for first in [0, 2] {
        assert_eq!(store.get(first).unwrap().unwrap().len(), long.len());
        assert_eq!(store.get(first + 1).unwrap().unwrap(), "b");
    }
}

#[test]
fn plain_text_is_ingested_once() {
    let folder = tempfile::tempdir().unwrap();
    let (a, cache) = (folder.path().join("a.txt"), folder.path().join("cache"));
    std::fs::write(&a, "One.\n---\nTwo.\n").unwrap();
    let settings = ReadDocuments { separator: Some("---\n".into()), ..settings(&[&a], &cache) };
    let first = settings.ingest(1, &mut silent()).and_then(|found| found.open(1)).unwrap();
    assert_eq!(texts(&first), [Some("One.".to_string()), Some("Two.".to_string())]);
    let made = || -> Vec<_> {
        let entries = std::fs::read_dir(cache.join("documents")).unwrap().map(Result::unwrap);
        let mut made: Vec<_> = entries.map(|e| (e.path(), e.metadata().unwrap().modified().unwrap())).collect();
        made.sort();
        made
    };
    let spooled = made();
    assert_eq!(
        settings.ingest(1, &mut silent()).and_then(|found| found.open(1)).unwrap().content_hash(),
        first.content_hash()
    );
    assert_eq!((spooled.len(), made()), (2, spooled), "the documents, and what was set aside");
    std::fs::write(&a, "One.\n---\nTwo!\n").unwrap();
    assert_ne!(
        settings.ingest(1, &mut silent()).and_then(|found| found.open(1)).unwrap().content_hash(),
        first.content_hash()
    );
}

#[test]
fn what_is_set_aside_is_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let (path, cache) = (folder.path().join("wiki.xml"), folder.path().join("cache"));
    let page = |text: &str| format!("<page><title>A</title><ns>0</ns><id>1</id><revision><text>{text}");
    std::fs::write(&path, format!("<mediawiki>{}</text></revision></page>{}", page("one"), page("two"))).unwrap();
    for run in ["made", "from the cache"] {
        let store = store(&[&path], &cache).unwrap();
        assert_eq!(texts(&store), [Some("one".to_string())]);
        let survey = Survey::of(&store, Split::Every(2), &mut silent()).unwrap();
        let summary = store.quarantine(&survey.bad).summary();
        assert_eq!(summary, "1 of 2 documents cannot be read: 1 cut short", "{run}");
        let strict = stopping(settings(&[&path], &cache));
        let said = strict.ingest(1, &mut silent()).and_then(|found| found.open(1)).err().unwrap().to_string();
        assert!(said.contains("wiki.xml: byte 97: cut short"), "{said}");
    }
    let fresh = stopping(settings(&[&path], &folder.path().join("fresh")));
    assert!(
        fresh
            .ingest(1, &mut silent())
            .and_then(|found| found.open(1))
            .err()
            .unwrap()
            .to_string()
            .contains("byte 97: cut short")
    );
    assert_eq!(std::fs::read_dir(folder.path().join("fresh/documents")).unwrap().count(), 0);
}

#[test]
fn what_is_lost_behind_damage_is_estimated() {
    let folder = tempfile::tempdir().unwrap();
    let (name, mut content) = every_format(20_000).into_iter().find(|(name, _)| name == "a.jsonl.gz").unwrap();
    let third = content.len() / 3;
    content[third..third + 300].fill(0);
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    let store = store(&[&path], folder.path()).unwrap();
    let survey = Survey::of(&store, Split::Every(2), &mut silent()).unwrap();
    let documents = store.quarantine(&survey.bad).counts().documents();
    // Of the first member nothing is known to be right.
    assert_eq!(store.rows(), 0);
    assert!((10_000..30_000).contains(&documents), "{documents}");
}

#[test]
fn token_files_agree_with_their_tokenizer_or_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let vocabulary = |size, hash: &str| Vocabulary { hash: hash.into(), size, end_of_text: 0 };
    let documents = [vec![1, 2, 3], vec![], vec![4; 5]];
    let read = |path: &Path, expected: Option<&Vocabulary>| {
        let paths = vec![path.to_str().unwrap().to_string()];
        let cache = Some(folder.path().to_str().unwrap().to_string());
        {
            let read = ReadTokens { paths, cache, ..Default::default() };
            read.open(1, expected, &read.cache())
        }
    };
    for size in [5, 65_536, 65_537] {
        let (path, made) = (folder.path().join(format!("{size}.parquet")), vocabulary(size, "x"));
        write_tokens(&path, &made, &documents).unwrap();
        let store = read(&path, Some(&made)).unwrap();
        let mut found = Vec::new();
        store.each(0..3, |ids| found.push(ids.to_vec())).unwrap();
        assert_eq!((found.as_slice(), store.vocabulary()), (documents.as_slice(), &made));
        let index = CorpusIndex::of_tokens(&store, Split::Every(3), &[], &mut silent()).unwrap();
        assert_eq!((index.train.rows, index.train.tokens), (vec![2], vec![6]));
        assert_eq!((index.validation.rows, index.validation.tokens), (vec![0], vec![4]));
        assert_eq!((index.rows, index.skipped), (3, 1));
        let said = read(&path, Some(&vocabulary(size, "y"))).err().unwrap().to_string();
        assert!(said.contains("its tokenizer (blake3) is x, but y is expected"), "{said}");
        assert!(read(&path, Some(&vocabulary(size + 1, "x"))).err().unwrap().to_string().contains("vocabulary size"));
    }
    let path = folder.path().join("out.parquet");
    write_tokens(&path, &vocabulary(4, "x"), &documents).unwrap();
    let error = read(&path, None).unwrap().take([0]).unwrap_err();
    assert!(
        error.to_string().ends_with("row group 0, row 2: token id 4 is not below the vocabulary size 4"),
        "{error}"
    );
    let foreign = folder.path().join("foreign.parquet");
    let lists = read(&folder.path().join("5.parquet"), None).unwrap().take([0]).unwrap();
    let batch = RecordBatch::try_from_iter([("tokens", Arc::new(lists) as ArrayRef)]).unwrap();
    write_parquet(&foreign, 9, &[("tokens", batch.column(0).clone())]);
    assert!(read(&foreign, None).err().unwrap().to_string().contains("millrace.layout is not stated"));
}
