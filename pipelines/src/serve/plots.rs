//! The plot of a metric of several runs, as a browser asks for it: as fine as its pixels.
use super::library::Library;
use crate::curves::{Point, smoothed, window};
use crate::report::metrics::plot_of;
use crate::report::plot::{Detail, Series, Style};
use crate::run_files::Along;
use anyhow::Result;
use rayon::prelude::*;
use serde_json::Value;

/// Points of all lines of a plot together, about.
const POINTS: usize = 60_000;
/// A line has at least so many buckets, and at most.
const BUCKETS: (usize, usize) = (40, 2000);

/// Curves of more points are smoothed if that is asked for.
const SMOOTHED: usize = 100;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asked {
    /// The metric.
    pub metric: String,
    /// Names of runs, in the order of the lines.
    pub runs: Vec<String>,
    /// What the curves run along.
    pub along: Along,
    /// Whether that axis is logarithmic.
    pub log_x: bool,
    /// The part of the axis that is shown.
    pub range: Option<(f64, f64)>,
    /// Pixels of the axis.
    pub width: usize,
    /// Whether curves of many points are means over neighbours.
    pub smooth: bool,
}

impl Asked {
    /// From the query of a URL.
    ///
    /// # Errors
    /// A message about what is wrong.
    pub fn of(query: &str) -> Result<Self, String> {
        let mut asked = Self { width: 600, ..Self::default() };
        let (mut from, mut to) = (None, None);
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let number = || value.parse::<f64>().ok().filter(|n| n.is_finite());
            let number = || number().ok_or_else(|| format!("`{key}` must be a number, is `{value}`"));
            match &*key {
                "metric" => asked.metric = value.into_owned(),
                "run" => asked.runs.push(value.into_owned()),
                "x" => {
                    let known = Along::ALL.into_iter().find(|along| along.name() == value);
                    asked.along = known.ok_or_else(|| format!("`x` is step, tokens or seconds, not `{value}`"))?;
                }
                "log_x" => asked.log_x = is_on(&key, &value)?,
                "smooth" => asked.smooth = is_on(&key, &value)?,
                "from" => from = Some(number()?),
                "to" => to = Some(number()?),
                "width" => asked.width = number()?.max(0.0) as usize,
                _ => return Err(format!("there is no parameter `{key}`")),
            }
        }
        asked.range = match (from, to) {
            (None, None) => None,
            (Some(from), Some(to)) if from < to => Some((from, to)),
            _ => return Err("`from` and `to` belong together, and `from` is less".into()),
        };
        match asked.metric.is_empty() {
            true => Err("`metric` is missing, for example metric=loss".into()),
            false => Ok(asked),
        }
    }

    /// The data of the plot. Runs that are gone have no line.
    ///
    /// # Errors
    /// If metrics cannot be read.
    pub fn plot(&self, library: &Library) -> Result<Value> {
        let line = |name: &String| -> Result<Option<Series>> {
            let Some(run) = library.run(name) else { return Ok(None) };
            Ok(self.line(name, run.curve(&self.metric, self.along)?))
        };
        let lines: Vec<Option<Series>> = self.runs.par_iter().map(line).collect::<Result<_>>()?;
        let mut lines: Vec<Series> = lines.into_iter().flatten().collect();
        lines.extend(self.spikes(library)?);
        let share = POINTS / lines.len().max(1) / 2;
        let buckets = share.min(self.width).clamp(BUCKETS.0, BUCKETS.1);
        let detail = if self.log_x { Detail { linear: 0, log: buckets } } else { Detail { linear: buckets, log: 0 } };
        let mut plot = plot_of(&self.metric, self.along.name(), lines);
        // Outliers of single steps are no part of means.
        plot.clip &= !self.smooth;
        Ok(plot.data(detail))
    }

    /// The spikes of the loss, if it is that of one run.
    fn spikes(&self, library: &Library) -> Result<Option<Series>> {
        let [name] = &self.runs[..] else { return Ok(None) };
        let Some(run) = library.run(name).filter(|_| self.metric == "loss") else { return Ok(None) };
        let points =
            run.history(|history| history.spikes(self.along))?.into_iter().filter(|point| !self.log_x || point.0 > 0.0);
        let is_shown = |point: &Point| self.range.is_none_or(|(from, to)| (from..=to).contains(&point.0));
        let points: Vec<Point> = points.filter(is_shown).collect();
        Ok((!points.is_empty()).then(|| Series::new("spike", Style::Points, points)))
    }

    fn line(&self, name: &str, points: Vec<Point>) -> Option<Series> {
        // Few points, as of validations, are what they are.
        let smooth = self.smooth && points.len() > SMOOTHED;
        let points = if smooth { smoothed(&points, window(points.len())) } else { points };
        let points: Vec<Point> = points.into_iter().filter(|point| !self.log_x || point.0 > 0.0).collect();
        let shown = match self.range {
            Some((from, to)) => within(&points, from, to),
            None => &points,
        };
        let style = match shown.len() {
            _ if smooth => Style::Smooth,
            0..=40 => Style::Marked,
            _ => Style::Raw,
        };
        (!shown.is_empty()).then(|| Series::new(name, style, shown.iter().copied()))
    }
}

fn is_on(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "0" | "1" => Ok(value == "1"),
        _ => Err(format!("`{key}` is 0 or 1, not `{value}`")),
    }
}

/// The points from `from` to `to`.
fn within(points: &[Point], from: f64, to: f64) -> &[Point] {
    let begin = points.partition_point(|point| point.0 < from);
    let end = points.partition_point(|point| point.0 <= to);
    &points[begin.min(end)..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_understood_or_rejected() {
        let asked =
            Asked::of("metric=loss&run=a%2Fb&run=c+d&x=tokens&log_x=1&from=10&to=20.5&width=300&smooth=0").unwrap();
        assert_eq!(asked.runs, ["a/b", "c d"]);
        assert_eq!(
            (asked.along, asked.log_x, asked.range, asked.width),
            (Along::Tokens, true, Some((10.0, 20.5)), 300)
        );
        for (query, piece) in [
            ("run=a", "`metric` is missing"),
            ("metric=loss&x=epoch", "step, tokens or seconds"),
            ("metric=loss&log_x=yes", "`log_x` is 0 or 1"),
            ("metric=loss&from=1", "belong together"),
            ("metric=loss&from=3&to=2", "belong together"),
            ("metric=loss&width=NaN", "`width` must be a number"),
            ("metric=loss&metrics=x", "no parameter `metrics`"),
        ] {
            let said = Asked::of(query).unwrap_err();
            assert!(said.contains(piece), "{query}: {said}");
        }
    }

    #[test]
    fn lines_are_cut_to_the_range_and_smoothed_where_points_are_many() {
        let points: Vec<Point> = (0..1000).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        let asked = Asked { range: Some((100.0, 199.0)), smooth: true, ..Asked::default() };
        let line = asked.line("a", points.clone()).unwrap();
        assert_eq!((line.points.len(), line.points[0].0, line.style), (100, 100.0, Style::Smooth));
        assert!(line.points.iter().all(|point| (0.4..0.6).contains(&point.1)), "{:?}", line.points);
        let few = asked.line("a", points[100..120].to_vec()).unwrap();
        assert_eq!((few.style, few.points[1].1), (Style::Marked, 1.0));
        assert!(asked.line("a", points[..50].to_vec()).is_none());
        let log = Asked { log_x: true, ..Asked::default() };
        assert_eq!(log.line("a", points).unwrap().points.len(), 999, "0 is on no logarithmic axis");
    }
}
