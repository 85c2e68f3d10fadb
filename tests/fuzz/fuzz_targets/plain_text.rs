//! Plain text is split into documents in order, each with its position. The first byte selects a separator.
#![no_main]
use libfuzzer_sys::fuzz_target;
use std::io::Cursor;
use std::path::Path;
use text::input::document::ReaderItem;
use text::input::codec::Codec;
use text::input::decompress::Decompressed;

fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else { return };
    let separator = [None, Some("\n"), Some("|"), Some("\n\n"), Some("aa"), Some("é")][usize::from(*choice) % 6];
    let input = Decompressed::new(Cursor::new(data.to_vec()), Codec::Plain).unwrap();
    let mut last = 0;
    let read = text::input::plain_text::read(input, Path::new("fuzz.txt"), separator, &mut |found| {
        let end = match found {
            ReaderItem::Document(document) => {
                assert!(data[document.offset as usize..].starts_with(document.text.as_bytes()));
                assert!(last <= document.offset);
                assert!(separator.is_none_or(|separator| !document.text.contains(separator)));
                document.offset + document.text.len() as u64
            }
            ReaderItem::Unreadable(bad) => bad.byte.unwrap(),
        };
        assert!(last <= end && end <= data.len() as u64);
        last = end;
        Ok(())
    });
    // Only input that is not text is refused.
    assert!(read.is_ok() || data.contains(&0) || data.starts_with(b"\xff\xfe") || data.starts_with(b"\xfe\xff"));
});
