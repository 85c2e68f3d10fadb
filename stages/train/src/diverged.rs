//! The error for non-finite values: training has diverged.
use anyhow::{Result, ensure};
use contract::Step;

/// Returns an error if `value`, the `what` of the step, is not finite.
///
/// # Errors
/// If `value` is infinite or NaN; the message has the number of the update and suggestions.
pub fn finite(what: &str, value: f64, step: Step) -> Result<()> {
    ensure!(
        value.is_finite(),
        "the {what} of update {} is not finite ({value}): nothing was updated and the last checkpoint is good; a lower \
         `optimize.learning_rate` or more `optimize.warmup_steps` may help",
        step + 1
    );
    Ok(())
}
