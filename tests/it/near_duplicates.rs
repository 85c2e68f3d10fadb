//! Deduplication of real text, compared with the true similarities of all its pairs: precision and recall.
use crate::support::{Scratch, repository};
use arrow::array::AsArray;
use arrow::datatypes::Float64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::HashMap;

const PLAN: &str = r#"
[stage.read]
type = "documents"

[stage.deduplicate]
type = "minhash"

[stage.write]
type = "parquet"
shards = 4
tokens = false
"#;

/// The smallest similarity of the pairs in the file of true similarities.
const LEAST: f64 = 0.7;

/// Calls `f` with every batch of a file of the prepared version.
fn batches(scratch: &Scratch, name: &str, mut f: impl FnMut(arrow::array::RecordBatch)) {
    let file = std::fs::File::open(scratch.path(&format!("out/v1/{name}"))).unwrap();
    ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap().for_each(|batch| f(batch.unwrap()));
}

fn root(parents: &[usize], mut at: usize) -> usize {
    while parents[at] != at {
        at = parents[at];
    }
    at
}

/// Also prints the table of recall by threshold for benches/README.md.
#[test]
fn what_is_found_is_true_and_almost_all_is_found() {
    let shared = repository().join("../shared/data/corpus");
    let (corpus, truth) = (shared.join("wiki-en-dev.parquet"), shared.join("near_dup_all_pairs_ge0.7.tsv"));
    if !corpus.exists() || !truth.exists() {
        println!("skipped: {} is not here", shared.display());
        return;
    }
    let scratch = Scratch::new();
    scratch.write("prepare.toml", PLAN);
    let paths = format!("read.paths=[{corpus:?}]");
    scratch.pipeline(&["run", "prepare.toml", "--run-dir", "out", "--set", &paths]).succeeds();

    // The number of each document's text, and the similarity of every two texts that were compared.
    let (mut texts, mut numbers) = (HashMap::<String, usize>::new(), HashMap::<Vec<u8>, usize>::new());
    batches(&scratch, "catalog.parquet", |batch| {
        let (ids, hashes) = (batch["id"].as_string::<i32>(), batch["content_hash"].as_fixed_size_binary());
        for (id, hash) in ids.iter().zip(hashes.iter()) {
            let next = numbers.len();
            texts.insert(id.unwrap().to_owned(), *numbers.entry(hash.unwrap().to_vec()).or_insert(next));
        }
    });
    let mut compared: HashMap<(usize, usize), f64> = HashMap::new();
    batches(&scratch, "pairs.parquet", |batch| {
        let hash = |column: usize, row: usize| numbers[batch.column(column).as_fixed_size_binary().value(row)];
        let similarities = batch["similarity"].as_primitive::<Float64Type>();
        for row in 0..batch.num_rows() {
            let (a, b) = (hash(0, row), hash(1, row));
            compared.insert((a.min(b), a.max(b)), similarities.value(row));
        }
    });
    let mut true_pairs: HashMap<(usize, usize), f64> = HashMap::new();
    let mut documents = Vec::new();
    for line in std::fs::read_to_string(truth).unwrap().lines().skip(1) {
        let [similarity, a, b] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let (similarity, a, b) = (similarity.parse::<f64>().unwrap(), texts[a], texts[b]);
        documents.push((similarity, a, b));
        true_pairs.insert((a.min(b), a.max(b)), similarity);
    }

    // Every similarity is the Jaccard similarity of the sets of word 5-grams.
    for (pair, similarity) in compared.iter().filter(|(_, similarity)| **similarity >= LEAST + 1e-6) {
        let expected = true_pairs.get(pair).unwrap_or_else(|| panic!("{pair:?} is not {similarity} alike"));
        assert!((similarity - expected).abs() < 1e-6, "{similarity} where {expected} is true");
    }

    println!("| threshold | pairs | verified | both ends in one cluster |");
    for threshold in [0.7, 0.75, 0.8, 0.85, 0.9, 0.95] {
        let mut parents: Vec<usize> = (0..numbers.len()).collect();
        let found: Vec<_> = compared.iter().filter(|(_, similarity)| **similarity >= threshold).collect();
        for ((a, b), _) in &found {
            let (a, b) = (root(&parents, *a), root(&parents, *b));
            parents[a.max(b)] = a.min(b);
        }
        let above: Vec<_> = documents.iter().filter(|(similarity, ..)| *similarity >= threshold).collect();
        let share = |n: usize| n as f64 / above.len() as f64;
        let met = above.iter().filter(|(_, a, b)| a == b || compared.contains_key(&(*a.min(b), *a.max(b)))).count();
        let joined = above.iter().filter(|(_, a, b)| root(&parents, *a) == root(&parents, *b)).count();
        println!("| {threshold:.2} | {} | {:.2} % | {:.2} % |", above.len(), 100.0 * share(met), 100.0 * share(joined));
        assert!(threshold < 0.8 || share(joined) >= 0.98, "{joined} of {} pairs at {threshold}", above.len());
    }
    clusters_consist_of_pairs_above_the_threshold(&scratch);
}

fn clusters_consist_of_pairs_above_the_threshold(scratch: &Scratch) {
    let mut kept: HashMap<String, String> = HashMap::new();
    batches(scratch, "duplicates.parquet", |batch| {
        let string = |name: &str, row: usize| batch[name].as_string::<i32>().value(row).to_owned();
        kept.extend((0..batch.num_rows()).map(|row| (string("id", row), string("kept", row))));
        let similarities = batch["similarity"].as_primitive::<Float64Type>();
        assert!(similarities.values().iter().all(|similarity| *similarity >= 0.8));
    });
    assert!(kept.len() > 100 && kept.iter().all(|(id, kept_in_place)| kept_in_place < id), "{}", kept.len());
    assert!(kept.values().all(|kept_in_place| !kept.contains_key(kept_in_place)));
}
