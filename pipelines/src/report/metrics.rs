//! What metrics are called on pages, and how they are drawn.
use super::plot::{Plot, Series};

/// Name in `metrics.jsonl`, title, unit, whether zero is part of the scale, whether outliers may lie outside of it.
const METRICS: [(&str, &str, &str, bool, bool); 8] = [
    ("loss", "Loss", "nats per token", false, false),
    ("validation_loss", "Validation loss", "nats per token", false, false),
    ("bits_per_byte", "Bits per byte", "held-out text", false, false),
    ("learning_rate", "Learning rate", "", true, false),
    ("gradient_norm", "Gradient norm", "before clipping", true, true),
    ("tok_per_sec", "Throughput", "tokens/s", true, true),
    ("mfu", "MFU", "% of large products", true, true),
    ("data_wait_ms", "Data wait", "ms a step", true, true),
];

/// The plot of a metric. Other metrics than those above keep their names; one of a source is called `NAME/SOURCE`.
pub fn plot_of(metric: &str, along: &'static str, mut series: Vec<Series>) -> Plot {
    if metric == "mfu" {
        series.iter_mut().flat_map(|series| &mut series.points).for_each(|point| point.1 *= 100.0);
    }
    let (name, source) = metric.split_once('/').map_or((metric, None), |(name, source)| (name, Some(source)));
    let known = METRICS.iter().find(|(known, ..)| *known == name);
    let (title, unit, from_zero, clip) =
        known.map_or((name, "", false, false), |(_, title, unit, from_zero, clip)| (*title, *unit, *from_zero, *clip));
    let title = source.map_or(title.to_owned(), |source| format!("{title}, {source}")).into();
    Plot { title, unit, along, wide: false, from_zero, clip, series }
}

/// Metrics in the order in which pages show them: those above first.
pub fn sorted(mut metrics: Vec<String>) -> Vec<String> {
    let place = |name: &String| METRICS.iter().position(|(known, ..)| known == name).unwrap_or(METRICS.len());
    metrics.sort_by(|a, b| place(a).cmp(&place(b)).then(a.cmp(b)));
    metrics.dedup();
    metrics
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::plot::Style;

    #[test]
    fn metrics_of_sources_and_unknown_ones_have_titles() {
        let series = || vec![Series::new("run", Style::Raw, [(1.0, 0.5)])];
        let plot = plot_of("mfu", "step", series());
        assert_eq!((&*plot.title, plot.series[0].points[0].1), ("MFU", 50.0));
        let plot = plot_of("validation_loss/books", "tokens", series());
        assert_eq!((&*plot.title, plot.unit, plot.along), ("Validation loss, books", "nats per token", "tokens"));
        assert_eq!(plot_of("z_loss", "step", series()).title, "z_loss");
        let all = ["z", "mfu", "a", "loss", "loss"].map(str::to_owned).to_vec();
        assert_eq!(sorted(all), ["loss", "mfu", "a", "z"]);
    }
}
