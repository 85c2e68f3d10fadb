//! A predicted run over the number of hosts, as plots: `pipeline explain --hosts --plot`.
use super::{Plot, Series, Style};
use crate::show::Scaling;

/// Rate, efficiency, time of a step, and bytes. `by_hosts`: predictions for 1, 2, … hosts.
pub fn scaling(by_hosts: &[Scaling]) -> Vec<Plot> {
    let one = by_hosts.first().map_or(0.0, |one| one.tok_per_sec);
    let line = |name: &str, style, of: &dyn Fn(&Scaling) -> f64| {
        Series::new(name, style, by_hosts.iter().map(|known| (known.hosts as f64, of(known))))
    };
    let plot = |title: &'static str, unit, series| Plot {
        title: title.into(),
        unit,
        along: "hosts",
        from_zero: true,
        series,
        ..Plot::default()
    };
    let most_sent = |known: &Scaling| known.shares.iter().map(|share| share.sent_bytes).max().unwrap_or_default();
    vec![
        plot(
            "Rate of all hosts",
            "tokens/s",
            vec![
                line("hosts times one", Style::Raw, &|known| one * known.hosts as f64),
                line("if all overlapped", Style::Marked, &|known| known.overlapped_tok_per_sec),
                line("predicted", Style::Smooth, &|known| known.tok_per_sec),
            ],
        ),
        plot(
            "Efficiency",
            "% of hosts times one",
            vec![
                line("without communication", Style::Raw, &|known| 100.0 * known.most_efficiency),
                line("if all overlapped", Style::Marked, &|known| 100.0 * known.overlapped_efficiency),
                line("predicted", Style::Smooth, &|known| 100.0 * known.efficiency),
            ],
        ),
        plot(
            "Time of a step",
            "s",
            vec![
                line("computing", Style::Raw, &|known| known.compute_seconds),
                line("communication", Style::Marked, &|known| known.communication_seconds),
                line("step", Style::Smooth, &|known| known.step_seconds),
            ],
        ),
        plot(
            "Sent per step",
            "MB",
            vec![
                line("all hosts divided by their number", Style::Marked, &|known| {
                    let all: u64 = known.shares.iter().map(|share| share.sent_bytes).sum();
                    all as f64 / known.hosts as f64 / 1e6
                }),
                line("the host that sends most", Style::Smooth, &|known| most_sent(known) as f64 / 1e6),
            ],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::HostShare;

    #[test]
    fn every_number_of_hosts_is_a_point() {
        let share = |sent_bytes| HostShare { sent_bytes, ..HostShare::default() };
        let of = |hosts, tok_per_sec, shares| Scaling { hosts, tok_per_sec, shares, ..Scaling::default() };
        let plots = scaling(&[of(1, 100.0, vec![share(0)]), of(2, 150.0, vec![share(4_000_000), share(2_000_000)])]);
        let points = |plot: usize, series: usize| plots[plot].series[series].points.clone();
        assert_eq!(points(0, 0), [(1.0, 100.0), (2.0, 200.0)]);
        assert_eq!(points(0, 2), [(1.0, 100.0), (2.0, 150.0)]);
        assert_eq!([points(3, 0), points(3, 1)], [[(1.0, 0.0), (2.0, 3.0)], [(1.0, 0.0), (2.0, 4.0)]]);
        assert!(plots.iter().all(|plot| plot.figure().contains("hosts")));
    }
}
