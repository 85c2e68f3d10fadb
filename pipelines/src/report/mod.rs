//! `report.html`: a run on one page that needs nothing else, made of what is in the run directory.
//!
//! - [`page`]: what is on it; [`samples`]: generated texts; [`sources`]: the sources of a mixture; [`blocks`]: the blocks of
//!   the model
//! - [`overlay`]: the page of an experiment; [`mod@scaling`]: plots of a prediction
//! - [`plot`]: curves, also of [`plots`] and `pipeline serve`; [`metrics`]: their titles and units; [`document`]: the frame of
//!   every page, with its style and script; [`html`]: text that stays text
mod blocks;
pub(crate) mod document;
mod html;
pub(crate) mod metrics;
pub(crate) mod overlay;
mod page;
pub(crate) mod plot;
mod samples;
mod scaling;
mod sources;

pub use plot::{Plot, Series, Style};
pub use scaling::scaling;

use crate::problem::Usage;
use crate::run_files::{Sample, samples_of};
use crate::train_run::status::{self, State, Status};
use crate::train_run::{CONFIG_FILE, ENVIRONMENT_FILE};
use anyhow::Result;
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use train::record::{METRICS_FILE, StepLine, read_metrics};

/// The file that is written.
pub const REPORT_FILE: &str = "report.html";

/// What is known of a run.
struct Seen {
    name: String,
    state: State,
    status: Option<Status>,
    metrics: Vec<StepLine>,
    config: String,
    environment: Value,
    samples: Vec<Sample>,
    checkpoint: Option<PathBuf>,
}

/// Writes a page that shows `figures` under a title and a line of explanation.
///
/// # Errors
/// If it cannot be written.
pub fn plots(path: &Path, title: &str, about: &str, figures: &[Plot]) -> Result<()> {
    let [name, about] = [title, about].map(html::escape);
    let body = format!("<header><h1>{name}</h1><p>{about}</p></header>\n{}", document::section(figures));
    contract::files::write_whole(path, |out| Ok(out.write_all(document::document(title, &body).as_bytes())?))?;
    Ok(())
}

/// Writes the report of the run in `run_dir`, as far as there is something to report, and says where.
///
/// # Errors
/// [`Usage`] if there is no run; otherwise if the report cannot be written.
pub fn write(run_dir: &Path) -> Result<PathBuf> {
    let (path, html) = (run_dir.join(REPORT_FILE), html_of(run_dir)?);
    contract::files::write_whole(&path, |out| Ok(out.write_all(html.as_bytes())?))?;
    Ok(path)
}

/// The report of the run in `run_dir`.
///
/// # Errors
/// [`Usage`] if there is no run; otherwise if its metrics cannot be read.
pub(crate) fn html_of(run_dir: &Path) -> Result<String> {
    let text = |name: &str| std::fs::read_to_string(run_dir.join(name)).unwrap_or_default();
    let config = text(CONFIG_FILE);
    if config.is_empty() {
        return Err(Usage::of(run_dir, &format!("is not a run: it has no {CONFIG_FILE}")).into());
    }
    let (state, status) = status::read(run_dir);
    let folder = run_dir.canonicalize().unwrap_or_else(|_| run_dir.to_owned());
    let seen = Seen {
        name: folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        state,
        status,
        metrics: read_metrics(&run_dir.join(METRICS_FILE))?,
        config,
        environment: serde_json::from_str(&text(ENVIRONMENT_FILE)).unwrap_or(Value::Null),
        samples: samples_of(run_dir),
        checkpoint: train::checkpoint::list(run_dir).ok().and_then(|mut all| all.pop()).map(|(_, path)| path),
    };
    Ok(page::page(&seen))
}
