//! Clusters of near-duplicates follow the edits of their members.
use super::{Documents, PLAN, documents, edit, edited, prepare, rows, same, write};
use crate::support::{Random, Scratch};
use std::collections::BTreeMap;

/// The ids of the duplicates that each kept document replaces, by its id.
fn clusters(scratch: &Scratch, version: &str) -> BTreeMap<String, Vec<String>> {
    let column = |name| rows(scratch, version, "duplicates", name);
    let mut clusters: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (id, kept) in column("id").into_iter().zip(column("kept")) {
        clusters.entry(kept).or_default().push(id);
    }
    clusters
}

/// A document similar to members of two clusters joins them, the document that was kept is deleted, and the clusters
/// separate again. Other documents are edited at random meanwhile.
#[test]
fn clusters_join_lose_the_one_kept_and_split() {
    for seed in 1..=3 {
        let (scratch, mut random) = (Scratch::new(), Random(seed));
        scratch.write("prepare.toml", PLAN.replace("threshold = 0.5", "threshold = 0.3\nbands = 40\nband_rows = 1"));
        let text = |cluster: usize| (0..40).map(|word| format!("c{cluster}w{word}")).collect::<Vec<_>>().join(" ");
        let mut alike = Documents::new();
        for (cluster, copy) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)] {
            alike.insert(format!("a-{cluster}{copy}"), edited(&text(cluster), &mut random));
        }
        let mut others = documents(20, &mut random);
        let mut version = 0;
        let mut next = |alike: &Documents| {
            version += 1;
            let mut all = alike.clone();
            all.extend(others.clone());
            write(&scratch, "in.parquet", &all);
            let workers = (1 + random.below(4)).to_string();
            prepare(&scratch, "updated", &["--workers", &workers]).succeeds();
            let fresh = format!("fresh{version}");
            prepare(&scratch, &fresh, &["--workers", "1"]).succeeds();
            same(&scratch, &format!("updated/v{version}"), &format!("{fresh}/v1"));
            edit(&mut others, &mut random);
            let mut found = clusters(&scratch, &format!("updated/v{version}"));
            found.retain(|kept, _| kept.starts_with("a-"));
            found.into_iter().map(|(kept, gone)| format!("{kept}: {}", gone.join(" "))).collect::<Vec<_>>()
        };
        assert_eq!(next(&alike), ["a-00: a-01 a-02", "a-10: a-11 a-12"], "seed {seed}");
        alike.insert("a-between".into(), format!("{} {}", text(0), text(1)));
        assert_eq!(next(&alike), ["a-00: a-01 a-02 a-10 a-11 a-12 a-between"], "seed {seed}");
        alike.remove("a-00");
        assert_eq!(next(&alike), ["a-01: a-02 a-10 a-11 a-12 a-between"], "seed {seed}");
        alike.remove("a-between");
        assert_eq!(next(&alike), ["a-01: a-02", "a-10: a-11 a-12"], "seed {seed}");
    }
}
