//! Standard output. Commands print to it only through this module.
use crate::show::human::printable;
use anyhow::Result;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// Standard output.
pub struct Output(());

/// Standard output could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub struct OutputError(#[from] io::Error);

impl OutputError {
    /// Whether the reader closed the pipe, which is a normal end.
    pub fn is_closed_pipe(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

impl Output {
    /// The standard output of this process.
    pub fn stdout() -> Self {
        Self(())
    }

    /// Columns for text: the terminal's, between 40 and 80; 80 elsewhere.
    pub fn columns(&self) -> usize {
        crate::show::columns()
    }

    /// Prints `text` for people, without white space at its end and without control characters, and ends the line.
    ///
    /// # Errors
    /// [`OutputError`].
    pub fn line(&self, text: &str) -> Result<()> {
        self.piece(&format!("{}\n", printable(text.trim_end())))
    }

    /// Prints `value` as one line of JSON.
    ///
    /// # Errors
    /// [`OutputError`].
    pub fn json(&self, value: &impl Serialize) -> Result<()> {
        self.piece(&format!("{}\n", serde_json::to_string(value)?))
    }

    /// Prints `value` as one line of JSON, or as text, which `text` renders for a number of columns.
    ///
    /// # Errors
    /// [`OutputError`].
    pub fn answer(&self, json: bool, value: &impl Serialize, text: impl FnOnce(usize) -> String) -> Result<()> {
        if json { self.json(value) } else { self.line(&text(self.columns())) }
    }

    /// Prints what a model generates, at once: as it is, but to a terminal without control characters.
    ///
    /// # Errors
    /// [`OutputError`].
    pub fn generated(&self, text: &str) -> Result<()> {
        if io::stdout().is_terminal() { self.piece(&printable(text)) } else { self.piece(text) }
    }

    /// Prints `text` as it is, at once.
    ///
    /// # Errors
    /// [`OutputError`].
    pub fn piece(&self, text: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(OutputError::from)?;
        Ok(())
    }
}
