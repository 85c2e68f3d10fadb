//! The graphs of a preparation, for `pipeline explain` and `pipeline run --dry-run`.
use super::graph::Graphs;
use super::version::is_ours;
use crate::plan::Plan;
use crate::problem::Problems;
use crate::show::{graph, human, inputs};
use anyhow::{Error, Result};
use std::path::Path;

/// Explains a configuration that writes a version of a corpus (into `folder`, if given), in lines of at most `columns`.
///
/// # Errors
/// If a folder is given that is not one of versions, or whose input files do not exist.
pub fn explain(plan: &Plan, folder: Option<&Path>, columns: usize) -> Result<String> {
    let Graphs { rows, shards } = Graphs::of(plan);
    let mixed = plan.mixture().map(|mixture| mixture.sources);
    let source = plan.stages.iter().filter(|stage| stage.settings.takes().is_empty());
    let sources = mixed.clone().unwrap_or_else(|| source.map(|stage| stage.id.clone()).collect());
    let sources: Vec<String> = sources.iter().map(|source| format!("`{source}`")).collect();
    let read = if sources.len() == 1 { "reads" } else { "read" };
    let compares = plan.stages.iter().find(|stage| stage.settings.needs_whole_corpus());
    let decision = match compares {
        Some(stage) => {
            let order = match &mixed {
                Some(_) if sources.len() > 1 => {
                    format!(
                        " Of duplicates, the one of the first source is kept, in this order: {}.",
                        sources.join(", ")
                    )
                }
                _ => String::new(),
            };
            format!(
                "`{}` compares the signatures of all documents and decides which of them are kept.{order}",
                stage.id
            )
        }
        None => "Of documents with the same id, the first is kept.".to_owned(),
    };
    let (files, note) = match folder {
        None => (String::new(), "no model is trained; time and memory depend on the corpus".to_owned()),
        Some(folder) => {
            is_ours(folder)?;
            let note = format!("nothing was read or written; a run would write a version into {}", folder.display());
            (inputs(plan, columns)?, note)
        }
    };
    let text = |text: &str| human::wrap(text, columns).join("\n");
    Ok([
        text(&format!(
            "1. Each row that {} {read} is processed once, in chunks, unless it is in the previous version:",
            sources.join(" and ")
        )),
        draw(plan, Plan::of_wired(rows), columns)?,
        text(&format!("2. {decision}")),
        text("3. Shards that differ from the previous version are written; only texts without tokens are tokenized:"),
        draw(plan, Plan::of(shards), columns)?,
        format!("{files}{}", human::hang(&format!("Note     {note}"), columns)),
    ]
    .join("\n\n"))
}

/// Draws one of the graphs, with the types of stages from `plan`.
fn draw(plan: &Plan, drawn: Result<Plan, Problems>, columns: usize) -> Result<String> {
    let mut drawn = drawn.map_err(Error::new)?;
    for stage in &mut drawn.stages {
        stage.type_name = plan.stage(&stage.id).map_or("", |of| of.type_name);
    }
    Ok(graph(&drawn, columns))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::STAGES;
    use crate::plan::Overrides;

    #[test]
    fn both_graphs_of_a_preparation_are_drawn() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/prepare-wiki.toml");
        let plan = Plan::load(&path, &Overrides::default(), STAGES).unwrap();
        insta::assert_snapshot!(explain(&plan, None, 80).unwrap(), @r"
        1. Each row that `read` reads is processed once, in chunks, unless it is in the
        previous version:

        ╭────────────────╮
        │ scan rows      │
        ╰────────┬───────╯
                 ▼ rows (stay, stream)
        ╭────────┴───────╮
        │ clean          │ clean
        ╰────────┬───────╯
                 ▼ rows (stay, stream)
        ╭────────┴───────╮
        │ quality        │ gopher_quality
        ╰────────┬───────╯
                 ▼ rows (stay, stream)
        ╭────────┴───────╮
        │ repetition     │ gopher_repetition
        ╰────────┬───────╯
                 ▼ rows (stay, stream)
        ╭────────┴───────╮
        │ deduplicate    │ minhash
        ╰────────┬───────╯
                 ▼ rows (stay, stream)
        ╭────────┴───────╮
        │ row signatures │
        ╰────────────────╯

        2. `deduplicate` compares the signatures of all documents and decides which of
        them are kept.

        3. Shards that differ from the previous version are written; only texts without
        tokens are tokenized:

        ╭───────────╮
        │ kept rows │
        ╰─────┬─────╯
              ▼ rows (stay, stream)
        ╭─────┴─────╮
        │ tokenize  │ bpe
        ╰─────┬─────╯
              ▼ tokens (stay, stream)
        ╭─────┴─────╮
        │ write     │ parquet
        │           │ ◀─ rows (stay, stream) ─ kept rows
        ╰───────────╯

        Note     no model is trained; time and memory depend on the corpus
        ");
    }
}
