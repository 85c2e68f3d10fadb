//! The documentation for contributors is current: files that it names exist, and code that it shows is that of the
//! files.
use std::path::{Path, PathBuf};

const PAGES: [&str; 2] = ["CONTRIBUTING.md", "ARCHITECTURE.md"];

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Every file below `folder`, build output left out.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        match entry.file_type().unwrap().is_dir() {
            true if entry.file_name() != "target" && entry.file_name() != ".git" => files(&path, found),
            true => {}
            false => found.push(path),
        }
    }
}

#[test]
fn files_that_are_named_exist() {
    let mut existing = Vec::new();
    files(Path::new(env!("CARGO_MANIFEST_DIR")), &mut existing);
    for page in PAGES {
        let text = read(page);
        // Every second piece is between backticks; a fence is three of them, an odd number as well.
        let named: Vec<&str> = text.split('`').skip(1).step_by(2).filter(|name| name.ends_with(".rs")).collect();
        assert!(named.len() > 10, "{page} names only {named:?}");
        for name in named {
            assert!(existing.iter().any(|path| path.ends_with(name)), "{page} names `{name}`, which does not exist");
        }
    }
}

#[test]
fn code_that_is_shown_is_that_of_the_files() {
    let text = read("CONTRIBUTING.md");
    let mut shown = 0;
    for (before, rest) in text.match_indices("```rust\n").map(|(at, fence)| (&text[..at], &text[at + fence.len()..])) {
        let code = rest.split("\n```").next().unwrap();
        let origin = before.lines().last().and_then(|line| line.strip_prefix("<!-- ")?.strip_suffix(" -->"));
        let origin = origin.unwrap_or_else(|| panic!("no `<!-- FILE -->` above the code that begins with\n{code}"));
        assert!(read(origin).contains(code), "CONTRIBUTING.md shows other code than {origin} has:\n{code}");
        shown += 1;
    }
    assert!(shown > 1);
}
