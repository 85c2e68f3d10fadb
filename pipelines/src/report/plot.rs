//! Line plots as inline SVG: the same size on the page with 10 and with 100,000 points.
use super::html::escape;
use serde_json::json;
use std::fmt::Write;

/// Columns of the plot that a line is thinned to.
const BINS: usize = 500;
/// Width and height of a drawing, of one that is as wide as the page, and of the room around the axes.
const SIZE: (f64, f64) = (560.0, 230.0);
const WIDE: (f64, f64) = (1136.0, 300.0);
const LEFT: f64 = 52.0;
const TOP: f64 = 8.0;
const RIGHT: f64 = 16.0;
const BOTTOM: f64 = 22.0;
/// With at least this many points, a fraction of outliers may lie outside the vertical range.
const CLIP_FROM: usize = 50;

/// How a line is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Faint: what was measured at every step. Thinned so that its least and largest values stay.
    Raw,
    /// Strong: what the eye should follow.
    Smooth,
    /// Strong, in another colour, each point marked where they are few.
    Marked,
    /// Strong, each point marked where they are few, in the colour of the variant with this index.
    Of(usize),
    /// Points that are not connected.
    Points,
}

/// Colours of variants in the style sheet.
const COLORS: [&str; 8] = ["of0", "of1", "of2", "of3", "of4", "of5", "of6", "of7"];

/// A line of a plot.
#[derive(Clone, Debug)]
pub struct Series {
    /// What it is, for the legend.
    pub name: String,
    /// How it is drawn.
    pub style: Style,
    /// Ascending in x. What is not finite is left out.
    pub points: Vec<(f64, f64)>,
}

/// A plot.
#[derive(Clone, Debug)]
pub struct Plot {
    /// What it shows.
    pub title: &'static str,
    /// What its values are counted in.
    pub unit: &'static str,
    /// What it runs along, a whole number.
    pub along: &'static str,
    /// Is it as wide as the page?
    pub wide: bool,
    /// Is zero part of the scale?
    pub from_zero: bool,
    /// May the scale leave outliers out (above the 99th and below the 1st percentile)?
    pub clip: bool,
    /// The lines, the first one at the bottom.
    pub series: Vec<Series>,
}

impl Series {
    /// A line without the points that cannot be drawn.
    pub fn new(name: impl Into<String>, style: Style, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let points = points.into_iter().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
        Self { name: name.into(), style, points }
    }

    /// The points that are drawn.
    fn thinned(&self) -> Vec<(f64, f64)> {
        match self.style {
            Style::Raw => thin(&self.points, BINS, extremes),
            Style::Smooth | Style::Marked | Style::Of(_) | Style::Points => thin(&self.points, BINS, last),
        }
    }

    fn class(&self) -> &'static str {
        match self.style {
            Style::Raw => "raw",
            Style::Smooth => "smooth",
            Style::Marked => "marked",
            Style::Of(index) => COLORS[index % COLORS.len()],
            Style::Points => COLORS[6],
        }
    }
}

/// Means over `width` points around each point. At the start of a run, which is steep, as far to one side as to the
/// other; at its end over what there is.
pub fn smoothed(points: &[(f64, f64)], width: usize) -> Vec<(f64, f64)> {
    let half = width / 2;
    let mut sums = vec![0.0];
    for (_, y) in points {
        sums.push(sums[sums.len() - 1] + y);
    }
    let mean = |i: usize| {
        let (from, to) = (i.saturating_sub(half), points.len().min(i + half.min(i) + 1));
        (sums[to] - sums[from]) / (to - from) as f64
    };
    points.iter().enumerate().map(|(i, (x, _))| (*x, mean(i))).collect()
}

/// At most `bins` groups of neighbours, each replaced by what `keep` leaves of it. The last point always stays.
fn thin(points: &[(f64, f64)], bins: usize, keep: fn(&[(f64, f64)], &mut Vec<(f64, f64)>)) -> Vec<(f64, f64)> {
    if points.len() <= bins {
        return points.to_vec();
    }
    let mut kept = Vec::new();
    for bin in 0..bins {
        keep(&points[bin * points.len() / bins..(bin + 1) * points.len() / bins], &mut kept);
    }
    if kept.last() != points.last() {
        kept.extend(points.last());
    }
    kept
}

fn last(bin: &[(f64, f64)], kept: &mut Vec<(f64, f64)>) {
    kept.extend(bin.last());
}

fn extremes(bin: &[(f64, f64)], kept: &mut Vec<(f64, f64)>) {
    let least = (0..bin.len()).min_by(|a, b| bin[*a].1.total_cmp(&bin[*b].1));
    let most = (0..bin.len()).max_by(|a, b| bin[*a].1.total_cmp(&bin[*b].1));
    if let (Some(least), Some(most)) = (least, most) {
        kept.push(bin[least.min(most)]);
        if least != most {
            kept.push(bin[least.max(most)]);
        }
    }
}

/// A scale from data to drawing.
#[derive(Clone, Copy, Debug)]
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        (low <= high).then_some(Self { low, high })
    }

    /// Where there is no extent, some.
    fn widened(self) -> Self {
        let Self { low, high } = self;
        let room = if high > low { (high - low) * 0.04 } else { (high.abs() * 0.1).max(1e-9) };
        Self { low: low - room, high: high + room }
    }

    /// 0 to 1; what lies beyond is moved to the end.
    fn place(self, value: f64) -> f64 {
        if self.high > self.low { ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0) } else { 0.5 }
    }

    /// Round numbers inside it, about `wanted` of them.
    fn ticks(self, wanted: usize) -> Vec<f64> {
        let rough = (self.high - self.low) / wanted.max(1) as f64;
        if !rough.is_finite() || rough <= 0.0 {
            return vec![self.low];
        }
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough).unwrap_or(rough);
        let first = (self.low / step).ceil() as i64;
        (first..).map(|i| i as f64 * step).take_while(|v| *v <= self.high + step * 1e-9).take(wanted * 3).collect()
    }
}

impl Plot {
    /// The plot as a `<figure>`; for the page's script, its points are in `data-plot`.
    pub fn figure(&self) -> String {
        let drawn: Vec<(&Series, Vec<(f64, f64)>)> =
            self.series.iter().filter(|s| !s.points.is_empty()).map(|s| (s, s.thinned())).collect();
        let unit = if self.unit.is_empty() { String::new() } else { format!(" <small>{}</small>", escape(self.unit)) };
        let title = format!("<strong>{}</strong>{unit}", escape(self.title));
        let all = || drawn.iter().flat_map(|(_, points)| points);
        let (Some(x), Some(y)) = (Scale::of(all().map(|p| p.0)), self.vertical()) else {
            return format!(
                "<figure><figcaption>{title}</figcaption><p class=\"none\">nothing measured</p></figure>\n"
            );
        };
        let size = if self.wide { WIDE } else { SIZE };
        let (width, height) = (size.0 - LEFT - RIGHT, size.1 - TOP - BOTTOM);
        let at = |(px, py): (f64, f64)| (LEFT + x.place(px) * width, TOP + (1.0 - y.place(py)) * height);
        let mut svg = axes(self.along, x, y, width, height);
        for (series, points) in &drawn {
            svg += &line(series, points.iter().map(|p| at(*p)).collect());
        }
        let _ = write!(
            svg,
            "<line class=\"cursor\" x1=\"0\" x2=\"0\" y1=\"{TOP}\" y2=\"{:.1}\" visibility=\"hidden\"/>",
            TOP + height
        );
        let keys: String = drawn.iter().map(|(series, points)| key(series, points)).collect();
        let data = json!({
            "x": [x.low, x.high],
            "left": LEFT,
            "width": width,
            "total": size.0,
            "series": drawn.iter().map(|(_, points)| json!({
                "x": points.iter().map(|p| p.0).collect::<Vec<_>>(),
                "y": points.iter().map(|p| rounded(p.1)).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
        });
        format!(
            "<figure{} data-plot=\"{}\"><figcaption>{title}<span class=\"at\"></span>{keys}</figcaption>\n\
             <svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\"><title>{}</title>{svg}</svg></figure>\n",
            if self.wide { " class=\"wide\"" } else { "" },
            escape(&data.to_string()),
            size.0,
            size.1,
            escape(self.title),
            escape(&self.told()),
        )
    }

    fn vertical(&self) -> Option<Scale> {
        let values = |series: &Series| {
            let mut ys: Vec<f64> = series.points.iter().map(|p| p.1).collect();
            if self.clip && ys.len() >= CLIP_FROM {
                ys.sort_by(f64::total_cmp);
                ys = ys[ys.len() / 100..ys.len() - ys.len() / 100].to_vec();
            }
            ys
        };
        let scale = Scale::of(self.series.iter().flat_map(values))?;
        let wide = scale.widened();
        Some(match self.from_zero && scale.low >= 0.0 {
            true => Scale { low: 0.0, high: if scale.high > 0.0 { wide.high } else { 1.0 } },
            false => wide,
        })
    }

    /// In words, for those who cannot see it and for the pointer that rests on it.
    fn told(&self) -> String {
        let along = self.along;
        let mut lines =
            vec![if self.unit.is_empty() { self.title.into() } else { format!("{}, {}", self.title, self.unit) }];
        for series in self.series.iter().filter(|series| !series.points.is_empty()) {
            let (first, last) = (series.points[0], series.points[series.points.len() - 1]);
            let range = Scale::of(series.points.iter().map(|p| p.1)).unwrap_or(Scale { low: first.1, high: first.1 });
            lines.push(format!(
                "{}: {} at {along} {}, {} at {along} {}; from {} to {}",
                series.name,
                number(first.1),
                first.0,
                number(last.1),
                last.0,
                number(range.low),
                number(range.high)
            ));
        }
        lines.join("\n")
    }
}

fn axes(along: &str, x: Scale, y: Scale, width: f64, height: f64) -> String {
    let mut svg = String::new();
    let (right, bottom) = (LEFT + width, TOP + height);
    for tick in y.ticks(5) {
        let at = TOP + (1.0 - y.place(tick)) * height;
        let (label, text) = (number(tick), at + 3.5);
        let _ = write!(svg, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>");
        let _ = write!(svg, "<text class=\"y\" x=\"{:.1}\" y=\"{text:.1}\">{label}</text>", LEFT - 6.0);
    }
    // What it runs along is whole.
    for tick in x.ticks(6).into_iter().filter(|tick| tick.fract() == 0.0) {
        let at = LEFT + x.place(tick) * width;
        let _ = write!(svg, "<text class=\"x\" x=\"{at:.1}\" y=\"{:.1}\">{}</text>", bottom + 15.0, number(tick));
    }
    let _ = write!(svg, "<text class=\"y\" x=\"{:.1}\" y=\"{:.1}\">{along}</text>", LEFT - 10.0, bottom + 15.0);
    let _ = write!(svg, "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{right:.1}\" y1=\"{bottom:.1}\" y2=\"{bottom:.1}\"/>");
    svg
}

fn line(series: &Series, points: Vec<(f64, f64)>) -> String {
    let class = series.class();
    let mut path = String::new();
    for (i, (x, y)) in points.iter().enumerate() {
        let _ = write!(path, "{}{x:.1} {y:.1}", if i == 0 { "M" } else { "L" });
    }
    let apart = series.style == Style::Points;
    let mut svg = if apart { String::new() } else { format!("<path class=\"{class}\" d=\"{path}\"/>") };
    if points.len() == 1 || apart || matches!(series.style, Style::Marked | Style::Of(_)) && points.len() <= 40 {
        for (x, y) in &points {
            let _ = write!(svg, "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>");
        }
    }
    svg
}

fn key(series: &Series, points: &[(f64, f64)]) -> String {
    let last = points.last().map_or(String::new(), |p| number(p.1));
    let (class, name) = (series.class(), escape(&series.name));
    format!("<span class=\"key {class}\">{name} <output>{last}</output></span>")
}

/// Five significant digits are more than a screen has.
fn rounded(value: f64) -> f64 {
    format!("{value:.4e}").parse().unwrap_or(value)
}

/// A number as short as its axis needs it: `0.003`, `6.12`, `48,729` as `48.7 k`, `3.0e-5`.
pub fn number(value: f64) -> String {
    let size = value.abs();
    let plain = |text: String| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    };
    match size {
        _ if size < 1e-12 => "0".into(),
        _ if size >= 1e6 => plain(format!("{:.2}", value / 1e6)) + " M",
        _ if size >= 1e4 => plain(format!("{:.1}", value / 1e3)) + " k",
        _ if size >= 1e3 => plain(format!("{value:.0}")),
        _ if size >= 1e-3 => plain(format!("{value:.*}", (3 - size.log10().floor() as i32).max(0) as usize)),
        _ => format!("{value:.1e}").replace(".0e", "e"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plot(points: Vec<(f64, f64)>) -> Plot {
        let series = vec![
            Series::new("batch", Style::Raw, points.clone()),
            Series::new("mean", Style::Smooth, smoothed(&points, 9)),
        ];
        Plot { title: "Loss", unit: "nats", along: "step", wide: false, from_zero: false, clip: true, series }
    }

    #[test]
    fn its_size_does_not_grow_with_the_run() {
        let curve = |n: usize| plot((1..=n).map(|i| (i as f64, 9.0 / (i as f64).sqrt() + (i % 7) as f64)).collect());
        let (short, long, longer) = (curve(10).figure(), curve(20_000).figure(), curve(100_000).figure());
        assert!(short.len() < 4_000, "{}", short.len());
        assert!(long.len() < 90_000 && longer.len() < 90_000, "{} {}", long.len(), longer.len());
    }

    #[test]
    fn peaks_outlive_thinning() {
        let mut points: Vec<(f64, f64)> = (0..100_000).map(|i| (i as f64, 1.0)).collect();
        points[77_777].1 = 50.0;
        let kept = Series::new("x", Style::Raw, points.clone()).thinned();
        assert!(kept.contains(&(77_777.0, 50.0)) && kept.last() == points.last() && kept.len() <= 2 * BINS + 1);
        assert!(kept.windows(2).all(|pair| pair[0].0 < pair[1].0), "in order");
    }

    #[test]
    fn one_point_none_and_what_is_no_number() {
        assert!(plot(vec![(1.0, 3.0)]).figure().contains("<circle"));
        assert!(plot(vec![]).figure().contains("nothing measured"));
        let figure = plot(vec![(1.0, 3.0), (2.0, f64::NAN), (3.0, f64::INFINITY), (4.0, 2.0)]).figure();
        assert!(!figure.contains("NaN") && !figure.contains("inf"), "{figure}");
        assert!(plot(vec![(1.0, 0.0), (2.0, 0.0)]).figure().contains("<path"));
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 3e-4, 0.003, 0.0125, 6.1247, 48.0, 150.0, 4_871.0, 48_729.0, 1_250_000.0, -2.5].map(number);
        assert_eq!(shown, ["0", "3e-4", "0.003", "0.0125", "6.125", "48", "150", "4871", "48.7 k", "1.25 M", "-2.5"]);
    }

    #[test]
    fn means_keep_a_slope() {
        let slope: Vec<(f64, f64)> = (0..20).map(|i| (i as f64, 2.0 * i as f64)).collect();
        let means = smoothed(&slope, 7);
        assert!(means[..17].iter().zip(&slope).all(|(a, b)| (a.1 - b.1).abs() < 1e-9));
        assert_eq!(means[19].1, 35.0, "of the last four");
    }

    proptest! {
        #[test]
        fn ticks_are_inside_and_not_too_many(low in -1e9..1e9f64, extent in 1e-6..1e9f64) {
            let scale = Scale { low, high: low + extent };
            let ticks = scale.ticks(5);
            prop_assert!(ticks.len() <= 15);
            prop_assert!(ticks.iter().all(|t| *t >= low - extent * 1e-6 && *t <= low + extent * (1.0 + 1e-6)));
        }

        #[test]
        fn everything_is_drawn_inside(ys in proptest::collection::vec(-1e6..1e6f64, 1..300)) {
            let figure = plot(ys.iter().enumerate().map(|(i, y)| (i as f64, *y)).collect()).figure();
            let paths = figure.split(" d=\"").skip(1).filter_map(|rest| rest.split('"').next());
            for pair in paths.flat_map(|path| path.split(['M', 'L']).skip(1)) {
                let (x, y) = pair.split_once(' ').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                prop_assert!((LEFT - 0.1..=SIZE.0 - RIGHT + 0.1).contains(&x), "{x}");
                prop_assert!((TOP - 0.1..=SIZE.1 - BOTTOM + 0.1).contains(&y), "{y}");
            }
        }
    }
}
