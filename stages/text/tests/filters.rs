//! Filters and `clean`: what they drop, and that each is a pure function of a row.
mod common;
use arrow::array::{Array, AsArray, LargeStringArray, RecordBatch};
use arrow::compute::concat_batches;
use common::env;
use contract::testing::{Collect, at};
use contract::{BatchShape, Built, Goal, Packet, Purpose, Resources, Result, Rows, Schedule, Settings, StageKeys};
use millrace_text::filter::{DROPPED, Filter, FilterSettings, Rule, Verdict};
use millrace_text::{BlockList, C4, Clean, FineWeb, GopherQuality, GopherRepetition, Language, Length};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

fn rows(texts: &[&str]) -> RecordBatch {
    let texts = LargeStringArray::from_iter_values(texts);
    RecordBatch::try_from_iter([("text", Arc::new(texts) as _)]).unwrap()
}

/// The settings of a filter under its name in the registry.
fn filter<F: Filter>(name: &'static str, filter: F) -> FilterSettings<F> {
    FilterSettings::new(name, filter)
}

fn apply(settings: &dyn Settings, records: RecordBatch) -> RecordBatch {
    let shape = BatchShape { micro_batches: 1, lanes: 1, sequences: 1, length: 1 };
    let schedule = Schedule { first: 0, steps: 1, evaluate: None, checkpoint: None };
    let Built::Stage(mut stage) = settings.build(&env(0, 1, shape, schedule, &Resources::default())).unwrap() else {
        panic!("a source")
    };
    let mut out = Collect::default();
    let packet = Packet::Rows(Rows { lane: 0, source: 0, purpose: Purpose::Train, last: false, records });
    stage.packet(at(0), packet, &mut out).unwrap();
    match out.0.pop() {
        Some(Packet::Rows(rows)) => rows.records,
        _ => panic!("no rows"),
    }
}

/// The reason for which a text is dropped, or nothing, and the text.
fn verdict(settings: &dyn Settings, text: &str) -> (String, String) {
    let records = apply(settings, rows(&[text]));
    let dropped = records.column_by_name(DROPPED).unwrap().as_string::<i32>().clone();
    let reason = if dropped.is_valid(0) { dropped.value(0).to_string() } else { String::new() };
    (reason, records.column_by_name("text").unwrap().as_string::<i64>().value(0).to_string())
}

fn reason(settings: &dyn Settings, text: &str) -> String {
    verdict(settings, text).0
}

const PROSE: &str = "The river rises in the hills to the north of the town and flows past two mills that have long been \
    closed. It was used to carry timber until the railway came. In dry summers one can walk across it with dry feet, and \
    the people of the valley still tell of the year in which it did not rise at all. Nobody knows who built the bridge.";

#[test]
fn good_prose_passes_every_filter() {
    let all: Vec<Box<dyn Settings>> = vec![
        Box::new(filter("length", Length::default())),
        Box::new(filter("language", Language::default())),
        Box::new(filter("gopher_quality", GopherQuality::default())),
        Box::new(filter("gopher_repetition", GopherRepetition::default())),
        Box::new(filter("c4", C4 { min_sentences: 4, ..C4::default() })),
        Box::new(filter("fineweb", FineWeb::default())),
        Box::new(filter("block_list", BlockList { phrases: vec!["casino".into()], ..BlockList::default() })),
    ];
    for settings in &all {
        assert_eq!(verdict(settings.as_ref(), PROSE), (String::new(), PROSE.to_string()));
    }
}

#[test]
fn each_reason_is_reached() {
    let said = reason;
    let quality = filter("gopher_quality", GopherQuality::default());
    for (text, expected) in [
        ("Too short.".to_string(), "gopher_quality: too few words"),
        ("a b c d e f g h i j ".repeat(10), "gopher_quality: words too short"),
        ("incomprehensibilities ".repeat(60), "gopher_quality: words too long"),
        (format!("{PROSE} {}", "#".repeat(20)), "gopher_quality: too many number signs"),
        (format!("{PROSE} {}", "... and ".repeat(20)), "gopher_quality: too many ellipses"),
        (PROSE.split(' ').map(|w| format!("- {w}\n")).collect(), "gopher_quality: too many bullets"),
        (PROSE.split(' ').take(60).collect::<Vec<_>>().join(" 1234 12 "), "gopher_quality: too few words with letters"),
        ("Lorem ipsum dolor sit amet consectetur ".repeat(10), "gopher_quality: too few stop words"),
    ] {
        assert_eq!(said(&quality, &text), expected, "{text}");
    }
    let repetition = filter("gopher_repetition", GopherRepetition::default());
    assert_eq!(said(&repetition, &"Same.\n\n".repeat(5)), "gopher_repetition: repeated paragraphs");
    assert_eq!(said(&repetition, "a\nb\na\nb\na\nb"), "gopher_repetition: repeated lines");
    assert_eq!(said(&repetition, &"one two ".repeat(50)), "gopher_repetition: a frequent n-gram");
    let again = PROSE[..150].to_string() + " x " + PROSE;
    assert_eq!(said(&repetition, &again), "gopher_repetition: repeated n-grams");
    let c4 = filter("c4", C4::default());
    assert_eq!(said(&c4, "One sentence only."), "c4: too few sentences");
    assert_eq!(said(&c4, "int main() { return 0; }."), "c4: curly brackets");
    assert_eq!(said(&c4, "Here is Lorem ipsum dolor."), "c4: lorem ipsum");
    let page = format!("Menu\n{PROSE}[1] So it is.\nThis site uses cookies.\nNo end");
    let (reason, text) = verdict(&c4, &page);
    assert_eq!((reason.as_str(), text), ("", format!("{PROSE} So it is.")));
    let fineweb = filter("fineweb", FineWeb::default());
    assert_eq!(said(&fineweb, " \n"), "fineweb: empty");
    assert_eq!(said(&fineweb, "no end\nno end either"), "fineweb: too few lines that end with punctuation");
    assert_eq!(said(&fineweb, "Short.\nShort too."), "fineweb: too many short lines");
    assert_eq!(said(&fineweb, &format!("{PROSE}\n{PROSE}")), "fineweb: characters in repeated lines");
    let length = filter("length", Length { min_words: 2, max_characters: Some(8), ..Length::default() });
    for (text, expected) in [
        ("", "length: too few characters"),
        ("one", "length: too few words"),
        ("one two three", "length: too many characters"),
    ] {
        assert_eq!(said(&length, text), expected);
    }
    let language = filter("language", Language::default());
    let german = "Der Fluss entspringt in den Hügeln nördlich der Stadt und fließt an zwei Mühlen vorbei.";
    assert_eq!(said(&language, german), "language: another language");
    assert_eq!(said(&language, "123 456"), "language: no language recognised");
    let list = filter(
        "block_list",
        BlockList { phrases: vec!["Casino Royale".into()], occurrences: 2, ..BlockList::default() },
    );
    assert_eq!(said(&list, "casino royale, casino royales, CASINO ROYALE"), "block_list: a phrase of the list");
    assert_eq!(said(&list, "casino royale, casino royales"), "");
}

#[test]
fn a_row_that_is_dropped_stays_so_with_its_first_reason() {
    let first = apply(&filter("length", Length { min_characters: 5, ..Length::default() }), rows(&["abc", PROSE]));
    let second = apply(&filter("gopher_quality", GopherQuality::default()), first);
    let dropped = second.column_by_name(DROPPED).unwrap().as_string::<i32>();
    assert_eq!((dropped.value(0), dropped.is_null(1)), ("length: too few characters", true));
    assert_eq!(second.num_rows(), 2);
}

#[test]
fn a_block_list_may_be_a_file_and_its_absence_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("list.txt");
    std::fs::write(&path, "viagra\n\n  Free Money \n").unwrap();
    let list = filter("block_list", BlockList { path: path.display().to_string(), ..BlockList::default() });
    assert_eq!(reason(&list, "Get free money now"), "block_list: a phrase of the list");
    let missing = filter("block_list", BlockList { path: "/nowhere".into(), ..BlockList::default() });
    let shape = BatchShape { micro_batches: 1, lanes: 1, sequences: 1, length: 1 };
    let schedule = Schedule { first: 0, steps: 1, evaluate: None, checkpoint: None };
    let said = missing.build(&env(0, 1, shape, schedule, &Resources::default())).err().unwrap().to_string();
    assert!(said.contains("cannot read `path` /nowhere"), "{said}");
    let wrong = missing.check_files(Goal::Train, 0);
    assert_eq!(wrong[0].key, Some("path"), "{wrong:?}");
}

#[test]
fn results_depend_on_the_version_of_a_rule_and_on_what_its_files_contain() {
    #[derive(Clone, Default, Serialize, Deserialize, StageKeys)]
    struct Second {}
    impl Filter for Second {
        const SUMMARY: &'static str = "drops nothing";
        const EXAMPLE: &'static str = "";
        const VERSION: u32 = 2;
        type Rule = Self;
        fn rule(&self) -> Result<Self> {
            Ok(Self {})
        }
    }
    impl Rule for Second {
        fn judge(&self, _: &str) -> Verdict {
            Verdict::Keep
        }
    }
    assert_eq!(filter("second", Second {}).dependencies().unwrap(), [("version".to_owned(), "2".to_owned())]);
    assert!(filter("length", Length::default()).dependencies().unwrap().is_empty());

    let list = tempfile::NamedTempFile::new().unwrap();
    let path = list.path().display().to_string();
    let list = filter("block_list", BlockList { path: path.clone(), ..BlockList::default() });
    let of = |content: &str| {
        std::fs::write(&path, content).unwrap();
        list.dependencies().unwrap()
    };
    let (one, other) = (of("one"), of("two"));
    assert!(one != other && one == of("one"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn batching_does_not_matter(
        texts in prop::collection::vec("([a-z]{1,8} |the |of |\\. |\n|\n\n|\\{\\{|<br>|\\PC){0,60}", 1..6), cut in 0usize..6
    ) {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let cut = cut.min(texts.len());
        let all: Vec<Box<dyn Settings>> = vec![
            Box::new(Clean::default()),
            Box::new(filter("length", Length { min_words: 10, ..Length::default() })),
            Box::new(filter("language", Language::default())),
            Box::new(filter("gopher_quality", GopherQuality { min_words: 5, ..GopherQuality::default() })),
            Box::new(filter("gopher_repetition", GopherRepetition::default())),
            Box::new(filter("c4", C4 { min_sentences: 1, terminal_punctuation: false, ..C4::default() })),
            Box::new(filter("fineweb", FineWeb::default())),
            Box::new(filter("block_list", BlockList { phrases: vec!["a b".into(), "e".into()], ..BlockList::default() })),
        ];
        for settings in &all {
            let whole = apply(settings.as_ref(), rows(&texts));
            let parts = [&texts[..cut], &texts[cut..]].map(|part| apply(settings.as_ref(), rows(part)));
            prop_assert_eq!(&whole, &concat_batches(&whole.schema(), &parts).unwrap());
        }
    }
}
