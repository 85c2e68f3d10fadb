//! Any wikitext, and any text with remains of markup, becomes text that a second normalization does not change.
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
