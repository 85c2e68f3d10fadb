//! The estimates that `pipeline explain` prints below the graph.
use super::banner::corpus_line;
use super::human::{bytes, clock, count, facts, rate, workers};
use super::scaling::Scaling;
use super::sources::{SourceUse, sources};
use contract::{Corpus, Packing};
use serde::Serialize;
use std::time::Duration;

/// Estimates for a run; `None` where unknown.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Explanation {
    /// The model on one line.
    pub model: String,
    /// Parameters of each part of the model.
    pub parameters: Vec<(String, u64)>,
    /// FLOPs per trained token, counted as in PaLM.
    pub flops_per_token: f64,
    /// Micro-batches, sequences per micro-batch, tokens per sequence.
    pub batch: [u64; 3],
    /// Worker threads.
    pub workers: usize,
    /// Length of the run.
    pub length: Length,
    /// Peak memory in bytes: of the program, then of each stage.
    pub memory: Vec<(String, u64)>,
    /// The sum of `memory`, in MB of 2^20 bytes.
    pub peak_mb: u64,
    /// Peak memory if other programs delay some workers, or there are more workers than cores: more sums of gradients
    /// wait then.
    pub peak_mb_if_delayed: u64,
    /// Tokens per second.
    pub tok_per_sec: f64,
    /// Workers that a step can keep busy: one per micro-batch.
    pub most_workers: u32,
    /// Expected tokens per second with more workers, each with a core of its own like those here.
    pub with_more_workers: Vec<(usize, f64)>,
    /// How `tok_per_sec` was determined.
    pub measured: String,
    /// The corpus, if known.
    pub corpus: Option<Corpus>,
    /// How its training documents fill sequences, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packing: Option<Packing>,
    /// What the run trains on of each source, if it mixes several and its length is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceUse>,
    /// Further notes.
    pub notes: Vec<String>,
    /// The same run on several hosts, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// The same for 1, 2, … hosts, up to those of `scaling`.
    #[serde(skip)]
    pub by_hosts: Vec<Scaling>,
}

/// Length of a run.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Length {
    /// Steps, if known.
    pub steps: Option<u64>,
    /// Passes over the training documents, if known.
    pub epochs: Option<f64>,
}

impl Explanation {
    /// Renders one fact per line, at most `columns` wide.
    pub fn render(&self, columns: usize) -> String {
        let total: u64 = self.parameters.iter().map(|(_, n)| n).sum();
        let parts = |parts: &[(String, u64)], of: fn(u64) -> String| {
            parts.iter().map(|(name, n)| format!("{name} {}", of(*n))).collect::<Vec<_>>().join(", ")
        };
        let [leaves, sequences, length] = self.batch;
        let tokens = leaves * sequences * length;
        let long = match (self.length.steps, self.length.epochs) {
            (Some(steps), Some(epochs)) => format!("{} steps, {epochs:.2} epochs", count(steps)),
            (Some(steps), None) => {
                format!("{} steps; epochs are known once tokens are counted (--dry-run)", count(steps))
            }
            (None, Some(epochs)) => format!("{epochs} epochs; steps are known once tokens are counted (run --dry-run)"),
            (None, None) => String::new(),
        };
        let speed = format!("{} on {} ({})", rate(self.tok_per_sec, "tok"), workers(self.workers), self.measured);
        let time = match self.length.steps {
            Some(steps) if self.tok_per_sec > 0.0 => {
                let left = Duration::try_from_secs_f64((steps * tokens) as f64 / self.tok_per_sec);
                format!("about {}: {speed}", clock(left.unwrap_or(Duration::MAX)))
            }
            _ => speed,
        };
        let delayed = match self.peak_mb_if_delayed {
            most if most > self.peak_mb => format!(" (up to {} if workers are delayed)", bytes(most << 20)),
            _ => String::new(),
        };
        let mut all = vec![
            ("Model", format!("{}, {} parameters: {}", self.model, count(total), parts(&self.parameters, count))),
            (
                "Compute",
                format!(
                    "{}FLOP per token, {}FLOP per step",
                    spaced(self.flops_per_token),
                    spaced(self.flops_per_token * tokens as f64)
                ),
            ),
            ("Step", format!("{} tokens: {leaves} micro-batches of {sequences} sequences of {length}", count(tokens))),
            ("Length", long),
            ("Corpus", self.corpus.as_ref().map(corpus_line).unwrap_or_default()),
            ("Packing", self.packing.as_ref().map(packing).unwrap_or_default()),
            ("Memory", format!("about {}{delayed}: {}", bytes(self.peak_mb << 20), parts(&self.memory, bytes))),
            ("Time", time),
            ("Cores", self.cores()),
        ];
        all.extend(self.notes.iter().map(|note| ("Note", note.clone())));
        let mut lines = facts(&all, columns);
        if !self.sources.is_empty() {
            lines.extend([String::new(), sources(&self.sources, columns)]);
        }
        if let Some(scaling) = &self.scaling {
            lines.extend([String::new(), scaling.render(columns)]);
        }
        lines.join("\n")
    }
}

impl Explanation {
    /// How many cores a run can use.
    fn cores(&self) -> String {
        let most = match self.most_workers {
            0 => return String::new(),
            1 => "a step has one micro-batch and keeps one core busy".into(),
            n => format!("a step keeps at most {n} busy, one per micro-batch"),
        };
        let expected = |(n, per_second): &(usize, f64)| format!("{} on {n}", rate(*per_second, "tok"));
        let expected: Vec<String> = self.with_more_workers.iter().map(expected).collect();
        if expected.is_empty() { most } else { format!("{most}; with cores like these, about {}", expected.join(", ")) }
    }
}

/// How documents fill sequences.
fn packing(packing: &Packing) -> String {
    let Packing { documents, longer, split, .. } = packing;
    format!(
        "about {:.2} % padding; of {} documents, {} are longer than a sequence, and {} of the others are split",
        (1.0 - packing.filled()) * 100.0,
        count(*documents),
        count(*longer),
        count(*split)
    )
}

/// A number before a unit, with a space if it has no prefix: `25.6 M`, `12 `.
fn spaced(n: f64) -> String {
    let text = count(n as u64);
    if text.contains(' ') { text } else { text + " " }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::CorpusPart;

    #[test]
    fn estimates_are_rendered() {
        let mut known = Explanation {
            model: "GPT-2, 2 layers, width 256, 8 heads".into(),
            parameters: vec![("transformer.wte".into(), 2_560_000), ("transformer.h".into(), 1_579_000)],
            flops_per_token: 25.6e6,
            batch: [16, 2, 128],
            workers: 2,
            length: Length { steps: Some(600), epochs: Some(0.341) },
            memory: vec![("program".into(), 31_000_000), ("optimize".into(), 50_000_000)],
            peak_mb: 77,
            peak_mb_if_delayed: 90,
            tok_per_sec: 8_500.0,
            most_workers: 16,
            with_more_workers: vec![(4, 17_000.0), (8, 33_900.0), (16, 66_500.0)],
            measured: "one micro-batch, forward and backward".into(),
            corpus: Some(Corpus {
                train: CorpusPart { rows: 9_500, tokens: 7_200_000, bytes: 32_000_000 },
                validation: CorpusPart { rows: 500, tokens: 380_000, bytes: 1_700_000 },
            }),
            packing: Some(Packing {
                pads: false,
                documents: 9_500,
                longer: 8_000,
                split: 700,
                positions: 7_200_000,
                padding: 0,
            }),
            sources: Vec::new(),
            notes: Vec::new(),
            scaling: None,
            by_hosts: Vec::new(),
        };
        insta::assert_snapshot!(known.render(80), @r"
        Model    GPT-2, 2 layers, width 256, 8 heads, 4.1 M parameters: transformer.wte
                 2.6 M, transformer.h 1.6 M
        Compute  25.6 MFLOP per token, 104.9 GFLOP per step
        Step     4.1 k tokens: 16 micro-batches of 2 sequences of 128
        Length   600 steps, 0.34 epochs
        Corpus   7.2 M tokens in 9.5 k documents, 32.0 MB; validation 380.0 k tokens
        Packing  about 0.00 % padding; of 9.5 k documents, 8.0 k are longer than a
                 sequence, and 700 of the others are split
        Memory   about 80.7 MB (up to 94.4 MB if workers are delayed): program 31.0 MB,
                 optimize 50.0 MB
        Time     about 4:49: 8.5 k tok/s on 2 workers (one micro-batch, forward and
                 backward)
        Cores    a step keeps at most 16 busy, one per micro-batch; with cores like
                 these, about 17.0 k tok/s on 4, 33.9 k tok/s on 8, 66.5 k tok/s on 16
        ");
        known.length = Length { steps: None, epochs: Some(3.0) };
        known.corpus = None;
        let said = known.render(80);
        assert!(said.contains("3 epochs; steps are known once tokens are counted"), "{said}");
    }
}
