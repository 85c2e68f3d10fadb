//! Line plots: what `plot.js` draws. Of the same size with 10 and with 100,000 points.
use super::html::escape;
use crate::curves::{Keep, Point, Scale, decimated, merged, number};
use serde::Serialize;
use serde_json::{Value, json};
use std::borrow::Cow;

/// With at least this many points, a fraction of outliers may lie outside the vertical range.
const CLIP_FROM: usize = 50;
/// Of lines with at most so many points, each is marked.
const MARKED: usize = 40;

/// How a line is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Faint: what was measured at every step. Thinned so that its least and greatest values stay.
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
    pub points: Vec<Point>,
}

/// A plot.
#[derive(Clone, Debug, Default)]
pub struct Plot {
    /// What it shows.
    pub title: Cow<'static, str>,
    /// What its values are counted in.
    pub unit: &'static str,
    /// What it runs along.
    pub along: &'static str,
    /// Is it as wide as the page?
    pub wide: bool,
    /// Is zero part of the scale, if that is linear?
    pub from_zero: bool,
    /// May the scale leave outliers out (above the 99th and below the 1st percentile)?
    pub clip: bool,
    /// The lines, the first one at the bottom.
    pub series: Vec<Series>,
}

/// Into how many pieces axes are divided, in each of which as many points stay as can be seen; 0: the axis is not drawn.
#[derive(Clone, Copy, Debug)]
pub struct Detail {
    /// Of the linear axis.
    pub linear: usize,
    /// Of the logarithmic one.
    pub log: usize,
}

/// For a page that can show both.
const PAGE: Detail = Detail { linear: 500, log: 150 };

/// An axis as it is drawn.
#[derive(Serialize)]
struct Axis {
    low: f64,
    high: f64,
    log: bool,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// `whole`: only whole numbers are marked.
    fn of(scale: Option<Scale>, ticks: usize, whole: bool) -> Option<Self> {
        let Scale { low, high, log } = scale?;
        let ticks = scale?.ticks(ticks).into_iter().filter(|tick| !whole || tick.fract() == 0.0);
        Some(Self { low, high, log, ticks: ticks.map(|tick| (tick, number(tick))).collect() })
    }
}

impl Series {
    /// A line without the points that cannot be drawn.
    pub fn new(name: impl Into<String>, style: Style, points: impl IntoIterator<Item = Point>) -> Self {
        let points = points.into_iter().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
        Self { name: name.into(), style, points }
    }

    /// The points that are drawn.
    fn drawn(&self, linear: Scale, log: Option<Scale>, detail: Detail) -> Vec<Point> {
        let keep = if self.style == Style::Raw { Keep::Extremes } else { Keep::Last };
        let on = |scale: Option<Scale>, buckets: usize| match scale {
            Some(scale) if buckets > 0 => decimated(&self.points, scale, buckets, keep),
            _ => Vec::new(),
        };
        match self.points.len() <= detail.linear.max(detail.log) {
            true => self.points.clone(),
            false => merged(on(Some(linear), detail.linear), on(log, detail.log)),
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

impl Plot {
    /// The plot as a `<figure>`, whose `data-plot` the page's script draws. Without scripts it is told in words.
    pub fn figure(&self) -> String {
        let told: String = self.told().iter().map(|line| format!("<p>{}</p>", escape(line))).collect();
        format!(
            "<figure{} data-plot=\"{}\"><noscript>{told}</noscript></figure>\n",
            if self.wide { " class=\"wide\"" } else { "" },
            escape(&self.data(PAGE).to_string()),
        )
    }

    /// What the script needs to draw it.
    pub fn data(&self, detail: Detail) -> Value {
        let xs = || self.series.iter().flat_map(|series| &series.points).map(|point| point.0);
        let (linear, log) = (Scale::linear(xs()), Scale::logarithmic(xs()));
        // Steps, tokens, hosts and workers are whole.
        let whole = self.along != "seconds";
        let of = |scale: Option<Scale>, buckets: usize| Axis::of(scale.filter(|_| buckets > 0), 6, whole);
        let series = self.series.iter().filter(|series| !series.points.is_empty()).map(|series| {
            let points = linear.map_or(Vec::new(), |linear| series.drawn(linear, log, detail));
            let marked =
                points.len() == 1 || !matches!(series.style, Style::Raw | Style::Smooth) && points.len() <= MARKED;
            let apart = series.style == Style::Points;
            json!({
                "name": series.name,
                "class": series.class(),
                "marked": marked || apart,
                "apart": apart,
                "x": points.iter().map(|point| rounded(point.0, 9)).collect::<Vec<_>>(),
                "y": points.iter().map(|point| rounded(point.1, 4)).collect::<Vec<_>>(),
            })
        });
        json!({
            "title": self.title,
            "unit": self.unit,
            "along": self.along,
            "told": self.told().join("\n"),
            "x": { "linear": of(linear, detail.linear), "log": of(log, detail.log) },
            "y": {
                "linear": Axis::of(self.vertical(Scale::linear), 5, false),
                "log": Axis::of(self.vertical(Scale::logarithmic), 5, false),
            },
            "series": series.collect::<Vec<_>>(),
        })
    }

    fn vertical(&self, scale: impl Fn(std::vec::IntoIter<f64>) -> Option<Scale>) -> Option<Scale> {
        let values = |series: &Series| {
            let mut ys: Vec<f64> = series.points.iter().map(|point| point.1).collect();
            if self.clip && ys.len() >= CLIP_FROM {
                ys.sort_by(f64::total_cmp);
                ys = ys[ys.len() / 100..ys.len() - ys.len() / 100].to_vec();
            }
            ys
        };
        let values: Vec<f64> = self.series.iter().flat_map(values).collect();
        let scale = scale(values.into_iter())?;
        let wide = scale.widened();
        Some(match self.from_zero && !scale.log && scale.low >= 0.0 {
            true => Scale { low: 0.0, high: if scale.high > 0.0 { wide.high } else { 1.0 }, ..scale },
            false => wide,
        })
    }

    /// In words, for those who cannot see it.
    fn told(&self) -> Vec<String> {
        let along = self.along;
        let unit = if self.unit.is_empty() { String::new() } else { format!(", {}", self.unit) };
        let mut lines = vec![format!("{}{unit}", self.title)];
        for series in self.series.iter().filter(|series| !series.points.is_empty()) {
            let (first, last) = (series.points[0], series.points[series.points.len() - 1]);
            let range = Scale::linear(series.points.iter().map(|point| point.1));
            let (low, high) = range.map_or((first.1, last.1), |range| (range.low, range.high));
            lines.push(format!(
                "{}: {} at {along} {}, {} at {along} {}; from {} to {}",
                series.name,
                number(first.1),
                first.0,
                number(last.1),
                last.0,
                number(low),
                number(high)
            ));
        }
        if lines.len() == 1 {
            lines.push("nothing measured".into());
        }
        lines
    }
}

/// A number with so many digits after the first one, since a screen shows no more.
fn rounded(value: f64, digits: usize) -> f64 {
    format!("{value:.digits$e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curves::smoothed;
    use proptest::prelude::*;

    fn plot(points: Vec<Point>) -> Plot {
        let series = vec![
            Series::new("batch", Style::Raw, points.clone()),
            Series::new("mean", Style::Smooth, smoothed(&points, 9)),
        ];
        Plot { title: "Loss".into(), unit: "nats", along: "step", clip: true, series, ..Plot::default() }
    }

    #[test]
    fn its_size_does_not_grow_with_the_run() {
        let curve = |n: usize| plot((1..=n).map(|i| (i as f64, 9.0 / (i as f64).sqrt() + (i % 7) as f64)).collect());
        let [short, long, longer] = [10, 20_000, 100_000].map(|n| curve(n).figure().len());
        assert!(short < 4_000 && long < 60_000 && longer < 60_000, "{short} {long} {longer}");
    }

    #[test]
    fn one_point_none_and_what_is_no_number() {
        assert_eq!(plot(vec![(1.0, 3.0)]).data(PAGE)["series"][0]["marked"], true);
        let none = plot(vec![]);
        assert!(none.figure().contains("nothing measured") && none.data(PAGE)["y"]["linear"].is_null());
        let some = plot(vec![(1.0, 3.0), (2.0, f64::NAN), (3.0, f64::INFINITY), (4.0, 2.0)]).data(PAGE);
        assert_eq!((&some["series"][0]["x"], &some["series"][0]["y"]), (&json!([1.0, 4.0]), &json!([3.0, 2.0])));
        let zeros = plot(vec![(1.0, 0.0), (2.0, 0.0)]).data(PAGE);
        assert!(zeros["y"]["log"].is_null() && zeros["y"]["linear"]["low"].as_f64() < Some(0.0), "{zeros}");
    }

    #[test]
    fn scales_of_both_kinds() {
        let data = plot((1..=1000).map(|i| (i as f64, 10.0 / i as f64)).collect()).data(PAGE);
        let tick = |axis: &str, kind: &str, i: usize| data[axis][kind]["ticks"][i][1].clone();
        assert_eq!([tick("x", "linear", 1), tick("x", "log", 1), tick("y", "log", 1)], ["400", "2", "0.1"]);
        assert!(data["x"]["log"]["log"] == true && data["y"]["linear"]["log"] == false);
        let hosts = Plot { along: "hosts", ..plot(vec![(1.0, 1.0), (2.0, 2.0)]) };
        let ticks = hosts.data(PAGE)["x"]["linear"]["ticks"].clone();
        assert_eq!(ticks, json!([[1.0, "1"], [2.0, "2"]]), "there is no half host");
    }

    #[test]
    fn what_is_told_is_text() {
        let figure = Plot { title: "<b>".into(), ..plot(vec![(1.0, 2.0), (5.0, 1.0)]) }.figure();
        assert!(
            figure.contains("<p>&lt;b&gt;, nats</p><p>batch: 2 at step 1, 1 at step 5; from 1 to 2</p>"),
            "{figure}"
        );
        assert!(!figure.contains("<b>"));
    }

    proptest! {
        #[test]
        fn the_scale_holds_what_is_not_clipped(ys in proptest::collection::vec(-1e6..1e6f64, 1..300)) {
            let plot = Plot { clip: false, ..plot(ys.iter().enumerate().map(|(i, y)| (i as f64, *y)).collect()) };
            let data = plot.data(PAGE);
            let axis = &data["y"]["linear"];
            let (low, high) = (axis["low"].as_f64().unwrap(), axis["high"].as_f64().unwrap());
            for y in data["series"].as_array().unwrap().iter().flat_map(|series| series["y"].as_array().unwrap()) {
                prop_assert!((low..=high).contains(&y.as_f64().unwrap()), "{} in {}..{}", y, low, high);
            }
        }
    }
}
