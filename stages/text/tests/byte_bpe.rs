//! The fast encoder against Hugging Face's library, on any text and for several vocabularies.
use millrace_text::tokenizer::END_OF_TEXT;
use millrace_text::tokenizer::train::{WordCounts, learn, tokenizer_json};
use millrace_text::{Cache, Encoder, Tokenizer};
use proptest::prelude::*;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

fn gpt2() -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    Tokenizer::gpt2(&Cache::new(folder.path().to_str()), END_OF_TEXT).unwrap()
}

fn trained(text: &str, size: usize) -> Tokenizer {
    let mut words = WordCounts::default();
    words.add(text);
    let learned = learn(words, size, END_OF_TEXT, |_, _| {});
    let json = tokenizer_json(&learned.tokens, &learned.merges, (END_OF_TEXT, 0));
    Tokenizer::from_json("trained", json, END_OF_TEXT).unwrap()
}

/// GPT-2's, one trained on English, one on many scripts, one of bytes alone, one with more added tokens.
static TOKENIZERS: LazyLock<Vec<Arc<Tokenizer>>> = LazyLock::new(|| {
    let scripts =
        "Привет, мир! 你好，世界 नमस्ते दुनिया مرحبا بالعالم γειά σου κόσμε 안녕 세상 שלום ''' 123 ٣٤  \n\n  \t x"
            .repeat(3);
    let gpt2 = gpt2();
    let mut json: serde_json::Value = serde_json::from_str(gpt2.json()).unwrap();
    let added = json["added_tokens"].as_array_mut().unwrap();
    for (id, content) in [(50_257, "<|end"), (50_258, "ab"), (50_259, "abc d")] {
        let mut token = added[0].clone();
        token["id"] = id.into();
        token["content"] = content.into();
        added.push(token);
    }
    let more = Tokenizer::from_json("more", json.to_string(), END_OF_TEXT).unwrap();
    let english = include_str!("../src/lib.rs");
    vec![gpt2, trained(english, 700), trained(&scripts, 500), trained("", 257), more]
        .into_iter()
        .map(Arc::new)
        .collect()
});

/// Both ways to encode fast against Hugging Face's library.
fn check(text: &str) {
    for (number, tokenizer) in TOKENIZERS.iter().enumerate() {
        assert_eq!(tokenizer.slow_because(), None, "{number}");
        let expected = tokenizer.encode_slowly(text).unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), expected, "tokenizer {number}, {text:?}");
        let mut encoder = Encoder::new(tokenizer.clone());
        let mut ids = Vec::new();
        // The second time words come from the cache.
        encoder.encode(text, &mut ids).unwrap();
        encoder.encode(text, &mut ids).unwrap();
        assert_eq!(ids, [&expected[..], &expected].concat(), "tokenizer {number} with cache, {text:?}");
        assert_eq!(tokenizer.decode(&expected).unwrap(), tokenizer.decode_slowly(&expected).unwrap());
    }
}

#[test]
fn texts_that_are_odd() {
    let long = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft".repeat(9);
    let tower = "\u{1F468}\u{200D}\u{1F469}\u{200D}\u{1F467}".repeat(40);
    for text in [
        "",
        " ",
        "<|endoftext|>",
        "a<|endoftext|><|endoftext|> <|end b abc dabc d",
        "\0\u{1}\u{7f}\u{80}\u{ff}\u{10ffff}\u{e000}\u{fffd}",
        "e\u{301}\u{301}\u{301} \u{202e}abc\u{202c}",
        "don't'll''s 'S'd",
        &" \n".repeat(300),
        &" ".repeat(1000),
        &"a".repeat(1000),
        &"ab".repeat(500),
        &long,
        &tower,
    ] {
        check(text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn ids_are_those_of_hugging_face(
        text in "([a-e' ]|the | ab|abc d|\\PC|\\s|\\pL{1,9}|\\pN|[а-я]{1,9}|[一-龥]|'(s|t|re|ve|m|ll|d)|<\\|endoftext\\|>|<\\|end|.){0,60}"
    ) {
        check(&text);
    }
}

proptest! {
    /// Pieces of characters and ids that are none among them.
    #[test]
    fn any_ids_are_the_text_that_they_are_to_hugging_face(ids in prop::collection::vec(0u32..50_300, 0..40)) {
        for tokenizer in TOKENIZERS.iter() {
            let fitting: Vec<u32> = ids.iter().map(|id| id % (tokenizer.vocabulary_size() + 9)).collect();
            prop_assert_eq!(tokenizer.decode(&fitting).unwrap(), tokenizer.decode_slowly(&fitting).unwrap());
        }
    }
}

/// What this thread has computed, whatever else the machine does; where the system tells.
fn on_the_core() -> Option<Duration> {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(Duration::from_nanos(told.split(' ').next()?.parse().ok()?))
}

#[test]
fn a_word_of_any_length_takes_a_time_near_its_length() {
    let gpt2 = gpt2();
    let time = |text: &str| -> Duration {
        (0..3)
            .map(|_| {
                let (start, before) = (Instant::now(), on_the_core());
                assert_eq!(gpt2.decode(&gpt2.encode(text).unwrap()).unwrap().len(), text.len());
                on_the_core().zip(before).map_or_else(|| start.elapsed(), |(now, before)| now - before)
            })
            .min()
            .unwrap()
    };
    for piece in ["a", " ", "abcdefghij", "=", "あ"] {
        let times: Vec<Duration> = [50_000, 400_000].map(|n| time(&piece.repeat(n / piece.len()))).to_vec();
        assert!(times[1] < times[0] * 8 * 4 + Duration::from_millis(50), "{piece:?}: {times:?}");
    }
}

#[test]
fn what_the_fast_encoder_does_not_handle_is_said() {
    let changed = |change: fn(&mut serde_json::Value)| {
        let mut json: serde_json::Value = serde_json::from_str(TOKENIZERS[1].json()).unwrap();
        change(&mut json);
        let tokenizer = Tokenizer::from_json("changed", json.to_string(), END_OF_TEXT).unwrap();
        let text = "Any text is encoded all the same.";
        assert_eq!(tokenizer.encode(text).unwrap(), tokenizer.encode_slowly(text).unwrap());
        tokenizer.slow_because().map(str::to_string)
    };
    let said = |change| changed(change).unwrap();
    assert_eq!(said(|j| j["normalizer"] = serde_json::json!({"type": "NFC"})), "a normalizer (\"NFC\")");
    assert!(said(|j| j["pre_tokenizer"]["add_prefix_space"] = true.into()).contains("add_prefix_space"));
    assert!(said(|j| j["pre_tokenizer"]["use_regex"] = false.into()).contains("use_regex"));
    assert!(said(|j| j["model"]["ignore_merges"] = true.into()).contains("ignore_merges"));
    assert!(said(|j| j["added_tokens"][0]["lstrip"] = true.into()).contains("lstrip"));
    let twice = |j: &mut serde_json::Value| {
        let tokens = j["added_tokens"].as_array_mut().unwrap();
        tokens.push(tokens[0].clone());
    };
    assert!(said(twice).contains("there twice"));
    assert_eq!(changed(|_| ()), None);
}
