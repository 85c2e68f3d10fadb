//! Each kernel alone, on one thread, on a leaf of the shape `small`: 8 sequences of 256 tokens, width 384, 6 heads.
use compute::kernels::cross_entropy::CrossEntropy;
use compute::kernels::int8_matrix::{Int8Matrix, Int16Vectors};
use compute::kernels::{
    adamw, attention, bias, embedding, gelu, gemm, head, layer_norm, matrix_vector, newton_schulz, rms_norm, rotary,
    sum, swiglu,
};
use contract::{Precision, Tensor};
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use std::time::Duration;

const SEQUENCES: usize = 8;
const LENGTH: usize = 256;
const ROWS: usize = SEQUENCES * LENGTH;
const WIDTH: usize = 384;
const HEADS: usize = 6;
const FEED_FORWARD: usize = 4 * WIDTH;
const VOCABULARY: usize = 16_384;

fn numbers(shape: &[usize]) -> Tensor {
    let mut tensor = Tensor::scratch(shape);
    for (i, x) in tensor.data.iter_mut().enumerate() {
        *x = (i * 7919 % 8191) as f32 / 8192.0 - 0.5;
    }
    tensor
}

/// A group whose rate is in floating-point operations (criterion writes "elem/s") or in bytes.
fn group<'c>(c: &'c mut Criterion, name: &str, work: Throughput) -> BenchmarkGroup<'c, WallTime> {
    let mut group = c.benchmark_group(name);
    group.throughput(work).sample_size(20).measurement_time(Duration::from_secs(3));
    group
}

fn products(c: &mut Criterion) {
    let mut group = group(c, "product", Throughput::Elements((2 * ROWS * WIDTH * FEED_FORWARD) as u64));
    let (x, w, y) = (numbers(&[ROWS, WIDTH]), numbers(&[WIDTH, FEED_FORWARD]), numbers(&[ROWS, FEED_FORWARD]));
    let (x, w, y) =
        (gemm::matrix(&x.data, WIDTH), gemm::matrix(&w.data, FEED_FORWARD), gemm::matrix(&y.data, FEED_FORWARD));
    let cases = [("y = x w", x, w), ("dx = dy wT", y, w.t()), ("dw = xT dy", x.t(), y)];
    for (name, a, b) in cases {
        let columns = b.ncols();
        let mut out = Tensor::scratch([a.nrows(), columns]);
        group.bench_function(name, |bench| {
            bench.iter(|| gemm::product(1.0, a, b, 0.0, gemm::matrix_mut(&mut out.data, columns)))
        });
        group.bench_function(format!("{name}, OpenBLAS"), |bench| {
            bench.iter(|| {
                let c = gemm::matrix_mut(&mut out.data, columns);
                gemm::openblas::product(Precision::F32, 1.0, a.into(), b.into(), 0.0, c)
            })
        });
    }
}

fn attention_kernels(c: &mut Criterion) {
    // bf16 of the square is computed: two products forward, five backward.
    let square = 2 * ROWS * LENGTH / 2 * WIDTH;
    let shape = attention::Attention {
        sequences: SEQUENCES,
        length: LENGTH,
        heads: HEADS,
        width: WIDTH,
        starts: None,
        precision: Precision::F32,
    };
    let (qkv, d_out) = (numbers(&[ROWS, 3 * WIDTH]), numbers(&[ROWS, WIDTH]));
    let (mut out, mut log_sums) = (Tensor::scratch([ROWS, WIDTH]), Tensor::scratch([ROWS, HEADS]));
    let mut forward = group(c, "attention forward", Throughput::Elements(2 * square as u64));
    forward.bench_function("causal", |b| {
        b.iter(|| attention::forward(&shape, (&qkv).into(), &mut out.data, &mut log_sums.data))
    });
    forward.finish();
    let mut d_qkv = Tensor::scratch([ROWS, 3 * WIDTH]);
    let mut backward = group(c, "attention backward", Throughput::Elements(5 * square as u64));
    backward.bench_function("causal", |b| {
        b.iter(|| attention::backward(&shape, (&qkv).into(), &out.data, &log_sums.data, &d_out.data, &mut d_qkv.data))
    });
}

fn heads(c: &mut Criterion) {
    let (hidden, wte) = (numbers(&[ROWS, WIDTH]), numbers(&[VOCABULARY, WIDTH]));
    let targets: Vec<u32> = (0..ROWS).map(|i| (i * 7919 % VOCABULARY) as u32).collect();
    let product = (2 * ROWS * WIDTH * VOCABULARY) as u64;
    let mut with = group(c, "head, loss and gradients", Throughput::Elements(3 * product));
    with.bench_function("cross-entropy", |b| {
        b.iter(|| head::head_loss(&CrossEntropy, &head::Logits::new(&hidden, &wte), &targets))
    });
    with.finish();
    let mut without = group(c, "head, loss only", Throughput::Elements(product));
    without.bench_function("cross-entropy", |b| {
        b.iter(|| head::head_value(&CrossEntropy, &head::Logits::new(&hidden, &wte), &targets))
    });
}

/// The elementwise kernels of a GPT-2 block.
fn elementwise(c: &mut Criterion) {
    let bytes = |floats: usize| Throughput::Bytes(4 * floats as u64);
    let (x, d) = (numbers(&[ROWS, FEED_FORWARD]), numbers(&[ROWS, FEED_FORWARD]));
    let (mut y, row) = (numbers(&[ROWS, FEED_FORWARD]), numbers(&[FEED_FORWARD]));
    let (mut d_gain, mut d_bias) = (numbers(&[WIDTH]), numbers(&[FEED_FORWARD]));
    let mut statistics = numbers(&[ROWS, 2]);
    let part = ROWS * WIDTH;

    let mut norm = group(c, "layer norm", bytes(part));
    let gain = &row.data[..WIDTH];
    norm.bench_function("forward", |b| {
        b.iter(|| layer_norm::forward(&x.data[..part], gain, gain, &mut y.data[..part], &mut statistics.data))
    });
    norm.bench_function("backward", |b| {
        b.iter(|| {
            let (d_x, d_bias) = (&mut y.data[..part], &mut d_bias.data[..WIDTH]);
            layer_norm::backward(
                &x.data[..part],
                gain,
                &statistics.data,
                &d.data[..part],
                d_x,
                &mut d_gain.data,
                d_bias,
            )
        })
    });
    norm.finish();

    let mut curve = group(c, "gelu", bytes(ROWS * FEED_FORWARD));
    curve.bench_function("forward", |b| b.iter(|| gelu::forward(&x.data, &row.data, &mut y.data)));
    let mut d_x = d.clone();
    curve.bench_function("backward", |b| {
        b.iter(|| gelu::backward(&x.data, &row.data, &mut d_x.data, &mut y.data, &mut d_bias.data))
    });
    curve.finish();

    let mut biases = group(c, "bias", bytes(part));
    biases.bench_function("add with residual", |b| {
        b.iter(|| {
            for (x, y) in x.data[..part].chunks_exact(WIDTH).zip(y.data.chunks_exact_mut(WIDTH)) {
                bias::add_with_residual(x, gain, y);
            }
        })
    });
    biases.bench_function("column sums", |b| b.iter(|| bias::column_sums(&x.data[..part], &mut d_gain.data)));
    biases.finish();
}

/// The embedding, and the update of its weights.
fn embedding_and_update(c: &mut Criterion) {
    let bytes = |floats: usize| Throughput::Bytes(4 * floats as u64);
    let (d, mut x) = (numbers(&[ROWS, WIDTH]), numbers(&[ROWS, WIDTH]));
    let (wte, wpe) = (numbers(&[VOCABULARY, WIDTH]), numbers(&[LENGTH, WIDTH]));
    let (mut d_wte, mut d_wpe) = (wte.clone(), wpe.clone());
    let tokens: Vec<u32> = (0..ROWS).map(|i| (i * 7919 % VOCABULARY) as u32).collect();
    let mut embeddings = group(c, "embedding", bytes(ROWS * WIDTH));
    embeddings.bench_function("forward", |b| {
        b.iter(|| embedding::forward(&tokens, LENGTH, &wte.data, &wpe.data, WIDTH, &mut x.data))
    });
    embeddings.bench_function("backward", |b| {
        b.iter(|| {
            embedding::backward_tokens(&tokens, &(0..VOCABULARY), &d.data, WIDTH, &mut d_wte.data);
            embedding::backward_positions(LENGTH, &d.data, WIDTH, &mut d_wpe.data)
        })
    });
    embeddings.finish();

    let (mut parameter, mut m, mut v) = (wte.clone(), wte.clone(), Tensor::zeros([VOCABULARY, WIDTH]));
    let rule = adamw::AdamW {
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        decay: 0.1,
        rate: 1e-6,
        bias1: 1.0,
        bias2: 1.0,
        scale: 1e-3,
    };
    let mut update = group(c, "update", bytes(VOCABULARY * WIDTH));
    update.bench_function("add two leaves", |b| b.iter(|| sum::add(&mut d_wte.data, &wte.data)));
    update.bench_function("norm in blocks", |b| b.iter(|| sum::block_squares(&wte.data)));
    update.bench_function("adamw", |b| {
        b.iter(|| adamw::adamw(&rule, &mut parameter.data, &mut m.data, &mut v.data, &wte.data))
    });
}

/// Kernels that only Llama, decoding or Muon use.
fn others(c: &mut Criterion) {
    let bytes = |floats: usize| Throughput::Bytes(4 * floats as u64);
    let part = ROWS * WIDTH;
    let (x, d, gain) = (numbers(&[ROWS, WIDTH]), numbers(&[ROWS, WIDTH]), numbers(&[WIDTH]));
    let (mut y, mut factors, mut d_gain) = (x.clone(), numbers(&[ROWS]), numbers(&[WIDTH]));
    let mut norm = group(c, "rms norm", bytes(part));
    norm.bench_function("forward", |b| {
        b.iter(|| rms_norm::forward(&x.data, &gain.data, 1e-5, &mut y.data, &mut factors.data))
    });
    norm.bench_function("backward", |b| {
        b.iter(|| rms_norm::backward(&x.data, &gain.data, &factors.data, &d.data, &mut y.data, &mut d_gain.data))
    });
    norm.finish();

    let (mut gate_up, mut inner) = (numbers(&[ROWS, 2 * FEED_FORWARD]), numbers(&[ROWS, FEED_FORWARD]));
    let mut curve = group(c, "swiglu", bytes(2 * ROWS * FEED_FORWARD));
    curve.bench_function("forward", |b| b.iter(|| swiglu::forward(&gate_up.data, FEED_FORWARD, &mut inner.data)));
    curve.bench_function("backward", |b| b.iter(|| swiglu::backward(&mut gate_up.data, FEED_FORWARD, &mut inner.data)));
    curve.finish();

    let groups = rotary::Groups { heads: HEADS, kv_heads: 2 };
    let turns = rotary::Rotary::new(WIDTH / HEADS, LENGTH, 1e4, rotary::RopeScaling::None);
    let mut projected = numbers(&[ROWS, WIDTH + 2 * WIDTH / HEADS * 2]);
    let mut qkv = numbers(&[ROWS, 3 * WIDTH]);
    let mut positions = group(c, "rotary", bytes(3 * part));
    positions
        .bench_function("forward", |b| b.iter(|| turns.forward(groups, LENGTH, &projected.data, &mut qkv.data)))
        .bench_function("backward", |b| b.iter(|| turns.backward(groups, LENGTH, &qkv.data, &mut projected.data)));
    positions.finish();

    let (wte, mut logits) = (numbers(&[VOCABULARY, WIDTH]), numbers(&[VOCABULARY]));
    let (wte, logits) = (&wte.data[..], &mut logits.data);
    let mut halves = vec![gemm::bf16::ZERO; wte.len()];
    gemm::round(wte, &mut halves);
    let (integers, x) = (Int8Matrix::new(wte, WIDTH), Int16Vectors::new(&gain.data, WIDTH));
    let mut products = group(c, "matrix times vector", bytes(VOCABULARY * WIDTH));
    products.bench_function("f32", |b| b.iter(|| matrix_vector::matrix_vector(wte, WIDTH, &gain.data, logits)));
    products
        .bench_function("bf16", |b| b.iter(|| matrix_vector::matrix_vector(&halves[..], WIDTH, &gain.data, logits)));
    products.bench_function("int8", |b| b.iter(|| integers.multiply(0, &x, 0, logits)));
    products.finish();

    // A head of `seed`, `small` and `gpt2`, and one of GPT-2's combined queries, keys and values.
    for (rows, columns, width) in [(32, 256, 256), (64, 384, 384), (64, 768, 768), (768, 64, 2304)] {
        let tensor = numbers(&[rows, width]);
        let matrix = gemm::block(&tensor.data, 0, rows, columns, width);
        let operations = Throughput::Elements(2 * newton_schulz::operations(rows, columns));
        let mut group = group(c, &format!("newton-schulz {rows} x {columns}"), operations);
        for precision in [Precision::F32, Precision::Bf16] {
            if newton_schulz::precision_of_products(precision, rows, columns) == precision {
                let name = precision.to_string();
                group.bench_function(name, |b| b.iter(|| newton_schulz::orthogonalised(precision, matrix)));
            }
        }
    }
}

criterion_group!(benches, products, attention_kernels, heads, elementwise, embedding_and_update, others);
criterion_main!(benches);
