//! A `tokenizer.json` is refused, or encodes and decodes.
#![no_main]
use libfuzzer_sys::fuzz_target;
use text::Tokenizer;

fuzz_target!(|data: &str| {
    if let Ok(tokenizer) = Tokenizer::from_json("fuzz", data.to_string(), "<|endoftext|>") {
        if let Ok(ids) = tokenizer.encode("Hello, world! é 你好\n\n123") {
            assert!(ids.iter().all(|id| *id < tokenizer.vocabulary_size()));
            let _ = tokenizer.decode(&ids);
        }
    }
});
