//! `bench --generate`: how fast a model generates in each precision, and how much its predictions change.
use super::{Bench, Context};
use crate::experiment::statistics::median;
use crate::machine::cores;
use crate::pretrained::{ModelFolder, find};
use crate::problem::Usage;
use crate::show::{Align, Line, Unit, Work, human, table};
use anyhow::{Context as _, Result};
use compute::bandwidth::read_bandwidth;
use compute::{cpu, kernels::int8_matrix};
use contract::{Decode, Precision};
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};

/// Precisions, which are measured in turn.
const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];
/// Most tokens of a piece of text: the model is fed a piece from its beginning, one token at a time.
const PIECE: usize = 256;
/// Tokens of the text that are fed, if not given.
const TOKENS: usize = 4096;

/// The measurement of a precision.
#[derive(Debug, Serialize)]
struct Decoded {
    model: String,
    precision: Precision,
    cpu: String,
    workers: usize,
    /// Tokens that were fed, one at a time.
    tokens: usize,
    /// Median over pieces of the text.
    tok_per_sec: f64,
    /// Divided by the rate of f32 on the same piece: the median.
    relative_to_f32: f64,
    /// Bytes of weights that are read for each token.
    weight_bytes: usize,
    /// Bytes of weights that are read per second.
    read_bytes_per_sec: f64,
    /// Bytes per second that as many threads read of memory, measured in this process.
    memory_bytes_per_sec: f64,
    /// The first divided by the second. Weights that the L3 cache holds may be read faster than memory.
    share_of_memory: f64,
    /// Mean cross-entropy of the text, in nats per token.
    loss: f64,
    /// Fraction of the positions at which the most probable token is that of f32.
    agreement: f64,
}

/// Measures all precisions, and prints a table, or one line of JSON for each.
///
/// # Errors
/// [`Usage`] if the model or the text is not there, or the text is too short; if the model cannot generate.
pub fn measure(asked: &Bench, model: &Path, context: &Context) -> Result<()> {
    let path = asked.text.as_deref().context("--generate needs --text")?;
    let text = std::fs::read_to_string(path).map_err(|error| Usage::of(path, &format!("cannot be read: {error}")))?;
    let workers = asked.workers.unwrap_or_else(cores).max(1);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(workers).build().context("cannot start threads")?;
    let folder = find(model)?;
    let open = || -> Result<_> {
        let opened = ModelFolder::open(&folder, context.stages)?;
        let tokenizer = opened.tokenizer()?;
        let tokens = [vec![tokenizer.end_of_text()], tokenizer.encode(&text)?].concat();
        let decoders = PRECISIONS.into_iter().map(|precision| opened.decoder(precision));
        Ok((tokens, decoders.collect::<Result<Vec<_>>>()?))
    };
    let opened = pool.install(open).with_context(|| format!("cannot generate from {}", folder.display()));
    let (tokens, mut decoders) = opened?;
    let most = asked.tokens.map_or(TOKENS, |tokens| tokens as usize).min(tokens.len() - 1);
    if most == 0 {
        return Err(Usage::of(path, "has no text").into());
    }
    let measured = pool.install(|| Measured::of(&mut decoders, &tokens[..=most], &mut context.line()));
    let memory = read_bandwidth(workers);
    let rows: Vec<_> = (0..PRECISIONS.len()).map(|i| measured.row(i, model, workers, memory)).collect();
    match asked.json {
        true => rows.iter().try_for_each(|row| context.out.json(row)),
        false => context.out.line(&listed(&rows, &path.display().to_string(), context.out.columns())),
    }
}

/// What was seen of each decoder.
struct Measured {
    tokens: usize,
    decoders: Vec<Seen>,
}

#[derive(Default)]
struct Seen {
    weight_bytes: usize,
    /// Tokens per second for each piece of the text.
    rates: Vec<f64>,
    nats: f64,
    /// The most probable token at each position.
    best: Vec<usize>,
}

impl Measured {
    /// Feeds each piece of `tokens`, of which the first is only fed and the others are predicted, to all decoders in turn.
    fn of(decoders: &mut [Box<dyn Decode>], tokens: &[u32], line: &mut Line) -> Self {
        let began = Instant::now();
        let piece = decoders.iter().map(|decoder| decoder.capacity()).fold(PIECE, usize::min);
        let inputs = &tokens[..tokens.len() - 1];
        let mut seen: Vec<_> =
            decoders.iter().map(|decoder| Seen { weight_bytes: decoder.weight_bytes(), ..Seen::default() }).collect();
        // Once without measuring, which brings weights and buffers into memory.
        for decoder in &mut *decoders {
            feed(&mut **decoder, &inputs[..piece.min(inputs.len())], &tokens[1..], &mut Seen::default());
        }
        for (index, inputs) in inputs.chunks(piece).enumerate() {
            for (decoder, seen) in decoders.iter_mut().zip(&mut seen) {
                feed(&mut **decoder, inputs, &tokens[index * piece + 1..], seen);
            }
            let done = (index * piece + inputs.len()) as u64;
            let (total, unit) = ((tokens.len() - 1) as u64, Unit::Things("tokens"));
            line.work(&Work { verb: "Predicting".into(), done, total, unit, spent: began.elapsed() });
        }
        line.finish();
        Self { tokens: inputs.len(), decoders: seen }
    }

    fn row(&self, index: usize, model: &Path, workers: usize, memory: f64) -> Decoded {
        let (seen, f32) = (&self.decoders[index], &self.decoders[0]);
        let rate = median(seen.rates.clone()).unwrap_or(f64::NAN);
        let ratios = seen.rates.iter().zip(&f32.rates).map(|(rate, of_f32)| rate / of_f32).collect();
        let same = seen.best.iter().zip(&f32.best).filter(|(best, of_f32)| best == of_f32).count();
        let read = rate * seen.weight_bytes as f64;
        Decoded {
            model: model.display().to_string(),
            precision: PRECISIONS[index],
            cpu: cpu::description(),
            workers,
            tokens: self.tokens,
            tok_per_sec: (rate * 10.0).round() / 10.0,
            relative_to_f32: thousandths(median(ratios).unwrap_or(f64::NAN)),
            weight_bytes: seen.weight_bytes,
            read_bytes_per_sec: read.round(),
            memory_bytes_per_sec: memory.round(),
            share_of_memory: thousandths(read / memory),
            loss: seen.nats / self.tokens as f64,
            agreement: same as f64 / self.tokens as f64,
        }
    }
}

fn thousandths(x: f64) -> f64 {
    (x * 1e3).round() / 1e3
}

/// Feeds `inputs` from the beginning, one at a time; each is followed by the token with the same index of `targets`.
fn feed(decoder: &mut dyn Decode, inputs: &[u32], targets: &[u32], seen: &mut Seen) {
    decoder.restart();
    let mut time = Duration::ZERO;
    for (input, target) in inputs.iter().zip(targets) {
        let began = Instant::now();
        let logits = decoder.feed(&[*input]);
        time += began.elapsed();
        let (best, most) = logits.iter().enumerate().fold((0, f32::NEG_INFINITY), |(best, most), (token, logit)| {
            if *logit > most { (token, *logit) } else { (best, most) }
        });
        let sum: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
        seen.nats += sum.ln() + f64::from(most - logits[*target as usize]);
        seen.best.push(best);
    }
    seen.rates.push(inputs.len() as f64 / time.as_secs_f64().max(1e-9));
}

/// What was measured, and a table.
fn listed(rows: &[Decoded], text: &str, columns: usize) -> String {
    let Some(first) = rows.first() else { return String::new() };
    let about = format!(
        "{}: {} tokens of {text}, one at a time, {}, precisions in turn. Products in eight bits: {}. Memory is read at \
         {:.1} GB/s.",
        first.model,
        human::count(first.tokens as u64),
        human::workers(first.workers),
        int8_matrix::description(),
        first.memory_bytes_per_sec / 1e9
    );
    let row = |row: &Decoded| {
        vec![
            row.precision.to_string(),
            format!("{:.0}", row.tok_per_sec),
            format!("{:.2}", row.relative_to_f32),
            human::bytes(row.weight_bytes as u64),
            format!("{:.1} GB/s", row.read_bytes_per_sec / 1e9),
            format!("{:.0} %", 100.0 * row.share_of_memory),
            format!("{:.4}", row.loss),
            format!("{:.1} %", 100.0 * row.agreement),
        ]
    };
    let heads = [
        ("precision", Align::Left),
        ("tok/s", Align::Right),
        ("to f32", Align::Right),
        ("weights", Align::Right),
        ("read", Align::Right),
        ("of memory", Align::Right),
        ("loss", Align::Right),
        ("agreement", Align::Right),
    ];
    let rows: Vec<_> = rows.iter().map(row).collect();
    format!("{}\n\n{}", human::wrap(&about, columns).join("\n"), table(&heads, &rows, columns))
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::Buffer;

    /// Predicts the token after the last one, modulo ten, or with `off` every seventh time another.
    struct Counting {
        fed: usize,
        off: bool,
    }

    impl Decode for Counting {
        fn feed(&mut self, tokens: &[u32]) -> Buffer {
            self.fed += tokens.len();
            let mut logits = Buffer::zeroed(10);
            let wrong = u32::from(self.off && self.fed.is_multiple_of(7));
            logits[(tokens[0] + 1 + wrong) as usize % 10] = 3.0;
            logits
        }
        fn length(&self) -> usize {
            self.fed
        }
        fn capacity(&self) -> usize {
            14
        }
        fn vocabulary(&self) -> usize {
            10
        }
        fn weight_bytes(&self) -> usize {
            1000
        }
        fn restart(&mut self) {
            self.fed = 0;
        }
    }

    #[test]
    fn agreement_and_loss_are_those_of_the_positions() {
        let tokens: Vec<u32> = (0..=28).map(|i| i % 10).collect();
        let mut decoders: Vec<Box<dyn Decode>> =
            [false, false, true].map(|off| Box::new(Counting { fed: 0, off }) as Box<dyn Decode>).into();
        let style = crate::show::Style { quiet: true, color: false, progress: crate::show::Progress::Off };
        let measured = Measured::of(&mut decoders, &tokens, &mut Line::stderr(style));
        let [of_f32, same, off] = [0, 1, 2].map(|i| measured.row(i, Path::new("m"), 1, 1e9));
        let sure = (3f64.exp() + 9.0).ln() - 3.0;
        assert_eq!((of_f32.tokens, of_f32.agreement, of_f32.relative_to_f32), (28, 1.0, 1.0));
        assert!((of_f32.loss - sure).abs() < 1e-6 && same.loss == of_f32.loss);
        // Four of 28 positions, at which the right token has a logit of 0 instead of 3.
        assert_eq!(off.agreement, 24.0 / 28.0);
        assert!((off.loss - (sure + 3.0 * 4.0 / 28.0)).abs() < 1e-6);
    }

    #[test]
    fn a_table_shows_what_was_measured() {
        let row = |precision, speed: f64, bytes: usize| Decoded {
            model: "runs/wiki".into(),
            precision,
            cpu: "a CPU".into(),
            workers: 2,
            tokens: 4096,
            tok_per_sec: 151.4 * speed,
            relative_to_f32: speed,
            weight_bytes: bytes,
            read_bytes_per_sec: 151.4 * speed * bytes as f64,
            memory_bytes_per_sec: 60e9,
            share_of_memory: 151.4 * speed * bytes as f64 / 60e9,
            loss: 3.1234,
            agreement: 0.991,
        };
        let rows = [row(Precision::F32, 1.0, 324_000_000), row(Precision::Int8, 3.4, 82_000_000)];
        let shown = listed(&rows, "held-out.txt", 80);
        assert!(shown.lines().all(|line| human::width(line) <= 80), "{shown}");
        let (about, rows) = shown.split_once("\n\n").unwrap();
        assert!(about.starts_with("runs/wiki: 4.1 k tokens of held-out.txt, one at a time, 2 workers"), "{about}");
        insta::assert_snapshot!(rows, @r"
        precision  tok/s  to f32   weights       read  of memory    loss  agreement
        f32          151    1.00  324.0 MB  49.1 GB/s       82 %  3.1234     99.1 %
        int8         515    3.40   82.0 MB  42.2 GB/s       70 %  3.1234     99.1 %
        ");
    }
}
