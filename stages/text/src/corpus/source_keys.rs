//! Keys that several sources share: the validation split, and the conversion of files to document Parquet.
use crate::Progress;
use crate::corpus::source_rows::SourceFiles;
use crate::corpus::split::Split;
use crate::corpus::withdrawal::Withdrawn;
use crate::input::attribution::attributions;
use crate::input::ingest::{Ingested, Reading, ingest};
use crate::input::paths::{InputFile, Inputs};
use crate::input::quarantine::OnBadData;
use crate::input::read::look;
use crate::parquet::documents::open;
use crate::support::cache::Cache;
use crate::support::problem::TextProblem;
use contract::files::is_not_of_the_configuration;
use contract::{Goal, Problem, Result, StageKeys};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// 5 % of the documents. Damage in storage or in transit affects a few rows, or the end of a file. If more is
/// unreadable, the file is probably not what the user thinks it is, and training on the rest would not be what they
/// want.
const MAX_BAD_FRACTION: f64 = 0.05;

/// Number of files whose beginnings are looked at before any work. Of Parquet, the footers of all files are read.
const FIRST_FILES: usize = 16;

/// Looks at the footers of Parquet files and at the beginnings of the first other ones.
///
/// # Errors
/// If a file cannot be read, is not of its format, or lacks its column.
pub fn look_at<'a, F>(inputs: &Inputs<F>, reading: impl Fn(&InputFile<F>) -> Reading<'a>) -> Result<()> {
    let mut looked = 0;
    for file in &inputs.files {
        match reading(file) {
            Reading::InPlace(column) => drop(open(&file.path, column)?),
            Reading::Converted(_) if looked == FIRST_FILES => {}
            Reading::Converted(reader) => {
                looked += 1;
                look(&file.path, &*reader)?;
            }
        }
    }
    Ok(())
}

/// The problem that finding the files of `paths`, or looking at them, has shown; with the key `column` if they lack what
/// that names.
pub fn input_problem(error: &anyhow::Error, column: &'static str) -> Problem {
    let problem = error.downcast_ref::<TextProblem>();
    let key = match problem {
        Some(TextProblem::Column { .. } | TextProblem::Type { .. }) => column,
        _ => "paths",
    };
    let failed = is_not_of_the_configuration(error) || problem.is_some_and(|problem| !problem.is_usage());
    Problem { failed, ..Problem::with_file(key, error) }
}

/// The keys that select the documents for validation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct HoldOut {
    /// Fraction of the documents to hold out for validation, selected by a hash of their content; at least 0, below 1.
    /// 0.01 if neither this nor `validation_every` is given.
    pub validation_fraction: Option<f64>,
    /// Hold out every n-th row of the files instead (rows 0, n, 2n, …); at least 2.
    pub validation_every: Option<u64>,
}

impl HoldOut {
    /// The rule that the keys describe.
    pub fn split(&self) -> Split {
        Split::of(self.validation_fraction, self.validation_every)
    }

    /// Problems with the values.
    pub fn check(&self) -> Vec<Problem> {
        Split::check(self.validation_fraction, self.validation_every)
    }

    /// Problems with the keys in a graph with this goal.
    pub fn check_goal(&self, goal: Goal) -> Vec<Problem> {
        let by_place = goal == Goal::PrepareCorpus && self.validation_every.is_some();
        let why =
            "holds out rows by their place, which changes with the input of a preparation: use `validation_fraction`";
        by_place.then(|| Problem::at("validation_every", why)).into_iter().collect()
    }
}

/// The keys of the conversion to document Parquet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct Conversion {
    /// Folder for converted files; $MILLRACE_CACHE, $XDG_CACHE_HOME/millrace or ~/.cache/millrace if not given.
    #[key(location)]
    pub cache: Option<String>,
    /// What to do with documents that cannot be read: "quarantine" (skip and list them) or "stop".
    #[key(failure)]
    pub on_bad_data: OnBadData,
    /// Largest fraction of the documents that may be unreadable; 0 to 1. A lost row group counts with all its rows.
    #[key(failure, default = MAX_BAD_FRACTION, min = 0, max = 1)]
    pub max_bad_fraction: f64,
}

impl Conversion {
    /// The cache.
    pub fn cache(&self) -> Cache {
        Cache::new(self.cache.as_deref())
    }

    /// The problem if there can be no cache in the folder.
    pub fn check_files(&self) -> Vec<Problem> {
        self.cache().check_folder().err().map(|error| Problem::with_file("cache", &error)).into_iter().collect()
    }

    /// Converts the files of `inputs` that are not read in place, which were found at `paths`. Which documents are held out
    /// and withdrawn is noted for later. Progress is in bytes converted.
    ///
    /// # Errors
    /// If a file cannot be read, or contains unreadable documents while `on_bad_data` is "stop".
    pub fn convert<'a, F>(
        &self,
        paths: &[String],
        inputs: &Inputs<F>,
        (split, withdrawn): (Split, Option<Arc<Withdrawn>>),
        reading: impl Fn(&InputFile<F>) -> Reading<'a>,
        progress: Progress,
    ) -> Result<SourceFiles> {
        let cache = self.cache();
        let files: Vec<_> = inputs.files.iter().map(|file| (file, reading(file))).collect();
        let Ingested { files, quarantine } = ingest(&files, self.on_bad_data, &cache, progress)?;
        Ok(SourceFiles {
            paths: paths.to_vec(),
            attributions: attributions(inputs)?,
            files,
            quarantine,
            sample: inputs.sample_documents,
            withdrawn,
            split,
            on_bad_data: self.on_bad_data,
            max_bad_fraction: self.max_bad_fraction,
            cache,
        })
    }
}
