//! `bench --processes`: the same training step on one and on several processes of this machine.
use super::measure::{How, SHAPES, Training};
use super::peers::{self, MOST, Seen, pair};
use super::{Bench, Context};
use crate::experiment::statistics::median;
use crate::problem::{Usage, repeated};
use crate::show::{Align, human, table};
use crate::train_run::scaling::{Hosts, Network, Times, scaling};
use anyhow::{Context as _, Result};
use serde::Serialize;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Measurements of each number of processes, in turn with threads: what else the machine does then affects both alike.
const ROUNDS: usize = 3;
/// Bytes that each process sends to measure loopback connections.
const PROBE: usize = 128 << 20;
/// Bytes per call.
const CHUNK: usize = 256 << 10;

/// A number of processes, compared with one process that has as many threads.
#[derive(Debug, Serialize)]
struct Compared {
    shape: &'static str,
    model: String,
    dtype: contract::Precision,
    optimizer: String,
    leaves: u32,
    batch_tokens: u64,
    gemm: &'static str,
    processes: usize,
    /// Of each process.
    workers: usize,
    /// Median over [`ROUNDS`] measurements of the median over steps.
    tok_per_sec: f64,
    /// The same of one process with `processes` times `workers` threads.
    threads_tok_per_sec: f64,
    /// The first divided by the second, in each round; the median.
    ratio: f64,
    /// The smallest and the largest.
    ratio_range: [f64; 2],
    /// Bytes per step that each process sends.
    sent_bytes: Vec<u64>,
    /// What the model of docs/scaling.md makes of the threads' rate and the next two.
    predicted_tok_per_sec: f64,
    /// Bits per second and direction that so many processes exchange by loopback connections; none for one process.
    loopback_bits_per_second: Option<f64>,
    /// Seconds per step in which one process with as many threads updates parameters.
    threads_update_seconds: f64,
    /// The largest of a process.
    peak_rss_mb: u64,
}

/// Measures each number of processes, and prints a table, or one line of JSON per number.
///
/// # Errors
/// [`Usage`] for numbers that cannot be measured; otherwise if a process fails.
pub fn compare(asked: &Bench, numbers: &[u16], context: &Context) -> Result<()> {
    let (shape, how) = asked.shape_and_how()?;
    let leaves = how.batch(&SHAPES[shape as usize]).micro_batches;
    if let Some(twice) = repeated(numbers) {
        return Err(Usage(format!("--processes has {twice} twice")).into());
    }
    if let Some(most) = numbers.iter().find(|number| u32::from(**number) > leaves) {
        let why = format!("a batch of `{shape}` has {leaves} micro-batches, so {most} processes would not all compute");
        return Err(Usage(format!("{why}: divide it into more with --leaves")).into());
    }
    let mut rows = Vec::new();
    for processes in numbers {
        let compared = Compared::measure(asked, &SHAPES[shape as usize], &how, usize::from(*processes))?;
        match asked.json {
            true => context.out.json(&compared)?,
            false => rows.push(compared),
        }
    }
    if asked.json { Ok(()) } else { context.out.line(&listed(&rows, context.out.columns())) }
}

impl Compared {
    fn measure(asked: &Bench, shape: &super::measure::Shape, how: &How, processes: usize) -> Result<Self> {
        let arguments = |workers| asked.of_process(how, workers);
        let (mut several, mut threads) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            several.push(peers::measure(processes, &arguments(how.workers))?);
            if processes > 1 {
                threads.push(peers::measure(1, &arguments(processes * how.workers))?);
            }
        }
        if processes == 1 {
            threads.clone_from(&several);
        }
        let [mut ratios, rates, threads_rates, updates] = [
            several.iter().zip(&threads).map(|(several, threads)| rate(several) / rate(threads)).collect::<Vec<_>>(),
            several.iter().map(|seen| rate(seen)).collect(),
            threads.iter().map(|seen| rate(seen)).collect(),
            threads.iter().map(|seen| seen[0].update_seconds).collect(),
        ];
        ratios.sort_by(f64::total_cmp);
        let threads_tok_per_sec = median_of_rounds(threads_rates);
        let update = median_of_rounds(updates);
        let loopback = loopback(processes).context("cannot measure loopback connections")?;
        let batch = how.batch(shape);
        let sections = Training::new(shape, how)?.sections(processes)?;
        let rounds = (batch.micro_batches as usize).div_ceil(processes * how.workers) as f64;
        let micro_batch = (batch.tokens() as f64 / threads_tok_per_sec - update) / rounds;
        // Each process updates all parameters, with fewer workers.
        let times = Times { workers: how.workers, micro_batch, update: update * processes as f64 };
        let hosts = Hosts { count: processes, network: Network::of_payload(loopback), latency: Duration::ZERO };
        let predicted = scaling(hosts, &sections, &batch, times);
        let last = several.last().cloned().unwrap_or_default();
        Ok(Self {
            shape: shape.name,
            model: how.model.to_string(),
            dtype: how.precision,
            optimizer: how.optimizer.to_string(),
            leaves: batch.micro_batches,
            batch_tokens: batch.tokens(),
            gemm: compute::kernels::gemm::chosen(),
            processes,
            workers: how.workers,
            tok_per_sec: median_of_rounds(rates).round(),
            threads_tok_per_sec: threads_tok_per_sec.round(),
            ratio: rounded(median_of_rounds(ratios.clone())),
            ratio_range: [rounded(ratios[0]), rounded(ratios[ROUNDS - 1])],
            sent_bytes: last.iter().map(|seen| seen.sent_bytes).collect(),
            predicted_tok_per_sec: predicted.tok_per_sec.round(),
            loopback_bits_per_second: (processes > 1).then(|| loopback.round()),
            threads_update_seconds: update,
            peak_rss_mb: last.iter().map(|seen| seen.peak_rss_mb).max().unwrap_or_default(),
        })
    }
}

/// Tokens per second of all processes, which the first one records.
fn rate(seen: &[Seen]) -> f64 {
    seen.first().map_or(f64::NAN, |head| head.tok_per_sec)
}

/// The median of the rounds; not a number if there are none.
fn median_of_rounds(values: Vec<f64>) -> f64 {
    median(values).unwrap_or(f64::NAN)
}

fn rounded(ratio: f64) -> f64 {
    (ratio * 1e3).round() / 1e3
}

/// Bits per second that each of so many processes sends by loopback connections while it receives as many, as
/// processes in a ring do. 1 for one process, which sends nothing.
fn loopback(processes: usize) -> io::Result<f64> {
    if processes < 2 {
        return Ok(1.0);
    }
    let pairs = (0..processes).map(|_| pair()).collect::<io::Result<Vec<_>>>()?;
    let began = Instant::now();
    let send = |mut socket: TcpStream| -> io::Result<()> {
        let bytes = vec![1; CHUNK];
        (0..PROBE / CHUNK).try_for_each(|_| socket.write_all(&bytes))
    };
    let receive = |mut socket: TcpStream| -> io::Result<()> {
        let mut bytes = vec![0; CHUNK];
        (0..PROBE / CHUNK).try_for_each(|_| socket.read_exact(&mut bytes))
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = pairs
            .into_iter()
            .flat_map(|(near, far)| [scope.spawn(move || send(near)), scope.spawn(move || receive(far))])
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Err(io::ErrorKind::Other.into())))
    })?;
    Ok(PROBE as f64 * 8.0 / began.elapsed().as_secs_f64())
}

/// What was measured, and a table.
fn listed(rows: &[Compared], columns: usize) -> String {
    let Some(first) = rows.first() else { return String::new() };
    let workers = human::workers(first.workers);
    let about = format!(
        "{}, {}, {}, {}: steps of {} tokens in {} micro-batches. Processes with {workers} each, against threads of one \
         process, in turn; medians of {ROUNDS}.",
        first.shape, first.model, first.dtype, first.optimizer, first.batch_tokens, first.leaves
    );
    let row = |row: &Compared| {
        let [least, most] = row.ratio_range;
        vec![
            row.processes.to_string(),
            format!("{:.0}", row.tok_per_sec),
            format!("{:.0}", row.threads_tok_per_sec),
            format!("{:.2} ({least:.2} to {most:.2})", row.ratio),
            format!("{:.0}", row.predicted_tok_per_sec),
            human::bytes(row.sent_bytes.iter().copied().max().unwrap_or_default()),
        ]
    };
    let heads = [
        ("processes", Align::Right),
        ("tok/s", Align::Right),
        ("threads", Align::Right),
        ("ratio", Align::Right),
        ("predicted", Align::Right),
        ("each sends per step", Align::Right),
    ];
    let rows: Vec<_> = rows.iter().map(row).collect();
    format!("{}\n\n{}", human::wrap(&about, columns).join("\n"), table(&heads, &rows, columns))
}

/// Whether a number of processes can be measured.
///
/// # Errors
/// What is wrong, and the numbers that can be.
pub fn number(text: &str) -> Result<u16, String> {
    let number = text.parse().ok().filter(|number| (1..=MOST).contains(number));
    number.ok_or_else(|| format!("write numbers from 1 to {MOST}, separated by commas: 1,2"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shows_what_was_measured() {
        let row = |processes: usize, sent_bytes| Compared {
            shape: "small",
            model: "gpt2".into(),
            dtype: contract::Precision::Bf16,
            optimizer: "adamw".into(),
            leaves: 16,
            batch_tokens: 4096,
            gemm: "avx512",
            processes,
            workers: 1,
            tok_per_sec: 3700.0 * processes as f64,
            threads_tok_per_sec: 4000.0 * processes as f64,
            ratio: 0.92,
            ratio_range: [0.91, 0.934],
            sent_bytes: vec![sent_bytes; processes],
            predicted_tok_per_sec: 3800.0 * processes as f64,
            loopback_bits_per_second: Some(2e10),
            threads_update_seconds: 0.01,
            peak_rss_mb: 100,
        };
        insta::assert_snapshot!(listed(&[row(1, 0), row(16, 123_456_789)], 80), @r"
        small, gpt2, bf16, adamw: steps of 4096 tokens in 16 micro-batches. Processes
        with 1 worker each, against threads of one process, in turn; medians of 3.

        processes  tok/s  threads                ratio  predicted  each sends per step
                1   3700     4000  0.92 (0.91 to 0.93)       3800                  0 B
               16  59200    64000  0.92 (0.91 to 0.93)      60800             123.5 MB
        ");
    }

    #[test]
    fn loopback_connections_carry_bytes() {
        assert_eq!(loopback(1).unwrap(), 1.0);
        assert!(loopback(3).unwrap() > 1e7);
    }

    #[test]
    fn a_number_of_processes_is_from_1_to_the_most() {
        assert_eq!(number("24"), Ok(MOST));
        for wrong in ["0", "25", "two", "-1", ""] {
            assert!(number(wrong).is_err(), "{wrong}");
        }
    }
}
