//! Our encoder returns the same ids as Hugging Face's library, for any text.
#![no_main]
use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, LazyLock};
use text::{Cache, Encoder, Tokenizer};

static GPT2: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
    let cache = std::env::temp_dir().join("millrace-fuzz");
    Arc::new(Tokenizer::gpt2(&Cache::new(cache.to_str()), "<|endoftext|>").unwrap())
});

fuzz_target!(|data: &[u8]| {
    let Ok(data) = std::str::from_utf8(data) else { return };
    let expected = GPT2.encode_slowly(data).unwrap();
    assert_eq!(GPT2.encode(data).unwrap(), expected);
    let (mut encoder, mut ids) = (Encoder::new(GPT2.clone()), Vec::new());
    encoder.encode(data, &mut ids).unwrap();
    assert_eq!(ids, expected);
    assert_eq!(GPT2.decode(&ids).unwrap(), data);
});
