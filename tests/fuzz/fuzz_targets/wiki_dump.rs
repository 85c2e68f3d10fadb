//! A dump gives articles and bad pages, each at its place, in order.
#![no_main]
use libfuzzer_sys::fuzz_target;
use std::io::Cursor;
use std::path::Path;
use text::convert::Found;
use text::unpack::{Packing, Unpacked};

fuzz_target!(|data: &[u8]| {
    let input = Unpacked::new(Cursor::new(data.to_vec()), Packing::Plain).unwrap();
    let mut last = 0;
    let _ = text::wiki_dump::read(input, Path::new("fuzz.xml"), &mut |found| {
        let at = match found {
            Found::Document(article) => {
                assert!(data[article.offset as usize..].starts_with(b"<page>"));
                assert!(!article.text.is_empty());
                article.offset
            }
            Found::Bad(bad) => bad.byte.unwrap(),
        };
        assert!(last <= at && at <= data.len() as u64);
        last = at;
        Ok(())
    });
});
