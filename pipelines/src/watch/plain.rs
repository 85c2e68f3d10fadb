//! Lines for logs and pipes, until the run ends.
use super::{LOOK, View};
use crate::cli::Output;
use crate::show::human::{clock, rate};
use crate::train_run::status::State;
use anyhow::Result;
use train::record::StepLine;

/// Prints the last step, each one that follows, and validations, and at last how the run ended. With `json`, the lines of
/// `metrics.jsonl` instead.
///
/// # Errors
/// If the run cannot be read, or standard output cannot be written.
pub fn show(mut view: View, json: bool, out: &Output) -> Result<()> {
    let mut printed = Printed::default();
    loop {
        let lines = view.refresh()?;
        let ended = view.state != State::Running;
        for line in printed.news(&lines, json, ended) {
            match line {
                News::Step(line) if json => out.json(line)?,
                News::Step(line) => out.line(&step(&view, line))?,
                News::Validation(line) => out.line(&validation(line))?,
            }
        }
        if ended {
            return if json { Ok(()) } else { out.line(&end(&view)) };
        }
        std::thread::sleep(LOOK);
    }
}

/// What is printed of a step.
#[derive(Debug, PartialEq)]
enum News<'a> {
    Step(&'a StepLine),
    Validation(&'a StepLine),
}

/// The steps that were printed.
#[derive(Default)]
struct Printed {
    step: Option<u64>,
    validation: Option<u64>,
}

impl Printed {
    /// What `lines` have that was not printed yet; the first time, of all steps only the last one. A line is `whole` when
    /// the step was validated if it is to be, that is, when another one follows, or when the run has `ended`.
    fn news<'a>(&mut self, lines: &'a [StepLine], whole: bool, ended: bool) -> Vec<News<'a>> {
        let known = lines.len() - usize::from(whole && !ended && !lines.is_empty());
        let mut news = Vec::new();
        let from = if self.step.is_none() { known.saturating_sub(1) } else { 0 };
        for line in &lines[from..known] {
            // A run that has resumed at an earlier step writes the steps after it again.
            if self.step.is_some_and(|step| line.step + 1 < step) {
                *self = Self { step: Some(line.step), validation: Some(line.step) };
            }
            if self.step.is_none_or(|step| line.step > step) {
                news.push(News::Step(line));
                self.step = Some(line.step);
            }
            if !whole && line.validation_loss.is_some() && self.validation.is_none_or(|step| line.step > step) {
                news.push(News::Validation(line));
                self.validation = Some(line.step);
            }
        }
        news
    }
}

fn step(view: &View, line: &StepLine) -> String {
    let of = view.progress().1.map(|steps| format!("/{steps}")).unwrap_or_default();
    let left = view.left().map(|left| format!(", {} left", clock(left))).unwrap_or_default();
    format!("Step {}{of}: loss {:.4}, {}{left}", line.step, line.loss, rate(line.tok_per_sec, "tok"))
}

fn validation(line: &StepLine) -> String {
    let bits = line.bits_per_byte.map(|bits| format!(", {bits:.4} bits per byte")).unwrap_or_default();
    format!("Step {}: validation loss {:.4}{bits}", line.step, line.validation_loss.unwrap_or_default())
}

fn end(view: &View) -> String {
    let (step, steps) = view.progress();
    let of = steps.map(|steps| format!(" of {steps}")).unwrap_or_default();
    let why = view.error().map(|error| format!(": {error}")).unwrap_or_default();
    format!("{} is {} after step {step}{of}{why}", view.folder.display(), view.state.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: u64) -> StepLine {
        StepLine { step, ..StepLine::default() }
    }

    fn validated(step: u64) -> StepLine {
        StepLine { validation_loss: Some(2.0), ..line(step) }
    }

    /// `s4 v4`: step 4 and its validation.
    fn told(printed: &mut Printed, lines: &[StepLine], whole: bool, ended: bool) -> String {
        let said = |news: News| match news {
            News::Step(line) => format!("s{}", line.step),
            News::Validation(line) => format!("v{}", line.step),
        };
        printed.news(lines, whole, ended).into_iter().map(said).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_step_once_and_validations_when_they_are_there() {
        let mut printed = Printed::default();
        let mut told = |lines: &[StepLine]| told(&mut printed, lines, false, false);
        assert_eq!(told(&[]), "");
        assert_eq!(told(&[line(1), validated(2), line(3)]), "s3", "the last one of what was there");
        assert_eq!(told(&[line(3), line(4)]), "s4");
        assert_eq!(told(&[line(4)]), "");
        assert_eq!(told(&[validated(4)]), "v4");
        assert_eq!(told(&[validated(4), line(5), line(6)]), "s5 s6");
        // Resumed at step 2.
        assert_eq!(told(&[line(1), validated(2), line(3), line(4)]), "s2 v2 s3 s4");
    }

    #[test]
    fn lines_of_json_are_whole() {
        let mut printed = Printed::default();
        let mut told = |lines: &[StepLine], ended| told(&mut printed, lines, true, ended);
        assert_eq!(told(&[line(1), line(2), line(3)], false), "s2", "step 3 may still be validated");
        assert_eq!(told(&[validated(3), line(4)], false), "s3");
        assert_eq!(told(&[validated(4)], true), "s4");
    }
}
