//! Real dumps of the shared data: against WikiExtractor's text of the same pages, and in other languages.
mod common;
use arrow::array::AsArray;
use common::shared;
use millrace_text::clean::residue::residue;
use millrace_text::input::decompress::Decompressed;
use millrace_text::input::document::ReaderItem;
use millrace_text::input::mediawiki::dump::{self, Pages};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Page id, title, text.
type Article = (String, String, String);

fn articles(path: &Path) -> (Pages, Vec<Article>) {
    let mut articles = Vec::new();
    let pages = dump::read(Decompressed::open(path).unwrap(), path, &mut |found| {
        match found {
            ReaderItem::Document(d) => {
                // The wiki and the page's id, or only that if the dump does not name its wiki.
                let id = d.id.as_deref().and_then(|id| Some(id.rsplit_once('-')?.1)).or(d.id_in_file.as_deref());
                let id = id.unwrap().to_string();
                articles.push((id, d.title, d.text.to_string()));
            }
            ReaderItem::Unreadable(bad) => panic!("{}: {bad:?}", path.display()),
        }
        Ok(())
    })
    .unwrap();
    (pages, articles)
}

fn words(text: &str) -> Vec<&str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect()
}

/// The share of words that both have in common, counted as often as both have them (Dice).
fn similarity(a: &str, b: &str) -> f64 {
    let mut counts: HashMap<&str, i64> = HashMap::new();
    let (a, b) = (words(a), words(b));
    a.iter().for_each(|word| *counts.entry(word).or_default() += 1);
    let common = b.iter().filter(|word| {
        let count = counts.entry(word).or_default();
        *count -= 1;
        *count >= 0
    });
    2.0 * common.count() as f64 / (a.len() + b.len()).max(1) as f64
}

fn total(texts: impl Iterator<Item = impl AsRef<str>>) -> (u64, BTreeMap<&'static str, u64>) {
    let mut kinds = BTreeMap::new();
    for text in texts {
        residue(text.as_ref()).iter().for_each(|(kind, count)| *kinds.entry(kind).or_default() += count);
    }
    (kinds.values().sum(), kinds)
}

#[test]
fn like_wiki_extractor_with_less_residue() {
    let Some(corpus) = shared("corpus/wiki-en-dev.parquet") else { return };
    let mut theirs: HashMap<String, Vec<String>> = HashMap::new();
    let file = std::fs::File::open(corpus).unwrap();
    for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
        let batch = batch.unwrap();
        let column = |name: &str| {
            arrow::compute::cast(batch.column_by_name(name).unwrap(), &arrow::datatypes::DataType::Utf8).unwrap()
        };
        let (urls, texts) = (column("url"), column("text"));
        for (url, text) in urls.as_string::<i32>().iter().zip(texts.as_string::<i32>()) {
            let id = url.unwrap().rsplit_once("curid=").unwrap().1.to_string();
            theirs.entry(id).or_default().push(text.unwrap().to_string());
        }
    }
    let mut pairs = Vec::new();
    for dump in [
        "xml/enwiki-10k.xml.bz2",
        "xml/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
        "xml/enwiki-table-markup.xml.bz2",
    ] {
        for (id, title, text) in articles(&shared(dump).unwrap()).1 {
            for other in theirs.get(&id).into_iter().flatten() {
                pairs.push((similarity(&text, other), title.clone(), text.clone(), other.clone()));
            }
        }
    }
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let median = pairs[pairs.len() / 2].0;
    let (ours, theirs) = (total(pairs.iter().map(|p| &p.2)), total(pairs.iter().map(|p| &p.3)));
    println!("{} pairs; similarity: median {median:.3}, tenth {:.3}", pairs.len(), pairs[pairs.len() / 10].0);
    println!("least alike: {:?}", pairs.iter().take(5).map(|p| (&p.1, p.0)).collect::<Vec<_>>());
    println!("residue: {ours:?}, WikiExtractor's: {theirs:?}");
    if let Ok(folder) = std::env::var("MILLRACE_SHOW") {
        for (n, (_, title, ours, theirs)) in pairs.iter().enumerate() {
            let head = format!("{title}\n\n");
            std::fs::write(format!("{folder}/{n}.ours.txt"), head.clone() + ours).unwrap();
            std::fs::write(format!("{folder}/{n}.theirs.txt"), head + theirs).unwrap();
        }
    }
    assert!(pairs.len() >= 200, "{}", pairs.len());
    assert!(median >= 0.9, "{median}");
    assert!(ours.0 < theirs.0, "{ours:?} {theirs:?}");
}

#[test]
fn dumps_in_other_languages_have_little_residue() {
    let mut found = 0;
    let (mut left, mut bytes) = (Vec::new(), 0);
    for name in ["ar", "de", "en", "fr", "ja", "ko", "ru", "zh"] {
        let Some(path) = shared(&format!("xml/minidumps/{name}.xml.bz2")) else { return };
        let (pages, articles) = articles(&path);
        let (count, kinds) = total(articles.iter().map(|a| &a.2));
        println!("{name}: {pages:?}, residue {kinds:?}");
        found += articles.len();
        bytes += articles.iter().map(|a| a.2.len()).sum::<usize>();
        left.push(count);
    }
    let (pages, articles) = articles(&shared("xml/ltgwiki-latest-pages-articles.xml").unwrap());
    println!("ltg: {pages:?}, residue {:?}", total(articles.iter().map(|a| &a.2)).1);
    // 195 redirects in all, of which 147 in the main namespace.
    assert_eq!((pages.pages, pages.articles + pages.without_text, pages.redirects), (2004, 903, 147));
    assert!(found > 30 && bytes > 100_000, "{found} articles, {bytes} bytes");
    // One in ten thousand bytes.
    assert!(left.iter().sum::<u64>() * 10_000 < bytes as u64, "{left:?} in {bytes} bytes");
}
