//! The runs below a folder: found again at every look, read only where something has changed, and only as asked for.
use super::filter::Filter;
use crate::curves::Point;
use crate::plan::{Table, configuration};
use crate::run_files::{Along, DEPTH, History, Ran, find, look};
use crate::train_run::CONFIG_FILE;
use crate::train_run::status::{STATUS_FILE, State, read as read_status};
use anyhow::{Context, Result};
use contract::lock;
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;
use train::record::METRICS_FILE;

/// The runs below a folder.
pub struct Library {
    folder: PathBuf,
    runs: Mutex<BTreeMap<String, Arc<Entry>>>,
}

/// A run, and what was read of it.
pub struct Entry {
    /// Its directory.
    pub folder: PathBuf,
    history: Mutex<History>,
    row: Mutex<Option<(Stamp, Row)>>,
    configuration: Mutex<Option<(FileStamp, Configuration)>>,
}

/// The tables of a configuration.
pub type Configuration = Arc<Vec<(String, Table)>>;
/// Size and time of the last change; `None` if there is no such file.
type FileStamp = Option<(u64, SystemTime)>;

/// If this is the same, so is the row.
#[derive(Clone, PartialEq)]
struct Stamp {
    state: State,
    metrics: FileStamp,
    status: FileStamp,
}

/// A run in the list.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The path of the run below the folder, with `/`.
    pub name: String,
    /// As `pipeline runs --json` shows it.
    #[serde(flatten)]
    pub ran: Ran,
    /// Names of what its last steps have measured.
    pub metrics: Vec<String>,
}

impl Library {
    /// The runs below `folder`.
    ///
    /// # Errors
    /// [`Usage`](crate::problem::Usage) if there is no such folder.
    pub fn open(folder: &Path) -> Result<Self> {
        let library = Self { folder: folder.to_owned(), runs: Mutex::default() };
        library.refresh()?;
        Ok(library)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Finds the runs that are there now; keeps what was read of those that stay.
    fn refresh(&self) -> Result<BTreeMap<String, Arc<Entry>>> {
        let found = find(&self.folder, DEPTH)?;
        let root = self.folder.canonicalize().with_context(|| format!("cannot find {}", self.folder.display()))?;
        // A link may lead out of the folder; what is there was not asked for.
        let inside = |path: &PathBuf| path.canonicalize().is_ok_and(|path| path.starts_with(&root));
        let mut runs = lock(&self.runs);
        let entry = |path: PathBuf| {
            let name = name(&self.folder, &root, &path);
            let known = runs.get(&name).filter(|entry| entry.folder == path).cloned();
            (name, known.unwrap_or_else(|| Arc::new(Entry::new(path))))
        };
        let now: BTreeMap<_, _> = found.into_iter().filter(inside).map(entry).collect();
        runs.clone_from(&now);
        Ok(now)
    }

    /// The run of this name. A name is looked up among the runs that were found, so none leads anywhere else.
    pub fn run(&self, name: &str) -> Option<Arc<Entry>> {
        lock(&self.runs).get(name).cloned()
    }

    /// All runs that match, in order of their names.
    ///
    /// # Errors
    /// If the folder cannot be listed. A message, if the filter names a key that no run has.
    pub fn rows(&self, filter: &Filter) -> Result<Result<Vec<Row>, String>> {
        let runs = self.refresh()?;
        let rows: Vec<(Row, Configuration)> = runs
            .par_iter()
            .filter_map(|(name, entry)| {
                let configured = filter.needs_configurations().then(|| entry.configuration());
                Some((entry.row(name)?, configured.unwrap_or_default()))
            })
            .collect();
        if let Some(unknown) = filter.unknown(rows.iter().map(|(_, configuration)| &configuration[..])) {
            return Ok(Err(unknown));
        }
        let matching = |(row, configuration): &(Row, Configuration)| {
            filter.matches(&row.name, row.ran.state.name(), configuration)
        };
        Ok(Ok(rows.into_iter().filter(matching).map(|(row, _)| row).collect()))
    }
}

/// The path of a run below the folder; of a folder that is a run, its name.
fn name(folder: &Path, root: &Path, path: &Path) -> String {
    let below = path.strip_prefix(folder).ok().filter(|below| !below.as_os_str().is_empty());
    let below = below.or_else(|| root.file_name().map(Path::new)).unwrap_or(path);
    let parts: Vec<_> = below.components().map(|part| part.as_os_str().to_string_lossy()).collect();
    parts.join("/")
}

fn stamp(path: PathBuf) -> FileStamp {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.len(), metadata.modified().ok()?))
}

impl Entry {
    fn new(folder: PathBuf) -> Self {
        let history = Mutex::new(History::new(&folder));
        Self { folder, history, row: Mutex::default(), configuration: Mutex::default() }
    }

    /// Where the run stands; `None` if it is being deleted.
    fn row(&self, name: &str) -> Option<Row> {
        let of = |file| stamp(self.folder.join(file));
        let now = Stamp { state: read_status(&self.folder).0, metrics: of(METRICS_FILE), status: of(STATUS_FILE) };
        let mut known = lock(&self.row);
        if let Some((_, row)) = known.as_ref().filter(|(stamp, _)| *stamp == now) {
            return Some(row.clone());
        }
        let ran = look(&self.folder).ok()?;
        let row = Row { name: name.to_owned(), metrics: ran.metrics.clone(), ran };
        *known = Some((now, row.clone()));
        Some(row)
    }

    /// Its configuration, as far as it can be read.
    fn configuration(&self) -> Configuration {
        let path = self.folder.join(CONFIG_FILE);
        let now = stamp(path.clone());
        let mut known = lock(&self.configuration);
        match &*known {
            Some((stamp, configuration)) if *stamp == now => Arc::clone(configuration),
            _ => {
                let configuration = Arc::new(configuration(&path));
                *known = Some((now, Arc::clone(&configuration)));
                configuration
            }
        }
    }

    /// The curve of a metric, with what the run has written by now.
    ///
    /// # Errors
    /// If its metrics cannot be read.
    pub fn curve(&self, metric: &str, along: Along) -> Result<Vec<Point>> {
        self.history(|history| history.curve(metric, along))
    }

    /// What `look` sees in its metrics, with what the run has written by now.
    ///
    /// # Errors
    /// If its metrics cannot be read.
    pub fn history<T>(&self, look: impl FnOnce(&History) -> T) -> Result<T> {
        let mut history = lock(&self.history);
        history.refresh()?;
        Ok(look(&history))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn run(folder: &Path, steps: u64) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join(CONFIG_FILE), "[run]\nseed = 1\n").unwrap();
        let line = |step| format!("{}\n", serde_json::to_string(&line(step)).unwrap());
        fs::write(folder.join(METRICS_FILE), (1..=steps).map(line).collect::<String>()).unwrap();
    }

    fn line(step: u64) -> train::record::StepLine {
        train::record::StepLine { step, loss: step as f64, ..Default::default() }
    }

    fn names(library: &Library, filter: &str) -> Vec<String> {
        let rows = library.rows(&Filter::of(filter)).unwrap().unwrap();
        rows.into_iter().map(|row| format!("{} {}", row.name, row.ran.step)).collect()
    }

    #[test]
    fn runs_come_grow_and_go() {
        let root = tempfile::tempdir().unwrap();
        run(&root.path().join("a"), 3);
        run(&root.path().join("rates/b"), 5);
        let library = Library::open(root.path()).unwrap();
        assert_eq!(names(&library, ""), ["a 3", "rates/b 5"]);
        assert_eq!(names(&library, "rates"), ["rates/b 5"]);
        assert_eq!(library.run("rates/b").unwrap().curve("loss", Along::Step).unwrap().len(), 5);
        run(&root.path().join("a"), 4);
        run(&root.path().join("c"), 1);
        fs::remove_dir_all(root.path().join("rates")).unwrap();
        assert_eq!(names(&library, ""), ["a 4", "c 1"]);
        assert!(library.run("rates/b").is_none());
        let unknown = library.rows(&Filter::of("run.sede=1")).unwrap().unwrap_err();
        assert!(unknown.contains("similar: run.seed"), "{unknown}");
        // A folder that is a run.
        let one = Library::open(&root.path().join("a")).unwrap();
        assert_eq!(names(&one, ""), ["a 4"]);
        assert!(Library::open(&root.path().join("none")).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn nothing_outside_of_the_folder_is_shown() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        run(&outside.path().join("secret"), 3);
        run(&root.path().join("a"), 3);
        std::os::unix::fs::symlink(outside.path().join("secret"), root.path().join("out")).unwrap();
        std::os::unix::fs::symlink(root.path().join("a"), root.path().join("in")).unwrap();
        let library = Library::open(root.path()).unwrap();
        assert_eq!(names(&library, ""), ["a 3", "in 3"]);
        for name in ["out", "../secret", "a/../a", "/etc", "", "."] {
            assert!(library.run(name).is_none(), "{name}");
        }
    }
}
