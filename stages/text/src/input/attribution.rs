//! Source and licence of a corpus: from notes next to the data, or from the header of a dump.
use crate::input::decompress::Decompressed;
use crate::input::paths::Inputs;
use crate::support::problem::TextProblem;
use anyhow::{Context, Result};
pub use contract::Attribution;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// The note that a download recipe writes next to the data: an object with the keys of [`Attribution`].
pub const SOURCE_FILE: &str = "SOURCE.json";
/// File names of licence texts.
const LICENCE_FILES: [&str; 6] = ["LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "LICENCE.md"];
/// Bytes at the beginning of a dump that contain its description.
const HEAD: u64 = 64 << 10;

/// The known sources of `inputs`, each once, in order. Files without any information add nothing.
///
/// # Errors
/// If a note, a licence or the beginning of a file cannot be read.
pub fn attributions<F>(inputs: &Inputs<F>) -> Result<Vec<Attribution>> {
    let mut found = Vec::new();
    for file in &inputs.files {
        let folder = file.path.parent().unwrap_or(Path::new("."));
        let said = match (source_note(folder)?, licence_file(folder)?) {
            (None, None) => dump(&file.path)?,
            (note, licence) => note.or(licence),
        };
        found.extend(said.filter(|said| !found.contains(said)));
    }
    Ok(found)
}

/// All sources as text, for display.
pub fn text(sources: &[Attribution]) -> String {
    let lines = |source: &Attribution| {
        let labelled = [
            ("from", &source.url),
            ("licence", &source.licence),
            ("attribution", &source.attribution),
            ("language", &source.language),
        ];
        let known = labelled.into_iter().filter(|(_, value)| !value.is_empty());
        let lines: String = known.map(|(label, value)| format!("  {label}: {value}\n")).collect();
        format!("{}\n{lines}", source.name)
    };
    sources.iter().map(lines).collect::<Vec<_>>().join("\n")
}

fn source_note(folder: &Path) -> Result<Option<Attribution>> {
    let path = folder.join(SOURCE_FILE);
    let Some(bytes) = read_if_there(&path)? else { return Ok(None) };
    let name = path.display().to_string();
    Ok(Some(match serde_json::from_slice::<Attribution>(&bytes) {
        Ok(said) if !said.name.is_empty() => said,
        Ok(said) => Attribution { name, local: true, ..said },
        Err(error) => {
            let licence = format!("unknown: the note is unreadable ({error})");
            Attribution { name, licence, local: true, ..Default::default() }
        }
    }))
}

fn licence_file(folder: &Path) -> Result<Option<Attribution>> {
    for path in LICENCE_FILES.iter().map(|name| folder.join(name)) {
        let Some(bytes) = read_if_there(&path)? else { continue };
        let text = String::from_utf8_lossy(&bytes);
        let Some(title) = text.lines().map(str::trim).find(|line| !line.is_empty()) else { continue };
        let licence = format!("{title} (see {})", path.display());
        let name = folder.display().to_string();
        return Ok(Some(Attribution { name, licence, local: true, ..Default::default() }));
    }
    Ok(None)
}

/// The content of a file, if there is one.
fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// What the header of a MediaWiki dump says about it.
fn dump(path: &Path) -> Result<Option<Attribution>> {
    let mut head = Vec::new();
    match Decompressed::open(path) {
        Ok(file) => file.take(HEAD).read_to_end(&mut head)?,
        // A file that is no archive, whatever its name says.
        Err(error) if error.is::<TextProblem>() => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(dump_header(&String::from_utf8_lossy(&head)))
}

fn dump_header(head: &str) -> Option<Attribution> {
    let head = head.trim_start().strip_prefix("<mediawiki")?;
    let said = |tag: &str| {
        let after = head.split_once(&format!("<{tag}>"))?.1;
        Some(after.split_once('<')?.0.trim().to_owned()).filter(|value| !value.is_empty())
    };
    let (site, database) = (said("sitename"), said("dbname"));
    let url = said("base").unwrap_or_default();
    let name = match (site, database) {
        (Some(site), Some(database)) => format!("{site} ({database})"),
        (site, database) => site.or(database)?,
    };
    const WIKIMEDIA: [&str; 9] = [
        "wikipedia.org",
        "wiktionary.org",
        "wikibooks.org",
        "wikiquote.org",
        "wikisource.org",
        "wikiversity.org",
        "wikivoyage.org",
        "wikinews.org",
        "wikimedia.org",
    ];
    let host = url.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or_default());
    let wikimedia = WIKIMEDIA.iter().any(|site| host == *site || host.ends_with(&format!(".{site}")));
    let licence = match wikimedia {
        true => "CC BY-SA and GFDL (https://foundation.wikimedia.org/wiki/Policy:Terms_of_Use)".into(),
        false => "not said in the dump".into(),
    };
    let attribution = match url.is_empty() {
        true => String::new(),
        false => format!("the authors that each page's history names, at {url}"),
    };
    let opening = head.split('>').next().unwrap_or_default();
    let language = opening.split_once("xml:lang=\"").and_then(|(_, rest)| rest.split('"').next());
    let language = language.unwrap_or_default().to_owned();
    Some(Attribution { name, url, licence, attribution, language, local: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::paths::resolve;
    use std::io::Write;

    const DUMP: &str = "<mediawiki xml:lang=\"en\"><siteinfo><sitename>Wikipedia</sitename><dbname>enwiki</dbname>\
        <base>https://en.wikipedia.org/wiki/Main_Page</base></siteinfo></mediawiki>";

    fn of(files: &[(&str, &[u8])], read: &str) -> Vec<Attribution> {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        let inputs = resolve(&[folder.path().join(read).display().to_string()], None, 1).unwrap();
        let mut found = attributions(&inputs).unwrap();
        // The folder has another name every time.
        let place = folder.path().display().to_string();
        for source in &mut found {
            source.name = source.name.replace(&place, "data");
            source.licence = source.licence.replace(&place, "data");
        }
        found
    }

    #[test]
    fn a_note_comes_first_then_a_licence_then_the_dump() {
        let note = br#"{"name": "A wiki", "licence": "CC0", "sha256": "no matter"}"#;
        let found = of(&[("a.txt", b"x"), ("b.txt", b"y"), ("SOURCE.json", note), ("LICENSE", b"MIT")], "*.txt");
        assert_eq!(found, [Attribution { name: "A wiki".into(), licence: "CC0".into(), ..Default::default() }]);
        assert_eq!(text(&found), "A wiki\n  licence: CC0\n");
        let found = of(&[("a.txt", b"x"), ("LICENSE", b"\nThe Licence\n\nYou may.")], "a.txt");
        assert_eq!((&*found[0].name, &*found[0].licence), ("data", "The Licence (see data/LICENSE)"));
        assert!(found[0].local, "its name is a path");
        assert_eq!(of(&[("a.txt", b"x")], "a.txt"), []);
        let found = of(&[("a.txt", b"x"), ("SOURCE.json", b"{")], "a.txt");
        assert!(found[0].licence.starts_with("unknown: the note is unreadable"), "{found:?}");
    }

    #[test]
    fn a_dump_names_itself() {
        let mut packed = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        packed.write_all(DUMP.as_bytes()).unwrap();
        for (name, content) in [("w.xml", DUMP.as_bytes().to_vec()), ("w.xml.bz2", packed.finish().unwrap())] {
            let found = of(&[(name, &content)], name);
            assert_eq!(found[0].name, "Wikipedia (enwiki)");
            assert!(found[0].licence.starts_with("CC BY-SA and GFDL"), "{found:?}");
            assert_eq!(found[0].url, "https://en.wikipedia.org/wiki/Main_Page");
            assert_eq!(found[0].language, "en");
        }
        let foreign = DUMP.replace("en.wikipedia.org", "notwikipedia.org");
        assert_eq!(of(&[("w.xml", foreign.as_bytes())], "w.xml")[0].licence, "not said in the dump");
    }
}
