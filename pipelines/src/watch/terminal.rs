//! Draws a run until somebody ends it, and leaves the terminal as it was, however it ends.
use super::draw::draw;
use super::view::neighbour;
use super::{LOOK, View};
use crate::train_run::{Interrupted, noticed};
use anyhow::{Context, Result};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use signal_hook::consts::SIGINT;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// The other screen of the terminal, with keys read as they are pressed. Dropping it goes back; so does a panic.
struct Screen(DefaultTerminal);

impl Screen {
    fn enter() -> Result<Self> {
        ratatui::try_init().map(Self).context("cannot use this terminal; `--progress plain` prints lines")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    End,
    Interrupt,
    /// The run so many places further in the folder.
    Other(isize),
}

fn asked(key: KeyEvent) -> Option<Asked> {
    match key.code {
        _ if key.kind == KeyEventKind::Release => None,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Asked::Interrupt),
        KeyCode::Char('q') | KeyCode::Esc => Some(Asked::End),
        KeyCode::Right | KeyCode::Down => Some(Asked::Other(1)),
        KeyCode::Left | KeyCode::Up => Some(Asked::Other(-1)),
        _ => None,
    }
}

/// Draws the run of `view`, or others in `folder`.
///
/// # Errors
/// [`Interrupted`] by a signal or Ctrl-C. If the terminal or the run cannot be read.
pub fn show(mut view: View, folder: &Path, color: bool) -> Result<()> {
    let signal = noticed()?;
    let mut screen = Screen::enter()?;
    loop {
        view.refresh()?;
        screen.0.draw(|frame| draw(frame, &view, color)).context("cannot draw")?;
        let looked = Instant::now();
        while let Some(rest) = LOOK.checked_sub(looked.elapsed()) {
            let by = signal.load(Ordering::SeqCst);
            if by != 0 {
                return Err(interrupted(by));
            }
            if !event::poll(rest).context("cannot read keys")? {
                break;
            }
            match event::read().context("cannot read keys")? {
                Event::Resize(..) => break,
                Event::Key(key) => match asked(key) {
                    Some(Asked::End) => return Ok(()),
                    Some(Asked::Interrupt) => return Err(interrupted(SIGINT as usize)),
                    Some(Asked::Other(by)) => {
                        view = View::new(&neighbour(folder, &view.folder, by));
                        break;
                    }
                    None => {}
                },
                _ => {}
            }
        }
    }
}

/// Nothing was lost, so nothing is said.
fn interrupted(by: usize) -> anyhow::Error {
    Interrupted::by(u8::try_from(by).unwrap_or_default(), String::new()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let key = |code| asked(KeyEvent::new(code, KeyModifiers::NONE));
        assert_eq!([key(KeyCode::Char('q')), key(KeyCode::Esc)], [Some(Asked::End); 2]);
        assert_eq!([key(KeyCode::Char('c')), key(KeyCode::Enter)], [None; 2]);
        assert_eq!(asked(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Some(Asked::Interrupt));
        assert_eq!([key(KeyCode::Right), key(KeyCode::Up)], [Some(Asked::Other(1)), Some(Asked::Other(-1))]);
    }
}
