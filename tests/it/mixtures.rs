//! Several sources in one run: three formats with their own columns, the same bits whatever the workers and after a
//! kill, validation of each source, filters above and below the mixture, sources of tokens, and what is refused.
use crate::fresh_clone::wiki_dump;
use crate::support::{Scratch, corpus, tiny};
use serde_json::{Value, json};

const MIXTURE: &str = r#"
[stage.wiki]
type = "documents"
paths = ["dump.xml"]
validation_every = 20

[stage.books]
type = "documents"
paths = ["books.jsonl"]
validation_every = 5

[stage.mix]
type = "mixture"
weights = [[0, { read = 0.5, wiki = 0.5 }], [6, { read = 0.2, wiki = 0.3, books = 0.5 }]]
"#;

/// `run.toml` mixes Parquet with a column `content`, a wiki dump, and JSON Lines with a key `text`.
fn three_formats() -> Scratch {
    let scratch = Scratch::new();
    let texts = corpus(150);
    let contents: Vec<String> = texts[..100].to_vec();
    let column: arrow::array::ArrayRef = std::sync::Arc::new(arrow::array::StringArray::from_iter_values(&contents));
    let batch = arrow::record_batch::RecordBatch::try_from_iter([("content", column)]).unwrap();
    let file = std::fs::File::create(scratch.path("contents.parquet")).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    scratch.write("dump.xml", wiki_dump());
    let lines: Vec<String> = texts[100..].iter().map(|text| json!({ "text": text }).to_string()).collect();
    scratch.write("books.jsonl", lines.join("\n"));
    let source = "paths = [\"contents.parquet\"]\ncolumn = \"content\"";
    let run = tiny(source).replace("max_steps = 6", "max_steps = 12");
    let run = run.replace("[stage.tokenize]\n", "[stage.tokenize]\ninputs = [\"mix\"]\n");
    scratch.write("run.toml", run + MIXTURE);
    scratch
}

/// The tokens of each source in a line of `metrics.jsonl`.
fn tokens(line: &serde_json::Map<String, Value>) -> [u64; 3] {
    ["books", "read", "wiki"].map(|source| line["sources"][source]["tokens"].as_u64().unwrap())
}

#[test]
fn three_formats_are_trained_on_in_their_shares() {
    let scratch = three_formats();
    let said = scratch.train("run", &[]).stderr;
    for piece in ["Source   share  tokens  epochs  used up after", "\nwiki    ", "  wiki: validation loss "] {
        assert!(said.contains(piece), "{piece}: {said}");
    }
    let lines = scratch.metrics("run");
    // A step has four sequences of 32 tokens. The books come with the seventh.
    for (line, expected) in lines.iter().zip(1..) {
        let [books, read, wiki] = tokens(line).map(|tokens| tokens as f64 / 32.0);
        let (first, second) = (f64::from(expected.min(6)), f64::from((expected - 6).max(0)));
        assert!((books - 2.0 * second).abs() <= 1.0 && (expected > 6 || books == 0.0), "{books} after {expected}");
        assert!((read - 2.0 * first - 0.8 * second).abs() <= 1.0, "{read} after {expected}");
        assert!((wiki - 2.0 * first - 1.2 * second).abs() <= 1.0, "{wiki} after {expected}");
    }
    // The whole is the sum of its parts.
    let last = lines.last().unwrap();
    let evaluated = scratch.pipeline(&["evaluate", "run", "--json"]).succeeds().stdout;
    let evaluated: Value = serde_json::from_str(evaluated.trim()).unwrap();
    assert_eq!(evaluated["validation_loss"], last["validation_loss"]);
    let bits = |source: &str| last["sources"][source]["bits_per_byte"].as_f64().unwrap();
    let all = ["books", "read", "wiki"].map(bits);
    let total = last["bits_per_byte"].as_f64().unwrap();
    let least = all.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(least < total && all.iter().any(|bits| *bits > total), "{all:?} {total}");
    for source in ["books", "read", "wiki"] {
        let of = |value: &Value| value["sources"][source]["validation_loss"].clone();
        assert_eq!(of(&evaluated), last["sources"][source]["validation_loss"]);
    }
    let report = scratch.read("run/report.html");
    assert!(report.contains("<h2>Sources</h2>") && report.contains("<td>books</td>"), "{report}");
    let environment: Value = serde_json::from_str(&scratch.read("run/environment.json")).unwrap();
    assert_eq!(environment["mixture"].as_array().map(Vec::len), Some(3));
}

#[test]
fn workers_and_a_resume_change_no_bit() {
    let scratch = three_formats();
    scratch.train("one", &["--workers", "1"]);
    scratch.train("three", &["--workers", "3"]);
    // It stops at step 5, before the shares change, and goes on with other workers.
    let short = ["--workers", "2", "--set", "run.max_steps=5", "--set", "optimize.schedule_steps=12"];
    scratch.train("resumed", &short);
    scratch.train("resumed", &["--workers", "3", "--resume"]);
    for other in ["three", "resumed"] {
        assert!(scratch.last("one", "B3SUMS") == scratch.last(other, "B3SUMS"), "{other} has other files");
        assert_eq!(scratch.numbers("one")[5..], scratch.numbers(other)[5..], "{other}");
    }
    assert_eq!(scratch.numbers("one"), scratch.numbers("three"));
    let other = ["run", "run.toml", "--run-dir", "resumed", "--resume", "--set"];
    scratch.pipeline(&[&other[..], &["mix.weights={read=1, wiki=1, books=1}"]].concat()).fails(2, &["mix.weights"]);
    // What a replay that ends at a checkpoint does not validate is not missed.
    scratch.train("kept", &["--set", "evaluate.interval=3", "--set", "checkpoint.keep=9"]);
    let verified = scratch.pipeline(&["verify", "kept", "--workers", "1"]).succeeds().stdout;
    assert!(verified.contains("identical") && !verified.contains("differs"), "{verified}");
}

#[test]
fn filters_above_the_mixture_are_for_a_source_and_those_below_for_all() {
    let scratch = three_formats();
    let run = scratch.read("run.toml");
    let above = "[stage.long]\ntype = \"length\"\nmin_characters = 300\ninputs = [\"read\"]\n\
                 [stage.mix]\ninputs = [\"long\", \"wiki\", \"books\"]\n";
    let above = run.replace("[stage.mix]\n", above);
    scratch.write("above.toml", above);
    let below = run.replace("inputs = [\"mix\"]", "inputs = [\"long\"]")
        + "[stage.long]\ntype = \"length\"\nmin_characters = 300\ninputs = [\"mix\"]\n";
    scratch.write("below.toml", below);
    let dropped = |name: &str| -> u64 {
        scratch.pipeline(&["run", &format!("{name}.toml"), "--run-dir", name]).succeeds();
        let environment: Value = serde_json::from_str(&scratch.read(&format!("{name}/environment.json"))).unwrap();
        environment["dropped"].as_object().unwrap().values().map(|documents| documents.as_u64().unwrap()).sum()
    };
    let short = |texts: &[String]| texts.iter().filter(|text| text.len() < 300).count() as u64;
    let texts = corpus(150);
    let (read, books) = (short(&texts[..100]), short(&texts[100..]));
    assert!(read > 0 && books > 0 && read < 90 && books < 40, "{read} and {books} are short");
    assert_eq!((dropped("above"), dropped("below")), (read, read + books), "pages are long enough");
}

#[test]
fn tokens_are_mixed_if_one_tokenizer_made_them() {
    let scratch = three_formats();
    let prepare = "[stage.read]\ntype = \"documents\"\npaths = [\"corpus.parquet\"]\n[stage.tokenize]\ntype = \"bpe\"\n\
                   [stage.write]\ntype = \"parquet\"\nshards = 2\n";
    scratch.write("prepare.toml", prepare);
    scratch.pipeline(&["run", "prepare.toml", "--run-dir", "version"]).succeeds();
    let tokens = "[stage.books]\ntype = \"tokens\"\npaths = [\"version/v1/documents-*.parquet\"]\nvalidation_every = 9\n\
                  [stage.mix]\ntype = \"mixture\"\nweights = { read = 0.5, books = 0.5 }\nmax_epochs = { books = 0.01 }\n\
                  [stage.pack]\ninputs = [\"mix\"]\n";
    let run = scratch.read("run.toml");
    let run = run
        .split(MIXTURE)
        .next()
        .unwrap()
        .replace("inputs = [\"mix\"]\n", "")
        .replace("vocabulary_size = 300", "tokenizer = \"gpt2\"");
    let tokens = tokens.replace("[stage.pack]\ninputs = [\"mix\"]\n", "");
    scratch.write("tokens.toml", run.replace("[stage.pack]\n", "[stage.pack]\ninputs = [\"mix\"]\n") + &tokens);
    let said = scratch.pipeline(&["run", "tokens.toml", "--run-dir", "run"]).succeeds().stderr;
    assert!(said.contains("`books` is used up after"), "{said}");
    let last = scratch.metrics("run").pop().unwrap();
    assert!(
        last["sources"]["read"]["validation_loss"].is_f64() && last["sources"]["books"]["epoch"].as_f64() <= Some(0.01)
    );
    // A tokenizer of the same size, but another one.
    let gpt2 = text::Tokenizer::gpt2(&text::Cache::new(scratch.path("gpt2").to_str()), "<|endoftext|>").unwrap();
    let mut changed: Value = serde_json::from_str(gpt2.json()).unwrap();
    let vocabulary = &mut changed["model"]["vocab"];
    let [the, to] = ["\u{120}the", "\u{120}to"].map(|token| vocabulary[token].take());
    (vocabulary["\u{120}the"], vocabulary["\u{120}to"]) = (to, the);
    scratch.write("other.json", changed.to_string());
    let other = ["run", "tokens.toml", "--run-dir", "other", "--set", "tokenize.tokenizer=other.json"];
    scratch.pipeline(&other).fails(1, &["`mix` mixes tokens of two tokenizers", "`tokenize`", "`books`"]);
}

#[test]
fn what_is_refused() {
    let scratch = three_formats();
    let check = |set: &str, pieces: &[&str]| {
        scratch.pipeline(&["check", "run.toml", "--set", set]).fails(2, pieces);
    };
    let all = "wiki=1, books=1, read=1";
    check("mix.weights={}", &["`mix.weights`: names no source; give the share of each"]);
    check("mix.weights=3", &["expected shares, such as { wiki = 0.7, books = 0.3 }"]);
    check(
        "mix.weights={wiki=1, boks=1, read=1}",
        &["`mix` mixes `boks`, and there is no such source", "similar: books"],
    );
    check("mix.weights={wiki=1, books=1, mix=1, read=1}", &["`mix` mixes `mix`, which is not a source"]);
    check("mix.weights={wiki=1, read=1}", &["no stage uses the rows of `books`", "give it a share in mix.weights"]);
    check("mix.weights={wiki=-1, books=1, read=1}", &["gives `wiki` the share -1"]);
    check("mix.weights={wiki=0, books=0, read=0}", &["gives no source a share"]);
    check(&format!("mix.weights=[[2, {{{all}}}]]"), &["begins at step 2; give the shares from step 0 on"]);
    check(&format!("mix.weights=[[0, {{{all}}}], [0, {{{all}}}]]"), &["steps must ascend"]);
    check("mix.max_epochs={news=2}", &["names `news`, which is none of the sources", "`books`, `read`, `wiki`"]);
    check("mix.max_epochs={books=0}", &["limits `books` to 0 passes; it must be more than 0"]);
    check("mix.interpolate=cubic", &["`cubic`", "`linear`"]);
    check("mix.inputs=[\"wiki\", \"books\"]", &["none of `mix.inputs` gets the rows or tokens of `read`"]);
    let constant =
        ["check", "run.toml", "--set", "mix.weights={wiki=1, books=1, read=1}", "--set", "mix.interpolate=linear"];
    scratch.pipeline(&constant).fails(2, &["is for `weights` that change, and they do not"]);
    // Only the run knows how many tokens there are.
    let limits = ["run", "run.toml", "--run-dir", "out", "--set", "run.max_steps=4000", "--set"];
    let limits = [&limits[..], &["mix.max_epochs={wiki=1, books=1, read=1}"]].concat();
    scratch
        .pipeline(&limits)
        .fails(2, &["the sources of `mix` that have a share are used up after", "raise mix.max_epochs"]);
    let run = scratch.read("run.toml");
    scratch.write(
        "two.toml",
        run.replace("[stage.mix]", "[stage.again]\ntype = \"mixture\"\nweights = { wiki = 1 }\n[stage.mix]"),
    );
    scratch.pipeline(&["check", "two.toml"]).fails(2, &["`again` and `mix` both mix sources"]);
}
