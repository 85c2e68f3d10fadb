//! Decides which documents are kept, as a fragment of differential dataflow: a function from collections to
//! collections.
use differential_dataflow::VecCollection;
use differential_dataflow::lattice::Lattice;
use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::operators::iterate::Iterate;
use differential_dataflow::trace::implementations::ValSpine;
use timely::order::TotalOrder;
use timely::progress::Timestamp;

/// A document: its position in the order of all ids, so that the lowest id has rank 0.
pub type Rank = u32;
/// A text: its position in the order of all content hashes.
pub type Content = u32;

/// Why a document is dropped: the document kept instead, the one it was compared with, and the bits of their similarity
/// (an f64).
pub type Verdict = (Rank, Rank, u64);

/// Each text of a bucket is compared with this many before it, and with the first one. So buckets of up to `NEAR + 2`
/// texts are compared completely, and the work for a larger one grows linearly.
const NEAR: usize = 8;

/// A collection arranged by key.
type ByKey<'scope, T, K, V> = Arranged<'scope, TraceAgent<ValSpine<K, V, T, isize>>>;

/// What [`deduplicate`] returns.
pub struct Deduplicated<'scope, T: Timestamp + Lattice> {
    /// Documents that are kept.
    pub kept: VecCollection<'scope, T, Rank>,
    /// Documents that are dropped.
    pub dropped: VecCollection<'scope, T, (Rank, Verdict)>,
    /// Pairs of texts that were compared.
    pub compared: VecCollection<'scope, T, (Content, Content)>,
}

/// Drops exact and near-duplicates among `documents`, each with its text.
///
/// `bands` are the keys of a text (its MinHash bands): texts that share one are in the same bucket and may be compared.
/// `similarity` compares two texts and must be a pure function. Texts with a similarity of at least `threshold` are
/// connected, and of all documents in a connected component the one of the lowest rank is kept.
pub fn deduplicate<'scope, T, B, S>(
    documents: VecCollection<'scope, T, (Content, Rank)>,
    bands: B,
    similarity: S,
    threshold: f64,
) -> Deduplicated<'scope, T>
where
    T: Timestamp + Lattice + TotalOrder,
    B: Fn(Content) -> Vec<u64> + 'static,
    S: Fn(Content, Content) -> f64 + 'static,
{
    // The first document of a text: the one of the lowest rank.
    let first = documents
        .clone()
        .reduce_named("First", |_, ranks, out| out.push((*ranks[0].0, 1_isize)))
        .arrange_by_key_named("First of a text");
    let compared = candidate_pairs(first.clone().as_collection(|text, _| *text), bands);
    let similar = compared.clone().flat_map(move |(a, b)| {
        let similarity = similarity(a, b);
        (similarity >= threshold).then_some((a, (b, similarity.to_bits())))
    });
    let similar = similar.clone().map(|(a, (b, s))| (b, (a, s))).concat(similar);
    let kept_of_text = kept_of_texts(connected_components(similar.clone()), first.clone());
    let near = near_duplicates(similar, first.clone(), kept_of_text.clone());
    let exact = exact_duplicates(documents, first.clone(), kept_of_text);
    let kept = first.as_collection(|_, rank| *rank).concat(near.clone().map(|(rank, _)| rank).negate()).consolidate();
    let dropped = near.concat(exact).consolidate();
    Deduplicated { kept, dropped, compared }
}

/// Pairs of texts that share a bucket and are to be compared.
fn candidate_pairs<'scope, T: Timestamp + Lattice + TotalOrder>(
    texts: VecCollection<'scope, T, Content>,
    bands: impl Fn(Content) -> Vec<u64> + 'static,
) -> VecCollection<'scope, T, (Content, Content)> {
    texts
        .flat_map(move |text| bands(text).into_iter().map(move |key| (key, text)))
        .reduce_named("Bucket", |_, texts, out| {
            for (place, (text, _)) in texts.iter().enumerate().skip(1) {
                for (near, _) in &texts[place.saturating_sub(NEAR)..place] {
                    out.push(((**near, **text), 1_isize));
                }
                if place > NEAR {
                    out.push(((*texts[0].0, **text), 1));
                }
            }
        })
        .map(|(_, pair)| pair)
        .distinct()
}

/// Labels every text that is similar to another with the first text of its connected component.
///
/// Labels spread to neighbours, and each text also takes over its label's label (pointer jumping), so that a chain of
/// *n* texts takes O(log *n*) rounds.
fn connected_components<'scope, T: Timestamp + Lattice + TotalOrder>(
    similar: VecCollection<'scope, T, (Content, (Content, u64))>,
) -> VecCollection<'scope, T, (Content, Content)> {
    let edges = similar.clone().map(|(a, (b, _))| (a, b)).arrange_by_key_named("Edges");
    let members = similar.map(|(a, _)| (a, a)).distinct();
    members.clone().iterate(|inner, labels| {
        let (edges, members) = (edges.enter(inner), members.enter(inner));
        let by_member = labels.clone().arrange_by_key_named("Labels");
        let jumped = labels
            .map(|(member, label)| (label, member))
            .arrange_by_key_named("Members")
            .join_core(by_member.clone(), |_, member, label| Some((*member, *label)));
        by_member
            .join_core(edges, |_, label, neighbour| Some((*neighbour, *label)))
            .concat(jumped)
            .concat(members)
            .reduce_named("Least label", |_, labels, out| out.push((*labels[0].0, 1_isize)))
    })
}

/// For each text with a label: the document that is kept of its component, the one of the lowest rank.
fn kept_of_texts<'scope, T: Timestamp + Lattice + TotalOrder>(
    labels: VecCollection<'scope, T, (Content, Content)>,
    first: ByKey<'scope, T, Content, Rank>,
) -> ByKey<'scope, T, Content, Rank> {
    let labels = labels.arrange_by_key_named("Component of a text");
    let lowest = labels
        .clone()
        .join_core(first, |_, component, rank| Some((*component, *rank)))
        .reduce_named("Least of a component", |_, ranks, out| out.push((*ranks[0].0, 1_isize)))
        .arrange_by_key_named("Kept of a component");
    labels
        .as_collection(|text, component| (*component, *text))
        .arrange_by_key_named("Texts of a component")
        .join_core(lowest, |_, text, kept| Some((*text, *kept)))
        .arrange_by_key_named("Kept of a text")
}

/// The first documents of texts for which another text's document is kept, with their most similar neighbour.
fn near_duplicates<'scope, T: Timestamp + Lattice + TotalOrder>(
    similar: VecCollection<'scope, T, (Content, (Content, u64))>,
    first: ByKey<'scope, T, Content, Rank>,
    kept_of_text: ByKey<'scope, T, Content, Rank>,
) -> VecCollection<'scope, T, (Rank, Verdict)> {
    // The bits of similarities, which are positive, are in the order of the numbers; inverted, the greatest is the
    // least.
    let nearest = similar
        .map(|(a, (b, s))| (b, (a, s)))
        .arrange_by_key_named("Neighbours")
        .join_core(first.clone(), |_, (a, s), rank| Some((*a, (!*s, *rank))))
        .reduce_named("Nearest", |_, neighbours, out| out.push((*neighbours[0].0, 1_isize)));
    nearest
        .arrange_by_key_named("Nearest of a text")
        .join_core(kept_of_text, |text, (s, neighbour), kept| Some((*text, (*kept, *neighbour, !*s))))
        .arrange_by_key_named("Verdict of a text")
        .join_core(first, |_, verdict, rank| (verdict.0 != *rank).then_some((*rank, *verdict)))
}

/// The documents of a text other than its first, which they are compared with and which is kept unless another text's
/// document is.
fn exact_duplicates<'scope, T: Timestamp + Lattice + TotalOrder>(
    documents: VecCollection<'scope, T, (Content, Rank)>,
    first: ByKey<'scope, T, Content, Rank>,
    kept_of_text: ByKey<'scope, T, Content, Rank>,
) -> VecCollection<'scope, T, (Rank, Verdict)> {
    let identical = 1.0_f64.to_bits();
    let copies = documents
        .arrange_by_key_named("Documents")
        .join_core(first, |text, rank, first| (rank != first).then_some((*text, (*rank, *first))));
    let elsewhere = copies
        .clone()
        .arrange_by_key_named("Copies")
        .join_core(kept_of_text, move |_, (rank, first), kept| Some((*rank, *first, *kept)));
    elsewhere
        .clone()
        .map(move |(rank, first, kept)| (rank, (kept, first, identical)))
        .concat(elsewhere.map(move |(rank, first, _)| (rank, (first, first, identical))).negate())
        .concat(copies.map(move |(_, (rank, first))| (rank, (first, first, identical))))
}
