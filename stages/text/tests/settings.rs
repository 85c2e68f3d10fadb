//! Every settings type: documented, complete, strict.
use contract::{StageType, stage_type};
use millrace_text::filter::filter_type;
use millrace_text::{
    BestFit, BlockList, C4, Clean, Concat, FineWeb, GopherQuality, GopherRepetition, Language, Length, ReadDocuments,
    ReadTokens, Tokenize,
};
use serde_json::json;

const TYPES: &[StageType] = &[
    stage_type::<ReadDocuments>("documents"),
    stage_type::<ReadTokens>("tokens"),
    stage_type::<Tokenize>("bpe"),
    stage_type::<Concat>("concat"),
    stage_type::<BestFit>("best_fit"),
    stage_type::<Clean>("clean"),
    filter_type::<Length>("length"),
    filter_type::<Language>("language"),
    filter_type::<GopherQuality>("gopher_quality"),
    filter_type::<GopherRepetition>("gopher_repetition"),
    filter_type::<C4>("c4"),
    filter_type::<FineWeb>("fineweb"),
    filter_type::<BlockList>("block_list"),
];

#[test]
fn every_key_has_a_default_and_a_line_of_documentation() {
    for stage in TYPES {
        let defaults = stage.defaults();
        let keys: Vec<&str> = defaults.as_object().unwrap().keys().map(String::as_str).collect();
        let documented: Vec<&str> = stage.keys().iter().map(|key| key.name).collect();
        assert_eq!(keys, documented, "{}", stage.name);
        stage.parse(defaults).unwrap_or_else(|e| panic!("{}: {e}", stage.name));
        stage.parse(json!({})).unwrap_or_else(|e| panic!("{}: {e}", stage.name));
        let unknown = stage.parse(json!({ "colour": 1 })).err().unwrap();
        assert!(unknown.contains("unknown field `colour`"), "{unknown}");
        for line in stage.example.lines() {
            let key = line.split(" = ").next().unwrap();
            assert!(documented.contains(&key), "{}: {line}", stage.name);
        }
    }
}

#[test]
fn all_problems_are_found_at_once() {
    let stage = |name: &str| TYPES.iter().find(|stage| stage.name == name).unwrap();
    let problems = |name: &str, table: serde_json::Value| {
        let settings = stage(name).parse(table.clone()).unwrap();
        stage(name).check(&table, &*settings).len()
    };
    assert_eq!(problems("documents", json!({})), 1, "paths");
    let bad = json!({ "sample": 0, "column": "", "separator": "", "validation_fraction": 1.5, "validation_every": 1 });
    assert_eq!(problems("documents", bad), 7);
    assert_eq!(problems("documents", json!({ "paths": ["a"] })), 0);
    assert_eq!(problems("tokens", json!({ "validation_fraction": -1.0 })), 2);
    assert_eq!(problems("bpe", json!({})), 0);
    assert_eq!(problems("concat", json!({ "sequence_length": 0, "micro_batch_size": 0, "micro_batches": 0 })), 3);
    assert_eq!(problems("concat", json!({})), 0);
    assert_eq!(problems("length", json!({ "min_characters": 5, "max_characters": 4 })), 1);
    assert_eq!(problems("language", json!({ "languages": ["english"], "min_confidence": 2.0 })), 2);
    assert_eq!(problems("gopher_quality", json!({ "max_bullet_line_fraction": 1.5 })), 1);
    assert_eq!(problems("gopher_repetition", json!({ "max_top_ngram_character_fractions": [2.0] })), 1);
    assert_eq!(problems("block_list", json!({ "occurrences": 0 })), 2);
    let shape = stage("concat").parse(json!({})).unwrap().batch_shape().unwrap();
    assert_eq!((shape.length, shape.sequences, shape.micro_batches), (128, 2, 16));
    let lanes = |keys| stage("concat").parse(keys).unwrap().batch_shape().unwrap().lanes;
    assert_eq!([1, 2, 3, 16].map(|n| lanes(json!({ "micro_batches": n }))), [1, 2, 1, 2]);
    assert_eq!(lanes(json!({ "micro_batches": 12, "lanes": 4 })), 4);
    for lanes in [0, 5, 32] {
        assert_eq!(problems("concat", json!({ "micro_batches": 16, "lanes": lanes })), 1, "{lanes}");
    }
}
