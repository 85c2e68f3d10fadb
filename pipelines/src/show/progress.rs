//! Contents of the progress line, as a pure function. [`Line`](super::Line) determines where and when it is drawn.
use super::human::{bytes, clock, count, fit, left, rate, width};
use std::time::Duration;

/// Contents of the line while training.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Training {
    /// Updates done.
    pub step: u64,
    /// Updates of the whole run.
    pub steps: u64,
    /// Training loss of the step.
    pub loss: f64,
    /// Speed.
    pub tok_per_sec: f64,
    /// Sequences in a global batch.
    pub batch: usize,
    /// Model FLOPs utilization, 0 to 1, if known.
    pub mfu: Option<f64>,
    /// How long compute waited for data.
    pub data_wait_ms: f64,
    /// Time left, if known.
    pub left: Option<Duration>,
    /// The last validation loss.
    pub validation_loss: Option<f64>,
}

/// Contents of the line for other work: reading, counting, writing.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    /// The activity, for example `Reading`.
    pub verb: String,
    /// How much is done.
    pub done: u64,
    /// The total; 0 if unknown.
    pub total: u64,
    /// The unit.
    pub unit: Unit,
    /// Start time.
    pub spent: Duration,
}

pub use contract::Unit;

/// `[███░░]`, `room` columns between the brackets.
pub fn bar(done: u64, total: u64, room: usize) -> String {
    let share = if total == 0 { 0.0 } else { (done as f64 / total as f64).min(1.0) };
    // Rounded, but full only when all is done.
    let full = ((share * room as f64).round() as usize).min(if share < 1.0 { room.saturating_sub(1) } else { room });
    format!("[{}{}]", "█".repeat(full), "░".repeat(room - full))
}

impl Training {
    /// The line in at most `columns` columns; the least important parts are left out first.
    pub fn render(&self, columns: usize) -> String {
        let share = if self.steps == 0 { 0.0 } else { 100.0 * self.step as f64 / self.steps as f64 };
        // If space is scarce, the bar alone shows the progress.
        let share = if columns < WIDE { String::new() } else { format!(" ({share:.1}%)") };
        let bar = bar(self.step, self.steps, if columns < NARROW { 5 } else { bar_width(columns) });
        let head = format!("Training {bar} {}/{}{share}", self.step, self.steps);
        let loss = |loss: f64| if loss.abs() < 10.0 { format!("{loss:.3}") } else { format!("{loss:.2}") };
        // In display order; the number is the priority.
        let parts = [
            (6, Some(format!("Loss: {}", loss(self.loss)))),
            (5, self.validation_loss.map(|value| format!("Val: {}", loss(value)))),
            (4, Some(rate(self.tok_per_sec, "tok"))),
            (3, self.left.filter(|_| self.step < self.steps).map(|left| format!("{} left", clock(left)))),
            (2, Some(format!("Batch: {}", self.batch))),
            (1, self.mfu.map(|mfu| format!("MFU: {:.1}%", 100.0 * mfu))),
            (0, Some(format!("Wait: {:.1} ms", self.data_wait_ms))),
        ];
        join(head, &parts, columns)
    }
}

impl Work {
    /// The line, in at most `columns` columns.
    pub fn render(&self, columns: usize) -> String {
        let amount = |n: u64| match self.unit {
            Unit::Bytes => bytes(n),
            Unit::Things(_) => count(n),
        };
        let thing = match self.unit {
            Unit::Bytes => String::new(),
            Unit::Things(thing) => format!(" {thing}"),
        };
        let head = match self.total {
            0 => format!("{} {}{thing}", self.verb, amount(self.done)),
            total => {
                let of = pair(&amount(self.done), &amount(total));
                format!("{} {} {of}{thing}", self.verb, bar(self.done, total, bar_width(columns)))
            }
        };
        let seconds = self.spent.as_secs_f64();
        let per_second = self.done as f64 / seconds;
        let speed = (seconds > 0.0).then(|| match self.unit {
            Unit::Bytes => format!("{}/s", bytes(per_second as u64)),
            Unit::Things(_) => rate(per_second, ""),
        });
        let rest = match (self.total, self.done >= self.total) {
            (0, _) => None,
            (_, true) => Some(format!("took {}", clock(self.spent))),
            (total, false) => left(self.spent, self.done, total).map(|left| format!("{} left", clock(left))),
        };
        join(head, &[(1, speed), (2, rest)], columns)
    }
}

/// `12.0/34.5 MB` rather than `12.0 MB/34.5 MB`.
fn pair(done: &str, total: &str) -> String {
    match (done.split_once(' '), total.split_once(' ')) {
        (Some((number, a)), Some((_, b))) if a == b => format!("{number}/{total}"),
        _ => format!("{done}/{total}"),
    }
}

/// Columns from which on everything important fits.
const WIDE: usize = 110;
/// Columns below which the training bar is left out in favour of numbers.
const NARROW: usize = 90;

fn bar_width(columns: usize) -> usize {
    if columns >= WIDE { 20 } else { 8 }
}

/// The most important of `parts` that fit, in their order.
fn join(head: String, parts: &[(u8, Option<String>)], columns: usize) -> String {
    let mut room = columns.saturating_sub(width(&head));
    let mut by_worth: Vec<_> = parts.iter().filter_map(|(worth, text)| Some((*worth, text.as_deref()?))).collect();
    by_worth.sort_by_key(|(worth, _)| std::cmp::Reverse(*worth));
    let mut least = None;
    for (worth, text) in by_worth {
        let needs = width(text) + 3;
        if needs > room {
            break;
        }
        room -= needs;
        least = Some(worth);
    }
    let mut line = head;
    for (worth, text) in parts {
        if let (Some(text), true) = (text, least.is_some_and(|least| *worth >= least)) {
            line.push_str(" | ");
            line.push_str(text);
        }
    }
    fit(&line, columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn training() -> Training {
        Training {
            step: 320,
            steps: 2665,
            loss: 9.154,
            tok_per_sec: 1583.2,
            batch: 64,
            mfu: Some(0.412),
            data_wait_ms: 0.31,
            left: Some(Duration::from_secs(754)),
            validation_loss: Some(9.02),
        }
    }

    #[test]
    fn the_line_loses_what_matters_least() {
        let widths = [usize::MAX, 120, 100, 80, 60, 40, 20];
        let lines: Vec<String> = widths.iter().map(|columns| training().render(*columns)).collect();
        for (columns, line) in widths.iter().zip(&lines) {
            assert!(width(line) <= *columns, "{line}");
        }
        insta::assert_snapshot!(lines.join("\n"), @r"
        Training [██░░░░░░░░░░░░░░░░░░] 320/2665 (12.0%) | Loss: 9.154 | Val: 9.020 | 1.6 k tok/s | 12:34 left | Batch: 64 | MFU: 41.2% | Wait: 0.3 ms
        Training [██░░░░░░░░░░░░░░░░░░] 320/2665 (12.0%) | Loss: 9.154 | Val: 9.020 | 1.6 k tok/s | 12:34 left | Batch: 64
        Training [█░░░░░░░] 320/2665 | Loss: 9.154 | Val: 9.020 | 1.6 k tok/s | 12:34 left | Batch: 64
        Training [█░░░░] 320/2665 | Loss: 9.154 | Val: 9.020 | 1.6 k tok/s | 12:34 left
        Training [█░░░░] 320/2665 | Loss: 9.154 | Val: 9.020
        Training [█░░░░] 320/2665 | Loss: 9.154
        Training [█░░░░] 32…
        ");
    }

    #[test]
    fn at_the_end_no_time_is_left() {
        let end = Training { step: 2665, left: Some(Duration::ZERO), ..training() };
        insta::assert_snapshot!(end.render(79), @"Training [█████] 2665/2665 | Loss: 9.154 | Val: 9.020 | 1.6 k tok/s | Batch: 64");
    }

    #[test]
    fn nothing_known_yet() {
        insta::assert_snapshot!(Training::default().render(80), @"Training [░░░░░] 0/0 | Loss: 0.000 | 0 tok/s | Batch: 0 | Wait: 0.0 ms");
    }

    #[test]
    fn other_work() {
        let reading = |done, total, unit| {
            Work { verb: "Reading".into(), done, total, unit, spent: Duration::from_millis(1500) }.render(80)
        };
        let lines = [
            reading(12_000_000, 34_000_000, Unit::Bytes),
            reading(12_000, 34_000_000, Unit::Bytes),
            reading(34_000_000, 34_000_000, Unit::Bytes),
            reading(1_234, 0, Unit::Things("documents")),
            reading(0, 50_000, Unit::Things("documents")),
        ];
        insta::assert_snapshot!(lines.join("\n"), @r"
        Reading [███░░░░░] 12.0/34.0 MB | 8.0 MB/s | 0:03 left
        Reading [░░░░░░░░] 12.0 kB/34.0 MB | 8.0 kB/s | 1:10:49 left
        Reading [████████] 34.0/34.0 MB | 22.7 MB/s | took 0:02
        Reading 1.2 k documents | 823/s
        Reading [░░░░░░░░] 0/50.0 k documents | 0/s
        ");
    }

    #[test]
    fn bars_never_overflow() {
        for (done, total) in [(0, 0), (5, 0), (1, 3), (3, 3), (9, 3)] {
            assert_eq!(width(&bar(done, total, 8)), 10);
        }
    }
}
