//! Files that others made: real corpora and dumps, and collections of what is odd.
mod common;
use common::{settings, shared, store, texts};
use millrace_text::input::decompress::Decompressed;
use millrace_text::input::document::ReaderItem;
use millrace_text::input::ingest::DocumentFile;
use millrace_text::{Cache, DocumentStore, ReadDocuments, Split, Survey, TextProblem, input::mediawiki::dump, silent};

#[test]
fn no_file_of_the_apache_collection_makes_it_panic() {
    let Some(root) = shared("parquet/apache-parquet-testing") else { return };
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path().to_str());
    let (mut read, mut set_aside, mut refused, mut files) = (0, 0, 0, 0);
    for sub in ["data", "bad_data"] {
        for path in std::fs::read_dir(root.join(sub)).unwrap().map(|e| e.unwrap().path()) {
            if path.extension().is_none_or(|e| e != "parquet") {
                continue;
            }
            files += 1;
            let missing = DocumentFile::new(&path, "no such column");
            let error = DocumentStore::open(&[missing], &cache).err().unwrap().to_string();
            let columns = error.split_once("; columns: ").map_or("", |(_, c)| c.split(';').next().unwrap());
            for column in columns.split(", ") {
                let file = DocumentFile::new(&path, column);
                let result = DocumentStore::open(&[file], &cache)
                    .and_then(|store| Survey::of(&store, Split::Every(2), &mut silent()));
                match result {
                    Ok(survey) if survey.bad.is_empty() => read += 1,
                    Ok(_) => set_aside += 1,
                    Err(e) => {
                        assert!(
                            e.downcast_ref::<TextProblem>().is_some() && e.to_string().contains(".parquet"),
                            "{e:#}"
                        );
                        refused += 1;
                    }
                }
            }
        }
    }
    println!("{files} files: {read} columns read, {set_aside} with bad rows, {refused} refused");
    assert!(files >= 30 && read >= 10 && set_aside >= 1);
}

#[test]
fn the_bible_of_the_hub() {
    let Some(path) = shared("parquet/hf-bible-segond1910-train-00000-of-00001.parquet") else { return };
    let folder = tempfile::tempdir().unwrap();
    let settings = ReadDocuments { column: "target_text".into(), ..settings(&[&path], folder.path()) };
    let store = settings.ingest(1, &mut silent()).and_then(|found| found.open(1)).unwrap();
    assert_eq!(store.rows(), 31_170);
    assert!(store.get(31_169).unwrap().is_some());
}

#[test]
fn the_shared_texts() {
    for (name, least) in [("text/tinyshakespeare.txt", 200), ("text/wikitext-2-valid.txt", 150)] {
        let Some(path) = shared(name) else { return };
        let folder = tempfile::tempdir().unwrap();
        let store = store(&[&path], folder.path()).unwrap();
        let bytes: usize = texts(&store).iter().flatten().map(String::len).sum();
        let size = std::fs::metadata(&path).unwrap().len() as usize;
        assert!(store.rows() > least && bytes > size * 98 / 100, "{name}: {} documents, {bytes} bytes", store.rows());
    }
}

#[test]
fn the_shared_corpus_is_the_same_in_json_lines_and_in_parquet() {
    let Some(parquet) = shared("corpus/wiki-en-dev.parquet") else { return };
    let Some(lines) = shared("corpus/wiki-en-dev.jsonl.zst") else { return };
    let folder = tempfile::tempdir().unwrap();
    let [parquet, lines] = [&parquet, &lines].map(|path| store(&[path], folder.path()).unwrap());
    assert_eq!((parquet.rows(), lines.rows()), (14_472, 14_472));
    for start in (0..14_472).step_by(1000) {
        let rows = start..14_472.min(start + 1000);
        assert!(parquet.take(rows.clone()).unwrap() == lines.take(rows).unwrap(), "from row {start}");
    }
}

#[test]
fn the_shared_dumps_hold_what_is_said_of_them() {
    // (pages, articles with or without text, redirects)
    let expected = [
        ("enwiki-10k.xml.bz2", 196, Some(68), Some(97)),
        ("enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2", 206, Some(106), Some(100)),
        ("enwiki-table-markup.xml.bz2", 5, Some(5), None),
        ("ltgwiki-latest-pages-articles.xml", 2004, Some(903), Some(195)),
        ("simplewiki-7pages.xml", 7, None, None),
        ("tinywiki-latest-pages-articles.xml", 8, None, None),
    ];
    for (name, pages, articles, redirects) in expected {
        let Some(path) = shared(&format!("xml/{name}")) else { return };
        let (mut text, mut bad) = (0, Vec::new());
        let found = dump::read(Decompressed::open(&path).unwrap(), &path, &mut |found| {
            match found {
                ReaderItem::Document(article) => {
                    let id = article.id.or(article.id_in_file);
                    assert!(id.is_some() && article.revision.is_some(), "{name}: {}", article.title);
                    text += article.text.len();
                }
                ReaderItem::Unreadable(one) => bad.push(one),
            }
            Ok(())
        });
        let found = found.unwrap_or_else(|e| panic!("{name}: {e:#}"));
        println!("{name}: set aside: {bad:?}");
        println!("{name}: {found:?}, {text} bytes of text");
        assert_eq!(found.pages, pages, "{name}");
        assert!(articles.is_none_or(|n| n == found.articles + found.without_text), "{name}: {found:?}");
        assert!(redirects.is_none_or(|n| n <= found.redirects + found.other_namespaces), "{name}: {found:?}");
    }
    let Some(minidumps) = shared("xml/minidumps") else { return };
    let folder = tempfile::tempdir().unwrap();
    for path in std::fs::read_dir(minidumps).unwrap().map(|e| e.unwrap().path()) {
        match store(&[&path], folder.path()) {
            Ok(store) => println!("{}: {} documents", path.display(), store.rows()),
            Err(e) => assert!(e.chain().any(|e| e.downcast_ref::<TextProblem>().is_some()), "{e:#}"),
        }
    }
}
