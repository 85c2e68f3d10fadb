//! A few steps on real data: Wikipedia's dumps as they are, and Parquet of them.
use crate::support::{Scratch, shared, tiny};

fn trains_on(path: &str, more: &[&str]) {
    let Some(path) = shared(&format!("data/{path}")) else { return };
    let scratch = Scratch::new();
    scratch.write(
        "run.toml",
        tiny(&format!("paths = [{path:?}]")).replace("validation_every = 10", "validation_every = 4"),
    );
    scratch.train("r", more);
    let losses = scratch.losses("r");
    assert_eq!(losses.len(), 6);
    assert!(losses[5] < losses[0], "{losses:?}");
}

#[test]
fn a_dump_in_xml() {
    trains_on("xml/tinywiki-latest-pages-articles.xml", &[]);
}

#[test]
fn a_dump_in_bzip2() {
    trains_on("xml/enwiki-table-markup.xml.bz2", &[]);
}

#[test]
fn english_wikipedia_in_parquet_sampled() {
    trains_on("corpus/wiki-en-dev.parquet", &["--sample", "200"]);
}
