//! The dataflow against a batch program: union-find over the same pairs, from nothing.
use super::run::Outcome;
use super::{Content, Corpus, Rank, run};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Texts are sets of small numbers; each number is the key of a band.
#[derive(Clone, Debug, Default)]
struct Toy {
    texts: Vec<BTreeSet<u64>>,
    before: Vec<(Content, Rank)>,
    changes: Vec<((Content, Rank), isize)>,
    threshold: f64,
}

type Documents = BTreeMap<Rank, Content>;

impl Toy {
    fn similarity(&self, a: Content, b: Content) -> f64 {
        let (a, b) = (&self.texts[a as usize], &self.texts[b as usize]);
        a.intersection(b).count() as f64 / a.union(b).count() as f64
    }

    fn versions(&self, before: &Documents, after: &Documents) -> Arc<Self> {
        let pairs = |of: &Documents| of.iter().map(|(rank, text)| (*text, *rank)).collect::<BTreeSet<_>>();
        let (old, new) = (pairs(before), pairs(after));
        let gone = old.difference(&new).map(|pair| (*pair, -1));
        let changes = new.difference(&old).map(|pair| (*pair, 1)).chain(gone).collect();
        Arc::new(Self { before: old.into_iter().collect(), changes, ..self.clone() })
    }

    /// What must come out.
    fn batch(&self, documents: &Documents) -> Outcome {
        let mut first: BTreeMap<Content, Rank> = BTreeMap::new();
        for (rank, text) in documents {
            first.entry(*text).or_insert(*rank);
        }
        let mut buckets: BTreeMap<u64, Vec<Content>> = BTreeMap::new();
        for text in first.keys() {
            self.texts[*text as usize].iter().for_each(|key| buckets.entry(*key).or_default().push(*text));
        }
        let mut compared = BTreeSet::new();
        for bucket in buckets.values() {
            for (place, text) in bucket.iter().enumerate() {
                compared.extend((place.saturating_sub(8)..place).chain([0]).map(|other| (bucket[other], *text)));
            }
        }
        compared.retain(|(a, b)| a != b);
        let mut parent: BTreeMap<Content, Content> = first.keys().map(|text| (*text, *text)).collect();
        fn root(parent: &BTreeMap<Content, Content>, text: Content) -> Content {
            if parent[&text] == text { text } else { root(parent, parent[&text]) }
        }
        let mut nearest: BTreeMap<Content, (u64, Rank)> = BTreeMap::new();
        for (a, b) in &compared {
            let similarity = self.similarity(*a, *b);
            if similarity >= self.threshold {
                let (x, y) = (root(&parent, *a), root(&parent, *b));
                parent.insert(x.max(y), x.min(y));
                for (of, other) in [(a, b), (b, a)] {
                    let candidate = (!similarity.to_bits(), first[other]);
                    nearest.entry(*of).and_modify(|best| *best = candidate.min(*best)).or_insert(candidate);
                }
            }
        }
        let mut kept: BTreeMap<Content, Rank> = BTreeMap::new();
        for (text, rank) in &first {
            kept.entry(root(&parent, *text)).and_modify(|least| *least = (*least).min(*rank)).or_insert(*rank);
        }
        let mut dropped = BTreeMap::new();
        for (rank, text) in documents {
            let (kept, first) = (kept[&root(&parent, *text)], first[text]);
            if *rank != first {
                dropped.insert(*rank, (kept, first, 1.0_f64.to_bits()));
            } else if kept != *rank {
                let (similarity, neighbour) = nearest[text];
                dropped.insert(*rank, (kept, neighbour, !similarity));
            }
        }
        Outcome { dropped, compared: compared.into_iter().collect(), changes: Vec::new() }
    }
}

impl Corpus for Toy {
    fn before(&self) -> &[(Content, Rank)] {
        &self.before
    }
    fn changes(&self) -> &[((Content, Rank), isize)] {
        &self.changes
    }
    fn bands(&self, text: Content) -> Vec<u64> {
        self.texts[text as usize].iter().copied().collect()
    }
    fn similarity(&self, a: Content, b: Content) -> anyhow::Result<f64> {
        Ok(Toy::similarity(self, a, b))
    }
    fn threshold(&self) -> f64 {
        self.threshold
    }
}

fn kept(documents: &Documents, outcome: &Outcome) -> BTreeSet<Rank> {
    documents.keys().copied().filter(|rank| !outcome.dropped.contains_key(rank)).collect()
}

#[track_caller]
fn holds(toy: &Toy, before: &Documents, after: &Documents, workers: usize) {
    let (old, expected) = (toy.batch(before), toy.batch(after));
    let updated = run(&toy.versions(before, after), workers).unwrap();
    assert_eq!((&updated.dropped, &updated.compared), (&expected.dropped, &expected.compared));
    let (was, is) = (kept(before, &old), kept(after, &expected));
    let mut changes: Vec<_> =
        is.difference(&was).map(|r| (*r, 1)).chain(was.difference(&is).map(|r| (*r, -1))).collect();
    changes.sort_unstable();
    assert_eq!(updated.changes, changes);
}

fn documents() -> impl Strategy<Value = Documents> {
    prop::collection::btree_map(0u32..40, 0u32..30, 0..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn an_update_equals_a_batch_from_nothing(
        texts in prop::collection::vec(prop::collection::btree_set(0u64..14, 1..6), 30),
        versions in prop::collection::vec(documents(), 2..4),
        edits in prop::collection::vec((0u32..40, prop::option::of(0u32..30)), 0..5),
        threshold in 0.3f64..1.0,
        workers in 1usize..4,
    ) {
        let toy = Toy { texts, threshold, ..Toy::default() };
        let mut versions = versions;
        // A version that differs little from the last.
        let mut edited = versions[versions.len() - 1].clone();
        for (rank, text) in edits {
            match text {
                Some(text) => drop(edited.insert(rank, text)),
                None => drop(edited.remove(&rank)),
            }
        }
        versions.insert(0, Documents::new());
        versions.push(edited);
        for pair in versions.windows(2) {
            holds(&toy, &pair[0], &pair[1], workers);
        }
    }
}

#[test]
fn clusters_join_and_split_and_lose_the_one_kept() {
    // 1 and 3 are alike only by way of 2.
    let texts = [vec![], vec![1, 2, 3, 4], vec![2, 3, 4, 5], vec![3, 4, 5, 6]].map(|set| set.into_iter().collect());
    let toy = Toy { texts: texts.to_vec(), threshold: 0.6, ..Toy::default() };
    let of = |ranks: &[Rank]| ranks.iter().map(|rank| (*rank, *rank)).collect::<Documents>();
    let (apart, whole, headless) = (of(&[1, 3]), of(&[1, 2, 3]), of(&[2, 3]));
    assert_eq!(kept(&apart, &toy.batch(&apart)), BTreeSet::from([1, 3]));
    assert_eq!(kept(&whole, &toy.batch(&whole)), BTreeSet::from([1]));
    assert_eq!(kept(&headless, &toy.batch(&headless)), BTreeSet::from([2]));
    for (before, after) in [(&apart, &whole), (&whole, &apart), (&whole, &headless), (&headless, &apart)] {
        holds(&toy, before, after, 2);
    }
}

#[test]
fn a_long_chain_and_a_large_bucket_are_one_cluster_each() {
    // Text i shares two of its three numbers with text i + 1; number 9,999 is in all of the second half, each of
    // which has it and little else.
    let chain = (0..600).map(|i| BTreeSet::from([i, i + 1, i + 2]));
    let bucket = (0..600).map(|i| BTreeSet::from([9_999, 9_998, 9_997, 10_000 + i]));
    let toy = Toy { texts: chain.chain(bucket).collect(), threshold: 0.5, ..Toy::default() };
    let all: Documents = (0..1200).map(|i| (i, i)).collect();
    let mut cut = all.clone();
    cut.retain(|rank, _| ![0, 300, 600].contains(rank));
    assert_eq!(kept(&all, &toy.batch(&all)), BTreeSet::from([0, 600]));
    assert_eq!(kept(&cut, &toy.batch(&cut)), BTreeSet::from([1, 301, 601]));
    holds(&toy, &all, &cut, 2);
    holds(&toy, &cut, &all, 1);
}

#[test]
fn a_text_that_cannot_be_read_ends_the_run() {
    struct Broken;
    impl Corpus for Broken {
        fn before(&self) -> &[(Content, Rank)] {
            &[]
        }
        fn changes(&self) -> &[((Content, Rank), isize)] {
            &[((0, 0), 1), ((1, 1), 1)]
        }
        fn bands(&self, _: Content) -> Vec<u64> {
            vec![7]
        }
        fn similarity(&self, a: Content, _: Content) -> anyhow::Result<f64> {
            anyhow::bail!("no text {a}")
        }
        fn threshold(&self) -> f64 {
            0.8
        }
    }
    let said = format!("{:#}", run(&Arc::new(Broken), 2).unwrap_err());
    assert_eq!(said, "stage `deduplicate`: no text 0");
}
