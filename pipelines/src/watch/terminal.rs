//! Draws a run until somebody ends it, and leaves the terminal as it was, however it ends.
use super::draw::draw;
use super::view::neighbour;
use super::{LOOK, View};
use crate::train_run::{Interrupted, noticed};
use anyhow::{Context, Result};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

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

/// What happens at the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Happened {
    /// Nothing, for as long as was waited.
    Nothing,
    /// A key was pressed, or a signal has come.
    Something,
    /// The terminal is gone: its window was closed, or a connection broke. `crossterm` would wait for keys forever, and
    /// busily.
    Gone,
}

/// Waits until something happens, at most for `limit`.
fn wait(terminal: impl AsFd, limit: Duration) -> Result<Happened> {
    let mut terminal = [PollFd::new(&terminal, PollFlags::IN)];
    let limit = Timespec::try_from(limit).context("a short time")?;
    match poll(&mut terminal, Some(&limit)) {
        Ok(0) => Ok(Happened::Nothing),
        Ok(_) if terminal[0].revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) => {
            Ok(Happened::Gone)
        }
        Ok(_) | Err(Errno::INTR) => Ok(Happened::Something),
        Err(error) => Err(error).context("cannot wait for keys"),
    }
}

/// Draws the run of `view`, or others in `folder`.
///
/// # Errors
/// [`Interrupted`] by a signal, Ctrl-C or the end of the terminal. If the terminal or the run cannot be read.
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
            match wait(std::io::stdout(), rest)? {
                Happened::Nothing => break,
                Happened::Something => {}
                Happened::Gone => {
                    // There is nothing to restore it on.
                    std::mem::forget(screen);
                    return Err(interrupted(SIGHUP as usize));
                }
            }
            if !event::poll(Duration::ZERO).context("cannot read keys")? {
                continue;
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
    fn the_end_of_a_terminal_is_noticed() {
        let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
        let now = |terminal| wait(terminal, Duration::from_millis(1)).unwrap();
        assert_eq!(now(&here), Happened::Nothing);
        std::io::Write::write_all(&mut &there, b"q").unwrap();
        assert_eq!(now(&here), Happened::Something);
        drop(there);
        assert_eq!(now(&here), Happened::Gone);
    }

    #[test]
    fn keys() {
        let key = |code| asked(KeyEvent::new(code, KeyModifiers::NONE));
        assert_eq!([key(KeyCode::Char('q')), key(KeyCode::Esc)], [Some(Asked::End); 2]);
        assert_eq!([key(KeyCode::Char('c')), key(KeyCode::Enter)], [None; 2]);
        assert_eq!(asked(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Some(Asked::Interrupt));
        assert_eq!([key(KeyCode::Right), key(KeyCode::Up)], [Some(Asked::Other(1)), Some(Asked::Other(-1))]);
    }
}
