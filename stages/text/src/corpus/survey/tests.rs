use super::*;
use crate::corpus::index::CorpusIndex;
use crate::corpus::scan::Chunks;
use crate::input::ingest::DocumentFile;
use crate::testing::{document_file, with_failing_reads};
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use std::sync::Arc;

#[test]
fn every_third_row_is_held_out() {
    use Part::*;
    let Survey { all_rows, rows, parts, bytes, .. } = surveyed(Split::Every(3), &["a", "bc", "", "d", "e"]);
    assert_eq!((all_rows, rows, bytes), (5, vec![0, 1, 3, 4], vec![1, 2, 1, 1]));
    assert_eq!(parts, [Validation, Train, Validation, Train]);
}

#[test]
fn a_fraction_is_about_that_and_never_nothing() {
    let texts: Vec<String> = (0..2000).map(|i| format!("document {i}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let held = |share, n: usize| {
        let survey = surveyed(Split::Fraction(share), &texts[..n]);
        survey.parts.iter().filter(|p| **p == Part::Validation).count()
    };
    assert!((150..250).contains(&held(0.1, 2000)));
    assert_eq!((held(0.0001, 3), held(0.0001, 1), held(0.0, 2000)), (1, 0, 0));
}

#[test]
fn without_some_rows_it_is_the_survey_of_the_others() {
    let texts: Vec<String> =
        (0..200).map(|i| if i % 7 == 3 { String::new() } else { format!("text {}", i % 90) }).collect();
    let of = |kept: &dyn Fn(usize) -> bool, split| {
        let mut surveyor = Surveyor::new(split);
        for (row, text) in texts.iter().enumerate().filter(|(row, _)| kept(*row)) {
            surveyor.row(row as u64, text.as_bytes(), text.len() as u64);
        }
        surveyor.finish()
    };
    // Few enough to hold out by the smallest hash alone, which may be among those that are withdrawn.
    for (split, last) in [
        (Split::Fraction(0.1), 200),
        (Split::Fraction(0.0001), 200),
        (Split::Fraction(0.0), 200),
        (Split::Every(4), 200),
        (Split::Fraction(0.0001), 3),
    ] {
        for from in 0..5 {
            let is_left = |row: usize| row < last && row % 5 != from;
            let withdrawn: Vec<u64> = (0..last).filter(|row| !is_left(*row)).map(|row| row as u64).collect();
            let (all, expected) = (of(&|row| row < last, split), of(&is_left, split));
            let documents = all.rows.len();
            let found = all.without(&withdrawn, split);
            assert_eq!(found.rows.len() + *found.dropped.get("withdrawn").unwrap_or(&0) as usize, documents);
            assert_eq!((found.parts, found.bytes, found.hashes), (expected.parts, expected.bytes, expected.hashes));
            assert!(found.rows.iter().all(|row| is_left(*row as usize)));
        }
    }
}

#[test]
fn rows_that_are_no_documents_take_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    // Two documents, a million nulls and empty texts, and one more document.
    let texts = |row: u64| match row {
        0 | 1 | 1_000_002 => Some(format!("text {row}")),
        _ => row.is_multiple_of(3).then(String::new),
    };
    let column: ArrayRef = Arc::new((0..1_000_003).map(texts).collect::<StringArray>());
    let batch = RecordBatch::try_from_iter([("text", column)]).unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let cache = Cache::new(folder.path().to_str());
    let store = DocumentStore::open(&[DocumentFile::new(&path, "text")], &cache).unwrap();
    let survey = Survey::cached(&store, Split::Every(3), &cache, &mut |_, _| {}).unwrap();
    assert_eq!(
        (survey.all_rows, &survey.rows[..], &survey.bytes[..]),
        (1_000_003, &[0, 1, 1_000_002][..], &[6, 6, 12][..])
    );
    assert_eq!(survey.parts, [Part::Validation, Part::Train, Part::Validation]);
    let numbers = survey.rows.capacity() + survey.bytes.capacity() + survey.hashes.capacity();
    let capacity = numbers + survey.parts.capacity();
    assert!(capacity < 64, "{capacity}");
    assert_eq!(Chunks::of(&survey, &survey).steps(1), 1);
    let index = CorpusIndex::new(&survey, &[3, 3, 4]).unwrap();
    assert_eq!((index.rows, index.skipped, index.corpus.train.rows), (1_000_003, 1_000_000, 1));
    let file = cache.root().join("surveys").read_dir().unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    assert!(file.sum::<u64>() < 8192);
}

#[test]
fn a_read_that_fails_ends_the_survey_and_is_not_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let group = |of: &str| (0..300).map(|row| format!("text {row} of {of}")).collect();
    let file = document_file(&folder.path().join("a.parquet"), &[group("a"), group("b"), group("c")]);
    let cache = Cache::new(folder.path().join("cache").to_str());
    let survey = |is_kept: bool| {
        assert_eq!(cache.root().join("surveys").exists(), is_kept);
        let store = DocumentStore::open(std::slice::from_ref(&file), &cache)?;
        Survey::cached(&store, Split::Every(3), &cache, &mut |_, _| {})
    };
    // Of the documents, then of what is kept in the cache.
    let (first, reads) = with_failing_reads(|| survey(false));
    assert_eq!((first.all_rows, first.rows.len(), first.bad.len()), (900, 900, 0));
    assert!(reads > 6, "{reads} reads");
    let (again, reads) = with_failing_reads(|| survey(true));
    assert_eq!(again, first);
    assert!(reads > 6, "{reads} reads");
}
