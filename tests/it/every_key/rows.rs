//! Keys of stages that take and give rows: what the stage makes of texts with and without a change.
use crate::support::corpus;
use arrow::array::{LargeStringArray, RecordBatch};
use contract::testing::{Collect, at};
use contract::{BatchShape, Built, Env, Packet, Purpose, Resources, Rows, StageType};
use millrace_pipelines::STAGES;
use serde_json::{Value, json};

/// What a stage of rows makes of a text: the text after it, and the reason if it is dropped.
fn judged(stage: &StageType, changes: &Value, texts: &[String]) -> RecordBatch {
    let mut table = stage.defaults();
    table.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    let settings = stage.parse(table).unwrap_or_else(|e| panic!("{}: {e}", stage.name));
    let env = Env {
        stage: stage.name.into(),
        seed: 1,
        shape: BatchShape { micro_batches: 1, lanes: 1, sequences: 1, length: 1 },
        ..Env::without_training(1, 1, 1, Resources::default())
    };
    let Built::Stage(mut built) = settings.build(&env).unwrap() else { panic!("{} is a source", stage.name) };
    let records = text::parquet::documents::records(LargeStringArray::from_iter_values(texts)).unwrap();
    let mut out = Collect::default();
    let rows = Rows { lane: 0, source: 0, purpose: Purpose::Train, last: false, records };
    built.packet(at(0), Packet::Rows(rows), &mut out).unwrap();
    let Some(Packet::Rows(rows)) = out.0.pop() else { panic!("{} gives no rows", stage.name) };
    rows.records
}

/// Texts that the heuristics tell apart.
fn texts() -> Vec<String> {
    let plain = "The water of the river turns the wheel of the mill, and the mill grinds the grain that the people have. \
                 It is an old mill with a wheel of oak. The miller lives beside it. He has a dog. The dog likes to swim. \
                 In the spring the river is high, and the wheel turns fast. In the summer it is low.";
    let lines = "The water is cold to the touch.\nThe water is cold to the touch.\nShort line\nShort line\nto be and to have \
                 the end of that with the mill";
    let mut texts: Vec<String> = vec![
        plain.into(),
        plain.replace(". ", ".\n"),
        format!("{plain}\n\n{plain}"),
        format!("{plain} #"),
        format!("{plain}\n- one\n* two"),
        format!("{}\nand so on...", plain.replace(". ", ".\n")),
        format!("{}\nno mark at the end", plain.replace(". ", ".\n")),
        plain.replace("dog likes", "{dog} likes"),
        format!("{plain} lorem ipsum dolor sit amet."),
        format!("{plain} {}.", "long".repeat(60)),
        lines.into(),
        format!("{plain}\n{lines}\n\n{lines}"),
        "the cat of the house that we have to be with and see".into(),
        "Der Hund schwimmt gern im Fluss, und das Wasser ist im Sommer warm und klar.".into(),
        "a {{template}} and [[a|link]]".into(),
        "ok".into(),
        "hello la vida".into(),
    ];
    // Short enough that nobody can be sure of their language.
    let short = [
        "the dog",
        "a man in the sun",
        "we go home now",
        "it is no more",
        "come on",
        "a big house",
        "water",
        "hello",
        "this is a test",
        "he has one",
        "an old van in a den",
        "no one is here",
    ];
    texts.extend(short.map(String::from));
    // Long texts in which a line, a paragraph and a phrase of twelve words are there twice.
    let mut long = corpus(14);
    let phrase: Vec<&str> = long[0].split(' ').take(12).collect();
    let phrase = phrase.join(" ");
    long[1] = format!("{phrase} {}", long[1]);
    long.extend(["ka mo ri".into(), "ka mo ri".into()]);
    texts.extend([long.join("\n"), long.join("\n\n")]);
    texts.extend(corpus(4));
    texts
}

/// A value other than the default of each key of a stage that takes and gives rows, with other keys that it needs.
pub fn keys() -> Vec<(&'static str, &'static str, Value, Value)> {
    let none = || json!({});
    let water = || json!({ "phrases": ["water"] });
    vec![
        ("clean", "markup", json!(false), none()),
        ("length", "min_characters", json!(30), none()),
        ("length", "max_characters", json!(30), none()),
        ("length", "min_words", json!(10), none()),
        ("length", "max_words", json!(10), none()),
        ("language", "languages", json!(["deu"]), none()),
        ("language", "min_confidence", json!(1.0), none()),
        ("gopher_quality", "min_words", json!(1), none()),
        ("gopher_quality", "max_words", json!(55), none()),
        ("gopher_quality", "min_mean_word_length", json!(9.0), none()),
        ("gopher_quality", "max_mean_word_length", json!(3.0), none()),
        ("gopher_quality", "max_symbol_word_ratio", json!(0.0), none()),
        ("gopher_quality", "max_bullet_line_fraction", json!(0.0), none()),
        ("gopher_quality", "max_ellipsis_line_fraction", json!(0.0), none()),
        ("gopher_quality", "min_alphabetic_word_fraction", json!(1.0), none()),
        ("gopher_quality", "min_stop_words", json!(100), none()),
        ("gopher_quality", "stop_words", json!(["xyzzy"]), none()),
        ("gopher_repetition", "max_duplicate_line_fraction", json!(0.0), none()),
        ("gopher_repetition", "max_duplicate_paragraph_fraction", json!(0.0), none()),
        ("gopher_repetition", "max_duplicate_line_character_fraction", json!(0.0), none()),
        ("gopher_repetition", "max_duplicate_paragraph_character_fraction", json!(0.0), none()),
        ("gopher_repetition", "max_top_ngram_character_fractions", json!([0.0, 0.0, 0.0]), none()),
        ("gopher_repetition", "max_duplicate_ngram_character_fractions", json!([0.0, 0.0, 0.0, 0.0, 0.0, 0.0]), none()),
        ("c4", "min_sentences", json!(100), none()),
        ("c4", "min_words_per_line", json!(100), none()),
        ("c4", "max_word_length", json!(3), none()),
        ("c4", "terminal_punctuation", json!(false), none()),
        ("c4", "drop_curly_brackets", json!(false), none()),
        ("c4", "drop_lorem_ipsum", json!(false), none()),
        ("fineweb", "min_punctuated_line_fraction", json!(1.0), none()),
        ("fineweb", "max_short_line_fraction", json!(0.0), none()),
        ("fineweb", "short_line_characters", json!(1000), none()),
        ("fineweb", "max_duplicate_line_character_fraction", json!(1.0), none()),
        ("fineweb", "max_line_break_word_ratio", json!(0.0), none()),
        ("block_list", "phrases", json!(["mill"]), water()),
        ("block_list", "occurrences", json!(3), water()),
    ]
}

#[test]
fn every_key_of_a_stage_of_rows_changes_what_it_makes_of_a_text() {
    let (texts, mut useless) = (texts(), Vec::new());
    for (name, key, value, base) in keys() {
        let stage = STAGES.iter().find(|stage| stage.name == name).unwrap();
        let mut changed = base.clone();
        changed[key] = value;
        if judged(stage, &base, &texts) == judged(stage, &changed, &texts) {
            useless.push(format!("{name}.{key}"));
        }
    }
    assert!(useless.is_empty(), "these keys change nothing: {useless:?}");
}
