//! What must be the same for a run to go on from a checkpoint, or for two runs to be one: fingerprints, and the learning
//! rate that is left.
use crate::plan::is_retired;
use crate::problem::Usage;
use anyhow::Result;
use contract::CODE_VERSION;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use text::corpus::epoch_order::ORDER;
use text::corpus::withdrawal::WITHDRAWN;
use train::checkpoint::Fingerprint;
use train::optimize::schedule::{Decay, LearningRateSchedule};

/// Rejects a configuration whose results would differ from those of the checkpoint; returns notes to print.
///
/// # Errors
/// [`Usage`] with every setting that differs.
pub fn compare(checkpoint: &Path, then: Option<&Fingerprint>, now: &Fingerprint) -> Result<Vec<String>> {
    let Some(then) = then else { return Ok(Vec::new()) };
    let (differing, code) = differences(then, now);
    if !differing.is_empty() {
        let at = checkpoint.display();
        let list = differing.join("\n");
        let restore = match code {
            true => "Resume with the program (and the values) that the run started with",
            false => "Restore these values",
        };
        let next = format!("{restore}, or start a new run from its weights with `run.initial_checkpoint`");
        return Err(Usage(format!("the configuration contradicts the checkpoint {at}:\n{list}\n{next}")).into());
    }
    let mut notes = Vec::new();
    if then.blas_core != now.blas_core {
        let (then, now) = (&then.blas_core, &now.blas_core);
        notes.push(format!("GEMM ran on {then} before and runs on {now} now: results will differ in the last bits"));
    }
    Ok(notes)
}

/// The same for a run that is resumed: the values of the keys `rounding` may differ, which a note reports.
///
/// # Errors
/// [`Usage`] with every other setting that differs.
pub fn compare_to_resume(
    checkpoint: &Path,
    then: Option<&Fingerprint>,
    now: &Fingerprint,
    rounding: &[String],
) -> Result<Vec<String>> {
    let Some(then) = then else { return Ok(Vec::new()) };
    let (mut then, mut changed) = (then.clone(), Vec::new());
    for key in rounding {
        if let (Some(before), Some(now)) = (then.configuration.get_mut(key), now.configuration.get(key))
            && before != now
        {
            changed.push(format!(
                "{key} was {before} and is {now} from here on: results will not be those of a run that always had one of \
                 both"
            ));
            before.clone_from(now);
        }
    }
    changed.extend(compare(checkpoint, Some(&then), now)?);
    Ok(changed)
}

/// The same as [`compare`] for an evaluation, which does not depend on the order in which a run reads documents, nor on the
/// entries `ignored`.
///
/// # Errors
/// [`Usage`] with every setting that differs.
pub fn compare_to_evaluate(
    checkpoint: &Path,
    then: Option<&Fingerprint>,
    now: &Fingerprint,
    ignored: &[String],
) -> Result<Vec<String>> {
    let unordered = |fingerprint: &Fingerprint| {
        let mut fingerprint = fingerprint.clone();
        fingerprint.configuration.retain(|key, _| !key.starts_with(ORDER) && !ignored.contains(key));
        fingerprint
    };
    compare(checkpoint, then.map(unordered).as_ref(), &unordered(now))
}

/// Every setting and input that differs, on a line each, and whether the code of a stage does.
pub fn differences(then: &Fingerprint, now: &Fingerprint) -> (Vec<String>, bool) {
    let mut complete = then.clone();
    complete.configuration.extend(lanes_of_older(then));
    let then = &complete;
    let (mut differing, mut code) = (Vec::new(), false);
    let keys: BTreeSet<&String> = then.configuration.keys().chain(now.configuration.keys()).collect();
    for key in keys {
        // A key that is not given is null, or unknown to the program that wrote the checkpoint.
        let given = |of: &Fingerprint| of.configuration.get(key).filter(|value| *value != "null").cloned();
        let value = |of: &Fingerprint, none: &str| given(of).unwrap_or_else(|| none.into());
        let (name, either) = (key.rsplit('.').next().unwrap_or_default(), given(then).or_else(|| given(now)));
        let is_one = given(then).is_none() || given(now).is_none();
        if given(then) == given(now) || is_one && is_retired(name, &either.unwrap_or_default()) {
            continue;
        }
        differing.push(match key.strip_suffix(CODE_VERSION).and_then(|key| key.strip_suffix(": ")) {
            // The version 0 is not recorded.
            Some(stage) => {
                code = true;
                let (then, now) = (value(then, "0"), value(now, "0"));
                format!("  the code of `{stage}` has changed: its version was {then}, is {now}")
            }
            None if key.starts_with(WITHDRAWN) => format!(
                "  {key} were {}, are {}: see `withdraw` of the source; `pipeline forget` keeps its list in the run \
                 directory (`withdrawn/`) and names it in `config.toml` there",
                value(then, "none"),
                value(now, "none")
            ),
            None if key.starts_with(ORDER) => {
                code = true;
                let by = |of| value(of, "by position in the files");
                format!("  the {key} was {}, is {}", by(then), by(now))
            }
            None => format!("  {key} was {}, is {}", value(then, "nothing"), value(now, "nothing")),
        });
    }
    (differing, code)
}

/// What `fingerprint` leaves out if it is of a program without the key `lanes`: it had a lane for each micro-batch.
pub fn lanes_of_older(fingerprint: &Fingerprint) -> Option<(String, String)> {
    let leaves = |(key, value): (&String, &String)| {
        Some((format!("{}.lanes", key.strip_suffix(".micro_batches")?), value.clone()))
    };
    let lanes = fingerprint.configuration.iter().find_map(leaves);
    lanes.filter(|(key, _)| !fingerprint.configuration.contains_key(key))
}

/// Rejects a run in which the learning rate of one of `steps` (all that are left) is not the one that was planned
/// when the checkpoint was written; returns a note if that is not known. `rate` is determined by the keys of `stage`.
/// The stable phase of "wsd" may be extended, with a note: until the decay begins, the run is one that was always
/// that long.
///
/// # Errors
/// [`Usage`] with both learning rates, and how to keep the one that was planned.
pub fn compare_learning_rate(
    checkpoint: &Path,
    then: &Fingerprint,
    stage: &str,
    rate: &LearningRateSchedule,
    steps: Range<u64>,
) -> Result<Option<String>> {
    let at = checkpoint.display();
    let Some(planned) = then.schedule_steps else {
        let depends = rate.first_difference(u64::MAX, steps).is_some();
        let note = "does not record the length of its learning-rate schedule";
        return Ok(depends.then(|| format!("{at} {note}, here {} steps: see `{stage}.schedule_steps`", rate.steps)));
    };
    let first = steps.start;
    let Some(differs) = rate.first_difference(planned, steps) else { return Ok(None) };
    if rate.decay == Decay::Wsd && rate.first_difference(planned, 0..first).is_none() {
        let decay = rate.decay_over(rate.steps).start;
        return Ok(Some(format!(
            "the learning rate decays from step {decay} on, in a schedule of {} steps instead of \
                                {planned}",
            rate.steps
        )));
    }
    let rates = |step| {
        let before = LearningRateSchedule { steps: planned, ..*rate }.rate(step);
        format!("{before:.4e} was planned for step {step}, and it would be {:.4e}", rate.rate(step))
    };
    let later = if differs > first { format!("\n  {}", rates(differs)) } else { String::new() };
    Err(Usage(format!(
        "the learning rate would leave the schedule of the checkpoint {at}, which decays over {planned} steps; that of this \
         run decays over {}:\n  {}{later}\n\
         Keep the schedule of the checkpoint with --set {stage}.schedule_steps={planned}, or start a new run from its \
         weights with `run.initial_checkpoint`",
        rate.steps,
        rates(first)
    ))
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_whose_code_has_changed_is_told_from_a_value() {
        let fingerprint = |configuration: &str| -> Fingerprint {
            serde_json::from_str(&format!(r#"{{"configuration": {configuration}, "blas_core": "portable"}}"#)).unwrap()
        };
        let then = fingerprint(r#"{"lines.limit": "9"}"#);
        let now = fingerprint(r#"{"lines.limit": "8", "lines: version": "1"}"#);
        insta::assert_snapshot!(compare(Path::new("c"), Some(&then), &now).unwrap_err(), @r"
        the configuration contradicts the checkpoint c:
          lines.limit was 9, is 8
          the code of `lines` has changed: its version was 0, is 1
        Resume with the program (and the values) that the run started with, or start a new run from its weights with `run.initial_checkpoint`
        ");
        let now = fingerprint(r#"{"lines.limit": "8", "lines.new": "null"}"#);
        insta::assert_snapshot!(compare(Path::new("c"), Some(&then), &now).unwrap_err(), @r"
        the configuration contradicts the checkpoint c:
          lines.limit was 9, is 8
        Restore these values, or start a new run from its weights with `run.initial_checkpoint`
        ");
    }

    #[test]
    fn a_checkpoint_of_a_program_with_another_order_is_evaluated_and_not_resumed() {
        let fingerprint = |configuration: &str| -> Fingerprint {
            serde_json::from_str(&format!(r#"{{"configuration": {configuration}, "blas_core": "portable"}}"#)).unwrap()
        };
        let (then, now) = (fingerprint("{}"), fingerprint(r#"{"order of documents": "by content"}"#));
        insta::assert_snapshot!(compare(Path::new("c"), Some(&then), &now).unwrap_err(), @r"
        the configuration contradicts the checkpoint c:
          the order of documents was by position in the files, is by content
        Resume with the program (and the values) that the run started with, or start a new run from its weights with `run.initial_checkpoint`
        ");
        assert!(compare_to_evaluate(Path::new("c"), Some(&then), &now, &[]).unwrap().is_empty());
        let other = fingerprint(r#"{"order of documents": "by content", "run.seed": "2"}"#);
        assert!(compare_to_evaluate(Path::new("c"), Some(&then), &other, &[]).is_err());
        let newer = fingerprint(r#"{"optimize: version": "1"}"#);
        assert!(compare_to_evaluate(Path::new("c"), Some(&then), &newer, &[]).is_err());
        assert!(compare_to_evaluate(Path::new("c"), Some(&then), &newer, &["optimize: version".into()]).is_ok());
    }

    #[test]
    fn keys_that_document_mask_has_replaced_are_the_same_if_nothing_was_masked() {
        let of = |configuration: &str| -> Fingerprint {
            serde_json::from_str(&format!(r#"{{"configuration": {configuration}, "blas_core": "portable"}}"#)).unwrap()
        };
        let now = |mask| of(&format!(r#"{{"pack.document_mask": "{mask}", "pack.lanes": "2"}}"#));
        let then = |masks: [bool; 2]| {
            let [pack, forward] = masks;
            of(&format!(
                r#"{{"pack.mask_across_documents": "{pack}", "forward.document_mask": "{forward}", "pack.lanes": "2"}}"#
            ))
        };
        assert!(differences(&then([false, false]), &now(false)).0.is_empty());
        assert_eq!(differences(&then([false, true]), &now(false)).0, ["  forward.document_mask was true, is nothing"]);
        assert_eq!(differences(&then([false, false]), &now(true)).0, ["  pack.document_mask was nothing, is true"]);
    }

    #[test]
    fn a_checkpoint_that_does_not_record_its_lanes_has_one_for_each_micro_batch() {
        let fingerprint = |configuration: &str| -> Fingerprint {
            serde_json::from_str(&format!(r#"{{"configuration": {configuration}, "blas_core": "portable"}}"#)).unwrap()
        };
        let old = |leaves| fingerprint(&format!(r#"{{"pack.micro_batches": "{leaves}"}}"#));
        let new =
            |leaves, lanes| fingerprint(&format!(r#"{{"pack.micro_batches": "{leaves}", "pack.lanes": "{lanes}"}}"#));
        let compare = |then: &Fingerprint, now: &Fingerprint| compare(Path::new("c"), Some(then), now);
        for (then, now) in [(old(2), new(2, 2)), (old(16), new(16, 16)), (new(16, 4), new(16, 4))] {
            assert!(compare(&then, &now).unwrap().is_empty());
        }
        for (then, lanes) in [(old(16), 16), (new(16, 4), 4)] {
            let error = compare(&then, &new(16, 2)).unwrap_err().to_string();
            assert!(error.contains(&format!("  pack.lanes was {lanes}, is 2\nRestore")), "{error}");
        }
    }

    #[test]
    fn a_checkpoint_that_does_not_record_its_schedule_is_resumed_with_a_note() {
        let old = r#"{"configuration": {}, "blas_core": "portable"}"#;
        let mut then: Fingerprint = serde_json::from_str(old).unwrap();
        let decay = Decay::Linear;
        let rate = LearningRateSchedule { peak: 1.0, warmup: 2, steps: 12, decay, decay_fraction: 1.0, floor: 0.0 };
        let compare = |then: &Fingerprint, rate, steps| {
            compare_learning_rate(Path::new("c"), then, "optimize", rate, steps).map_err(|error| error.to_string())
        };
        let note = compare(&then, &rate, 4..12).unwrap().unwrap();
        assert!(note.contains("here 12 steps: see `optimize.schedule_steps`"), "{note}");
        let constant = LearningRateSchedule { decay: Decay::Constant, ..rate };
        assert_eq!(compare(&then, &constant, 4..12), Ok(None));
        then.schedule_steps = Some(7);
        // After step 4, two fifths of the one decay and a fifth of the other are done.
        let refused = compare(&then, &rate, 4..12).unwrap_err();
        assert!(refused.contains("6.0000e-1 was planned for step 4, and it would be 8.0000e-1"), "{refused}");
        assert_eq!(compare(&then, &rate, 12..12), Ok(None));
        // At the peak, both are the same, and at the next step no longer.
        let later = compare(&then, &rate, 2..12).unwrap_err();
        assert!(later.contains("planned for step 2") && later.contains("8.0000e-1 was planned for step 3"), "{later}");
        // The decay of 7 steps begins after step 3, that of 12 after step 6.
        let wsd = LearningRateSchedule { decay: Decay::Wsd, decay_fraction: 0.5, ..rate };
        let extended = compare(&then, &wsd, 4..12).unwrap().unwrap();
        assert!(extended.contains("decays from step 6 on, in a schedule of 12 steps instead of 7"), "{extended}");
        let refused = compare(&then, &wsd, 5..12).unwrap_err();
        assert!(refused.contains("5.0000e-1 was planned for step 5, and it would be 1.0000e0"), "{refused}");
    }
}
