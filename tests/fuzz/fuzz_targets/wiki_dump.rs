//! Reading a dump returns articles and unreadable pages in order, each with its position.
#![no_main]
use libfuzzer_sys::fuzz_target;
use std::io::Cursor;
use std::path::Path;
use text::input::document::ReaderItem;
use text::input::codec::Codec;
use text::input::decompress::Decompressed;

// Panics of dependencies are caught where they are called, so they are not failures of the target.
fuzz_target!(init: std::panic::set_hook(Box::new(|_| {})), |data: &[u8]| {
    let input = Decompressed::new(Cursor::new(data.to_vec()), Codec::Plain).unwrap();
    let mut last = 0;
    let _ = text::input::mediawiki::dump::read(input, Path::new("fuzz.xml"), &mut |found| {
        let at = match found {
            ReaderItem::Document(article) => {
                assert!(data[article.offset as usize..].starts_with(b"<page>"));
                assert!(!article.text.is_empty());
                article.offset
            }
            ReaderItem::Unreadable(bad) => bad.byte.unwrap(),
        };
        assert!(last <= at && at <= data.len() as u64);
        last = at;
        Ok(())
    });
});
