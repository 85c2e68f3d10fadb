//! How often a run validates and writes checkpoints, from its configuration.
use crate::plan::{Table, configuration};
use crate::train_run::CONFIG_FILE;
use std::path::Path;

/// Numbers of steps; `None` if the run never does it, or only at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    /// Between validations.
    pub validation: Option<u64>,
    /// Between checkpoints.
    pub checkpoint: Option<u64>,
}

impl Interval {
    /// Those of the run in `run_dir`, as far as its configuration can be read.
    pub fn of(run_dir: &Path) -> Self {
        let tables = configuration(&run_dir.join(CONFIG_FILE));
        let of = |stage_type: &str| {
            let value = |table: &Table, key: &str| table.get(key).map(|entry| entry.value.clone());
            let mut stages = tables.iter().map(|(_, table)| table);
            let table = stages.find(|table| value(table, "type").is_some_and(|found| found == stage_type))?;
            value(table, "interval")?.as_u64().filter(|interval| *interval > 0)
        };
        Self { validation: of("evaluate"), checkpoint: of("checkpoint") }
    }

    /// The step after `step` at which something is due every `interval` steps, and at the last of `steps`.
    pub fn next(interval: u64, step: u64, steps: u64) -> Option<u64> {
        (step < steps).then(|| ((step / interval + 1) * interval).min(steps))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_read_from_the_configuration_by_type() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Interval::of(folder.path()), Interval::default());
        let config = "[run]\nname = \"x\"\n[stage.check]\ntype = \"evaluate\"\ninterval = 20\n[stage.save]\n\
                      type = \"checkpoint\"\n# interval is not set\n";
        std::fs::write(folder.path().join(CONFIG_FILE), config).unwrap();
        assert_eq!(Interval::of(folder.path()), Interval { validation: Some(20), checkpoint: None });
        assert_eq!(
            [0, 19, 20, 55, 60].map(|step| Interval::next(20, step, 60)),
            [Some(20), Some(20), Some(40), Some(60), None]
        );
    }
}
