//! Reading a `.bin` file returns an error, or documents with all ids of the file, each below the vocabulary size.
#![no_main]
use libfuzzer_sys::fuzz_target;
use text::Vocabulary;
use text::tokenizer::bin_files::{BinDocuments, BinFormat};

fuzz_target!(|data: &[u8]| {
    let path = std::env::temp_dir().join(format!("millrace-fuzz-{}.bin", std::process::id()));
    std::fs::write(&path, data).unwrap();
    let vocabulary = Vocabulary { hash: String::new(), size: 50_257, end_of_text: 50_256 };
    let mut found = BinDocuments::open(vec![path], vocabulary);
    let (mut ids, mut documents) = (0, 0);
    for document in found.by_ref() {
        let Ok(document) = document else { return };
        assert!(document.iter().all(|id| *id < 50_256));
        (ids, documents) = (ids + document.len(), documents + 1);
    }
    // Each document has an end-of-text token, except possibly the first or the last.
    let (header, width) = match found.format() {
        Some(BinFormat::LlmC) => (1024, if data[0] == 0x88 { 2 } else { 4 }),
        _ => (0, 2),
    };
    let all = (data.len() - header) / width;
    assert!((ids + documents).abs_diff(all) <= 1, "{all} ids, {ids} in {documents} documents");
});
