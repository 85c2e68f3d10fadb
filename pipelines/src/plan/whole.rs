//! What can be seen before any work: files, sizes and memory. `pipeline check`, `run`, `run --dry-run` and `explain`
//! report it together with the problems of the configuration itself.
use super::resolve::located;
use super::{Draft, Overrides, Plan, Table};
use crate::machine::total_memory;
use crate::pretrained::ModelFolder;
use crate::problem::{Diagnostic, Origin, Problems};
use crate::show::human;
use contract::files::is_not_of_the_configuration;
use contract::{Env, Facts, Goal, Memory, ModelFacts, Problem, Resources, StageType};
use std::path::Path;
use std::sync::Arc;

/// Most parameters of a model: 1 TiB of `f32`.
const MOST_PARAMETERS: u64 = 1 << 38;

/// What a plan is checked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// To be estimated, perhaps for another machine.
    Estimate,
    /// To be run on this machine.
    Run,
    /// To be resumed from a checkpoint on this machine.
    Resume,
    /// To be evaluated at a checkpoint.
    Evaluate,
}

impl Scope {
    /// Whether it trains on this machine.
    fn trains_here(self) -> bool {
        matches!(self, Self::Run | Self::Resume)
    }

    /// Whether the weights are those of a checkpoint, so that where they came from at first does not matter.
    fn has_weights(self) -> bool {
        matches!(self, Self::Resume | Self::Evaluate)
    }
}

impl Plan {
    /// Reads the configuration `path`, as [`load`](Self::load) does, and checks the files that it names, without
    /// processing them, the length of sequences, and the size of the model. If it is to be trained here, it must fit into
    /// this machine's memory.
    ///
    /// # Errors
    /// All problems at once.
    pub fn checked(path: &Path, overrides: &Overrides, registry: &[StageType], scope: Scope) -> Result<Plan, Problems> {
        let Draft { plan, mut problems, unsound } = Self::read(path, overrides, registry)?;
        plan.check_rest(&unsound, registry, scope, &mut problems);
        problems.sort();
        problems.or(plan)
    }

    /// The checks that [`checked`](Self::checked) makes besides [`load`](Self::load).
    ///
    /// # Errors
    /// All problems at once.
    pub fn check_whole(&self, registry: &[StageType], scope: Scope) -> Result<(), Problems> {
        let mut problems = Problems::default();
        self.check_rest(&[], registry, scope, &mut problems);
        problems.sort();
        problems.or(())
    }

    fn check_rest(&self, unsound: &[String], registry: &[StageType], scope: Scope, problems: &mut Problems) {
        let sound = problems.is_empty();
        self.check_files(unsound, problems);
        let pretrained = match scope.has_weights() {
            true => None,
            false => self.run.pretrained(&self.resolved.run, registry, problems),
        };
        if sound && self.goal == Goal::Train {
            self.check_length(problems);
            self.check_stride(problems);
            self.check_size(pretrained.as_ref(), scope, problems);
            self.check_model(problems);
        }
    }

    /// What is most likely not meant in a run of `steps` updates: see [`contract::Settings::notes`].
    pub fn notes(&self, steps: Option<u64>) -> Vec<String> {
        let all =
            self.stages.iter().flat_map(|stage| stage.settings.notes(steps).into_iter().map(move |note| (stage, note)));
        let text = |diagnostic: Diagnostic| match &diagnostic.origin {
            Origin::Code => diagnostic.message,
            origin => format!("{} ({origin})", diagnostic.message),
        };
        all.map(|(stage, note)| text(located(&stage.id, note, &self.table(&stage.id)))).collect()
    }

    fn table(&self, id: &str) -> Table {
        let found = self.resolved.stages.iter().find(|(other, _)| other == id).map(|(_, table)| table.clone());
        found.unwrap_or(Table { origin: Origin::Code, entries: Vec::new() })
    }

    fn check_files(&self, unsound: &[String], problems: &mut Problems) {
        for stage in self.stages.iter().filter(|stage| !unsound.contains(&stage.id)) {
            let table = self.table(&stage.id);
            for problem in stage.settings.check_files(self.goal, self.run.seed) {
                let beside = problem.key.and_then(|key| beside_configuration(&table, key));
                let problem = located(&stage.id, problem, &table);
                problems.push(match beside {
                    Some(next) => problem.next(next),
                    None => problem,
                });
            }
        }
    }

    /// Checks that the corpus can fill a sequence, as far as that is known without reading it.
    fn check_length(&self, problems: &mut Problems) {
        let mut most: Vec<Option<u64>> = vec![None; self.stages.len()];
        for at in self.order() {
            let stage = &self.stages[at];
            let edges = stage.inputs.iter().flatten().filter(|edge| !edge.feedback);
            let Some(input) = edges.map(|edge| most[edge.from]).sum::<Option<u64>>() else { continue };
            most[at] = stage.settings.most_tokens(self.run.seed, input);
            let Some(shape) = stage.settings.batch_shape() else { continue };
            if let Some(why) = shape.unfilled(input) {
                let why = format!("the training documents have at most {why}");
                let problem = located(&stage.id, Problem::at("sequence_length", why), &self.table(&stage.id));
                problems.push(problem.next("set it lower or read more"));
            }
        }
    }

    /// Checks that no token of a validation document is passed over.
    fn check_stride(&self, problems: &mut Problems) {
        let Some(shape) = self.stages.iter().find_map(|stage| stage.settings.batch_shape()) else { return };
        for stage in &self.stages {
            let Some(stride) = stage.settings.validation_stride().filter(|stride| *stride > shape.length) else {
                continue;
            };
            let why = format!(
                "is {stride}, but a sequence has {} tokens: the tokens between would be left out",
                shape.length
            );
            problems.push(located(&stage.id, Problem::at("stride", why), &self.table(&stage.id)));
        }
    }

    /// Checks the keys of all stages against the model.
    fn check_model(&self, problems: &mut Problems) {
        let length = self.stages.iter().find_map(|stage| stage.settings.batch_shape()).map_or(1, |shape| shape.length);
        // The vocabulary may not be known yet, and only sizes depend on it.
        let facts = Facts { vocabulary: 1, length, end_of_text: 0 };
        let Some(model) = self.model(&facts) else { return };
        self.check_keys_with(&model, problems);
    }

    /// Checks the keys of all stages against the model, once its vocabulary is known.
    ///
    /// # Errors
    /// All problems at once.
    pub fn check_keys(&self, model: &ModelFacts) -> Result<(), Problems> {
        let mut problems = Problems::default();
        self.check_keys_with(model, &mut problems);
        problems.or(())
    }

    fn check_keys_with(&self, model: &ModelFacts, problems: &mut Problems) {
        for stage in &self.stages {
            let table = self.table(&stage.id);
            for problem in stage.settings.check_model(model) {
                problems.push(located(&stage.id, problem, &table));
            }
        }
    }

    /// Checks that the model is not too large, and is the one of `pretrained`, whose weights it is to start from.
    fn check_size(&self, pretrained: Option<&ModelFolder>, scope: Scope, problems: &mut Problems) {
        let Some(shape) = self.stages.iter().find_map(|stage| stage.settings.batch_shape()) else { return };
        let known = self.stages.iter().map(|stage| (stage, stage.settings.vocabulary(self.run.seed)));
        let vocabulary = match known.into_iter().find(|(_, known)| !matches!(known, Ok(None))) {
            Some((_, Ok(Some(vocabulary)))) => vocabulary,
            // Otherwise the file from which it is read has been reported.
            Some((stage, Err(error))) if problems.is_empty() => {
                let failed = is_not_of_the_configuration(&error);
                let problem = Diagnostic::new(format!("`{}`: {error:#}", stage.id), self.table(&stage.id).origin);
                return problems.push(Diagnostic { failed, ..problem });
            }
            _ => return,
        };
        let facts = Facts { length: shape.length, ..vocabulary };
        let model = self.stages.iter().find_map(|stage| Some((stage, stage.settings.model(&facts)?)));
        let Some((stage, model)) = model else { return };
        if let Some(pretrained) = pretrained {
            self.check_differences(&model, pretrained, problems);
        }
        let mut wrong = |message: String, next: &str| {
            let origin = self.table(&stage.id).origin;
            problems.push(Diagnostic::new(format!("`{}`: {message}", stage.id), origin).next(next));
        };
        let parameters = parameters(&model);
        if parameters > MOST_PARAMETERS {
            let count = human::count(parameters);
            let most = human::count(MOST_PARAMETERS);
            let next = "lower `width` or `layers`, or the vocabulary";
            return wrong(format!("the model would have {count} parameters; at most {most} are possible"), next);
        }
        if scope.trains_here() {
            let mut resources = Resources::default();
            resources.insert(Arc::new(facts));
            self.mixture().into_iter().for_each(|mixture| resources.insert(Arc::new(mixture)));
            // With one worker, because each worker needs more.
            let env = Env::without_training(1, shape.lanes, 1, resources);
            let env = Env { seed: self.run.seed, shape, model: Some(Arc::new(model)), ..env };
            let stages = self.stages.iter().filter(|stage| !stage.settings.takes().is_empty());
            let needed = stages.map(|stage| stage.memory(&env)).fold(Memory::default(), Memory::with).peak();
            if needed > total_memory() {
                let (needed, there) = (human::bytes(needed), human::bytes(total_memory()));
                let next = "`pipeline explain` shows what needs it";
                wrong(format!("training takes {needed} of memory, and this process may use {there}"), next);
            }
        }
    }

    /// Checks that the weights of `pretrained`, that of `run.initial_checkpoint`, mean the same in `model`, the run's, as
    /// far as that is known before the tokenizer is: it may be trained, and then it can have fewer ids than it was to
    /// have.
    fn check_differences(&self, model: &ModelFacts, pretrained: &ModelFolder, problems: &mut Problems) {
        let Some(folder) = self.run.initial_checkpoint.as_deref() else { return };
        let Ok(differences) = pretrained.differences(&model.config, None) else { return };
        let refused = differences.into_iter();
        let refused = refused.filter(|(name, _)| name != "vocab_size" && !self.run.accept_differences.contains(name));
        let (names, how): (Vec<String>, Vec<String>) = refused.map(|(name, how)| (format!("{name:?}"), how)).unzip();
        if !how.is_empty() {
            let message = format!(
                "`run.initial_checkpoint`: the weights of {folder} would mean something else in this run: {}",
                how.join("; ")
            );
            let next = format!("change the run, or accept it: --set 'run.accept_differences=[{}]'", names.join(", "));
            let origin = self.resolved.run.origin_of("initial_checkpoint");
            problems.push(Diagnostic::new(message, origin).next(next));
        }
    }
}

/// Number of parameters, or `u64::MAX` if there are more than that.
fn parameters(model: &ModelFacts) -> u64 {
    let tensor = |shape: &[usize]| shape.iter().fold(1u64, |all, size| all.saturating_mul(*size as u64));
    model.parameters.iter().fold(0u64, |all, spec| all.saturating_add(tensor(&spec.shape)))
}

/// Advice if a relative path that `key` names is not in the current folder but beside the configuration.
fn beside_configuration(table: &Table, key: &str) -> Option<String> {
    let entry = table.get(key)?;
    let (Origin::File { file, .. } | Origin::StageFile { file, .. }) = &entry.origin else { return None };
    let folder = Path::new(file).parent().filter(|folder| !folder.as_os_str().is_empty())?;
    let one = entry.value.as_str();
    let mut names =
        one.into_iter().chain(entry.value.as_array().into_iter().flatten().filter_map(|name| name.as_str()));
    let name = names.find(|name| {
        Path::new(name).is_relative() && !name.is_empty() && !Path::new(name).exists() && folder.join(name).exists()
    })?;
    let found = folder.join(name);
    Some(format!("paths start in the current folder; beside the configuration there is {}", found.display()))
}
