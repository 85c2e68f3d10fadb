//! A run on several hosts, as `pipeline explain --hosts` predicts it.
use super::human::{bytes, count, facts, rate, time, workers};
use super::table::{Align, table};
use serde::Serialize;
use std::time::Duration;

/// A predicted run on several hosts, each like this one.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Scaling {
    /// Number of hosts.
    pub hosts: usize,
    /// Workers of each.
    pub workers_per_host: usize,
    /// Rate of each host's network, per direction.
    pub bits_per_second: f64,
    /// By host.
    pub shares: Vec<HostShare>,
    /// The most partial sums that a host sends for a tensor.
    pub most_partial_sums: u64,
    /// Bytes that determine the time of communication: the most that a host sends or receives of partial sums, and then
    /// of totals.
    pub exchange_bytes: u64,
    /// Tokens of a step, on all hosts.
    pub tokens_per_step: u64,
    /// Time of a step on one host.
    pub one_host_step_seconds: f64,
    /// Time in which the busiest host computes its micro-batches.
    pub compute_seconds: f64,
    /// Time in which each host updates all parameters.
    pub update_seconds: f64,
    /// Time in which gradients are exchanged.
    pub communication_seconds: f64,
    /// Time in which hosts wait for messages that are on their way.
    pub latency_seconds: f64,
    /// The sum of the four.
    pub step_seconds: f64,
    /// What a step would take if computing and communication overlapped entirely: the longer of both, and the rest.
    pub overlapped_step_seconds: f64,
    /// Tokens per second, of all hosts, at `step_seconds`.
    pub tok_per_sec: f64,
    /// The same at `overlapped_step_seconds`.
    pub overlapped_tok_per_sec: f64,
    /// `tok_per_sec` relative to that of one host times the number of hosts.
    pub efficiency: f64,
    /// The same of `overlapped_tok_per_sec`.
    pub overlapped_efficiency: f64,
    /// The efficiency without communication: below 1 if micro-batches cannot be divided evenly.
    pub most_efficiency: f64,
    /// Tokens per step from which on `efficiency` is at least 0.9, in as many micro-batches; `None` if it never is.
    pub tokens_for_90_percent: Option<u64>,
}

/// A host's part of a step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HostShare {
    /// Its index; 0 is the head.
    pub host: usize,
    /// The micro-batches that it computes.
    pub micro_batches: u32,
    /// The partial sums that it sends for a tensor.
    pub partial_sums: u64,
    /// Bytes of gradients that it sends.
    pub sent_bytes: u64,
    /// Bytes of gradients that it receives.
    pub received_bytes: u64,
}

impl Scaling {
    /// Renders a table of hosts, those that do the same in one row, and one fact per line, at most `columns` wide.
    pub fn render(&self, columns: usize) -> String {
        let of = |value: f64| time(Duration::try_from_secs_f64(value).unwrap_or(Duration::MAX));
        let percent = |value: f64| format!("{:.0} %", 100.0 * value);
        let goal = match self.tokens_for_90_percent {
            Some(tokens) => format!("from {} tokens per step on, in as many micro-batches", count(tokens)),
            None => format!(
                "never, however large micro-batches are: their number leaves workers idle, and at most {} are possible",
                percent(self.most_efficiency)
            ),
        };
        let hosts = format!(
            "{} like this one, each with {} and a network of {}bit/s",
            self.hosts,
            workers(self.workers_per_host),
            count(self.bits_per_second as u64)
        );
        let step = format!(
            "{}: {} of computing, then {} of communication, since most gradients exist only at the end, {} of latency, \
             and {} of updating; {} if the first two overlapped entirely",
            of(self.step_seconds),
            of(self.compute_seconds),
            of(self.communication_seconds),
            of(self.latency_seconds),
            of(self.update_seconds),
            of(self.overlapped_step_seconds),
        );
        let speed = format!(
            "{}, {} of {} times one host; {}, {} if both overlapped entirely",
            rate(self.tok_per_sec.round(), "tok"),
            percent(self.efficiency),
            self.hosts,
            rate(self.overlapped_tok_per_sec.round(), "tok"),
            percent(self.overlapped_efficiency),
        );
        let all = [("Hosts", hosts), ("A step", step), ("Rate", speed), ("90 %", goal), ("Idle", self.idle())];
        format!("{}\n\n{}", facts(&all, columns).join("\n"), self.table(columns))
    }

    fn table(&self, columns: usize) -> String {
        let mut groups: Vec<Vec<&HostShare>> = Vec::new();
        let what = |share: &HostShare| (share.micro_batches, share.partial_sums);
        for share in &self.shares {
            match groups.iter_mut().find(|group| what(group[0]) == what(share)) {
                Some(group) => group.push(share),
                None => groups.push(vec![share]),
            }
        }
        let most = |group: &[&HostShare], of: fn(&HostShare) -> u64| {
            bytes(group.iter().map(|share| of(share)).max().unwrap_or_default())
        };
        let row = |group: &Vec<&HostShare>| {
            vec![
                numbers(&group.iter().map(|share| share.host).collect::<Vec<_>>()),
                group[0].micro_batches.to_string(),
                group[0].partial_sums.to_string(),
                most(group, |share| share.sent_bytes),
                most(group, |share| share.received_bytes),
            ]
        };
        let heads = [
            ("host", Align::Left),
            ("micro-batches", Align::Right),
            ("partial sums", Align::Right),
            ("sends per step", Align::Right),
            ("receives per step", Align::Right),
        ];
        table(&heads, &groups.iter().map(row).collect::<Vec<_>>(), columns)
    }

    /// The hosts without micro-batches.
    fn idle(&self) -> String {
        let idle: Vec<usize> = self.shares.iter().filter(|share| share.micro_batches == 0).map(|s| s.host).collect();
        let (who, verb) = match idle.len() {
            0 => return String::new(),
            1 => ("host", "gets"),
            _ => ("hosts", "get"),
        };
        format!("{who} {} {verb} no micro-batch: raise `pack.micro_batches`, or use fewer hosts", numbers(&idle))
    }
}

/// Ascending numbers, with ranges: `0, 3-5`.
fn numbers(of: &[usize]) -> String {
    let ranges = of.chunk_by(|a, b| a + 1 == *b).map(|range| match range {
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    });
    ranges.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prediction_is_rendered() {
        let share = |host, micro_batches, partial_sums, sent_bytes| HostShare {
            host,
            micro_batches,
            partial_sums,
            sent_bytes,
            received_bytes: 28_000_000,
        };
        let mut known = Scaling {
            hosts: 3,
            workers_per_host: 2,
            bits_per_second: 1e9,
            shares: vec![share(0, 5, 2, 24_000_000), share(1, 5, 3, 32_000_000), share(2, 5, 2, 24_000_001)],
            step_seconds: 4.5,
            compute_seconds: 3.0,
            communication_seconds: 1.0,
            latency_seconds: 0.001,
            update_seconds: 0.5,
            overlapped_step_seconds: 3.5,
            tok_per_sec: 1024.0,
            overlapped_tok_per_sec: 1365.3,
            efficiency: 0.667,
            overlapped_efficiency: 0.889,
            most_efficiency: 0.889,
            ..Scaling::default()
        };
        insta::assert_snapshot!(known.render(80), @"
        Hosts    3 like this one, each with 2 workers and a network of 1.0 Gbit/s
        A step   4.5 s: 3.0 s of computing, then 1.0 s of communication, since most
                 gradients exist only at the end, 1.0 ms of latency, and 500 ms of
                 updating; 3.5 s if the first two overlapped entirely
        Rate     1.0 k tok/s, 67 % of 3 times one host; 1.4 k tok/s, 89 % if both
                 overlapped entirely
        90 %     never, however large micro-batches are: their number leaves workers
                 idle, and at most 89 % are possible

        host  micro-batches  partial sums  sends per step  receives per step
        0, 2              5             2         24.0 MB            28.0 MB
        1                 5             3         32.0 MB            28.0 MB
        ");
        known.shares.iter_mut().take(2).for_each(|share| (share.micro_batches, share.partial_sums) = (0, 0));
        known.tokens_for_90_percent = Some(65_536);
        let said = known.render(80);
        assert!(said.contains("Idle     hosts 0-1 get no micro-batch: raise `pack.micro_batches`"), "{said}");
        assert!(said.contains("90 %     from 65.5 k tokens per step on"), "{said}");
        assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
        assert_eq!(numbers(&[0, 2, 3, 4, 7, 8]), "0, 2-4, 7-8");
    }
}
