//! Loss spikes: steps whose loss is far above those before. They are not recorded, but found in the lines of a run.
//!
//! The criterion is that of the spike score of OLMo 2 (Team OLMo 2024, section 3): at least seven standard deviations
//! from the mean of the last 1,000 values; here only above it. In the first 4,000 steps it is the last quarter of the
//! steps so far (at least [`FEWEST`]), because the steep beginning of a run would otherwise make everything look normal.
use super::StepLine;
use contract::Step;
use std::collections::VecDeque;

/// Standard deviations above the mean from which a loss is a spike.
const DEVIATIONS: f64 = 7.0;
/// The numbers of steps that it is compared with.
const FEWEST: usize = 64;
const MOST: usize = 1000;

/// A step whose loss is a spike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spike {
    /// Number of updates so far, including that of the step.
    pub step: Step,
    /// Its loss.
    pub loss: f64,
    /// The mean of the losses before it that it is compared with.
    pub mean: f64,
    /// How many of their standard deviations it is above the mean.
    pub deviations: f64,
    /// How many losses these are.
    pub compared: usize,
    /// Whether the step before was no spike.
    pub begins: bool,
}

impl std::fmt::Display for Spike {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { step, loss, mean, deviations, compared, .. } = self;
        write!(f, "Step {step}: the loss spikes: {loss:.4}, {deviations:.1} standard deviations above the mean of ")?;
        write!(f, "{compared} steps, {mean:.4}")
    }
}

/// Finds spikes, one line after the other.
#[derive(Clone, Debug)]
pub struct SpikeDetector {
    /// Sums of the first losses and of their squares, up to each of the last ones.
    sums: VecDeque<(f64, f64)>,
    /// Number of losses so far.
    count: usize,
    /// Subtracted from losses, so that sums of squares stay small.
    origin: f64,
    spiking: bool,
}

impl Default for SpikeDetector {
    fn default() -> Self {
        Self { sums: [(0.0, 0.0)].into(), count: 0, origin: 0.0, spiking: false }
    }
}

impl SpikeDetector {
    /// The spike that the next line is, if it is one. Losses that are not finite are left out.
    pub fn next(&mut self, line: &StepLine) -> Option<Spike> {
        if !line.loss.is_finite() {
            return None;
        }
        if self.count == 0 {
            self.origin = line.loss;
        }
        let spike = self.compared(line);
        let loss = line.loss - self.origin;
        let (sum, squares) = self.sums.back().copied().unwrap_or_default();
        self.sums.push_back((sum + loss, squares + loss * loss));
        if self.sums.len() > MOST + 1 {
            self.sums.pop_front();
        }
        self.count += 1;
        self.spiking = spike.is_some();
        spike
    }

    fn compared(&self, line: &StepLine) -> Option<Spike> {
        let compared = (self.count / 4).clamp(FEWEST, MOST);
        let last = self.sums.back()?;
        let first = self.sums.get(self.sums.len().checked_sub(compared + 1)?)?;
        let number = compared as f64;
        let (mean, squares) = ((last.0 - first.0) / number, (last.1 - first.1) / number);
        let deviation = (squares - mean * mean).max(0.0).sqrt();
        let (mean, above) = (mean + self.origin, line.loss - self.origin - mean);
        // Equal losses have no deviation, except for rounding.
        let deviations = above / deviation.max(1e-6 * mean.abs());
        let begins = !self.spiking;
        (deviations >= DEVIATIONS).then_some(Spike {
            step: line.step,
            loss: line.loss,
            mean,
            deviations,
            compared,
            begins,
        })
    }
}

/// The spikes of a run.
pub fn spikes(lines: &[StepLine]) -> Vec<Spike> {
    let mut detector = SpikeDetector::default();
    lines.iter().filter_map(|line| detector.next(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Losses that fall as those of a run do, with noise of standard deviation 0.02.
    fn run(steps: Step) -> Vec<StepLine> {
        let noise = |step: Step| ((step * 7919) % 1009) as f64 / 1009.0 - 0.5;
        let loss = |step: Step| 3.0 + 6.0 / (1.0 + step as f64 / 40.0) + 0.07 * noise(step);
        (1..=steps).map(|step| StepLine { step, loss: loss(step), ..StepLine::default() }).collect()
    }

    /// The same from all values of the window.
    fn naive(lines: &[StepLine]) -> Vec<Step> {
        let is_spike = |at: &usize| {
            let size = (at / 4).clamp(64, 1000);
            let Some(window) = at.checked_sub(size).map(|from| &lines[from..*at]) else { return false };
            let mean = window.iter().map(|line| line.loss).sum::<f64>() / size as f64;
            let variance = window.iter().map(|line| (line.loss - mean).powi(2)).sum::<f64>() / size as f64;
            lines[*at].loss - mean >= 7.0 * variance.sqrt()
        };
        (0..lines.len()).filter(is_spike).map(|at| lines[at].step).collect()
    }

    #[test]
    fn a_run_that_learns_has_no_spikes_and_one_that_spikes_has_those() {
        let mut lines = run(6000);
        assert_eq!(spikes(&lines), []);
        for (step, more) in [(30, 3.0), (700, 1.0), (701, 2.5), (5000, 0.3)] {
            lines[step - 1].loss += more;
        }
        let found = spikes(&lines);
        assert_eq!(found.iter().map(|spike| spike.step).collect::<Vec<_>>(), naive(&lines));
        let found: Vec<(Step, usize, bool)> = found.iter().map(|s| (s.step, s.compared, s.begins)).collect();
        assert_eq!(found, [(700, 174, true), (701, 175, false), (5000, 1000, true)], "step 30 is too early to tell");
    }

    #[test]
    fn equal_losses_and_missing_ones_are_no_spikes() {
        let line = |step, loss| StepLine { step, loss, ..StepLine::default() };
        let mut lines: Vec<StepLine> = (1..=200).map(|step| line(step, 2.5 + (step % 2) as f64 * 1e-9)).collect();
        assert_eq!(spikes(&lines), []);
        lines[150].loss = f64::NAN;
        lines[180].loss = 2.6;
        assert_eq!(spikes(&lines).iter().map(|spike| spike.step).collect::<Vec<_>>(), [181]);
    }
}
