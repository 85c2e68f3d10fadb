//! Files of every format: what is read, and what is said of those that cannot be.
mod common;
use arrow::array::{ArrayRef, DictionaryArray, LargeStringArray, RecordBatch, StringArray, StringViewArray};
use arrow::array::{BinaryArray, Int64Array};
use arrow::datatypes::Int32Type;
use common::{shared, write_parquet, write_texts};
use millrace_text::corpus::{Part, Split, Survey};
use millrace_text::spool::DocumentFile;
use millrace_text::{
    Cache, CorpusIndex, DocumentStore, ReadDocuments, ReadTokens, TextProblem, Vocabulary, silent, wiki_dump,
    write_tokens,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn settings(paths: &[&Path], cache: &Path) -> ReadDocuments {
    let text = |p: &Path| p.to_str().unwrap().to_string();
    ReadDocuments { paths: paths.iter().map(|p| text(p)).collect(), cache: Some(text(cache)), ..Default::default() }
}

fn store(paths: &[&Path], cache: &Path) -> anyhow::Result<DocumentStore> {
    settings(paths, cache).open(1, &mut silent())
}

fn texts(store: &DocumentStore) -> Vec<Option<String>> {
    (0..store.rows()).map(|row| store.get(row).unwrap()).collect()
}

#[test]
fn every_string_type_and_nulls() {
    let folder = tempfile::tempdir().unwrap();
    let values = [Some("one"), None, Some("drei é"), Some(""), Some("five, long enough not to be inlined")];
    let columns: [(&str, ArrayRef); 5] = [
        ("string", Arc::new(StringArray::from(values.to_vec()))),
        ("large_string", Arc::new(LargeStringArray::from(values.to_vec()))),
        ("string_view", Arc::new(StringViewArray::from(values.to_vec()))),
        ("dictionary", Arc::new(values.into_iter().collect::<DictionaryArray<Int32Type>>())),
        ("binary", Arc::new(values.iter().map(|v| v.map(str::as_bytes)).collect::<BinaryArray>())),
    ];
    let path = folder.path().join("a.parquet");
    write_parquet(&path, 2, &columns);
    for (column, _) in &columns {
        let settings = ReadDocuments { column: column.to_string(), ..settings(&[&path, &path], folder.path()) };
        let store = settings.open(1, &mut silent()).unwrap();
        assert_eq!(texts(&store), values.map(|v| v.map(str::to_string)), "{column}");
        let taken = store.take([4, 1, 0]).unwrap();
        assert_eq!(taken.iter().flatten().collect::<Vec<_>>(), [values[4].unwrap(), "", "one"]);
        assert_eq!(store.place(4).unwrap().to_string(), format!("{}, row group 2, row 0", path.display()));
        assert!(store.get(5).is_err());
        let survey = Survey::of(&store, Split::Every(5), &mut silent()).unwrap();
        assert_eq!(survey.parts, [Part::Validation, Part::Skipped, Part::Train, Part::Skipped, Part::Train]);
    }
}

#[test]
fn a_sample_is_fixed_by_the_seed() {
    let folder = tempfile::tempdir().unwrap();
    let all: Vec<String> = (0..100).map(|i| i.to_string()).collect();
    let path = folder.path().join("a.parquet");
    write_texts(&path, 7, &all.iter().map(|t| Some(t.as_str())).collect::<Vec<_>>());
    let settings = ReadDocuments { sample: Some(10), ..settings(&[&path], folder.path()) };
    let open = |seed| settings.open(seed, &mut silent()).unwrap();
    let (one, again, two) = (open(1), open(1), open(2));
    assert_eq!((texts(&one).len(), texts(&one)), (10, texts(&again)));
    assert_eq!(one.content_hash(), again.content_hash());
    assert_ne!((one.content_hash(), texts(&one)), (two.content_hash(), texts(&two)));
    assert_eq!(texts(&one)[3], Some(one.file_row(3).to_string()));
}

#[test]
fn errors_say_what_is_wrong_and_where() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("X.parquet");
    let numbers = Arc::new(Int64Array::from(vec![1])) as ArrayRef;
    write_parquet(&path, 9, &[("text", Arc::new(StringArray::from(vec!["a"]))), ("n", numbers)]);
    let open = |column: &str| {
        let error = ReadDocuments { column: column.into(), ..settings(&[&path], folder.path()) }.open(1, &mut silent());
        let error = error.err().unwrap();
        assert!(error.downcast_ref::<TextProblem>().unwrap().is_usage());
        error.to_string()
    };
    assert!(open("txt").ends_with("X.parquet; columns: text, n; similar: text"));
    assert!(open("n").ends_with("is of type Int64, not string"));
}

#[test]
fn a_damaged_row_group_is_named_and_the_others_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let all: Vec<String> = (0..400).map(|i| format!("text number {i} {}", i * i)).collect();
    write_texts(&path, 100, &all.iter().map(|t| Some(t.as_str())).collect::<Vec<_>>());
    let mut bytes = std::fs::read(&path).unwrap();
    let second = bytes.windows(15).position(|w| w == b"text number 150").unwrap();
    bytes[second - 1200..second + 1200].fill(0xff);
    std::fs::write(&path, bytes).unwrap();
    let store = store(&[&path], folder.path()).unwrap();
    assert_eq!(store.get(350).unwrap().unwrap(), all[350]);
    let error = store.get(150).unwrap_err();
    assert!(!error.downcast_ref::<TextProblem>().unwrap().is_usage());
    assert!(error.to_string().contains("a.parquet, row group 1: cannot be decoded"), "{error}");
    let error = Survey::of(&store, Split::Every(9), &mut silent()).unwrap_err();
    assert!(error.to_string().contains("row group 1"), "{error}");
}

#[test]
fn no_file_of_the_apache_collection_makes_it_panic() {
    let Some(root) = shared("parquet/apache-parquet-testing") else { return };
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path().to_str());
    let (mut read, mut refused, mut files) = (0, 0, 0);
    for sub in ["data", "bad_data"] {
        for path in std::fs::read_dir(root.join(sub)).unwrap().map(|e| e.unwrap().path()) {
            if path.extension().is_none_or(|e| e != "parquet") {
                continue;
            }
            files += 1;
            let missing = DocumentFile { path: path.clone(), column: "no such column".into(), hash: None };
            let error = DocumentStore::open(&[missing], &cache).err().unwrap().to_string();
            let columns = error.split_once("; columns: ").map_or("", |(_, c)| c.split(';').next().unwrap());
            for column in columns.split(", ") {
                let file = DocumentFile { path: path.clone(), column: column.into(), hash: None };
                let result = DocumentStore::open(&[file], &cache)
                    .and_then(|store| Survey::of(&store, Split::Every(2), &mut silent()));
                match result {
                    Ok(_) => read += 1,
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
    println!("{files} files: {read} columns read, {refused} refused");
    assert!(files >= 30 && read >= 10);
}

#[test]
fn the_bible_of_the_hub() {
    let Some(path) = shared("parquet/hf-bible-segond1910-train-00000-of-00001.parquet") else { return };
    let folder = tempfile::tempdir().unwrap();
    let settings = ReadDocuments { column: "target_text".into(), ..settings(&[&path], folder.path()) };
    let store = settings.open(1, &mut silent()).unwrap();
    assert_eq!(store.rows(), 31_170);
    assert!(store.get(31_169).unwrap().is_some());
}

#[test]
fn plain_text_is_spooled_once() {
    let folder = tempfile::tempdir().unwrap();
    let (a, cache) = (folder.path().join("a.txt"), folder.path().join("cache"));
    std::fs::write(&a, "One.\n---\nTwo.\n").unwrap();
    let settings = ReadDocuments { separator: Some("---\n".into()), ..settings(&[&a], &cache) };
    let first = settings.open(1, &mut silent()).unwrap();
    assert_eq!(texts(&first), [Some("One.".to_string()), Some("Two.".to_string())]);
    let spooled: Vec<PathBuf> =
        std::fs::read_dir(cache.join("documents")).unwrap().map(|e| e.unwrap().path()).collect();
    let made = std::fs::metadata(&spooled[0]).unwrap().modified().unwrap();
    assert_eq!(settings.open(1, &mut silent()).unwrap().content_hash(), first.content_hash());
    assert_eq!((spooled.len(), std::fs::metadata(&spooled[0]).unwrap().modified().unwrap()), (1, made));
    std::fs::write(&a, "One.\n---\nTwo!\n").unwrap();
    assert_ne!(settings.open(1, &mut silent()).unwrap().content_hash(), first.content_hash());
}

#[test]
fn a_damaged_dump_is_named_and_nothing_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (path, cache) = (folder.path().join("wiki.xml"), folder.path().join("cache"));
    std::fs::write(&path, "<mediawiki><page><title>A</title><ns>0</ns><id>1</id><revision><text>x").unwrap();
    let error = store(&[&path], &cache).err().unwrap();
    assert!(!error.downcast_ref::<TextProblem>().unwrap().is_usage());
    assert!(error.to_string().contains("wiki.xml: the dump ends in the middle"), "{error}");
    assert_eq!(std::fs::read_dir(cache.join("documents")).unwrap().count(), 0);
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
        let mut text = 0;
        let found = wiki_dump::read(&path, name.ends_with("bz2"), &mut |article, _| {
            assert!(article.id.is_some() && article.revision.is_some(), "{name}: {}", article.title);
            text += article.text.len();
            Ok(())
        });
        let found = found.unwrap_or_else(|e| panic!("{name}: {e:#}"));
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

#[test]
fn token_files_agree_with_their_tokenizer_or_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let vocabulary = |size, hash: &str| Vocabulary { hash: hash.into(), size, end_of_text: 0 };
    let documents = [vec![1, 2, 3], vec![], vec![4; 5]];
    let read = |path: &Path, expected: Option<&Vocabulary>| {
        let paths = vec![path.to_str().unwrap().to_string()];
        let cache = Some(folder.path().to_str().unwrap().to_string());
        ReadTokens { paths, cache, ..Default::default() }.open(1, expected)
    };
    for size in [5, 65_536, 65_537] {
        let (path, made) = (folder.path().join(format!("{size}.parquet")), vocabulary(size, "x"));
        write_tokens(&path, &made, &documents).unwrap();
        let store = read(&path, Some(&made)).unwrap();
        let mut found = Vec::new();
        store.each(0..3, |ids| found.push(ids.to_vec())).unwrap();
        assert_eq!((found.as_slice(), store.vocabulary()), (documents.as_slice(), &made));
        let index = CorpusIndex::of_tokens(&store, Split::Every(3), &mut silent()).unwrap();
        assert_eq!((index.train, index.validation, index.tokens), (vec![2], vec![0], vec![4, 1, 6]));
        let said = read(&path, Some(&vocabulary(size, "y"))).err().unwrap().to_string();
        assert!(said.contains("its tokenizer (blake3) is x, but y is expected"), "{said}");
        assert!(read(&path, Some(&vocabulary(size + 1, "x"))).err().unwrap().to_string().contains("vocabulary size"));
    }
    let path = folder.path().join("out.parquet");
    write_tokens(&path, &vocabulary(4, "x"), &documents).unwrap();
    let error = read(&path, None).unwrap().take([0]).unwrap_err();
    assert!(
        error.to_string().ends_with("row group 0, row 2: token id 4 is not below the vocabulary size 4"),
        "{error}"
    );
    let foreign = folder.path().join("foreign.parquet");
    let lists = read(&folder.path().join("5.parquet"), None).unwrap().take([0]).unwrap();
    let batch = RecordBatch::try_from_iter([("tokens", Arc::new(lists) as ArrayRef)]).unwrap();
    write_parquet(&foreign, 9, &[("tokens", batch.column(0).clone())]);
    assert!(read(&foreign, None).err().unwrap().to_string().contains("millrace.layout is not stated"));
}
