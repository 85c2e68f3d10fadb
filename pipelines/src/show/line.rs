//! Output of the progress line: redrawn in place on a terminal, occasional plain lines elsewhere.
use super::human::{hang, printable, width};
use super::progress::{Training, Work};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// A terminal is redrawn at most this often.
const REDRAW: Duration = Duration::from_millis(100);
/// Without a terminal: a line at least this often …
const QUIET: Duration = Duration::from_secs(10);
/// … and at every such part of the run …
const PARTS: u64 = 20;
/// … if that is no more often than this.
const SPACED: Duration = Duration::from_secs(1);

/// Decides when the next line is due. The first and the last always are.
#[derive(Clone, Debug)]
pub struct Cadence {
    terminal: bool,
    last: Option<(Duration, u64)>,
}

impl Cadence {
    /// For a terminal, or for a file or pipe.
    pub fn new(terminal: bool) -> Self {
        Self { terminal, last: None }
    }

    /// Whether a line is due now, after `since`, with `done` of `total` (0: unknown) completed.
    pub fn due(&mut self, since: Duration, done: u64, total: u64) -> bool {
        let part = |done: u64| (u128::from(done) * u128::from(PARTS)).checked_div(u128::from(total));
        let due = match self.last {
            None => true,
            Some((_, before)) if done >= total && total > 0 => before != done,
            Some((at, _)) if self.terminal => since.saturating_sub(at) >= REDRAW,
            Some((at, before)) => {
                let spent = since.saturating_sub(at);
                spent >= QUIET || spent >= SPACED && part(done) > part(before)
            }
        };
        if due {
            self.last = Some((since, done));
        }
        due
    }
}

/// How to write to standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Only warnings and errors.
    pub quiet: bool,
    /// With colour.
    pub color: bool,
    /// How to show progress.
    pub progress: Progress,
}

/// How to show progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// One line, redrawn in place.
    InPlace,
    /// Occasional plain lines.
    Lines,
    /// Not at all.
    Off,
}

/// The progress line, and the messages above it.
pub struct Line {
    out: Box<dyn Write + Send>,
    /// Columns are those of the terminal behind standard error.
    terminal: bool,
    style: Style,
    began: Instant,
    cadence: Cadence,
    drawn: bool,
    shown: Option<Shown>,
}

/// Contents of the line, to redraw it.
#[derive(Clone, Debug)]
enum Shown {
    Training(Training),
    Work(Work),
}

impl Shown {
    fn verb(&self) -> &str {
        match self {
            Self::Training(_) => "Training",
            Self::Work(work) => &work.verb,
        }
    }

    /// How much is done, of how much.
    fn progress(&self) -> (u64, u64) {
        match self {
            Self::Training(training) => (training.step, training.steps),
            Self::Work(work) => (work.done, work.total),
        }
    }

    fn render(&self, columns: usize) -> String {
        let line = match self {
            Self::Training(training) => training.render(columns),
            Self::Work(work) => work.render(columns),
        };
        printable(&line).into_owned()
    }
}

impl Default for Line {
    /// One that shows nothing.
    fn default() -> Self {
        let style = Style { quiet: true, color: false, progress: Progress::Off };
        Self::new(Box::new(std::io::sink()), false, style)
    }
}

impl Line {
    /// On standard error.
    pub fn stderr(style: Style) -> Self {
        Self::new(Box::new(std::io::stderr()), std::io::stderr().is_terminal(), style)
    }

    /// On `out`. If `out` is a terminal, it must be that of standard error, whose width is used.
    pub fn new(out: Box<dyn Write + Send>, terminal: bool, style: Style) -> Self {
        let cadence = Cadence::new(style.progress == Progress::InPlace);
        Self { out, terminal, style, began: Instant::now(), cadence, drawn: false, shown: None }
    }

    /// Shows the training line if it is due. Cheap if it is not.
    pub fn training(&mut self, training: &Training) {
        self.show(Shown::Training(training.clone()));
    }

    /// Shows the line of other work if it is due.
    pub fn work(&mut self, work: &Work) {
        self.show(Shown::Work(work.clone()));
    }

    /// Prints `text` above the progress line, wrapped to the terminal. Prints nothing with `--quiet`.
    pub fn note(&mut self, text: &str) {
        if !self.style.quiet {
            self.warn(text);
        }
    }

    /// The same, also with `--quiet`.
    pub fn warn(&mut self, whole: &str) {
        let whole = &*printable(whole);
        let (clear, again) = match &self.shown {
            Some(shown) if self.drawn => ("\r\x1b[2K", self.drawing(shown)),
            _ => ("", String::new()),
        };
        let text = self.width().map(|columns| hang(whole, columns.min(80)));
        self.write(&format!("{clear}{}\n{again}", text.as_deref().unwrap_or(whole)));
    }

    /// The same while training; the line then shows `training`.
    pub fn note_of_training(&mut self, text: &str, training: &Training) {
        self.shown = Some(Shown::Training(training.clone()));
        self.note(text);
    }

    /// Columns for a line of text, at most 80.
    pub fn columns(&self) -> usize {
        self.width().unwrap_or(80).min(80)
    }

    /// Keeps the line and moves to the next one. Also done on drop.
    pub fn finish(&mut self) {
        if std::mem::take(&mut self.drawn) {
            self.write("\n");
        }
        self.cadence.last = None;
        self.shown = None;
    }

    fn show(&mut self, shown: Shown) {
        // Another kind of work begins a new line.
        if self.shown.as_ref().is_none_or(|before| before.verb() != shown.verb()) {
            self.finish();
        }
        let (done, total) = shown.progress();
        let visible = !self.style.quiet && self.style.progress != Progress::Off;
        if visible && self.cadence.due(self.began.elapsed(), done, total) {
            let drawing = self.drawing(&shown);
            self.drawn = self.style.progress == Progress::InPlace;
            self.write(&drawing);
        }
        self.shown = Some(shown);
    }

    /// What draws the line: over the one before, on a terminal.
    fn drawing(&self, shown: &Shown) -> String {
        let color = |line: String| if self.style.color { colored(&line) } else { line };
        if self.style.progress != Progress::InPlace {
            return format!("{}\n", color(shown.render(self.width().unwrap_or(usize::MAX))));
        }
        let columns = self.width().unwrap_or(80);
        // One column is left free: a full line makes some terminals wrap.
        let line = shown.render(columns.saturating_sub(1).max(10));
        debug_assert!(width(&line) < columns.max(11));
        // Cleared behind, not before: a line that goes and comes again flickers.
        format!("\r{}\x1b[K", color(line))
    }

    /// Columns of the terminal, if it is one.
    fn width(&self) -> Option<usize> {
        let size = terminal_size::terminal_size_of(std::io::stderr());
        self.terminal.then(|| size.map_or(80, |(terminal_size::Width(columns), _)| usize::from(columns)))
    }

    /// Writes in one piece. Ignores errors: failing to write progress must not stop a run.
    fn write(&mut self, text: &str) {
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Colours the filled part of the bar green.
fn colored(line: &str) -> String {
    match (line.find('█'), line.rfind('█')) {
        (Some(from), Some(to)) => {
            let to = to + '█'.len_utf8();
            format!("{}\x1b[32m{}\x1b[0m{}", &line[..from], &line[from..to], &line[to..])
        }
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn style(progress: Progress, color: bool) -> Style {
        Style { quiet: false, color, progress }
    }

    fn written(style: Style, steps: u64) -> String {
        let out = Shared::default();
        let mut line = Line::new(Box::new(out.clone()), false, style);
        for step in 1..=steps {
            line.training(&Training { step, steps, ..Training::default() });
        }
        line.note("done");
        drop(line);
        let bytes = out.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_pipe_gets_plain_lines_now_and_then() {
        let text = written(style(Progress::Lines, false), 1000);
        assert_eq!(text.lines().count(), 3, "first, last, note: {text}");
        assert!(!text.contains(['\r', '\x1b']));
        assert!(text.starts_with("Training [") && text.contains("1000/1000 (100.0%)"));
    }

    #[test]
    fn a_terminal_is_redrawn_in_place_and_not_too_often() {
        let text = written(style(Progress::InPlace, true), 1000);
        let draws = text.matches("\rTraining").count();
        assert!((2..10).contains(&draws), "{draws}");
        assert_eq!(text.matches('\n').count(), 2, "the note, and the line's end: {text:?}");
        assert!(text.contains("\x1b[32m█") && !written(style(Progress::InPlace, false), 9).contains("\x1b[32m"));
    }

    #[test]
    fn no_progress_leaves_notes_and_quiet_leaves_nothing() {
        assert_eq!(written(style(Progress::Off, true), 9), "done\n");
        for progress in [Progress::InPlace, Progress::Lines, Progress::Off] {
            assert_eq!(written(Style { quiet: true, color: true, progress }, 9), "");
        }
        let out = Shared::default();
        Line::new(Box::new(out.clone()), false, Style { quiet: true, ..style(Progress::Off, false) }).warn("warning");
        assert_eq!(*out.0.lock().unwrap(), b"warning\n");
    }

    #[test]
    fn a_note_is_printed_above_the_line_which_stays() {
        let out = Shared::default();
        let mut line = Line::new(Box::new(out.clone()), false, style(Progress::InPlace, false));
        let training = Training { step: 9, steps: 9, ..Training::default() };
        line.training(&training);
        line.note_of_training("Step 9", &Training { validation_loss: Some(2.0), ..training });
        line.finish();
        line.note("after");
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        let last = text.split("Step 9\n").nth(1).unwrap();
        assert!(last.starts_with("\rTraining [█████] 9/9 |") && last.ends_with("\x1b[K\nafter\n"), "{text:?}");
        assert!(last.contains("Val: 2.000"), "{text:?}");
    }

    #[test]
    fn first_and_last_are_always_due() {
        for terminal in [true, false] {
            let mut cadence = Cadence::new(terminal);
            assert!(cadence.due(Duration::ZERO, 1, 1_000_000));
            assert!(!cadence.due(Duration::from_millis(1), 2, 1_000_000));
            assert!(cadence.due(Duration::from_millis(2), 1_000_000, 1_000_000));
        }
        let mut cadence = Cadence::new(false);
        let lines = (0..=1000).filter(|step| cadence.due(Duration::from_millis(100 * step), *step, 1000)).count();
        assert_eq!(lines, 21, "first, twenty parts");
        let mut cadence = Cadence::new(false);
        assert!(cadence.due(Duration::ZERO, 0, 0));
        assert!(!cadence.due(Duration::from_secs(9), 1, 0));
        assert!(cadence.due(Duration::from_secs(10), 2, 0));
    }
}
