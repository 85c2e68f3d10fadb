//! `bench --gemm all`: compares all GEMM backends that this CPU supports.
use super::Context;
use anyhow::Result;
use compute::kernels::gemm;
use contract::Precision;
use serde::Serialize;

/// A product's name and its `[m, n, k]`: `[m, k]` times `[k, n]`.
const PRODUCTS: [(&str, [usize; 3]); 6] = [
    ("seed qkv", [1024, 768, 256]),
    ("small up", [1024, 1536, 384]),
    ("gpt2 qkv", [512, 2304, 768]),
    ("gpt2 up", [512, 3072, 768]),
    ("gpt2 logits", [256, 50_257, 768]),
    ("large", [1536, 1536, 1536]),
];

/// The measurement of one product on one backend.
#[derive(Debug, Serialize)]
struct Rate {
    product: &'static str,
    size: [usize; 3],
    gemm: &'static str,
    precision: Precision,
    threads: usize,
    gflops: f64,
}

/// Measures every available backend in both precisions, computing `threads` products at a time. Prints a table, or one
/// line of JSON per measurement.
///
/// # Errors
/// If standard output cannot be written.
pub fn compare(threads: usize, json: bool, context: &Context) -> Result<()> {
    let backends = gemm::available();
    if !json {
        context.out.line(&heading(&backends, threads))?;
    }
    for (product, size) in PRODUCTS {
        let mut rates = Vec::new();
        for gemm in &backends {
            for precision in [Precision::F32, Precision::Bf16] {
                let gflops = gemm::with_backend(gemm, || gemm::rate::rate(size, threads, precision))?;
                let gflops = (gflops * 10.0).round() / 10.0;
                rates.push(Rate { product, size, gemm, precision, threads, gflops });
            }
        }
        match json {
            true => rates.iter().try_for_each(|rate| context.out.json(rate))?,
            false => context.out.line(&row(&rates))?,
        }
    }
    Ok(())
}

/// Two header lines: what is measured, and the column names.
fn heading(backends: &[&str], threads: usize) -> String {
    let threads = if threads == 1 { "1 product".to_owned() } else { format!("{threads} products") };
    let names: String = backends.iter().map(|name| format!("{name:>12}")).collect();
    let precisions: String = backends.iter().map(|_| format!("{:>6}{:>6}", "f32", "bf16")).collect();
    format!(
        "GFLOP/s with {threads} at a time, one thread each; best of several\n\n{:<12}{names}\n{:<12}{precisions}",
        "product", ""
    )
}

fn row(rates: &[Rate]) -> String {
    let cells: String = rates.iter().map(|rate| format!("{:>6.0}", rate.gflops)).collect();
    format!("{:<12}{cells}", rates.first().map_or("", |rate| rate.product))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_backends_fit_80_columns() {
        let backends = gemm::backends::names();
        let rates: Vec<Rate> = backends
            .iter()
            .flat_map(|gemm| [(gemm, Precision::F32), (gemm, Precision::Bf16)])
            .map(|(gemm, precision)| {
                let (product, size) = PRODUCTS[4];
                Rate { product, size, gemm, precision, threads: 2, gflops: 1234.5 }
            })
            .collect();
        let table = format!("{}\n{}", heading(&backends, 2), row(&rates));
        assert!(table.lines().all(|line| line.len() <= 80), "{table}");
        assert_eq!(table.lines().last().map(str::len), table.lines().nth(3).map(str::len), "{table}");
    }
}
