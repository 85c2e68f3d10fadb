//! The metrics of a run as columns.
use crate::curves::Point;
use anyhow::Result;
use std::path::Path;
use train::record::spikes::SpikeDetector;
use train::record::{Follower, METRICS_FILE, StepLine};

/// Steps whose mean is the pace of a run.
const PACE: usize = 200;

/// What a curve runs along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Along {
    /// Steps.
    #[default]
    Step,
    /// Tokens that were trained on.
    Tokens,
    /// Time of training, without validation, in seconds.
    Seconds,
}

impl Along {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Step, Self::Tokens, Self::Seconds];

    /// The name of the axis.
    pub fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Tokens => "tokens",
            Self::Seconds => "seconds",
        }
    }
}

/// The metrics of a run, of which each [`refresh`](Self::refresh) reads what is new: 8 bytes per step and metric.
pub struct History {
    follower: Follower,
    step: Vec<f64>,
    tokens: Vec<f64>,
    seconds: Vec<f64>,
    /// When each step was done, in seconds since 1970.
    time: Vec<f64>,
    /// In the order in which they were first seen. Not a number where a step did not measure it; a column may end early.
    metrics: Vec<(String, Vec<f64>)>,
    /// The last step.
    last: Option<StepLine>,
}

impl History {
    /// The metrics of the run in `run_dir`; nothing is read yet.
    pub fn new(run_dir: &Path) -> Self {
        Self {
            follower: Follower::new(&run_dir.join(METRICS_FILE)),
            step: Vec::new(),
            tokens: Vec::new(),
            seconds: Vec::new(),
            time: Vec::new(),
            metrics: Vec::new(),
            last: None,
        }
    }

    /// Reads what the run has written since the last time, and returns it. A run that has resumed at an earlier step has
    /// other steps from there on.
    ///
    /// # Errors
    /// If its metrics cannot be read.
    pub fn refresh(&mut self) -> Result<Vec<StepLine>> {
        let change = self.follower.read()?;
        for column in [&mut self.step, &mut self.tokens, &mut self.seconds, &mut self.time] {
            column.truncate(change.keep);
        }
        self.metrics.iter_mut().for_each(|(_, column)| column.truncate(change.keep));
        change.lines.iter().for_each(|line| self.push(line));
        if change.keep + change.lines.len() == 0 {
            self.last = None;
        } else if let Some(line) = change.lines.last() {
            self.last = Some(line.clone());
        }
        Ok(change.lines)
    }

    fn push(&mut self, line: &StepLine) {
        let row = self.step.len();
        let before = self.tokens.last().copied().unwrap_or_default() as u64;
        self.step.push(line.step as f64);
        self.tokens.push(line.tokens as f64);
        self.seconds.push(self.seconds.last().copied().unwrap_or_default() + line.seconds(before));
        self.time.push(line.time);
        for (name, value) in line.scalars() {
            let column = match self.metrics.iter().position(|(known, _)| *known == name) {
                Some(index) => index,
                None => {
                    self.metrics.push((name, Vec::new()));
                    self.metrics.len() - 1
                }
            };
            let column = &mut self.metrics[column].1;
            column.resize(row, f64::NAN);
            column.push(value);
        }
    }

    /// The last step.
    pub fn last(&self) -> Option<&StepLine> {
        self.last.as_ref()
    }

    /// Number of steps.
    pub fn len(&self) -> usize {
        self.step.len()
    }

    /// Names of what was measured.
    pub fn metrics(&self) -> impl Iterator<Item = &str> {
        self.metrics.iter().map(|(name, _)| name.as_str())
    }

    /// The values of a metric by step, not a number where a step did not measure it; `None` if none did. An axis is such a
    /// column, too.
    pub fn column(&self, name: &str) -> Option<&[f64]> {
        match name {
            "step" => Some(&self.step),
            "tokens" => Some(&self.tokens),
            "seconds" => Some(&self.seconds),
            _ => self.metrics.iter().find(|(known, _)| known == name).map(|(_, column)| column.as_slice()),
        }
    }

    /// The curve of a metric, ascending; empty if it was not measured.
    pub fn curve(&self, metric: &str, along: Along) -> Vec<Point> {
        let xs = self.column(along.name()).unwrap_or_default();
        let mut points: Vec<Point> = Vec::new();
        for (x, y) in xs.iter().zip(self.column(metric).unwrap_or_default()) {
            if y.is_finite() {
                // Steps that were written twice count as the last time.
                while points.last().is_some_and(|last| last.0 >= *x) {
                    points.pop();
                }
                points.push((*x, *y));
            }
        }
        points
    }

    /// The steps whose loss spikes, with their losses.
    pub fn spikes(&self, along: Along) -> Vec<Point> {
        let mut detector = SpikeDetector::default();
        let steps = self.curve("loss", Along::Step).into_iter().zip(self.curve("loss", along));
        let spikes = steps.filter(|((step, loss), _)| {
            detector.next(&StepLine { step: *step as u64, loss: *loss, ..StepLine::default() }).is_some()
        });
        spikes.map(|(_, point)| point).collect()
    }

    /// Seconds that a step takes, with validation and checkpoints: the mean over the last steps of the process that has
    /// been running since `started`, in seconds since 1970; `None` if it has done fewer than two.
    pub fn pace(&self, started: u64) -> Option<f64> {
        let from = self.time.partition_point(|time| *time < started as f64).max(self.len().saturating_sub(PACE));
        let steps = self.len().checked_sub(from + 1).filter(|steps| *steps > 0)?;
        Some((self.time.last()? - self.time[from]) / steps as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: u64) -> StepLine {
        let (tokens, tok_per_sec) = (100 * step, 50.0);
        StepLine { step, tokens, loss: 1.0 / step as f64, tok_per_sec, time: 3.0 * step as f64, ..StepLine::default() }
    }

    fn write(folder: &Path, lines: &[StepLine]) {
        let text: String = lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect();
        std::fs::write(folder.join(METRICS_FILE), text).unwrap();
    }

    #[test]
    fn spikes_are_where_the_loss_is_far_above_those_before() {
        let folder = tempfile::tempdir().unwrap();
        let loss = |step: u64| if step == 150 { 9.0 } else { 2.0 + 0.01 * (step % 7) as f64 };
        let lines: Vec<StepLine> = (1..=200).map(|step| StepLine { loss: loss(step), ..line(step) }).collect();
        write(folder.path(), &lines);
        let mut history = History::new(folder.path());
        history.refresh().unwrap();
        assert_eq!(history.spikes(Along::Step), [(150.0, 9.0)]);
        assert_eq!(history.spikes(Along::Tokens), [(15_000.0, 9.0)]);
    }

    #[test]
    fn it_grows_and_shrinks_with_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut history = History::new(folder.path());
        assert!(history.refresh().unwrap().is_empty() && history.last().is_none() && history.pace(0).is_none());
        let validated = StepLine { validation_loss: Some(0.75), ..line(3) };
        write(folder.path(), &[line(1), line(2), line(3)]);
        history.refresh().unwrap();
        assert_eq!(history.curve("validation_loss", Along::Step), []);
        write(folder.path(), &[line(1), line(2), validated, line(4)]);
        assert_eq!(history.refresh().unwrap().len(), 2, "the last line is read again");
        assert_eq!(history.curve("loss", Along::Seconds), [(2.0, 1.0), (4.0, 0.5), (6.0, 1.0 / 3.0), (8.0, 0.25)]);
        assert_eq!(history.curve("validation_loss", Along::Tokens), [(300.0, 0.75)]);
        assert_eq!((history.pace(0), history.pace(9), history.pace(12)), (Some(3.0), Some(3.0), None));
        // The run is resumed at step 2.
        write(folder.path(), &[line(1), StepLine { loss: 9.0, ..line(2) }]);
        history.refresh().unwrap();
        assert_eq!(history.curve("loss", Along::Step), [(1.0, 1.0), (2.0, 9.0)]);
        assert_eq!((history.len(), history.last().map(|line| line.step)), (2, Some(2)));
        assert_eq!(history.curve("validation_loss", Along::Step), []);
        std::fs::remove_file(folder.path().join(METRICS_FILE)).unwrap();
        assert!(history.refresh().unwrap().is_empty() && history.last().is_none());
    }

    #[test]
    fn metrics_that_begin_late_and_steps_that_were_written_twice() {
        let folder = tempfile::tempdir().unwrap();
        let mut late = line(3);
        late.other.insert("z_loss".into(), 0.5.into());
        write(folder.path(), &[line(1), line(2), late, line(2), line(3)]);
        let mut history = History::new(folder.path());
        history.refresh().unwrap();
        assert_eq!(history.curve("z_loss", Along::Step), [(3.0, 0.5)]);
        let steps: Vec<f64> = history.curve("loss", Along::Step).iter().map(|point| point.0).collect();
        assert_eq!(steps, [1.0, 2.0, 3.0]);
        assert!(history.metrics().any(|name| name == "z_loss") && history.column("z_loss").unwrap().len() == 3);
        assert!(history.column("nothing").is_none() && history.curve("nothing", Along::Step).is_empty());
    }
}
