//! Reading JSON Lines returns the same texts as serde_json, and unreadable lines, in order.
#![no_main]
use libfuzzer_sys::fuzz_target;
use std::io::Cursor;
use std::path::Path;
use text::input::document::ReaderItem;
use text::input::codec::Codec;
use text::input::decompress::Decompressed;

fuzz_target!(|data: &[u8]| {
    let input = Decompressed::new(Cursor::new(data.to_vec()), Codec::Plain).unwrap();
    let mut last = 0;
    let _ = text::input::json_lines::read(input, Path::new("fuzz.jsonl"), "text", &mut |found| {
        let at = match found {
            ReaderItem::Document(document) => {
                let line = data[document.offset as usize..].split(|byte| *byte == b'\n').next().unwrap();
                // Values that are skipped are checked less strictly than by serde_json, which refuses 1e999.
                if let Ok(value) = serde_json::from_slice::<serde_json::Value>(line) {
                    assert_eq!(value["text"].as_str().unwrap_or_default(), document.text);
                }
                document.offset
            }
            ReaderItem::Unreadable(bad) => bad.byte.unwrap(),
        };
        assert!(last <= at && at <= data.len() as u64);
        last = at;
        Ok(())
    });
});
