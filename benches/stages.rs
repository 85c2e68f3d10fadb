//! Each stage alone, on one thread, with the packets of one leaf of the shape `seed` (16 sequences of 128 tokens, 2
//! layers, width 256, vocabulary 10,000). Rates are in tokens, or in bytes of text.
use arrow::array::{LargeStringArray, ListArray, ListBuilder, RecordBatch, UInt32Builder};
use contract::testing::{Collect, at};
use contract::{
    At, Batch, BatchShape, Built, Env, Facts, Gradient, Norms, Packet, ParameterPiece, Purpose, Resources, Rows,
    Settings, SharedValues, Stage, Step, Tensor, Tokens, Turn,
};
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use std::ops::Range;
use std::sync::Arc;
use text::tokenizer::END_OF_TEXT;
use text::{Cache, Concat, Tokenize, Tokenizer, Vocabulary};
use train::backward::Backward;
use train::forward::ModelSettings;
use train::forward::gpt2::Gpt2;
use train::loss::{CrossEntropyLoss, LossSettings};
use train::optimize::OptimizerSettings;
use train::optimize::adamw::AdamW;
use train::reduce::Reduce;

const VOCABULARY: usize = 10_000;
const SHAPE: BatchShape = BatchShape { micro_batches: 2, lanes: 2, sequences: 16, length: 128 };
const TOKENS: usize = SHAPE.sequences * SHAPE.length;
/// English prose, tables and code.
const PROSE: &str = include_str!("../ARCHITECTURE.md");

fn env() -> Env {
    let facts = Facts { vocabulary: VOCABULARY, length: SHAPE.length, end_of_text: 0 };
    let mut resources = Resources::default();
    resources.insert(Arc::new(facts));
    resources.insert(Arc::new(SharedValues::default()));
    resources.insert(Arc::new(Vocabulary { hash: String::new(), size: VOCABULARY as u32, end_of_text: 0 }));
    Env {
        seed: 1,
        shape: SHAPE,
        model: ModelSettings::<Gpt2>::default().model(&facts).map(Arc::new),
        ..Env::without_training(1, SHAPE.lanes, Step::MAX, resources)
    }
}

fn stage(settings: &dyn Settings, env: &Env) -> Box<dyn Stage> {
    match settings.build(env) {
        Ok(Built::Stage(stage)) => stage,
        Ok(Built::Source(_)) => panic!("a source"),
        Err(error) => panic!("{error:#}"),
    }
}

/// Passes `packet` to `stage` until it has processed it. Returns the packets that the stage emits.
fn give(stage: &mut dyn Stage, at: At, packet: Packet) -> Vec<Packet> {
    let mut out = Collect::default();
    let mut turn = stage.packet(at, packet, &mut out).expect("the stage works");
    while turn == Turn::More {
        turn = stage.more(at.step, &mut out).expect("the stage works");
    }
    out.0
}

fn lists(documents: usize, tokens: usize) -> ListArray {
    let mut lists = ListBuilder::new(UInt32Builder::new());
    for document in 0..documents {
        (0..tokens).for_each(|i| lists.values().append_value(((document * 31 + i * 7919) % VOCABULARY) as u32));
        lists.append(true);
    }
    lists.finish()
}

fn text_stages(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder for the cache");
    let tokenizer = Tokenizer::gpt2(&Cache::new(folder.path().to_str()), END_OF_TEXT).expect("it is built in");
    let mut env = env();
    env.resources.insert(Arc::new(tokenizer));
    let mut bpe = stage(&Tokenize::default(), &env);
    let texts: Vec<&str> = PROSE.split("\n\n").collect();
    let bytes = texts.iter().map(|text| text.len() as u64).sum();
    let column = Arc::new(LargeStringArray::from(texts)) as arrow::array::ArrayRef;
    let records = RecordBatch::try_from_iter([("text", column)]).expect("one column");
    let mut group = c.benchmark_group("tokenize");
    group.throughput(Throughput::Bytes(bytes)).sample_size(20);
    group.bench_function("gpt2", |b| {
        b.iter(|| {
            let rows = Rows { lane: 0, source: 0, purpose: Purpose::Train, last: false, records: records.clone() };
            give(&mut *bpe, at(0), Packet::Rows(rows))
        })
    });
    group.finish();

    let documents = lists(TOKENS / 200 + 1, 200);
    let mut group = c.benchmark_group("pack");
    group.throughput(Throughput::Elements(TOKENS as u64));
    group.bench_function("concat", |b| {
        b.iter_batched(
            || stage(&Concat::default(), &env),
            |mut pack| {
                let tokens =
                    Tokens { lane: 0, source: 0, purpose: Purpose::Train, last: false, documents: documents.clone() };
                give(&mut *pack, at(0), Packet::Tokens(tokens))
            },
            BatchSize::SmallInput,
        )
    });
}

fn batch() -> Batch {
    let ids = |salt: usize| (0..TOKENS).map(|i| ((i * 7919 + salt) % VOCABULARY) as u32).collect();
    Batch {
        leaf: 0,
        purpose: Purpose::Train,
        part: 0,
        sequences: SHAPE.sequences,
        length: SHAPE.length,
        tokens: ids(0),
        targets: ids(1),
        document_starts: Vec::new().into(),
        documents: Vec::new().into(),
    }
}

/// The gradients of one leaf: the index of each section, and its gradient.
struct Gradients(Vec<(usize, Tensor)>);

impl Gradients {
    /// The same gradients as packets, as if they were the sums of `leaves`.
    fn of(&self, leaves: Range<u32>) -> Vec<Packet> {
        let gradient = |(section, data): &(usize, Tensor)| {
            let (leaves, data) = (leaves.clone(), data.clone());
            Packet::Gradient(Gradient { leaves, section: *section, owner: 0, targets: TOKENS as u64, data })
        };
        self.0.iter().map(gradient).collect()
    }
}

fn train_stages(c: &mut Criterion) {
    let env = env();
    let gradients = model_stages(c, &env);
    reduce_stage(c, &env, &gradients);
    optimize_stage(c, &env, &gradients);
}

fn train_group(c: &mut Criterion) -> BenchmarkGroup<'_, WallTime> {
    let mut group = c.benchmark_group("train");
    group.throughput(Throughput::Elements(TOKENS as u64)).sample_size(20);
    group
}

/// `forward`, `loss` and `backward`. Returns the gradients of the leaf.
fn model_stages(c: &mut Criterion, env: &Env) -> Gradients {
    let model = env.model().expect("there is a model");
    let mut forward = stage(&ModelSettings::<Gpt2>::default(), env);
    let mut loss = stage(&LossSettings::<CrossEntropyLoss>::default(), env);
    let mut backward = stage(&Backward::default(), env);
    for (tensor, spec) in model.parameters.iter().enumerate() {
        let piece = ParameterPiece { tensor, data: Arc::new(spec.initial(1)), average: None };
        give(&mut *forward, At { port: 1, ..at(0) }, Packet::Parameters(piece));
    }
    let batch = batch();
    let mut activations = || give(&mut *forward, at(0), Packet::Batch(batch.clone())).remove(0);

    let mut group = train_group(c);
    group.bench_function("forward", |b| b.iter(&mut activations));
    group.bench_function("loss", |b| {
        b.iter_batched(&mut activations, |packet| give(&mut *loss, at(0), packet), BatchSize::PerIteration)
    });
    let mut at_loss = || give(&mut *loss, at(0), activations()).remove(0);
    group.bench_function("backward", |b| {
        b.iter_batched(&mut at_loss, |packet| give(&mut *backward, at(0), packet), BatchSize::PerIteration)
    });

    let packets = give(&mut *backward, at(0), at_loss()).into_iter();
    Gradients(
        packets
            .filter_map(|packet| if let Packet::Gradient(g) = packet { Some((g.section, g.data)) } else { None })
            .collect(),
    )
}

fn reduce_stage(c: &mut Criterion, env: &Env, gradients: &Gradients) {
    let mut reduce = stage(&Reduce::default(), env);
    let mut step = 0;
    let mut group = train_group(c);
    group.bench_function("reduce, two leaves", |b| {
        b.iter_batched(
            || gradients.of(0..1).into_iter().chain(gradients.of(1..2)).collect::<Vec<_>>(),
            |packets| {
                let sums: Vec<Packet> = packets.into_iter().flat_map(|p| give(&mut *reduce, at(step), p)).collect();
                reduce.step_done(step, &mut Collect::default()).expect("the sums are complete");
                step += 1;
                sums
            },
            BatchSize::PerIteration,
        )
    });
}

fn optimize_stage(c: &mut Criterion, env: &Env, gradients: &Gradients) {
    let sections = env.sections().expect("there is a model").len();
    let mut settings = OptimizerSettings::<AdamW>::default();
    settings.rate.learning_rate = 1e-6;
    let mut optimize = stage(&settings, env);
    let mut step = 0;
    let mut group = train_group(c);
    group.bench_function("optimize", |b| {
        b.iter_batched(
            || {
                let norms = (0..sections)
                    .map(|section| Packet::Norms(Norms { section, targets: TOKENS as u64, blocks: vec![1.0] }));
                gradients.of(0..SHAPE.micro_batches).into_iter().chain(norms).collect::<Vec<_>>()
            },
            |packets| {
                for packet in packets {
                    let port = usize::from(matches!(packet, Packet::Norms(_)));
                    give(&mut *optimize, At { port, ..at(step) }, packet);
                }
                let mut out = Collect::default();
                optimize.step_done(step, &mut out).expect("the update works");
                step += 1;
                out.0.len()
            },
            BatchSize::PerIteration,
        )
    });
}

criterion_group!(benches, text_stages, train_stages);
criterion_main!(benches);
