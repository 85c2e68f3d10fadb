//! Times forward, loss and backward of one micro-batch on one thread, for the shapes of the performance table:
//!
//! ```sh
//! cargo run --release -p millrace-compute --example step [shape …]
//! ```
//!
//! With `PRECISION=bf16` or `int8`, products are computed in that precision. With `KERNELS=1`, also prints the time of
//! each kernel run alone in f32, as a percentage of the step.
use compute::cpu;
use compute::kernels::{attention, bias, cross_entropy, embedding, gelu, gemm, head, layer_norm};
use compute::models::{Gpt2Shape, Model};
use contract::{Batch, Parameters, Precision, Purpose, Tensor, Turn, pool};
use millrace_compute as compute;
use std::sync::Arc;

/// Name, layers, heads, width, tokens per sequence, sequences per micro-batch, vocabulary size.
const SHAPES: [(&str, usize, usize, usize, usize, usize, usize); 4] = [
    ("seed", 2, 8, 256, 128, 16, 10_000),
    ("small", 6, 6, 384, 256, 8, 16_384),
    ("gpt2", 12, 12, 768, 256, 2, 50_257),
    ("long", 12, 12, 768, 1024, 1, 50_257),
];

fn main() {
    let gemm_rate = gemm::rate::gemm_gflops(1, Precision::F32).max(large());
    println!("{}, {}, {gemm_rate:.0} GFLOP/s in large products", cpu::description(), gemm::description(Precision::F32));
    let asked: Vec<String> = std::env::args().skip(1).collect();
    for shape in SHAPES.iter().filter(|s| asked.is_empty() || asked.iter().any(|a| a == s.0)) {
        measure(shape, gemm_rate);
    }
}

fn measure(shape: &(&str, usize, usize, usize, usize, usize, usize), gemm_rate: f64) {
    let &(name, layers, heads, width, length, sequences, vocabulary) = shape;
    let feed_forward = 4 * width;
    let end_of_text = 0;
    let model = Gpt2Shape { layers, heads, width, feed_forward, vocabulary, length, end_of_text }.model();
    let precision = match std::env::var("PRECISION").as_deref() {
        Ok("bf16") => Precision::Bf16,
        Ok("int8") => Precision::Int8,
        Ok("f32") | Err(_) => Precision::F32,
        Ok(other) => panic!("PRECISION={other}: expected f32, bf16 or int8"),
    };
    let model = model.with_precision(precision);
    let parameters = Parameters(model.facts().parameters.iter().map(|p| Arc::new(p.initial(1))).collect());
    let rows = sequences * length;
    let ids = |salt: usize| (0..rows).map(|i| ((i * 7919 + salt * 104_729) % vocabulary) as u32).collect::<Vec<_>>();
    let batch = Batch {
        leaf: 0,
        purpose: Purpose::Train,
        part: 0,
        sequences,
        length,
        tokens: ids(1).into(),
        targets: ids(2).into(),
        document_starts: Vec::new().into(),
        documents: Vec::new().into(),
    };

    let (mut best, mut parts) = (f64::INFINITY, [0.0; 3]);
    let mut times = Vec::new();
    let before = pool::watch();
    for _ in 0..if layers > 6 { 5 } else { 10 } {
        let begin = seconds();
        let forward = model.forward(&parameters, &batch, true);
        let after_forward = seconds() - begin;
        let ce = cross_entropy::CrossEntropy;
        let magnitudes = (precision == Precision::Int8).then(|| gemm::Magnitudes::of(&parameters.0[0]));
        let logits = head::Logits {
            precision,
            magnitudes: magnitudes.as_deref(),
            ..head::Logits::new(&forward.hidden, &parameters[0])
        };
        let (_, d_hidden, d_head) = head::head_loss(&ce, &logits, &batch.targets);
        let after_loss = seconds() - begin;
        let mut tape = forward.tape.expect("forward was called with keep");
        tape.start(d_hidden, d_head);
        while tape.backward_layer(&mut |_, _| ()).expect("backward succeeds") == Turn::More {}
        let all = seconds() - begin;
        times.push(all);
        if all < best {
            (best, parts) = (all, [after_forward, after_loss - after_forward, all - after_loss]);
        }
    }
    times.sort_by(f64::total_cmp);
    let taken = (pool::most_bytes() - before) as f64 / 1e6;
    let rate = |seconds: f64| model.facts().flops_per_token * rows as f64 / seconds / 1e9;
    let median = times[times.len() / 2];
    println!(
        "\n{name}, {precision}: {taken:.0} MB beside parameters; best {:.0} tok/s, {:.0} GFLOP/s, MFU {:.0} % (median {:.0} tok/s, {:.0} %); forward {:.1} ms, loss {:.1}, backward {:.1}",
        rows as f64 / best,
        rate(best),
        100.0 * rate(best) / gemm_rate,
        rows as f64 / median,
        100.0 * rate(median) / gemm_rate,
        1e3 * parts[0],
        1e3 * parts[1],
        1e3 * parts[2],
    );
    if std::env::var_os("KERNELS").is_some() {
        kernels(shape, best);
    }
}

/// CPU time of this thread, which other load on the machine affects less than wall-clock time.
fn seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes only to the structure passed to it.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// GFLOP/s of a large product.
fn large() -> f64 {
    let (a, b, mut c) = (random(&[1536, 1536]), random(&[1536, 1536]), random(&[1536, 1536]));
    let (a, b, c) = (gemm::matrix(&a.data, 1536), gemm::matrix(&b.data, 1536), &mut c.data);
    2.0 * 1536f64.powi(3) / time(|| gemm::product(1.0, a, b, 0.0, gemm::matrix_mut(c, 1536))) / 1e9
}

/// Seconds of the best of three runs.
fn time(mut work: impl FnMut()) -> f64 {
    let run = |_| {
        let begin = seconds();
        work();
        seconds() - begin
    };
    (0..3).map(run).fold(f64::INFINITY, f64::min)
}

fn random(shape: &[usize]) -> Tensor {
    let mut t = Tensor::scratch(shape);
    for (i, x) in t.data.iter_mut().enumerate() {
        *x = ((i * 7919 % 8191) as f32 / 4096.0 - 1.0) * 0.5;
    }
    t
}

/// A row of [`SHAPES`], as sizes that products have.
#[derive(Clone, Copy)]
struct Sizes {
    layers: f64,
    heads: usize,
    /// Width of the residual stream.
    c: usize,
    /// Width of the feed-forward layer.
    f: usize,
    length: usize,
    sequences: usize,
    /// Tokens of the micro-batch.
    r: usize,
    /// Token ids.
    v: usize,
}

/// Prints the time of each kernel as a part of that of a step, and adds them up.
struct Report {
    step: f64,
    total: f64,
}

impl Report {
    fn line(&mut self, name: &str, seconds: f64, flops: f64) {
        self.total += seconds;
        let speed = if flops > 0.0 { format!("{:.0} GFLOP/s", flops / seconds / 1e9) } else { String::new() };
        println!("  {:5.1} % {:8.2} ms  {name} {speed}", 100.0 * seconds / self.step, 1e3 * seconds);
    }
}

fn kernels(&(_, layers, heads, c, length, sequences, v): &(&str, usize, usize, usize, usize, usize, usize), step: f64) {
    let sizes = Sizes { layers: layers as f64, heads, c, f: 4 * c, length, sequences, r: sequences * length, v };
    let mut report = Report { step, total: 0.0 };
    linear_layers(sizes, &mut report);
    head_and_embeddings(sizes, &mut report);
    attention_kernels(sizes, &mut report);
    elementwise(sizes, &mut report);
    println!("  {:5.1} % {:8.2} ms  total", 100.0 * report.total / step, 1e3 * report.total);
}

fn linear_layers(Sizes { layers: l, c, f, r, .. }: Sizes, report: &mut Report) {
    let (x, mut y, w) = (random(&[r, f]), random(&[r, f]), random(&[c, f]));
    for (name, inner, outer) in [("c_attn", c, 3 * c), ("c_proj", c, c), ("mlp.c_fc", c, f), ("mlp.c_proj", f, c)] {
        let (x, w) = (gemm::matrix(&x.data[..r * inner], inner), gemm::matrix(&w.data[..inner * outer], outer));
        let d = random(&[r, outer]);
        let d = gemm::matrix(&d.data, outer);
        let mut d_w = Tensor::scratch([inner, outer]);
        let flops = 2.0 * (r * inner * outer) as f64 * l;
        let y = &mut y.data;
        let forward = time(|| gemm::product(1.0, x, w, 0.0, gemm::matrix_mut(&mut y[..r * outer], outer)));
        let back = time(|| gemm::product(1.0, d, w.t(), 0.0, gemm::matrix_mut(&mut y[..r * inner], inner)));
        let weight = time(|| gemm::product(1.0, x.t(), d, 0.0, gemm::matrix_mut(&mut d_w.data, outer)));
        report.line(&format!("{name}: y = x·w"), forward * l, flops);
        report.line(&format!("{name}: dx = dy·wᵀ"), back * l, flops);
        report.line(&format!("{name}: dw = xᵀ·dy"), weight * l, flops);
    }
}

fn head_and_embeddings(Sizes { c, r, v, length, .. }: Sizes, report: &mut Report) {
    let (hidden, wte) = (random(&[r, c]), random(&[v, c]));
    let targets: Vec<u32> = (0..r).map(|i| (i * 7919 % v) as u32).collect();
    let ce = cross_entropy::CrossEntropy;
    let whole = time(|| drop(head::head_loss(&ce, &head::Logits::new(&hidden, &wte), &targets)));
    let mut logits = random(&[64, v]);
    let rows = time(|| {
        for logits in logits.data.chunks_exact_mut(v) {
            head::RowLoss::row(&ce, logits, 3, true);
        }
    }) * r as f64
        / 64.0;
    report.line("head: products", whole - rows, 6.0 * (r * v * c) as f64);
    report.line("head: cross-entropy", rows, 0.0);
    let (wpe, mut d_wpe, mut d_wte) = (random(&[length, c]), random(&[length, c]), random(&[v, c]));
    let mut x = random(&[r, c]);
    let embeddings = time(|| {
        embedding::forward(&targets, length, &wte.data, &wpe.data, c, &mut x.data);
        embedding::backward_tokens(&targets, &(0..v), &x.data, c, &mut d_wte.data);
        embedding::backward_positions(length, &x.data, c, &mut d_wpe.data);
    });
    report.line("embeddings", embeddings, 0.0);
}

fn attention_kernels(Sizes { layers: l, heads, c, length, sequences, r, .. }: Sizes, report: &mut Report) {
    let shape = attention::Attention { sequences, length, heads, width: c, starts: None, precision: Precision::F32 };
    let (qkv, mut out, mut sums) = (random(&[r, 3 * c]), random(&[r, c]), random(&[r, heads]));
    let (mut d_qkv, d_out) = (random(&[r, 3 * c]), random(&[r, c]));
    let causal = 4.0 * (r * c) as f64 * length as f64 / 2.0 * l;
    let forward = time(|| attention::forward(&shape, (&qkv).into(), &mut out.data, &mut sums.data));
    report.line("attention: forward (half of the square)", forward * l, causal);
    let back = time(|| attention::backward(&shape, (&qkv).into(), &out.data, &sums.data, &d_out.data, &mut d_qkv.data));
    report.line("attention: backward", back * l, 2.5 * causal);
}

fn elementwise(Sizes { layers: l, c, f, r, .. }: Sizes, report: &mut Report) {
    let (x, mut y, mut z) = (random(&[r, f]), random(&[r, f]), random(&[r, f]));
    let (w, mut row, mut row_2, mut d_qkv) = (random(&[c, f]), random(&[f]), random(&[f]), random(&[r, 3 * c]));
    let norm = time(|| {
        layer_norm::forward(&x.data[..r * c], &row.data[..c], &w.data[..c], &mut y.data[..r * c], &mut z.data[..2 * r])
    });
    report.line("layer norm: forward", norm * (2.0 * l + 1.0), 0.0);
    let stats = z.data[..2 * r].to_vec();
    let recompute =
        time(|| layer_norm::recompute(&x.data[..r * c], &row.data[..c], &w.data[..c], &stats, &mut y.data[..r * c]));
    report.line("layer norm: recompute", recompute * 2.0 * l, 0.0);
    let gain = &w.data[..c];
    let norm = time(|| {
        let (d, d_x) = (&x.data[..r * c], &mut y.data[..r * c]);
        layer_norm::backward(&x.data[..r * c], gain, &stats, d, d_x, &mut row.data[..c], &mut row_2.data[..c]);
    });
    report.line("layer norm: backward", norm * (2.0 * l + 1.0), 0.0);
    report.line("gelu: forward", time(|| gelu::forward(&x.data, &w.data[..f], &mut y.data)) * l, 0.0);
    let back = time(|| gelu::backward(&x.data, &w.data[..f], &mut z.data, &mut y.data, &mut row.data));
    report.line("gelu: backward", back * l, 0.0);
    let biases = time(|| {
        for row in d_qkv.data.chunks_exact_mut(3 * c) {
            bias::add(&w.data[..3 * c], row);
        }
        for _ in 0..2 {
            for (x, y) in x.data[..r * c].chunks_exact(c).zip(y.data.chunks_exact_mut(c)) {
                bias::add_with_residual(x, &w.data[..c], y);
            }
        }
        bias::column_sums(&x.data[..r * c], &mut row.data[..c]);
        bias::column_sums(&x.data[..r * c], &mut row.data[..c]);
        bias::column_sums(&d_qkv.data, &mut row.data[..3 * c]);
    });
    report.line("biases and residuals", biases * l, 0.0);
}
