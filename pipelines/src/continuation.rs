//! Continues a text with a model, token by token: for `generate`, and for the samples of a run.
use anyhow::Result;
use compute::models::sampling::Sampler;
use contract::Decode;
use serde::Serialize;
use std::time::{Duration, Instant};
use text::Tokenizer;
use text::tokenizer::text_stream::TextStream;

/// When a continuation ends.
pub struct Ends<'a> {
    /// Tokens that end a text.
    pub tokens: &'a [u32],
    /// Number of tokens after which it ends anyway.
    pub after: usize,
}

/// Why a continuation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// The model produced its end-of-text token.
    EndOfText,
    /// The requested number of tokens has been generated.
    MaxTokens,
    /// The model's context is full.
    Context,
}

/// A continuation.
pub struct Continued {
    /// Its text, without the prompt.
    pub text: String,
    /// Its token ids. If one of them ends the text, it is the last, and not part of `text`.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub stop: Stop,
    /// How long the prompt took (in a single pass).
    pub prompt_time: Duration,
    /// How long the generated tokens took, of which the model was fed `fed` (one pass each).
    pub time: Duration,
    /// Generated tokens that the model was fed.
    pub fed: usize,
}

/// The error for logits of which a token cannot be sampled.
#[derive(Debug, thiserror::Error)]
#[error("after {tokens} tokens the model's logits are not finite: its weights are corrupt")]
pub struct NotFinite {
    tokens: usize,
}

/// The tokens of a prompt. That of an empty one is end-of-text, after which documents begin.
///
/// # Errors
/// If the tokenizer cannot encode it.
pub fn encode(tokenizer: &Tokenizer, prompt: &str) -> Result<Vec<u32>> {
    let mut tokens = tokenizer.encode_prompt(prompt)?;
    if tokens.is_empty() {
        tokens.push(tokenizer.end_of_text());
    }
    Ok(tokens)
}

/// Continues `prompt`, which must not be empty and fits the model's context. `show` is called with text as it is
/// generated.
///
/// # Errors
/// [`NotFinite`]; if the tokenizer cannot decode a token; if `show` fails.
pub fn continue_text(
    decoder: &mut dyn Decode,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    sampler: &mut Sampler,
    ends: &Ends,
    show: &mut (dyn FnMut(&str) -> Result<()> + Send),
) -> Result<Continued> {
    let began = Instant::now();
    let mut logits = decoder.feed(prompt);
    let prompt_time = began.elapsed();
    let mut stream = TextStream::new(tokenizer);
    let (mut text, mut tokens) = (String::new(), Vec::new());
    let mut say = |new: String| -> Result<()> {
        text.push_str(&new);
        if new.is_empty() { Ok(()) } else { show(&new) }
    };
    let began = Instant::now();
    let mut fed = 0;
    let stop = loop {
        if tokens.len() == ends.after {
            break Stop::MaxTokens;
        }
        let token = sampler.next(&logits).ok_or(NotFinite { tokens: tokens.len() })?;
        tokens.push(token);
        if ends.tokens.contains(&token) {
            break Stop::EndOfText;
        }
        say(stream.push(token)?)?;
        if decoder.length() == decoder.capacity() {
            break Stop::Context;
        }
        if tokens.len() < ends.after {
            logits = decoder.feed(&[token]);
            fed += 1;
        }
    };
    let time = began.elapsed();
    say(stream.finish()?)?;
    Ok(Continued { text, tokens, stop, prompt_time, time, fed })
}
