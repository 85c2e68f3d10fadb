//! A `tokenizer.json` is refused, or can encode and decode.
#![no_main]
use libfuzzer_sys::fuzz_target;
use text::Tokenizer;

// Panics of dependencies are caught where they are called, so they are not failures of the target.
fuzz_target!(init: std::panic::set_hook(Box::new(|_| {})), |data: &[u8]| {
    let Ok(data) = std::str::from_utf8(data) else { return };
    if let Ok(tokenizer) = Tokenizer::from_json("fuzz", data.to_string(), "<|endoftext|>") {
        if let Ok(ids) = tokenizer.encode("Hello, world! é 你好\n\n123") {
            assert!(ids.iter().all(|id| *id < tokenizer.vocabulary_size()));
            let _ = tokenizer.decode(&ids);
        }
    }
});
