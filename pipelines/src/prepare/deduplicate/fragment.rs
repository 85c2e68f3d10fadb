//! Who is kept, as a fragment of differential dataflow: collections in, collections out, at any time.
use differential_dataflow::VecCollection;
use differential_dataflow::lattice::Lattice;
use differential_dataflow::operators::iterate::Iterate;
use timely::order::TotalOrder;
use timely::progress::Timestamp;

/// A document: its place in the order of all ids, so that the least is the lowest id.
pub type Rank = u32;
/// A text: its place in the order of all content hashes.
pub type Content = u32;

/// What is known of a dropped document: the one kept in its place, the one it was compared with, and the bits of their
/// similarity (an f64).
pub type Verdict = (Rank, Rank, u64);

/// Members of a bucket that come this near to each other in it are compared, and each with the bucket's first: buckets
/// of up to `NEAR + 2` are compared whole, large ones in proportion to their size.
const NEAR: usize = 8;

/// What follows from the documents.
pub struct Deduplicated<'scope, T: Timestamp + Lattice> {
    /// Documents that stay.
    pub kept: VecCollection<'scope, T, Rank>,
    /// Documents that go.
    pub dropped: VecCollection<'scope, T, (Rank, Verdict)>,
    /// Texts that were compared.
    pub compared: VecCollection<'scope, T, (Content, Content)>,
}

/// Drops exact and near-duplicates among `documents`, each with its text.
///
/// `bands` are a text's keys: texts that share one meet in a bucket. `similarity` is that of two texts; it must always
/// answer the same. Those of at least `threshold` are connected, and of all documents of a connected component the one
/// of the lowest rank is kept.
pub fn deduplicate<'scope, T, B, S>(
    documents: VecCollection<'scope, T, (Content, Rank)>,
    bands: B,
    similarity: S,
    threshold: f64,
) -> Deduplicated<'scope, T>
where
    T: Timestamp + Lattice + TotalOrder + Ord,
    B: Fn(Content) -> Vec<u64> + 'static,
    S: Fn(Content, Content) -> f64 + 'static,
{
    // Exact duplicates: of each text the document of the lowest rank.
    let first = documents
        .clone()
        .reduce_named("First", |_, ranks, out| out.push((*ranks[0].0, 1_isize)))
        .arrange_by_key_named("First of a text");
    let texts = first.clone().as_collection(|text, _| *text);

    // Texts that share a bucket are compared.
    let compared = texts
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
        .distinct();
    let alike = compared.clone().flat_map(move |(a, b)| {
        let similarity = similarity(a, b);
        (similarity >= threshold).then_some((a, (b, similarity.to_bits())))
    });
    let alike = alike.clone().map(|(a, (b, s))| (b, (a, s))).concat(alike);

    // Connected components, each named by its first text: labels spread to neighbours, and jump to the label's label, so
    // that a long chain takes as many rounds as its length has digits.
    let edges = alike.clone().map(|(a, (b, _))| (a, b)).arrange_by_key_named("Edges");
    let members = alike.clone().map(|(a, _)| (a, a)).distinct();
    let labels = members.clone().iterate(|inner, labels| {
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
    });

    // Of a component, the document of the lowest rank is kept in place of all.
    let labels = labels.arrange_by_key_named("Component of a text");
    let least = labels
        .clone()
        .join_core(first.clone(), |_, component, rank| Some((*component, *rank)))
        .reduce_named("Least of a component", |_, ranks, out| out.push((*ranks[0].0, 1_isize)))
        .arrange_by_key_named("Kept of a component");
    let kept_of_text = labels
        .as_collection(|text, component| (*component, *text))
        .arrange_by_key_named("Texts of a component")
        .join_core(least, |_, text, kept| Some((*text, *kept)))
        .arrange_by_key_named("Kept of a text");

    // The first document of a text, where another text's is kept: its nearest neighbour is named.
    let nearest = alike
        .map(|(a, (b, s))| (b, (a, s)))
        .arrange_by_key_named("Neighbours")
        .join_core(first.clone(), |_, (a, s), rank| Some((*a, (!*s, *rank))))
        .reduce_named("Nearest", |_, neighbours, out| out.push((*neighbours[0].0, 1_isize)));
    let near = nearest
        .arrange_by_key_named("Nearest of a text")
        .join_core(kept_of_text.clone(), |text, (s, neighbour), kept| Some((*text, (*kept, *neighbour, !*s))))
        .arrange_by_key_named("Verdict of a text")
        .join_core(first.clone(), |_, verdict, rank| (verdict.0 != *rank).then_some((*rank, *verdict)));

    // The other documents of a text: the first of them is the neighbour, and is kept unless another text's is.
    let copies = documents
        .arrange_by_key_named("Documents")
        .join_core(first.clone(), |text, rank, first| (rank != first).then_some((*text, (*rank, *first))));
    let one = 1.0_f64.to_bits();
    let elsewhere = copies
        .clone()
        .arrange_by_key_named("Copies")
        .join_core(kept_of_text, move |_, (rank, first), kept| Some((*rank, *first, *kept)));
    let copied = elsewhere
        .clone()
        .map(move |(rank, first, kept)| (rank, (kept, first, one)))
        .concat(elsewhere.map(move |(rank, first, _)| (rank, (first, first, one))).negate())
        .concat(copies.map(move |(_, (rank, first))| (rank, (first, first, one))));

    let kept = first.as_collection(|_, rank| *rank).concat(near.clone().map(|(rank, _)| rank).negate()).consolidate();
    let dropped = near.concat(copied).consolidate();
    Deduplicated { kept, dropped, compared }
}
