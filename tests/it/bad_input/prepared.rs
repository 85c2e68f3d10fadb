//! The same of a preparation: good rows go on into a version, bad ones into its quarantine, and an update says the same
//! as a run from nothing.
use super::damaged::{bzip2, damage_a_row_group, quarantine};
use crate::support::{Ran, Scratch, corpus};
use std::process::Command;

const PLAN: &str = r#"
[stage.read]
type = "documents"
paths = ["IN"]
max_bad_fraction = 0.5

[stage.clean]
type = "clean"

[stage.deduplicate]
type = "minhash"

[stage.tokenize]
type = "bpe"

[stage.write]
type = "parquet"
shards = 3
sequence_length = 32
"#;

/// Prepares `input` into `out`.
fn prepare(scratch: &Scratch, input: &str, out: &str, more: &[&str]) -> Ran {
    scratch.write("prepare.toml", PLAN.replace("IN", input));
    scratch.pipeline(&[&["run", "prepare.toml", "--run-dir", out][..], more].concat())
}

/// `documents` documents are kept in version `number`, and these are in its quarantine: documents and reason.
#[track_caller]
fn holds(scratch: &Scratch, out: &str, number: u32, documents: u64, bad: &[(u64, &str)]) {
    let version = format!("{out}/v{number}");
    let stat = scratch.pipeline(&["stat", &version, "--json"]).succeeds().stdout;
    let stat: serde_json::Value = serde_json::from_str(&stat).unwrap();
    assert_eq!(stat["kept"]["documents"], documents, "{stat}");
    let listed = if bad.is_empty() { Vec::new() } else { quarantine(scratch, &version) };
    let found: Vec<_> = listed.iter().map(|bad| (bad.4, bad.5.as_str())).collect();
    assert_eq!(found, bad);
    let manifest: serde_json::Value = serde_json::from_str(&scratch.read(&format!("{version}/version.json"))).unwrap();
    assert_eq!(manifest["files"].get("quarantine.parquet").is_some(), !bad.is_empty(), "{manifest}");
    for (documents, reason) in bad {
        assert!(stat["unreadable"][reason].as_u64().unwrap() >= *documents, "{stat}");
    }
}

fn page(id: usize, text: &str) -> Vec<u8> {
    let head = format!("<page><title>T{id}</title><ns>0</ns><id>{id}</id><revision><id>{id}</id><text>");
    [head.as_bytes(), text.as_bytes(), b"</text></revision></page>\n"].concat()
}

fn dump(pages: &[Vec<u8>]) -> Vec<u8> {
    [b"<mediawiki>\n", &pages.concat()[..], b"</mediawiki>"].concat()
}

fn pages(count: usize) -> Vec<Vec<u8>> {
    corpus(count).iter().enumerate().map(|(id, text)| page(id, text)).collect()
}

#[test]
fn a_dump_with_bad_pages() {
    let scratch = Scratch::new();
    let mut pages = pages(40);
    // Not UTF-8; an end that is lost; 50 MB; nothing but templates; the id of a page above.
    pages[3][80] = 0xff;
    let cut = pages[5].len() - 20;
    pages[5].truncate(cut);
    pages[7] = page(7, &"long word ".repeat(5 << 20));
    pages[9] = page(9, "{{infobox|a=b}}\n{{stub}} <!-- nothing --> [[Category:X]]");
    pages[11] = page(10, "another text of the id of a page above");
    pages[12] = page(12, "a text with a {{template that does not end\n\nand more");
    scratch.write("in.xml", dump(&pages));
    let ran = prepare(&scratch, "in.xml", "out", &[]).succeeds();
    let said = "2 of 39 documents cannot be read: 1 not UTF-8, 1 not a page (see quarantine.parquet)";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
    // Without text there is no article: page 9 is not read.
    holds(&scratch, "out", 1, 36, &[(1, "not UTF-8"), (1, "not a page")]);
    let stat = scratch.pipeline(&["stat", "out"]).succeeds().stdout;
    for piece in
        ["duplicate id", "could not be read", "not a page", "markup that was not understood", "unclosed template"]
    {
        assert!(stat.contains(piece), "{piece}: {stat}");
    }
    assert!(stat.lines().all(|line| line.chars().count() <= 80), "{stat}");
    prepare(&scratch, "in.xml", "out", &["--set", "read.max_bad_fraction=0.01"])
        .fails(1, &["2 of 39 documents", "max_bad_fraction", "in.xml: byte "]);
    assert!(!scratch.path("out/v2").exists());
}

#[test]
fn a_dump_that_is_cut_short_or_has_a_bit_flipped() {
    let scratch = Scratch::new();
    let whole = dump(&pages(40));
    // Two streams: damage to the second costs nothing of the first.
    let (head, tail) = whole.split_at(whole.len() / 2);
    let (head, tail) = (bzip2(head), bzip2(tail));
    let cut = [&head[..], &tail[..tail.len() / 2]].concat();
    let mut flipped = [&head[..], &tail[..]].concat();
    flipped[head.len() + tail.len() / 2] ^= 16;
    for (name, content, reason) in [("cut", cut, "cut short"), ("flipped", flipped, "damaged")] {
        let input = format!("{name}.xml.bz2");
        scratch.write(&input, content);
        let ran = prepare(&scratch, &input, name, &["--set", "read.max_bad_fraction=0.9"]).succeeds();
        let listed = quarantine(&scratch, &format!("{name}/v1"));
        let said = listed[0].5.as_str();
        // A bit may be flipped such that the rest reads as if it were cut off.
        assert!(listed.len() == 1 && (said == reason || name == "flipped" && said == "cut short"), "{listed:?}");
        assert!(ran.stderr.contains(&format!("{said} (see quarantine.parquet)")), "{}", ran.stderr);
        prepare(&scratch, &input, "strict", &["--set", "read.max_bad_fraction=0.01"]).fails(1, &[&input, said]);
    }
    scratch.write("cut.xml", &whole[..whole.len() - 100]);
    prepare(&scratch, "cut.xml", "xml", &[]).succeeds();
    holds(&scratch, "xml", 1, 39, &[(1, "cut short")]);
}

#[test]
fn lines_that_are_not_json_and_ids_twice() {
    let scratch = Scratch::new();
    let mut lines: Vec<Vec<u8>> = (corpus(30).iter().enumerate())
        .map(|(id, text)| format!("{{\"id\": \"{}\", \"text\": \"{text}\"}}\n", id % 29).into_bytes())
        .collect();
    lines[6] = b"{\"text\": \"cut\n".to_vec();
    lines[8] = b"{\"text\": \"caf\xe9\"}\n".to_vec();
    scratch.write("in.jsonl", lines.concat());
    prepare(&scratch, "in.jsonl", "out", &[]).succeeds();
    holds(&scratch, "out", 1, 27, &[(1, "not JSON"), (1, "not UTF-8")]);
    let stat = scratch.pipeline(&["stat", "out", "--json"]).succeeds().stdout;
    assert!(stat.contains("\"duplicate id\":{\"documents\":1"), "{stat}");
}

#[test]
fn a_row_group_that_is_lost_and_a_text_that_is_not_utf8() {
    let scratch = Scratch::new();
    damage_a_row_group(&scratch);
    for (version, workers) in [(1, "1"), (2, "3")] {
        prepare(&scratch, "corpus.parquet", "out", &["--workers", workers]).succeeds();
        holds(&scratch, "out", version, 104, &[(16, "row group cannot be decoded")]);
    }
    let (first, again) = (scratch.bytes("out/v1/quarantine.parquet"), scratch.bytes("out/v2/quarantine.parquet"));
    assert_eq!(first, again);
    let stop = ["--set", "read.on_bad_data=\"stop\""];
    prepare(&scratch, "corpus.parquet", "out", &stop).fails(1, &["row group 1: row group cannot be decoded"]);
    prepare(&scratch, "corpus.parquet", "out", &["--set", "read.max_bad_fraction=0.1"])
        .fails(1, &["16 of 120 documents", "16 row group cannot be decoded"]);

    let texts = corpus(120);
    scratch.documents("corpus.parquet", &texts);
    let mut bytes = scratch.bytes("corpus.parquet");
    let at = bytes.windows(texts[20].len()).position(|w| w == texts[20].as_bytes()).expect("texts stand there plain");
    bytes[at + 5] = 0xff;
    scratch.write("corpus.parquet", bytes);
    for version in [3, 4] {
        prepare(&scratch, "corpus.parquet", "out", &[]).succeeds();
        holds(&scratch, "out", version, 119, &[(1, "not UTF-8")]);
    }
    let listed = quarantine(&scratch, "out/v4");
    assert_eq!((listed[0].1, listed[0].2), (Some(1), Some(4)));
    prepare(&scratch, "corpus.parquet", "fresh", &[]).succeeds();
    for name in ["catalog.parquet", "documents-train-00000.parquet", "stats.json", "quarantine.parquet"] {
        assert!(scratch.bytes(&format!("out/v4/{name}")) == scratch.bytes(&format!("fresh/v1/{name}")), "{name}");
    }
}

#[test]
fn files_without_anything_in_them() {
    let scratch = Scratch::new();
    for (name, content) in [("a.jsonl", &b""[..]), ("a.txt", b"\n \n"), ("a.xml", b"<mediawiki></mediawiki>")] {
        scratch.write(name, content);
        prepare(&scratch, name, "out", &[]).fails(2, &["the corpus is empty"]);
    }
    scratch.documents("a.parquet", &[]);
    prepare(&scratch, "a.parquet", "out", &[]).fails(2, &["the corpus is empty"]);
    scratch.write("a.xml.bz2", "");
    scratch.write("a.parquet", "");
    prepare(&scratch, "a.xml.bz2", "out", &[]).fails(1, &["a.xml.bz2"]);
    prepare(&scratch, "a.parquet", "out", &[]).fails(1, &["a.parquet", "not a sound Parquet file"]);
    assert!(!scratch.path("out/v1").exists());
}

#[cfg(unix)]
#[test]
fn a_folder_that_may_not_be_listed_or_written() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    for folder in ["in", "closed"] {
        std::fs::create_dir_all(scratch.path(folder)).unwrap();
        std::fs::set_permissions(scratch.path(folder), PermissionsExt::from_mode(0o000)).unwrap();
    }
    if std::fs::read_dir(scratch.path("in")).is_ok() {
        println!("skipped: no folder is closed to root");
    } else {
        prepare(&scratch, "in", "out", &[]).fails(1, &["cannot list", "ermission denied"]);
        prepare(&scratch, "corpus.parquet", "closed/out", &[]).fails(1, &["closed/out", "ermission denied"]);
    }
    // Whoever runs it: nothing can be made there.
    prepare(&scratch, "corpus.parquet", "/proc/out", &[]).fails(1, &["cannot make the output folder /proc/out"]);
    for folder in ["in", "closed"] {
        std::fs::set_permissions(scratch.path(folder), PermissionsExt::from_mode(0o755)).unwrap();
    }
}

/// Files of up to so many blocks of 512 bytes can be written: what a full disk says comes at the same places.
#[cfg(unix)]
#[test]
fn a_disk_that_is_full_leaves_the_version_before() {
    let scratch = Scratch::new();
    prepare(&scratch, "corpus.parquet", "out", &[]).succeeds();
    let before = scratch.bytes("out/v1/version.json");
    scratch.documents("corpus.parquet", &corpus(900)[300..]);
    for blocks in [0, 8, 40, 80, 160] {
        let plain = scratch.command(&["run", "prepare.toml", "--run-dir", "out"]);
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\""), "sh"]);
        shell.arg(plain.get_program()).args(plain.get_args()).current_dir(scratch.path(""));
        shell.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = shell.output().expect("a shell");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{blocks} blocks: {said}");
        assert!(said.contains("cannot write") && said.contains("File too large"), "{blocks} blocks: {said}");
        assert!(!said.contains("panicked"), "{said}");
        assert_eq!(scratch.bytes("out/v1/version.json"), before);
        assert!(!scratch.path("out/v2").exists(), "{blocks} blocks");
    }
    prepare(&scratch, "corpus.parquet", "out", &[]).succeeds();
    holds(&scratch, "out", 2, 600, &[]);
}

#[test]
fn too_few_file_handles_are_not_bad_data() {
    let scratch = Scratch::new();
    scratch.documents("corpus.parquet", &corpus(400));
    let prepare = |out: &str| prepare(&scratch, "corpus.parquet", out, &["--set", "write.shards=40"]);
    prepare("whole").succeeds();
    let whole = scratch.read("whole/v1/version.json");
    let mut failed = Vec::new();
    for handles in [4, 5, 8, 1024] {
        let out = format!("with-{handles}");
        let plain =
            scratch.command(&["run", "prepare.toml", "--workers", "2", "--set", "write.shards=40", "--run-dir", &out]);
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {handles}; exec \"$@\""), "sh"]);
        shell.arg(plain.get_program()).args(plain.get_args()).current_dir(scratch.path(""));
        let ran = shell.env("MILLRACE_CACHE", scratch.path(&format!("cache-{handles}"))).output().unwrap();
        if ran.status.success() {
            assert_eq!(scratch.read(&format!("{out}/v1/version.json")), whole, "{handles} handles");
            continue;
        }
        failed.push(handles);
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(said.contains("Too many open files"), "{handles} handles: {said}");
        assert!(!said.contains("is damaged") && !said.contains("cannot be read:"), "{handles} handles: {said}");
        assert!(!scratch.path(&format!("{out}/v1")).exists(), "{handles} handles");
        prepare(&out).succeeds();
        assert_eq!(scratch.read(&format!("{out}/v1/version.json")), whole, "after {handles} handles");
    }
    // 40 shards and two workers are 80 files that texts are put aside in: they are not open at the same time.
    assert!(failed.contains(&4) && !failed.contains(&8), "these are not enough: {failed:?}");
}
