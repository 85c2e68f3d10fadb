//! What a run says before it starts.
use super::human::{bytes, count, fit};
use contract::Corpus;

/// What [`banner`] tells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Banner {
    /// Name of the run.
    pub run: String,
    /// The processor's name.
    pub cpu: String,
    /// Cores that the process may use.
    pub cores: usize,
    /// Worker threads.
    pub workers: usize,
    /// What matrix products run on, where that is not OpenBLAS.
    pub products: Option<String>,
    /// The kernel that OpenBLAS uses (`openblas_get_corename`); empty where nothing runs on it.
    pub blas_kernel: String,
    /// The kernel that OpenBLAS would choose for this CPU, where that is known.
    pub best_kernel: Option<String>,
    /// `OPENBLAS_CORETYPE` of the environment.
    pub blas_variable: Option<String>,
    /// The model, in a line.
    pub model: Option<String>,
    /// Number of parameters.
    pub parameters: u64,
    /// What is learned from, in a line.
    pub source: Option<String>,
    /// Under which licence, in a line.
    pub licence: Option<String>,
    /// How much that is.
    pub corpus: Option<Corpus>,
    /// What a step is, for example `32 sequences of 128 tokens (2 × 16), 600 steps`.
    pub batch: Option<String>,
    /// Where the run keeps its files.
    pub run_dir: Option<String>,
}

/// OpenBLAS's x86-64 kernels by the vectors they use, weakest first.
const X86: [&[&str]; 4] = [
    &["Prescott", "Core2", "Penryn", "Dunnington", "Nehalem", "Atom", "Nano", "Opteron", "Barcelona", "Bobcat"],
    &["Sandybridge", "Bulldozer", "Piledriver", "Steamroller"],
    &["Haswell", "Excavator", "Zen"],
    &["SkylakeX", "Cooperlake", "SapphireRapids"],
];

/// Does OPENBLAS_CORETYPE hold OpenBLAS below what the CPU can do?
pub fn held_back(banner: &Banner) -> bool {
    let level = |name: &str| X86.iter().position(|names| names.iter().any(|n| n.eq_ignore_ascii_case(name)));
    match (&banner.blas_variable, &banner.best_kernel) {
        (Some(_), Some(best)) => level(&banner.blas_kernel) < level(best),
        _ => false,
    }
}

/// The banner: a line a fact, at most `columns` wide; a warning where OpenBLAS is held back.
pub fn banner(banner: &Banner, columns: usize) -> String {
    let workers = match banner.workers {
        1 => "1 worker".to_owned(),
        n => format!("{n} workers"),
    };
    let cores = if banner.cores == 1 { "1 core".to_owned() } else { format!("{} cores", banner.cores) };
    let blas = (!banner.blas_kernel.is_empty()).then(|| format!("OpenBLAS, {} kernels", banner.blas_kernel));
    let model = banner.model.as_ref().map(|model| format!("{model}, {} parameters", count(banner.parameters)));
    let facts = [
        ("Run", Some(banner.run.clone())),
        ("CPU", Some(format!("{}, {cores}, {workers}", banner.cpu))),
        ("Maths", banner.products.clone()),
        ("BLAS", blas),
        ("Model", model),
        ("Data", banner.source.clone()),
        ("Terms", banner.licence.clone()),
        ("Corpus", banner.corpus.as_ref().map(corpus_line)),
        ("Batch", banner.batch.clone()),
        ("Files", banner.run_dir.clone()),
    ];
    let mut lines: Vec<String> = facts
        .into_iter()
        .filter_map(|(name, fact)| Some((name, fact.filter(|fact| !fact.is_empty())?)))
        .map(|(name, fact)| fit(&format!("{name:<7}{fact}"), columns))
        .collect();
    if held_back(banner) {
        let variable = banner.blas_variable.as_deref().unwrap_or_default();
        let best = banner.best_kernel.as_deref().unwrap_or_default();
        lines.push(fit(
            &format!("warning: OPENBLAS_CORETYPE={variable} holds OpenBLAS below this CPU ({best})"),
            columns,
        ));
        lines.push("  products may take twice as long   (run: unset OPENBLAS_CORETYPE)".into());
    }
    lines.join("\n")
}

fn corpus_line(corpus: &Corpus) -> String {
    let part = |part: &contract::CorpusPart| {
        let text = if part.bytes > 0 { format!(", {}", bytes(part.bytes)) } else { String::new() };
        format!("{} tokens in {} rows{text}", count(part.tokens), count(part.rows))
    };
    match corpus.validation.rows {
        0 => part(&corpus.train),
        _ => format!("{}; held out {} tokens", part(&corpus.train), count(corpus.validation.tokens)),
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
            products: None,
            blas_kernel: "Haswell".into(),
            best_kernel: Some("Cooperlake".into()),
            blas_variable: Some("Haswell".into()),
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
    fn it_tells_and_warns() {
        insta::assert_snapshot!(banner(&seen(), 80), @r"
        Run    wiki
        CPU    AMD EPYC 9R45, 2 cores, 2 workers
        BLAS   OpenBLAS, Haswell kernels
        Model  GPT-2, 2 layers, width 256, 8 heads, 4.2 M parameters
        Data   data/wiki.parquet
        Terms  CC BY-SA 4.0
        Corpus 7.2 M tokens in 9.5 k rows, 32.0 MB; held out 380.0 k tokens
        Batch  2 × 16 sequences of 128 tokens, 600 steps
        Files  runs/wiki
        warning: OPENBLAS_CORETYPE=Haswell holds OpenBLAS below this CPU (Cooperlake)
          products may take twice as long   (run: unset OPENBLAS_CORETYPE)
        ");
    }

    #[test]
    fn little_known_little_said() {
        let little = Banner { run: "prepare".into(), cpu: "x".into(), cores: 1, workers: 1, ..Banner::default() };
        insta::assert_snapshot!(banner(&little, 80), @r"
        Run    prepare
        CPU    x, 1 core, 1 worker
        ");
    }

    #[test]
    fn only_the_variable_is_warned_of() {
        assert!(held_back(&seen()));
        assert!(!held_back(&Banner { blas_variable: None, ..seen() }));
        assert!(!held_back(&Banner { blas_kernel: "SkylakeX".into(), ..seen() }));
        assert!(!held_back(&Banner { blas_kernel: "neoversen1".into(), best_kernel: Some("armv8".into()), ..seen() }));
        assert!(!held_back(&Banner { best_kernel: None, ..seen() }));
    }
}
