//! Any wikitext gives text, which tidying does not change; so does text with leftovers of markup.
#![no_main]
use libfuzzer_sys::fuzz_target;
use text::support::normalize::normalize;
use text::wikitext::{Kinds, Names, plain};

fuzz_target!(|data: &[u8]| {
    let Ok(data) = std::str::from_utf8(data) else { return };
    for once in [plain(data, &Names::default(), &mut Kinds::default()), text::clean::clean(data)] {
        assert_eq!(normalize(&once), once);
        let _ = text::clean::residue::residue(&once);
    }
});
