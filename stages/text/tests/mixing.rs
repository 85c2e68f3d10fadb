//! Sources, mixture and pack together, served as the engine serves them: the same sequences whatever the order in which
//! the sources answer, the number of workers, and after a stop at any step; the order of a source does not depend on
//! the others.
mod common;
use arrow::array::{ListBuilder, UInt32Builder};
use common::env;
use contract::mixture::{Allocation, Between, Mixture};
use contract::testing::Collect;
use contract::{
    At, BatchShape, Built, Env, Lane, Packet, Packing, Purpose, Resources, Schedule, Settings, SourceSizes, Stage,
    Step, Tokens, Turn,
};
use millrace_text::corpus::lanes::LaneReader;
use millrace_text::{BestFit, Concat, CorpusIndex, Lineage, Mix, PackKeys, Part, Passage, Survey, Vocabulary};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

const LENGTH: usize = 8;
const END: u32 = 0;

/// Sources by name, each with the numbers of tokens of its training documents, and how they are mixed.
#[derive(Clone)]
struct Run {
    sources: BTreeMap<String, Vec<u32>>,
    settings: Value,
    lanes: u32,
    leaves: u32,
    steps: u64,
    /// Whether documents are packed by `best_fit`.
    best_fit: bool,
}

/// The number of the source whose tokens these are: the same whatever other sources there are.
fn number(name: &str) -> u32 {
    u32::from(name.as_bytes()[0] - b'a')
}

/// Each token of a document says which document it is of.
fn token(name: &str, row: u64) -> u32 {
    1000 * (number(name) + 1) + row as u32
}

fn built(settings: &dyn Settings, env: &Env) -> Box<dyn Stage> {
    match settings.build(env).unwrap() {
        Built::Stage(stage) => stage,
        Built::Source(_) => unreachable!(),
    }
}

type Sequences = BTreeMap<(Step, Purpose, Lane, u32), Vec<Vec<u32>>>;
/// What readers and pack save, by lane.
type State = BTreeMap<Lane, (Vec<Value>, Value)>;

impl Run {
    fn mix(&self) -> Mix {
        serde_json::from_value(self.settings.clone()).unwrap()
    }

    fn mixture(&self) -> Mixture {
        self.mix().mixes().unwrap()
    }

    fn shape(&self) -> BatchShape {
        BatchShape { micro_batches: self.lanes * self.leaves, lanes: self.lanes, sequences: 2, length: LENGTH }
    }

    /// One document in eight is for validation.
    fn index(&self, name: &str) -> Arc<CorpusIndex> {
        let counts = &self.sources[name];
        let part = |row: usize| if row % 8 == 7 { Part::Validation } else { Part::Train };
        let rows = counts.len() as u64;
        let parts = (0..counts.len()).map(part).collect();
        let survey = Survey {
            all_rows: rows,
            rows: (0..rows).collect(),
            parts,
            bytes: vec![1; counts.len()],
            hashes: (0..rows).collect(),
            ..Survey::default()
        };
        Arc::new(CorpusIndex::new(&survey, counts).unwrap())
    }

    fn sizes(&self) -> SourceSizes {
        SourceSizes(self.sources.keys().map(|name| (name.clone(), self.index(name).corpus)).collect())
    }

    fn env(&self, worker: usize, workers: usize) -> Env {
        let mut resources = Resources::default();
        resources.insert(Arc::new(self.mixture()));
        resources.insert(Arc::new(self.sizes()));
        for name in self.sources.keys() {
            resources.provide(name, Arc::new(Packing { pads: self.best_fit, ..Packing::default() }));
        }
        resources.insert(Arc::new(Vocabulary { hash: String::new(), size: 100_000, end_of_text: END }));
        let schedule = Schedule { first: 0, steps: self.steps, evaluate: Some(10), checkpoint: None };
        env(worker, workers, self.shape(), schedule, &resources)
    }

    fn pack(&self, keys: &PackKeys) -> Box<dyn Settings> {
        if self.best_fit { Box::new(BestFit::from(keys.clone())) } else { Box::new(Concat::from(keys.clone())) }
    }

    fn run(&self, workers: usize, steps: Range<Step>, state: &State, random: u64) -> (Sequences, State) {
        self.with_pack(&PackKeys::default(), workers, steps, state, random)
    }

    /// Runs `steps`. `random` decides which source answers first, and which is a step ahead.
    fn with_pack(
        &self,
        keys: &PackKeys,
        workers: usize,
        steps: Range<Step>,
        state: &State,
        mut random: u64,
    ) -> (Sequences, State) {
        let (mut found, mut after) = (Sequences::new(), State::new());
        let mut below = move |n: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % n
        };
        let names = self.mixture().sources;
        for worker in 0..workers {
            let env = self.env(worker, workers);
            let reader = |name: &String| {
                let env = Env { stage: name.clone(), ..env.clone() };
                LaneReader::new(self.index(name), &env)
            };
            let mut readers: Vec<LaneReader> = names.iter().map(reader).collect();
            let (mut mixer, mut pack) = (built(&self.mix(), &env), built(&*self.pack(keys), &env));
            let mut ahead: BTreeMap<(Lane, usize), Option<Tokens>> = BTreeMap::new();
            for lane in env.lanes() {
                if let Some((saved, packed)) = state.get(&lane) {
                    readers.iter_mut().zip(saved).for_each(|(reader, saved)| reader.load(lane, saved.clone()).unwrap());
                    pack.load(lane, packed.clone()).unwrap();
                }
            }
            for step in steps.clone() {
                for lane in env.lanes() {
                    let mut open: Vec<usize> = (0..names.len()).collect();
                    let mut saved = vec![Value::Null; names.len()];
                    while !open.is_empty() {
                        let at = below(open.len());
                        let source = open[at];
                        let tokens = match ahead.remove(&(lane, source)) {
                            Some(tokens) => tokens,
                            None => self.next(&mut readers[source], &names[source], lane, step),
                        };
                        let Some(tokens) = tokens else { unreachable!("a step has a packet") };
                        let (mut mixed, mut out) = (Collect::default(), Collect::default());
                        let arrives = At { step, port: source, waited: Duration::ZERO };
                        mixer.packet(arrives, Packet::Tokens(tokens), &mut mixed).unwrap();
                        let mut turn = pack.packet(At { port: 0, ..arrives }, mixed.0.remove(0), &mut out).unwrap();
                        while turn == Turn::More {
                            turn = pack.more(step, &mut out).unwrap();
                        }
                        for packet in out.0 {
                            let Packet::Batch(batch) = packet else { unreachable!() };
                            let rows = batch.tokens.chunks(batch.length).map(<[u32]>::to_vec).collect();
                            let key = (step, batch.purpose, batch.leaf, batch.part);
                            assert!(found.insert(key, rows).is_none(), "{key:?} twice");
                        }
                        if turn == Turn::Done {
                            open.remove(at);
                            saved[source] = readers[source].save(lane).value().unwrap();
                            if below(2) == 0 && step + 1 < steps.end {
                                let next = self.next(&mut readers[source], &names[source], lane, step + 1);
                                ahead.insert((lane, source), next);
                            }
                        }
                    }
                    after.insert(lane, (saved, pack.save(lane).unwrap().value().unwrap()));
                }
            }
        }
        (found, after)
    }

    fn next(&self, reader: &mut LaneReader, name: &str, lane: Lane, step: Step) -> Option<Tokens> {
        let chunk = reader.next(lane, step).unwrap()?;
        let mut lists = ListBuilder::new(UInt32Builder::new());
        for row in chunk.rows {
            let tokens = self.sources[name][row as usize] as usize - 1;
            lists.values().append_slice(&vec![token(name, row); tokens]);
            lists.append(true);
        }
        Some(Tokens { lane, source: 0, purpose: chunk.purpose, last: chunk.last, documents: lists.finish() })
    }

    /// The training sequences of each step, as their lineage says.
    fn derived(&self, keys: &PackKeys, steps: u64) -> Sequences {
        let (env, names) = (self.env(0, 1), self.mixture().sources);
        let indices: Vec<_> = names.iter().map(|name| self.index(name)).collect();
        let mut lineage = Lineage::new(self.pack(keys).draws(&env).unwrap(), self.shape(), env.seed, &indices);
        let mut sequences = Sequences::new();
        for step in 0..steps {
            for passage in lineage.next_step().unwrap() {
                let Passage { leaf, row, position, source, document, tokens, .. } = passage;
                let train = &indices[source].train;
                let rows = sequences.entry((step, Purpose::Train, leaf, 0)).or_default();
                rows.resize(rows.len().max(row + 1), Vec::new());
                if self.best_fit && position == 1 {
                    rows[row].push(END);
                }
                assert_eq!(rows[row].len(), position);
                let end = train.tokens[document] - 1;
                let id = |at| if at == end { END } else { token(&names[source], train.rows[document]) };
                rows[row].extend(tokens.map(id));
            }
        }
        sequences
    }

    /// The training sequences of a source in a lane, in the order in which they are drawn.
    fn stream(&self, sequences: &Sequences, name: &str, lane: Lane) -> Vec<Vec<u32>> {
        let in_lane = sequences
            .iter()
            .filter(|((_, purpose, leaf, _), _)| *purpose == Purpose::Train && leaf % self.lanes == lane);
        let of_source = |row: &&Vec<u32>| source_of(row) == Some(number(name));
        in_lane.flat_map(|(_, rows)| rows.iter().filter(of_source).cloned().collect::<Vec<_>>()).collect()
    }
}

/// The source whose tokens are in a sequence: only one.
fn source_of(row: &[u32]) -> Option<u32> {
    let mut sources = row.iter().filter(|token| **token != END).map(|token| token / 1000 - 1);
    let first = sources.next()?;
    assert!(sources.all(|other| other == first), "two sources in one sequence: {row:?}");
    Some(first)
}

fn documents() -> impl Strategy<Value = Vec<u32>> {
    // Documents longer than a sequence, so that no sequence is of end-of-text tokens alone.
    prop::collection::vec(3u32..30, 2..40)
}

fn weights(names: &[&str]) -> impl Strategy<Value = Value> + use<> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    prop::collection::vec(0.05f64..1.0, names.len())
        .prop_map(move |weights| json!(names.iter().zip(weights).collect::<BTreeMap<_, _>>()))
}

fn settings() -> impl Strategy<Value = Value> {
    let all = ["a", "b", "c"];
    let listed = (weights(&all), 1u64..20, weights(&all), any::<bool>()).prop_map(|(first, step, second, linear)| {
        json!({ "weights": [[0, first], [step, second]], "interpolate": if linear { "linear" } else { "step" } })
    });
    let limited = (weights(&all), 0.3f64..3.0)
        .prop_map(|(weights, epochs)| json!({ "weights": weights, "max_epochs": { "b": epochs } }));
    prop_oneof![listed, limited]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_same_sequences_on_any_workers_and_after_any_stop(
        documents in [documents(), documents(), documents()], settings in settings(), lanes in 1u32..4,
        leaves in 1u32..4, best_fit: bool, workers in 1usize..5, others in 1usize..5, stop in 0u64..=24, random: u64,
    ) {
        let sources = ["a", "b", "c"].map(str::to_owned).into_iter().zip(documents).collect();
        let run = Run { sources, settings, lanes, leaves, steps: 24, best_fit };
        let (whole, last) = run.run(1, 0..25, &State::new(), 1);
        let (mut found, state) = run.run(workers, 0..stop, &State::new(), random);
        let state: State = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
        let (rest, end) = run.run(others, stop..25, &state, !random);
        found.extend(rest);
        prop_assert!(found == whole);
        prop_assert_eq!(end, last);
        // Each source has exactly the sequences that are allocated to it.
        let allocation = Allocation::new(Arc::new(run.mixture()), run.shape(), &run.sizes());
        for (step, expected) in (0..24).zip(allocation) {
            let rows = whole.iter().filter(|((at, purpose, ..), _)| *at == step && *purpose == Purpose::Train);
            let mut got = vec![0; 3];
            rows.flat_map(|(_, rows)| rows).for_each(|row| got[source_of(row).unwrap() as usize] += 1);
            prop_assert_eq!(got, expected.sequences, "step {}", step);
        }
        // The part of a validation batch says which source it is of, and all documents are there.
        for step in [10, 20, 24] {
            for source in 0..3u32 {
                let rows = whole.iter().filter(|((at, purpose, _, part), _)| {
                    *at == step && *purpose == Purpose::Validate && part % 3 == source
                });
                let rows: Vec<&Vec<u32>> = rows.flat_map(|(_, rows)| rows).collect();
                prop_assert!(rows.iter().all(|row| source_of(row).is_none_or(|of| of == source)));
                let name = ["a", "b", "c"][source as usize];
                let held = (7..run.sources[name].len()).step_by(8).map(|row| token(name, row as u64));
                for token in held {
                    prop_assert!(rows.iter().any(|row| row.contains(&token)), "{token} is not validated");
                }
            }
        }
    }

    #[test]
    fn the_order_of_a_source_does_not_depend_on_the_others(
        documents in [documents(), documents(), documents()], three in weights(&["a", "b", "c"]),
        two in weights(&["a", "b"]), lanes in 1u32..4,
    ) {
        let names = ["a", "b", "c"].map(str::to_owned);
        let sources: BTreeMap<String, Vec<u32>> = names.into_iter().zip(documents).collect();
        let with = |weights: Value| Run {
            sources: sources.clone(), settings: json!({ "weights": weights }), lanes, leaves: 2, steps: 30, best_fit: false,
        };
        let (three, two) = (with(three), with(two));
        let (of_three, _) = three.run(1, 0..31, &State::new(), 1);
        let (of_two, _) = two.run(1, 0..31, &State::new(), 2);
        for name in ["a", "b"] {
            for lane in 0..lanes {
                let (one, other) = (three.stream(&of_three, name, lane), two.stream(&of_two, name, lane));
                let both = one.len().min(other.len());
                prop_assert_eq!(&one[..both], &other[..both], "source {} lane {}", name, lane);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_lineage_of_a_step_is_what_it_trains_on(
        documents in [documents(), documents(), documents()], settings in settings(), lanes in 1u32..4,
        leaves in 1u32..4, shuffles: bool, best_fit: bool,
    ) {
        let sources = ["a", "b", "c"].map(str::to_owned).into_iter().zip(documents).collect();
        let run = Run { sources, settings, lanes, leaves, steps: 24, best_fit };
        let keys = PackKeys { shuffle_tokens: if shuffles { 1 << 23 } else { 0 }, ..PackKeys::default() };
        let (mut found, _) = run.with_pack(&keys, 1, 0..25, &State::new(), 1);
        found.retain(|(_, purpose, ..), _| *purpose == Purpose::Train);
        let mut derived = run.derived(&keys, 24);
        for row in derived.values_mut().flatten() {
            if best_fit {
                row.resize(LENGTH + 1, END);
            }
            // The last token of a sequence is only a target.
            assert!(row.len() == LENGTH + 1 && row.pop().is_some());
        }
        prop_assert_eq!(derived, found);
    }
}

/// Documents of five tokens leave three of eight free, so a step takes fewer tokens than its sequences have positions.
#[test]
fn no_more_is_read_than_sequences_have_room_for() {
    let sources = BTreeMap::from([("a".to_owned(), vec![5; 40]), ("b".to_owned(), vec![5; 30])]);
    let settings = json!({ "weights": { "a": 1, "b": 1 } });
    let run = Run { sources, settings, lanes: 1, leaves: 2, steps: 400, best_fit: true };
    let waiting = |steps| run.run(1, 0..steps, &State::new(), 1).1[&0].1.to_string().len();
    assert!(waiting(400) < waiting(40) + 200, "{} after 40 steps, {} after 400", waiting(40), waiting(400));
}

#[test]
fn a_source_smaller_than_a_sequence_repeats() {
    let sources = BTreeMap::from([("a".to_owned(), vec![20; 40]), ("b".to_owned(), vec![3])]);
    let run = Run {
        sources,
        settings: json!({ "weights": { "a": 1, "b": 1 } }),
        lanes: 3,
        leaves: 2,
        steps: 12,
        best_fit: false,
    };
    let (found, _) = run.run(2, 0..13, &State::new(), 3);
    assert!((0..3).all(|lane| run.stream(&found, "b", lane).len() == 24));
    let mixture = run.mixture();
    assert_eq!((mixture.between, mixture.max_epochs), (Between::Constant, vec![None, None]));
}
