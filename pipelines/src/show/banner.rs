//! The banner: what a run prints before it starts.
use super::human::{bytes, count, fit, workers};
use contract::Corpus;

/// The contents of the banner.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Banner {
    /// Name of the run.
    pub run: String,
    /// Name of the processor.
    pub cpu: String,
    /// Cores that the process may use.
    pub cores: usize,
    /// Worker threads.
    pub workers: usize,
    /// The GEMM backend and its precision, for example `AVX-512, f32`.
    pub gemm: String,
    /// The model on one line.
    pub model: Option<String>,
    /// Number of parameters.
    pub parameters: u64,
    /// The source of the corpus on one line.
    pub source: Option<String>,
    /// The licence of the corpus on one line.
    pub licence: Option<String>,
    /// The size of the corpus.
    pub corpus: Option<Corpus>,
    /// The batch and the number of steps, for example `32 sequences of 128 tokens (2 × 16), 600 steps`.
    pub batch: Option<String>,
    /// The run directory.
    pub run_dir: Option<String>,
}

/// Renders the banner, one fact per line, at most `columns` wide.
pub fn banner(banner: &Banner, columns: usize) -> String {
    let workers = workers(banner.workers);
    let cores = if banner.cores == 1 { "1 core".to_owned() } else { format!("{} cores", banner.cores) };
    let model = banner.model.as_ref().map(|model| format!("{model}, {} parameters", count(banner.parameters)));
    let facts = [
        ("Run", Some(banner.run.clone())),
        ("CPU", Some(format!("{}, {cores}, {workers}", banner.cpu))),
        ("GEMM", Some(banner.gemm.clone())),
        ("Model", model),
        ("Data", banner.source.clone()),
        ("Licence", banner.licence.clone()),
        ("Corpus", banner.corpus.as_ref().map(corpus_line)),
        ("Batch", banner.batch.clone()),
        ("Files", banner.run_dir.clone()),
    ];
    let lines: Vec<String> = facts
        .into_iter()
        .filter_map(|(name, fact)| Some((name, fact.filter(|fact| !fact.is_empty())?)))
        .map(|(name, fact)| fit(&format!("{name:<8}{fact}"), columns))
        .collect();
    lines.join("\n")
}

pub(crate) fn corpus_line(corpus: &Corpus) -> String {
    let part = |part: &contract::CorpusPart| {
        let text = if part.bytes > 0 { format!(", {}", bytes(part.bytes)) } else { String::new() };
        format!("{} tokens in {} documents{text}", count(part.tokens), count(part.rows))
    };
    match corpus.validation.rows {
        0 => part(&corpus.train),
        _ => format!("{}; validation {} tokens", part(&corpus.train), count(corpus.validation.tokens)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::CorpusPart;

    fn seen() -> Banner {
        Banner {
            run: "wiki".into(),
            cpu: "AMD EPYC 9R45".into(),
            cores: 2,
            workers: 2,
            gemm: "OpenBLAS Haswell".into(),
            model: Some("GPT-2, 2 layers, width 256, 8 heads".into()),
            parameters: 4_171_000,
            source: Some("data/wiki.parquet".into()),
            licence: Some("CC BY-SA 4.0".into()),
            corpus: Some(Corpus {
                train: CorpusPart { rows: 9_500, tokens: 7_200_000, bytes: 32_000_000 },
                validation: CorpusPart { rows: 500, tokens: 380_000, bytes: 1_700_000 },
            }),
            batch: Some("2 × 16 sequences of 128 tokens, 600 steps".into()),
            run_dir: Some("runs/wiki".into()),
        }
    }

    #[test]
    fn the_banner_lists_the_facts() {
        insta::assert_snapshot!(banner(&seen(), 80), @r"
        Run     wiki
        CPU     AMD EPYC 9R45, 2 cores, 2 workers
        GEMM    OpenBLAS Haswell
        Model   GPT-2, 2 layers, width 256, 8 heads, 4.2 M parameters
        Data    data/wiki.parquet
        Licence CC BY-SA 4.0
        Corpus  7.2 M tokens in 9.5 k documents, 32.0 MB; validation 380.0 k tokens
        Batch   2 × 16 sequences of 128 tokens, 600 steps
        Files   runs/wiki
        ");
    }

    #[test]
    fn unknown_facts_are_left_out() {
        let little = Banner { run: "prepare".into(), cpu: "x".into(), cores: 1, workers: 1, ..Banner::default() };
        insta::assert_snapshot!(banner(&little, 80), @r"
        Run     prepare
        CPU     x, 1 core, 1 worker
        ");
    }
}
