//! Curves in characters.
use super::View;
use crate::curves::{Keep, Point, Scale, decimated, number, smoothed, window};
use crate::run_files::Along;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Chart, Dataset, GraphType};

/// Points of a braille character in a row.
const DOTS: usize = 2;

/// A curve of a chart.
struct Curve {
    name: &'static str,
    points: Vec<Point>,
    style: Style,
    marker: Marker,
}

/// Draws the loss of training, each step and its course, and that of validation.
pub fn loss(frame: &mut Frame, area: Rect, view: &View, color: bool) {
    let raw = view.history.curve("loss", Along::Step);
    let mean = smoothed(&raw, window(raw.len()));
    let validation = view.history.curve("validation_loss", Along::Step);
    let curve = |name, points, style, marker| Curve { name, points, style, marker };
    let curves = [
        curve("step", raw, paint(color, Color::DarkGray), Marker::Braille),
        curve("mean", mean, paint(color, Color::Cyan), Marker::Braille),
        curve("validation", validation, paint(color, Color::Yellow), Marker::Dot),
    ];
    chart(frame, area, "Loss", &curves);
}

/// Draws the rate of training.
pub fn rate(frame: &mut Frame, area: Rect, view: &View, color: bool) {
    let raw = view.history.curve("tok_per_sec", Along::Step);
    let mean = smoothed(&raw, window(raw.len()));
    let curve = |name, points, style| Curve { name, points, style, marker: Marker::Braille };
    let curves = [curve("step", raw, paint(color, Color::DarkGray)), curve("mean", mean, paint(color, Color::Cyan))];
    chart(frame, area, "Tokens/s", &curves);
}

fn paint(color: bool, with: Color) -> Style {
    if color { Style::new().fg(with) } else { Style::new() }
}

fn chart(frame: &mut Frame, area: Rect, title: &'static str, curves: &[Curve]) {
    let mut legend = vec![Span::raw(format!(" {title} "))];
    for curve in curves.iter().filter(|curve| !curve.points.is_empty()) {
        let sign = if curve.marker == Marker::Dot { "•" } else { "─" };
        legend.push(Span::styled(format!("{sign} {} ", curve.name), curve.style));
    }
    let block = Block::bordered().title(Line::from(legend));
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let (Some(x), Some(y)) =
        (Scale::linear(points().map(|point| point.0)), Scale::linear(points().map(|point| point.1)))
    else {
        return frame.render_widget(block, area);
    };
    let inner = block.inner(area);
    let buckets = usize::from(inner.width) * DOTS;
    let drawn: Vec<Vec<Point>> =
        curves.iter().map(|curve| decimated(&curve.points, x, buckets, Keep::Extremes)).collect();
    let datasets = curves.iter().zip(&drawn).map(|(curve, points)| {
        // Validations are points; a line between them would hide the course.
        let kind = if curve.marker == Marker::Dot { GraphType::Scatter } else { GraphType::Line };
        Dataset::default().marker(curve.marker).graph_type(kind).style(curve.style).data(points)
    });
    let (low, high, labels) = round(y.widened(), usize::from(inner.height) / 4);
    let x_labels = [x.low, (x.low + x.high) / 2.0, x.high].map(|step| number(step.round()));
    let chart = Chart::new(datasets.collect())
        .block(block)
        .legend_position(None)
        .x_axis(Axis::default().bounds([x.low, x.high.max(x.low + 1.0)]).labels(x_labels))
        .y_axis(Axis::default().bounds([low, high]).labels(labels));
    frame.render_widget(chart, area);
}

/// The scale from a round number to a round number, and labels at equal distances.
fn round(scale: Scale, wanted: usize) -> (f64, f64, Vec<String>) {
    // There are two if as many as rows are asked for.
    let ticks = (wanted.max(2)..wanted + 10).map(|wanted| scale.ticks(wanted)).find(|ticks| ticks.len() > 1);
    let step = ticks.map_or(scale.high - scale.low, |ticks| ticks[1] - ticks[0]);
    let (first, last) = ((scale.low / step).floor() as i64, (scale.high / step).ceil() as i64);
    let labels = (first..=last).map(|i| number(i as f64 * step)).collect();
    (first as f64 * step, last as f64 * step, labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_round_and_where_they_belong() {
        let (low, high, labels) = round(Scale { low: 2.93, high: 7.1, log: false }, 3);
        assert_eq!((low, high), (2.0, 8.0));
        assert_eq!(labels, ["2", "4", "6", "8"]);
        let (low, high, labels) = round(Scale { low: 2.7e3, high: 55e3, log: false }, 2);
        assert_eq!((low, high, labels.join(" ")), (0.0, 60e3, "0 20 k 40 k 60 k".into()));
        let (low, high, labels) = round(Scale { low: -1e-9, high: 1e-9, log: false }, 1);
        assert!(low < 0.0 && high > 0.0 && labels.len() >= 2, "{labels:?}");
    }
}
