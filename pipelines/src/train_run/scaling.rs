//! What a run on several hosts would do: how its micro-batches are divided, what is sent, and how long a step takes.
//!
//! Every host has a copy of all parameters and updates it. Per step, the process of a host sends one partial sum per
//! section and largest node of the summation tree among its leaves to the section's home process, which sends the total
//! to all others.
use crate::show::{HostShare, Scaling};
use contract::{BatchShape, Section, leaves_of};
use std::str::FromStr;
use std::time::Duration;
use train::reduce::tree::largest_nodes;

/// Efficiency for which the tokens per step are given.
const GOAL: f64 = 0.9;

/// The part of a network's rate that TCP has for what it carries, in frames of 1,500 bytes: 1,448 of the 1,538 bytes
/// that a frame takes on the wire.
const PAYLOAD: f64 = 1448.0 / 1538.0;

/// Messages of a step that are sent one after the other: partial sums, totals, norms, and whether it is the last step.
/// Measured, since connections begin slowly after a pause: docs/scaling.md.
const MESSAGES: u32 = 10;

/// The network of a host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Network {
    /// Its rate, in bits per second and direction.
    pub bits_per_second: f64,
    /// The part of it that is left for what connections carry.
    pub payload: f64,
}

impl Network {
    /// One of so many bits per second on the wire.
    fn of_wire(bits_per_second: f64) -> Self {
        Self { bits_per_second, payload: PAYLOAD }
    }

    /// One on which connections carry so many bits per second.
    pub fn of_payload(bits_per_second: f64) -> Self {
        Self { bits_per_second, payload: 1.0 }
    }

    /// The time that so many bytes take.
    fn seconds(&self, bytes: u64) -> f64 {
        bytes as f64 * 8.0 / (self.bits_per_second * self.payload)
    }
}

impl FromStr for Network {
    type Err = String;

    /// Reads `100mbit`, `2.5gbit`; upper and lower case are the same.
    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_lowercase();
        let at = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
        let (number, unit) = lower.split_at(at);
        let number = number.parse::<f64>().ok().filter(|number| *number > 0.0 && number.is_finite());
        match (number, unit) {
            (Some(number), "mbit") => Ok(Self::of_wire(number * 1e6)),
            (Some(number), "gbit") => Ok(Self::of_wire(number * 1e9)),
            (Some(number), unit) => {
                let unit = if unit.trim().starts_with('g') { "gbit" } else { "mbit" };
                Err(format!("write bits per second with the unit mbit or gbit: {number}{unit}?"))
            }
            (None, _) => Err("write a number of bits per second with the unit mbit or gbit, for example 1gbit".into()),
        }
    }
}

/// Several hosts, each like this one.
#[derive(Clone, Copy, Debug)]
pub struct Hosts {
    /// Their number.
    pub count: usize,
    /// The network of each.
    pub network: Network,
    /// How long a message is on its way from one to another.
    pub latency: Duration,
}

/// What the work of a step takes on a host.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Workers of the host.
    pub workers: usize,
    /// Seconds that a worker takes for a micro-batch while the others are busy too.
    pub micro_batch: f64,
    /// Seconds in which the workers update all parameters.
    pub update: f64,
}

impl Times {
    /// Seconds for so many micro-batches.
    fn micro_batches(&self, leaves: u32) -> f64 {
        (leaves as usize).div_ceil(self.workers) as f64 * self.micro_batch
    }
}

/// What a step costs on `hosts`. `sections`: those of a graph on as many processes.
pub fn scaling(hosts: Hosts, sections: &[Section], shape: &BatchShape, times: Times) -> Scaling {
    let Hosts { count, network, latency } = hosts;
    let latency = if count > 1 { (latency * MESSAGES).as_secs_f64() } else { 0.0 };
    let (shares, exchange_bytes) = shares(count, sections, shape.micro_batches);
    let most_partial_sums = shares.iter().map(|share| share.partial_sums).max().unwrap_or_default();
    let busiest = shares.iter().map(|share| share.micro_batches).max().unwrap_or_default();
    let (alone, compute) = (times.micro_batches(shape.micro_batches), times.micro_batches(busiest));
    let (update, communication, n) = (times.update, network.seconds(exchange_bytes), count as f64);
    let (one_host, step, overlapped) =
        (alone + update, compute + communication + latency + update, compute.max(communication) + latency + update);
    // With k times the tokens in as many micro-batches, the efficiency is
    // (k alone + update) / n (k compute + communication + latency + update).
    let spare = alone - GOAL * n * compute;
    let larger = (GOAL * n * (communication + latency + update) - update).max(0.0) / spare;
    let tokens = shape.tokens() as f64;
    Scaling {
        hosts: count,
        workers_per_host: times.workers,
        bits_per_second: network.bits_per_second,
        shares,
        most_partial_sums,
        exchange_bytes,
        tokens_per_step: shape.tokens(),
        one_host_step_seconds: one_host,
        compute_seconds: compute,
        update_seconds: update,
        communication_seconds: communication,
        latency_seconds: latency,
        step_seconds: step,
        overlapped_step_seconds: overlapped,
        tok_per_sec: tokens / step,
        overlapped_tok_per_sec: tokens / overlapped,
        efficiency: one_host / (n * step),
        overlapped_efficiency: one_host / (n * overlapped),
        most_efficiency: alone / (n * compute),
        tokens_for_90_percent: (spare > 1e-9 * alone).then(|| (larger * tokens).round() as u64),
    }
}

/// Each host's part of a step, and the bytes of the slowest way of partial sums plus those of the slowest of totals.
fn shares(count: usize, sections: &[Section], micro_batches: u32) -> (Vec<HostShare>, u64) {
    let bytes = |at_home: &dyn Fn(usize) -> bool| -> u64 {
        let elements = sections.iter().filter(|section| at_home(section.home as usize)).map(|s| s.elements.len());
        (elements.sum::<usize>() * size_of::<f32>()) as u64
    };
    let all = bytes(&|_| true);
    let even = vec![1; count];
    let own: Vec<_> = (0..count).map(|host| leaves_of(host, &even, micro_batches)).collect();
    let sums: Vec<u64> = own.iter().map(|leaves| largest_nodes(micro_batches, leaves) as u64).collect();
    let (mut shares, mut partial, mut total) = (Vec::new(), 0, 0);
    for (host, leaves) in own.iter().enumerate() {
        let home = bytes(&|home| home == host);
        let others: u64 = sums.iter().sum::<u64>() - sums[host];
        let [partial_sent, partial_received] = [(all - home) * sums[host], home * others];
        let [total_sent, total_received] = [home * (count as u64 - 1), all - home];
        partial = partial.max(partial_sent).max(partial_received);
        total = total.max(total_sent).max(total_received);
        shares.push(HostShare {
            host,
            micro_batches: leaves.end - leaves.start,
            partial_sums: sums[host],
            sent_bytes: partial_sent + total_sent,
            received_bytes: partial_received + total_received,
        });
    }
    (shares, partial + total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::{TensorUpdate, Updates};

    /// Of `tensors` tensors of 1,000 elements each, with a second per micro-batch of 256 tokens on two workers.
    fn of(hosts: usize, tensors: usize, micro_batches: u32, bits_per_second: f64) -> Scaling {
        let update = TensorUpdate { elements: 1000, cost: 1, elementwise: true };
        let sections = Updates { tensors: vec![update; tensors], precision: None }.sections(2, hosts);
        let shape = BatchShape { micro_batches, lanes: 2, sequences: 2, length: 128 };
        let times = Times { workers: 2, micro_batch: 1.0, update: 0.0 };
        let network = Network::of_payload(bits_per_second);
        scaling(Hosts { count: hosts, network, latency: Duration::ZERO }, &sections, &shape, times)
    }

    fn of_hosts<T>(scaling: &Scaling, what: fn(&HostShare) -> T) -> Vec<T> {
        scaling.shares.iter().map(what).collect()
    }

    #[test]
    fn two_hosts_exchange_half_of_their_gradients_and_of_the_totals() {
        let two = of(2, 4, 16, 128e3);
        // 8 P (N - 1) / N with P = 4,000.
        assert_eq!(of_hosts(&two, |share| (share.sent_bytes, share.received_bytes)), [(16_000, 16_000); 2]);
        assert_eq!((two.most_partial_sums, two.exchange_bytes, two.tokens_per_step), (1, 16_000, 4096));
        assert_eq!([two.one_host_step_seconds, two.compute_seconds, two.communication_seconds], [8.0, 4.0, 1.0]);
        assert_eq!([two.step_seconds, two.overlapped_step_seconds], [5.0, 4.0]);
        assert_eq!([two.tok_per_sec, two.efficiency], [819.2, 0.8]);
        assert_eq!([two.overlapped_tok_per_sec, two.overlapped_efficiency, two.most_efficiency], [1024.0, 1.0, 1.0]);
        // 9 seconds of computing beside one of communication.
        assert_eq!(two.tokens_for_90_percent, Some(4096 * 9 / 4));
    }

    #[test]
    fn any_power_of_two_sends_as_the_formula_says() {
        for hosts in [2, 4, 8, 16] {
            let scaling = of(hosts, 16, 16, 1e9);
            let bytes = 8 * 16_000 * (hosts as u64 - 1) / hosts as u64;
            assert_eq!(
                of_hosts(&scaling, |share| (share.sent_bytes, share.received_bytes)),
                vec![(bytes, bytes); hosts]
            );
            assert_eq!(scaling.exchange_bytes, bytes, "{hosts}");
        }
        let one = of(1, 16, 16, 1e9);
        assert_eq!((one.exchange_bytes, one.efficiency, one.tokens_for_90_percent), (0, 1.0, Some(0)));
    }

    #[test]
    fn three_hosts_send_several_partial_sums() {
        // Leaves 0..5, 5..10 and 10..16 of 16 are 0..4 4; 5 6..8 8..10; 10..12 12..16.
        let three = of(3, 3, 16, 256e3);
        assert_eq!(of_hosts(&three, |share| share.micro_batches), [5, 5, 6]);
        assert_eq!(of_hosts(&three, |share| share.partial_sums), [2, 3, 2]);
        // Of 12,000 bytes each host is at home to 4,000: partial sums, then totals.
        let sent = [8000 * 2 + 2 * 4000, 8000 * 3 + 2 * 4000, 8000 * 2 + 2 * 4000];
        let received = [4000 * 5 + 8000, 4000 * 4 + 8000, 4000 * 5 + 8000];
        assert_eq!(of_hosts(&three, |share| share.sent_bytes), sent);
        assert_eq!(of_hosts(&three, |share| share.received_bytes), received);
        assert_eq!(three.exchange_bytes, 24_000 + 8_000);
        assert_eq!([three.one_host_step_seconds, three.compute_seconds, three.step_seconds], [8.0, 3.0, 4.0]);
        assert_eq!(three.efficiency, 8.0 / 12.0);
        assert_eq!((three.most_efficiency, three.tokens_for_90_percent), (8.0 / 9.0, None));
    }

    #[test]
    fn every_host_updates_all_parameters() {
        let updates =
            Updates { tensors: vec![TensorUpdate { elements: 4000, cost: 1, elementwise: true }], precision: None };
        let shape = BatchShape { micro_batches: 16, lanes: 2, sequences: 2, length: 128 };
        let times = Times { workers: 2, micro_batch: 1.0, update: 3.0 };
        let hosts = |count| Hosts { count, network: Network::of_payload(1e15), latency: Duration::ZERO };
        let of = |count| scaling(hosts(count), &updates.sections(2, count), &shape, times);
        let (one, four) = (of(1), of(4));
        assert_eq!([one.step_seconds, one.one_host_step_seconds, one.efficiency], [11.0, 11.0, 1.0]);
        assert_eq!(one.tokens_for_90_percent, Some(0));
        let rounded = |value: f64| (value * 1e3).round() / 1e3;
        assert_eq!([four.compute_seconds, four.update_seconds, rounded(four.step_seconds)], [2.0, 3.0, 5.0]);
        assert_eq!(rounded(four.efficiency), 0.55);
        // (8 k + 3) / 4 (2 k + 3) is 0.9 at k = 9.75.
        assert_eq!(four.tokens_for_90_percent.map(|tokens| tokens / 64), Some(4096 * 39 / 4 / 64));
        // Ten messages, one after the other.
        let far = |count| Hosts { latency: Duration::from_millis(3), ..hosts(count) };
        let of = |count| scaling(far(count), &updates.sections(2, count), &shape, times);
        assert_eq!([of(1).step_seconds, rounded(of(4).step_seconds), of(4).latency_seconds], [11.0, 5.03, 0.03]);
    }

    #[test]
    fn a_network_carries_less_than_its_wire() {
        let network: Network = "1gbit".parse().unwrap();
        assert_eq!((network.seconds(117_685_305) * 1e3).round(), 1000.0);
    }

    #[test]
    fn a_network_is_a_number_of_bits_per_second() {
        for (text, bits) in [("100mbit", 1e8), ("1gbit", 1e9), ("10Gbit", 1e10), ("2.5gbit", 2.5e9)] {
            assert_eq!(text.parse(), Ok(Network::of_wire(bits)));
        }
        for (text, closest) in [
            ("1gb", "1gbit?"),
            ("1 gbit/s", "1gbit?"),
            ("100", "100mbit?"),
            ("2.5gbps", "2.5gbit?"),
            ("0gbit", "example 1gbit"),
            ("-1gbit", "example 1gbit"),
            ("1e9999gbit", "1mbit?"),
            ("fast", "example 1gbit"),
            ("", "example 1gbit"),
        ] {
            let error = text.parse::<Network>().unwrap_err();
            assert!(error.ends_with(closest), "{text}: {error}");
        }
    }
}
