//! Read, tokenize and pack together, served as the engine serves them: the same batches whatever the number of
//! workers, and after a stop at any step.
mod common;
use common::{env, write_texts};
use contract::testing::{Collect, at};
use contract::{
    At, BatchShape, Built, IGNORED, Lane, Packet, Purpose, Resources, Schedule, Settings, Source, Stage, Step, Turn,
};
use millrace_text::corpus::source_keys::Conversion;
use millrace_text::corpus::train_tokenizer::{no_progress, train_tokenizer};
use millrace_text::corpus::withdrawal::WithdrawnRows;
use millrace_text::pack::saved_tokens::SavedTokens;
use millrace_text::tokenizer::END_OF_TEXT;
use millrace_text::{
    Chunks, Concat, CorpusIndex, Count, DocumentStore, Lineage, PackKeys, Passage, ReadDocuments, RowStages, Scan,
    SourceRows, Split, Survey, Tokenize, Tokenizer, silent,
};
use proptest::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

fn stage(settings: &dyn Settings, env: &contract::Env) -> Box<dyn Stage> {
    match settings.build(env).unwrap() {
        Built::Stage(stage) => stage,
        Built::Source(_) => unreachable!(),
    }
}

fn source(settings: &dyn Settings, env: &contract::Env) -> Box<dyn Source> {
    match settings.build(env).unwrap() {
        Built::Source(source) => source,
        Built::Stage(_) => unreachable!(),
    }
}

/// Counts as the counting graph does, on so many workers.
fn counted(resources: &Resources, chunks: &Arc<Chunks>, workers: usize) -> Vec<u32> {
    let shape = BatchShape { micro_batches: 3, lanes: 3, sequences: 1, length: 1 };
    let schedule = Schedule { first: 0, steps: chunks.steps(3), evaluate: None, checkpoint: None };
    let env = |worker| env(worker, workers, shape, schedule, resources);
    let mut found = BTreeMap::new();
    let store = resources.get::<DocumentStore>().unwrap();
    for worker in (0..workers).rev() {
        let (mut scan, mut bpe) = (
            source(&Scan::new(Arc::clone(&store), Arc::clone(chunks)), &env(worker)),
            stage(&Tokenize::default(), &env(worker)),
        );
        let mut count = stage(&Count, &env(worker));
        for step in 0..schedule.steps {
            for lane in env(worker).lanes() {
                let (mut rows, mut tokens) = (Collect::default(), Collect::default());
                assert_eq!(scan.next(lane, step, &mut rows).unwrap(), Turn::Done);
                for packet in rows.0 {
                    bpe.packet(at(step), packet, &mut tokens).unwrap();
                }
                for packet in tokens.0 {
                    let mut out = Collect::default();
                    count.packet(at(step), packet, &mut out).unwrap();
                    let Some(Packet::Records(records)) = out.0.pop() else { unreachable!() };
                    found.insert((step, lane), records.records);
                }
            }
        }
    }
    Count::counts(&found.into_values().collect::<Vec<_>>())
}

/// The texts of a small corpus; some rows are null.
fn texts() -> Vec<Option<&'static str>> {
    let words = ["stone", "water", "the", "a", "wheel", "turns", "grain", "and", "river", "mill"];
    let text = |i: usize| (0..i * 37 % 50).map(|j| words[(i * 7 + j * j * 3 + j) % 10]).collect::<Vec<_>>().join(" ");
    let texts: Vec<String> = (0..900).map(text).collect();
    let nulls = |(i, t): (usize, &'static str)| (i % 11 != 3).then_some(t);
    let texts: Vec<&'static str> = texts.into_iter().map(|t| &*t.leak()).collect();
    texts.into_iter().enumerate().map(nulls).collect()
}

/// The corpus in one file, with its tokenizer and index.
static CORPUS: LazyLock<Resources> = LazyLock::new(|| corpus(&[texts()], Split::Every(9)));

/// A corpus of these files, with its tokenizer and index.
fn corpus(files: &[Vec<Option<&'static str>>], split: Split) -> Resources {
    let folder = tempfile::tempdir().unwrap();
    let path = |number: usize| folder.path().join(format!("{number}.parquet"));
    let paths: Vec<PathBuf> = (0..files.len()).map(path).collect();
    paths.iter().zip(files).for_each(|(path, texts)| write_texts(path, 100, texts));
    let resources = prepared(&paths, folder.path(), split);
    std::mem::forget(folder);
    resources
}

fn prepared(paths: &[PathBuf], cache: &Path, split: Split) -> Resources {
    let text = |p: &Path| p.to_str().unwrap().to_string();
    let conversion = Conversion { cache: Some(text(cache)), ..Default::default() };
    let paths = paths.iter().map(|path| text(path)).collect();
    let read = ReadDocuments { paths, conversion, ..Default::default() };
    let store = read.ingest(42, &mut silent()).and_then(|found| found.open(42)).unwrap();
    let survey = Survey::of(&store, split, &mut silent()).unwrap();
    for _ in 0..2 {
        assert_eq!(Survey::cached(&store, split, &read.conversion.cache(), &mut silent()).unwrap(), survey);
    }
    let sources = [SourceRows {
        id: "read".into(),
        store: Arc::new(store),
        stages: RowStages::default(),
        chunks: Arc::new(Chunks::of(&survey, &survey)),
        survey,
        all: None,
        withdrawn: WithdrawnRows::default(),
        split,
        cache: read.conversion.cache(),
        unreadable: 0,
    }];
    let train = || train_tokenizer(&sources, 290, END_OF_TEXT, &read.conversion.cache(), &mut no_progress()).unwrap();
    let tokenizer = train();
    assert_eq!((train().hash(), tokenizer.vocabulary_size(), tokenizer.end_of_text()), (tokenizer.hash(), 290, 0));
    let [SourceRows { store, survey, chunks, .. }] = sources;
    let mut resources = Resources::default();
    resources.insert(store);
    resources.insert(Arc::new(tokenizer.vocabulary().clone()));
    resources.insert(Arc::new(tokenizer));
    let counts = counted(&resources, &chunks, 1);
    assert_eq!(counts, counted(&resources, &chunks, 3));
    assert_eq!(counts.len(), survey.rows.len());
    let index = CorpusIndex::new(&survey, &counts).unwrap();
    assert!(index.skipped >= 81 && index.train.rows.len() > 600 && index.validation.rows.len() > 40);
    resources.insert(Arc::new(index));
    resources
}

type Key = (Step, Purpose, Lane, u32);
type Batches = BTreeMap<Key, (usize, Vec<u32>, Vec<u32>, Vec<u32>)>;
type State = BTreeMap<Lane, (Value, Value)>;

fn saved(snapshot: contract::Result<contract::Snapshot>) -> Value {
    snapshot.unwrap().value().unwrap()
}

/// Steps `steps` as the engine runs them. Returns the batches, the state after the last step, and the most packets
/// a step took.
fn run(
    workers: usize,
    shape: BatchShape,
    schedule: Schedule,
    steps: std::ops::Range<Step>,
    state: &State,
) -> (Batches, State, usize) {
    run_on(&CORPUS, workers, shape, schedule, steps, state)
}

fn run_on(
    corpus: &Resources,
    workers: usize,
    shape: BatchShape,
    schedule: Schedule,
    steps: std::ops::Range<Step>,
    state: &State,
) -> (Batches, State, usize) {
    let (mut batches, mut after, mut most) = (Batches::new(), State::new(), 0);
    for worker in 0..workers {
        let env = env(worker, workers, shape, schedule, corpus);
        let (mut read, mut bpe) = (source(&ReadDocuments::default(), &env), stage(&Tokenize::default(), &env));
        let mut pack = stage(&Concat::default(), &env);
        for lane in env.lanes() {
            if let Some((reader, packer)) = state.get(&lane) {
                read.load(lane, reader.clone()).unwrap();
                pack.load(lane, packer.clone()).unwrap();
            }
        }
        for step in steps.clone() {
            for lane in env.lanes() {
                let mut packets = 0;
                loop {
                    let (mut rows, mut tokens, mut out) = (Collect::default(), Collect::default(), Collect::default());
                    assert_eq!(read.next(lane, step, &mut rows).unwrap(), Turn::Done);
                    let at: At = at(step);
                    assert_eq!(rows.0.len(), 1, "a packet a call");
                    bpe.packet(at, rows.0.remove(0), &mut tokens).unwrap();
                    let mut turn = pack.packet(at, tokens.0.remove(0), &mut out).unwrap();
                    while turn == Turn::More {
                        turn = pack.more(step, &mut out).unwrap();
                    }
                    for packet in out.0 {
                        let Packet::Batch(b) = packet else { unreachable!() };
                        let content = (b.sequences, b.tokens.to_vec(), b.targets.to_vec(), b.document_starts.to_vec());
                        assert!(batches.insert((step, b.purpose, b.leaf, b.part), content).is_none());
                    }
                    packets += 1;
                    if turn == Turn::Done {
                        break;
                    }
                }
                // The first step fills what sequences are drawn from.
                if step > 0 {
                    most = most.max(packets);
                }
                if !schedule.trains(step) {
                    let mut none = Collect::default();
                    assert_eq!(read.next(lane, step, &mut none).unwrap(), Turn::Done);
                    assert!(none.0.is_empty());
                }
            }
        }
        for lane in env.lanes() {
            after.insert(lane, (saved(read.save(lane)), saved(pack.save(lane))));
        }
    }
    (batches, after, most)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_same_batches_on_any_workers_and_after_any_stop(
        lanes in 1u32..4, leaves in 1u32..4, sequences in 1usize..4, length in 1usize..60,
        workers in 1usize..5, other_workers in 1usize..5, stop in 0u64..=25,
    ) {
        let micro_batches = leaves * lanes;
        let shape = BatchShape { micro_batches, lanes, sequences, length };
        let schedule = Schedule { first: 0, steps: 24, evaluate: Some(10), checkpoint: None };
        let (whole, last, _) = run(1, shape, schedule, 0..25, &State::new());
        for step in 0..24 {
            for leaf in 0..micro_batches {
                prop_assert!(whole.contains_key(&(step, Purpose::Train, leaf, 0)));
            }
        }
        prop_assert!(!whole.contains_key(&(24, Purpose::Train, 0, 0)));
        let validated = |step: Step| whole.keys().filter(|k| k.0 == step && k.1 == Purpose::Validate).count();
        prop_assert!(validated(10) > 0 && validated(10) == validated(20) && validated(20) == validated(24) && validated(5) == 0);
        let (mut found, state, _) = run(workers, shape, schedule, 0..stop, &State::new());
        let text = serde_json::to_string(&state).unwrap();
        let state: State = serde_json::from_str(&text).unwrap();
        let (rest, end, _) = run(other_workers, shape, schedule, stop..25, &state);
        found.extend(rest);
        prop_assert!(found == whole);
        prop_assert_eq!(end, last);
    }
}

/// The sequences of each step, without padding, in an order that does not depend on micro-batches.
fn sequences(batches: &Batches, sequences: usize) -> BTreeMap<(Step, Purpose), Vec<Vec<(u32, u32)>>> {
    let mut by_step = BTreeMap::<_, Vec<_>>::new();
    for ((step, purpose, ..), (rows, tokens, targets, starts)) in batches {
        assert!(*rows == sequences || *purpose == Purpose::Validate && *rows < sequences);
        let length = tokens.len() / rows;
        assert!(starts.is_empty(), "documents are not kept apart");
        let all: Vec<_> = tokens.iter().copied().zip(targets.iter().copied()).collect();
        let scored = |row: &[(u32, u32)]| row.iter().rposition(|at| at.1 != IGNORED).map_or(0, |last| last + 1);
        by_step.entry((*step, *purpose)).or_default().extend(all.chunks(length).map(|row| row[..scored(row)].to_vec()));
    }
    by_step.values_mut().for_each(|rows| rows.sort());
    by_step
}

#[test]
fn a_step_has_the_same_sequences_however_it_is_cut_into_micro_batches() {
    let schedule = Schedule { first: 0, steps: 24, evaluate: Some(10), checkpoint: None };
    let cut = |lanes, micro_batches, size| {
        let shape = BatchShape { micro_batches, lanes, sequences: size, length: 20 };
        let (batches, state, _) = run(1, shape, schedule, 0..25, &State::new());
        for leaf in 0..micro_batches {
            assert!(batches.contains_key(&(10, Purpose::Validate, leaf, 0)), "leaf {leaf} validates");
        }
        (sequences(&batches, size), state)
    };
    let expected = cut(2, 2, 12);
    assert_eq!(expected.0[&(3, Purpose::Train)].len(), 24);
    for (micro_batches, size) in [(4, 6), (6, 4), (8, 3), (24, 1)] {
        assert!(cut(2, micro_batches, size) == expected, "{micro_batches} micro-batches of {size} sequences");
    }
    assert_ne!(cut(4, 4, 6).0, expected.0, "other lanes read other documents");
}

#[test]
fn the_batches_do_not_depend_on_files_and_rows() {
    let shape = BatchShape { micro_batches: 4, lanes: 2, sequences: 3, length: 20 };
    let schedule = Schedule { first: 0, steps: 12, evaluate: None, checkpoint: None };
    let batches = |files: &[Vec<Option<&'static str>>]| {
        let corpus = corpus(files, Split::Fraction(0.1));
        // The pool holds many epochs.
        assert!(100 * corpus.get::<CorpusIndex>().unwrap().corpus.train.tokens < PackKeys::default().shuffle_tokens);
        run_on(&corpus, 2, shape, schedule, 0..12, &State::new()).0
    };
    let all = texts();
    let expected = batches(std::slice::from_ref(&all));
    let (first, second) = all.split_at(333);
    assert!(batches(&[second.to_vec(), first.to_vec()]) == expected);
    let mut reversed = all.clone();
    reversed.reverse();
    assert!(batches(&[reversed]) == expected);
    let other: Vec<_> = all.iter().copied().chain([Some("another document about a mill")]).collect();
    assert!(batches(&[other]) != expected);
}

#[test]
fn the_lineage_of_a_step_is_what_it_trains_on() {
    let shape = BatchShape { micro_batches: 4, lanes: 2, sequences: 3, length: 20 };
    let schedule = Schedule { first: 0, steps: 24, evaluate: None, checkpoint: None };
    let (batches, ..) = run(1, shape, schedule, 0..24, &State::new());
    let (index, store) = (CORPUS.get::<CorpusIndex>().unwrap(), CORPUS.get::<DocumentStore>().unwrap());
    let (tokenizer, env) = (CORPUS.get::<Tokenizer>().unwrap(), env(0, 1, shape, schedule, &CORPUS));
    let draws = Concat::default().draws(&env).unwrap();
    let mut lineage = Lineage::new(draws, shape, env.seed, std::slice::from_ref(&index));
    for step in 0..24 {
        let mut found = vec![Vec::new(); 12];
        for Passage { leaf, row, position, document, tokens, .. } in lineage.next_step().unwrap() {
            let sequence = &mut found[leaf as usize * shape.sequences + row];
            assert_eq!(sequence.len(), position);
            let mut ids = tokenizer.encode(&store.get(index.train.rows[document]).unwrap().unwrap()).unwrap();
            ids.push(tokenizer.end_of_text());
            sequence.extend_from_slice(&ids[tokens.start as usize..tokens.end as usize]);
        }
        for (sequence, found) in found.iter().enumerate() {
            let (leaf, row) = ((sequence / shape.sequences) as u32, sequence % shape.sequences);
            let (_, tokens, targets, _) = &batches[&(step, Purpose::Train, leaf, 0)];
            let of_row = |ids: &[u32]| ids[row * shape.length..(row + 1) * shape.length].to_vec();
            assert_eq!((of_row(tokens), of_row(targets)), (found[..20].to_vec(), found[1..].to_vec()), "step {step}");
        }
    }
}

#[test]
fn one_packet_is_enough_for_a_step_and_little_is_left_over() {
    let shape = BatchShape { micro_batches: 2, lanes: 2, sequences: 8, length: 64 };
    let schedule = Schedule { first: 0, steps: 200, evaluate: None, checkpoint: None };
    let (_, state, most) = run(2, shape, schedule, 0..200, &State::new());
    assert_eq!(most, 1);
    for (_, pack) in state.values() {
        // A document, and what was over when the first step had filled the pool: less than a step's tokens.
        let SavedTokens(tokens) = serde_json::from_value(pack["tokens"].clone()).unwrap();
        assert!(tokens.len() < 200 + shape.sequences * shape.length);
    }
}
