//! Keys that several sources share: the validation split, and the conversion of files to document Parquet.
use crate::Progress;
use crate::corpus::source_rows::SourceFiles;
use crate::corpus::split::Split;
use crate::input::attribution::attributions;
use crate::input::ingest::{Ingested, Reading, ingest};
use crate::input::paths::{InputFile, Inputs};
use crate::input::quarantine::OnBadData;
use crate::support::cache::Cache;
use contract::{Goal, Problem, Result, StageKeys};
use serde::{Deserialize, Serialize};

/// 5 % of the documents. Damage in storage or in transit affects a few rows, or the end of a file. If more is
/// unreadable, the file is probably not what the user thinks it is, and training on the rest would not be what they
/// want.
const MAX_BAD_FRACTION: f64 = 0.05;

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

    /// Converts the files of `inputs` that are not read in place, which were found at `paths`. Progress is in bytes
    /// converted.
    ///
    /// # Errors
    /// If a file cannot be read, or contains unreadable documents while `on_bad_data` is "stop".
    pub fn convert<'a, F>(
        &self,
        paths: &[String],
        inputs: &Inputs<F>,
        split: Split,
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
            split,
            on_bad_data: self.on_bad_data,
            max_bad_fraction: self.max_bad_fraction,
            cache,
        })
    }
}
