//! The runs of an experiment: every arm at every point of the grid with every seed.
use super::file::{Axis, File};
use crate::plan::{Change, Changed, Overrides, Plan, Scope, sets, toml_of};
use crate::problem::{Diagnostic, Origin, Problems};
use crate::train_run::session::due;
use contract::{Goal, StageType};
use serde_json::Value;

/// The configurations that are compared. Each is run with every seed.
pub struct Variant {
    /// Its name, of the arm and the values of the grid.
    pub name: String,
    /// The place in the file that describes it best.
    origin: Origin,
    changes: Vec<Change>,
}

/// A run of an experiment.
pub struct Cell {
    /// Its name, and that of its directory.
    pub name: String,
    /// Index of its variant.
    pub variant: usize,
    /// Its seed.
    pub seed: u64,
    /// Its plan.
    pub plan: Plan,
}

/// What an experiment consists of.
#[derive(Clone, Copy)]
pub struct Experiment<'a> {
    /// Its runs.
    pub cells: &'a [Cell],
    /// The names of its variants.
    pub names: &'a [&'a str],
    /// The numbers of steps after each of which only the better half of the variants goes on.
    pub halving: &'a [u64],
}

/// The variants of an experiment.
pub fn variants(file: &File) -> Vec<Variant> {
    let mut all = Vec::new();
    for arm in &file.arms {
        let start = (arm.name.clone().into_iter().collect::<Vec<_>>(), arm.changes.clone());
        let points = file.grid.iter().fold(vec![start], |points, axis| {
            let with = |(names, changes): &(Vec<String>, Vec<Change>), value: &Value| {
                let what = Changed::Key(axis.key.clone(), value.clone());
                let change = Change { origin: axis.origin.clone(), what };
                let names = names.iter().cloned().chain([label(axis, value, &file.grid)]).collect();
                (names, changes.iter().cloned().chain([change]).collect())
            };
            points.iter().flat_map(|point| axis.values.iter().map(move |value| with(point, value))).collect()
        });
        all.extend(points.into_iter().map(|(names, changes)| Variant {
            name: if names.is_empty() { "all".into() } else { names.join("-") },
            origin: arm.origin.clone(),
            changes,
        }));
    }
    all
}

/// A value of the grid in a name: `learning_rate-0.003`. The stage is part of it if another axis has the same key.
fn label(axis: &Axis, value: &Value, grid: &[Axis]) -> String {
    let last = |axis: &Axis| axis.key.rsplit('.').next().unwrap_or_default().to_owned();
    let alone = grid.iter().filter(|other| last(other) == last(axis)).count() == 1;
    let key = if alone { last(axis) } else { axis.key.clone() };
    let value = value.as_str().map_or_else(|| toml_of(value).unwrap_or_default(), str::to_owned);
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    format!("{key}-{value}").chars().map(plain).collect()
}

/// The runs of an experiment, whose plans are checked; `options` are what the command line changes in all of them.
///
/// # Errors
/// All problems at once.
pub fn cells(
    file: &File,
    variants: &[Variant],
    options: &Overrides,
    registry: &[StageType],
    scope: Scope,
) -> Result<Vec<Cell>, Problems> {
    let (mut cells, mut problems) = (Vec::<Cell>::new(), Problems::default());
    let mut add = |problem: Diagnostic| {
        // Most problems of one run are those of all.
        if !problems.0.contains(&problem) {
            problems.push(problem);
        }
    };
    for (text, key) in options.set.iter().flat_map(|text| [(text, "seed"), (text, "name")]) {
        if sets(text, key) {
            let message = format!("`run.{key}` is given to each run by the experiment");
            add(Diagnostic::new(message, Origin::Option(format!("--set {text}"))).next("change the experiment's file"));
        }
    }
    for (index, variant) in variants.iter().enumerate() {
        for seed in &file.seeds {
            let name = format!("{}-seed{seed}", variant.name);
            match Plan::checked(&file.base, &overrides(variant, *seed, &name, options), registry, scope) {
                Ok(plan) => {
                    check(&plan, variant, &mut add);
                    cells.push(Cell { name, variant: index, seed: *seed, plan });
                }
                Err(found) => found.0.into_iter().for_each(&mut add),
            }
        }
    }
    check_different(variants, &cells, &mut add);
    check_halving(file, variants, &cells, &mut add);
    problems.sort();
    problems.or(cells)
}

fn overrides(variant: &Variant, seed: u64, name: &str, options: &Overrides) -> Overrides {
    let origin = |what: &str| Origin::Option(format!("(experiment: {what})"));
    let of_run = [("run.seed", Value::from(seed), "seed"), ("run.name", Value::from(name), "name")];
    let of_run =
        of_run.map(|(key, value, what)| Change { origin: origin(what), what: Changed::Key(key.into(), value) });
    Overrides { changes: variant.changes.iter().cloned().chain(of_run).collect(), ..options.clone() }
}

/// Whether the run can be compared.
fn check(plan: &Plan, variant: &Variant, add: &mut impl FnMut(Diagnostic)) {
    let origin = || variant.origin.clone();
    if plan.goal == Goal::PrepareCorpus {
        let message = format!("`{}` prepares a corpus: an experiment compares models", variant.name);
        add(Diagnostic::new(message, origin()).next("give a configuration that trains"));
    } else if due(plan).evaluate.is_none() {
        let message = format!("`{}` validates nothing, so there is nothing to compare", variant.name);
        add(Diagnostic::new(message, origin()).next("set `evaluate.interval` above 0"));
    }
}

/// Whether every run is validated when variants are compared, and something is decided then.
fn check_halving(file: &File, variants: &[Variant], cells: &[Cell], add: &mut impl FnMut(Diagnostic)) {
    let problem = |message: String| Diagnostic::new(message, file.halving_origin.clone());
    if !file.halving.is_empty() && variants.len() < 2 {
        add(problem("`experiment.halving` stops nothing, as there is only one variant".into()).next("remove it"));
    }
    let mut left = variants.len();
    for step in &file.halving {
        if left < 2 && variants.len() > 1 {
            let message = format!("`experiment.halving` compares after {step} steps, when one variant is left");
            add(problem(message).next("remove this number and those after it"));
            break;
        }
        left = left.div_ceil(2);
    }
    for cell in cells {
        let Some(interval) = due(&cell.plan).evaluate else { continue };
        let name = &variants[cell.variant].name;
        if let Some(step) = file.halving.iter().find(|step| !step.is_multiple_of(interval)) {
            let message =
                format!("`experiment.halving` compares after {step} steps, but `{name}` validates every {interval}");
            let next = format!("give multiples of {interval}, or change `evaluate.interval`");
            add(problem(message).next(next));
        }
        let longest = cell.plan.run.max_steps.zip(file.halving.last()).filter(|(steps, last)| **last + 1 >= *steps);
        if let Some((steps, last)) = longest {
            let message = format!("`experiment.halving` compares after {last} steps, but `{name}` has {steps}");
            add(problem(message).next("give fewer steps: at the end, all that are left are compared"));
        }
    }
}

/// Two variants of the same configuration, or of the same name, are a mistake.
fn check_different(variants: &[Variant], cells: &[Cell], add: &mut impl FnMut(Diagnostic)) {
    let of = |index: usize| cells.iter().find(|cell| cell.variant == index);
    for (index, variant) in variants.iter().enumerate() {
        for (before, earlier) in variants.iter().enumerate().take(index) {
            let same_name = earlier.name == variant.name;
            let same = of(index).zip(of(before)).is_some_and(|(a, b)| same_values(&a.plan, &b.plan));
            if same_name || same {
                let what = if same_name { "have the same name" } else { "are the same configuration" };
                let message = format!("variants {} and {} {what}: `{}`", before + 1, index + 1, variant.name);
                add(Diagnostic::new(message, variant.origin.clone()).next("leave one out, or change it"));
            }
        }
    }
}

/// Whether two plans have the same values, but for the names of their runs.
fn same_values(a: &Plan, b: &Plan) -> bool {
    let without_name = |plan: &Plan| {
        let mut resolved = plan.resolved.clone();
        resolved.run.remove("name");
        resolved
    };
    without_name(a) == without_name(b)
}
