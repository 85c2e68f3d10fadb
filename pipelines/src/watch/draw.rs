//! The screen.
use super::{View, charts};
use crate::show::bar;
use crate::show::human::{clock, fit, printable, width};
use crate::train_run::status::State;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Wrap};

/// The least size of the terminal.
pub const LEAST: (u16, u16) = (80, 24);
/// From so many rows on, there is room for the rate.
const TALL: u16 = 34;
/// Columns of the facts.
const FACTS: u16 = 32;

/// Draws a run.
pub fn draw(frame: &mut Frame, view: &View, color: bool) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let (width, height) = LEAST;
        let said = format!(
            "This terminal has {} × {} characters, and pipeline watch needs {width} × {height}. Enlarge it, or press q; \
             pipeline watch --progress plain prints lines.",
            area.width, area.height
        );
        return frame.render_widget(Paragraph::new(said).wrap(Wrap { trim: true }), area);
    }
    let sample = if view.sample.is_some() { 5 } else { 0 };
    let rows = [Constraint::Length(2), Constraint::Min(8), Constraint::Length(sample), Constraint::Length(1)];
    let [head, body, sample, keys] = Layout::vertical(rows).areas(area);
    let [curves, facts] = Layout::horizontal([Constraint::Min(40), Constraint::Length(FACTS)]).areas(body);
    self::head(frame, head, view, color);
    if area.height >= TALL {
        let [loss, rate] = Layout::vertical([Constraint::Fill(3), Constraint::Fill(2)]).areas(curves);
        charts::loss(frame, loss, view, color);
        charts::rate(frame, rate, view, color);
    } else {
        charts::loss(frame, curves, view, color);
    }
    self::facts(frame, facts, view);
    self::sample(frame, sample, view);
    let help = "q quit   ← → other runs of the folder";
    frame.render_widget(Paragraph::new(help).style(Style::new().add_modifier(Modifier::DIM)), keys);
}

/// Name and state, and how far it is.
fn head(frame: &mut Frame, area: Rect, view: &View, color: bool) {
    let state = match view.state {
        State::Running => Color::Cyan,
        State::Done => Color::Green,
        State::Stopped => Color::Yellow,
        State::Failed => Color::Red,
    };
    let state_style = if color { Style::new().fg(state) } else { Style::new() };
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let about = view.error().unwrap_or(&view.model);
    let name = printable(&view.folder.display().to_string()).into_owned();
    let room = usize::from(area.width).saturating_sub(width(&name) + view.state.name().len() + 6);
    let title = Line::from(vec![
        Span::styled(name, bold),
        Span::styled(format!("  {}", view.state.name()), state_style.add_modifier(Modifier::BOLD)),
        Span::raw(format!("  {}", fit(&printable(about), room))),
    ]);
    let (step, steps) = view.progress();
    let done = match steps {
        None => format!("step {step}"),
        Some(steps) => {
            let share = 100.0 * step as f64 / steps.max(1) as f64;
            let left = view.left().map(|left| format!("  {} left", clock(left))).unwrap_or_default();
            let said = format!(" {step}/{steps} ({share:.1} %){left}");
            bar(step, steps, usize::from(area.width).saturating_sub(width(&said) + 3)) + &said
        }
    };
    frame.render_widget(Paragraph::new(vec![title, Line::raw(done)]), area);
}

/// Numbers, and the time of each stage where it is known and there is room.
fn facts(frame: &mut Frame, area: Rect, view: &View) {
    let block = Block::bordered().title(" Now ");
    let room = usize::from(block.inner(area).width);
    let dim = Style::new().add_modifier(Modifier::DIM);
    let line = |name: &str, value: String| {
        Line::from(vec![Span::styled(format!("{name:<14}"), dim), Span::raw(fit(&value, room.saturating_sub(14)))])
    };
    let mut lines: Vec<Line> = view.facts().into_iter().map(|(name, value)| line(name, value)).collect();
    if lines.is_empty() {
        lines.push(Line::raw("no step is done yet"));
    }
    let stages = view.stages();
    if !stages.is_empty() {
        lines.push(Line::styled("Time per stage", dim));
        lines.extend(
            stages
                .into_iter()
                .map(|(stage, time, share)| line(&fit(&stage, 13), format!("{time:>8} {:>5.1} %", 100.0 * share))),
        );
    }
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// The last text that the model has generated.
fn sample(frame: &mut Frame, area: Rect, view: &View) {
    let Some(sample) = &view.sample else { return };
    let block = Block::bordered().title(format!(" Sample after {} steps ", sample.step));
    let text = |text: &str| printable(text).split_whitespace().collect::<Vec<_>>().join(" ");
    let spans = vec![
        Span::styled(text(&sample.prompt), Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(if sample.text.starts_with(char::is_whitespace) { " " } else { "" }),
        Span::raw(text(&sample.text)),
    ];
    frame.render_widget(Paragraph::new(Line::from(spans)).wrap(Wrap { trim: true }).block(block), area);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::view::tests::{end, run};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn screen(view: &View, width: u16, height: u16, color: bool) -> (String, bool) {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, view, color)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        let colored = buffer.content().iter().any(|cell| cell.fg != Color::Reset);
        ((0..height).map(|y| row(y).trim_end().to_owned() + "\n").collect(), colored)
    }

    fn shown(folder: &std::path::Path) -> View {
        let mut view = View::new(folder);
        view.refresh().unwrap();
        view.folder = "runs/x".into();
        view
    }

    #[test]
    fn a_run_in_progress_fits_eighty_by_twenty_four() {
        let folder = tempfile::tempdir().unwrap();
        let _hold = run(folder.path());
        let (text, colored) = screen(&shown(folder.path()), 80, 24, true);
        assert!(colored);
        for piece in [
            "runs/x  running  GPT-2, 2 layers, 169.7 k parameters",
            " 40/100 (40.0 %)  2:00 left",
            " Loss ─ step ─ mean • validation",
            "Validation    3.3000 at 40",
            "Checkpoint    at 50, in 0:20",
            "Sample after 40 steps",
            "The river of the mill and",
            "q quit",
        ] {
            assert!(text.contains(piece), "{piece}:\n{text}");
        }
        assert!(
            !text.contains('\u{1b}') && text.chars().filter(|c| ('\u{2801}'..='\u{28ff}').contains(c)).count() > 20
        );
        assert!(!text.contains("Tokens/s"), "{text}");
        let (text, colored) = screen(&shown(folder.path()), 120, 40, false);
        assert!(text.contains(" Tokens/s ─ step ─ mean ") && !colored, "{text}");
    }

    #[test]
    fn the_end_a_failure_and_no_step_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let hold = run(folder.path());
        end(folder.path(), hold);
        let (text, _) = screen(&shown(folder.path()), 120, 40, true);
        assert!(text.contains("runs/x  stopped") && text.contains("backward        50.0 s  50.0 %"), "{text}");
        let empty = tempfile::tempdir().unwrap();
        let (text, _) = screen(&shown(empty.path()), 80, 24, true);
        assert!(text.contains("no step is done yet") && text.contains("step 0"), "{text}");
    }

    #[test]
    fn what_is_too_small_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let (text, _) = screen(&shown(folder.path()), 60, 20, true);
        assert!(text.contains("60 × 20 characters") && text.contains("80 × 24"), "{text}");
        for size in [(1, 1), (80, 23), (79, 24), (3, 100)] {
            screen(&shown(folder.path()), size.0, size.1, true);
        }
    }
}
