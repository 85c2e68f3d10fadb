//! The texts that the model has generated during the run.
use super::html::escape;
use crate::run_files::Sample;

/// So many are shown at once, the others on a click.
const OPEN: usize = 3;

/// The samples of a run, the last one first; nothing if it has none.
pub(super) fn section(samples: &[Sample]) -> String {
    let one = |sample: &Sample| {
        let [prompt, text] = [&sample.prompt, &sample.text].map(|text| escape(text));
        format!("<p class=\"sample\"><small>after {} steps</small><b>{prompt}</b>{text}</p>\n", sample.step)
    };
    let (open, closed) = samples.split_at(samples.len().min(OPEN));
    let all = |samples: &[Sample]| samples.iter().map(one).collect::<String>();
    match (open, closed) {
        ([], _) => String::new(),
        (_, []) => format!("<h2>Samples</h2>\n<div class=\"panel\">\n{}</div>\n", all(open)),
        _ => format!(
            "<h2>Samples</h2>\n<div class=\"panel\">\n{}<details><summary>{} earlier ones</summary>\n{}</details></div>\n",
            all(open),
            closed.len(),
            all(closed)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_text_stays_text_and_old_ones_are_folded() {
        assert_eq!(section(&[]), "");
        let sample = |step| Sample { step, prompt: "The <b>".into(), text: " mill\n</p><script>".into() };
        let shown = section(&[9, 8, 7, 6, 5].map(sample));
        assert!(shown.contains("<small>after 9 steps</small><b>The &lt;b&gt;</b> mill\n&lt;/p&gt;"), "{shown}");
        assert!(shown.contains("<summary>2 earlier ones</summary>") && shown.matches("class=\"sample\"").count() == 5);
        assert!(!section(&[sample(1)]).contains("details"));
    }
}
