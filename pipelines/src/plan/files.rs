//! Configuration files: TOML with line numbers, `extends`, and the structure of a file.
use super::values::{Entry, Table, json_of_item};
use crate::problem::{Diagnostic, Origin, Problems, similar};
use contract::files::is_not_of_the_configuration;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml_edit::{Document, Item};

/// Built-in configurations, by the names that `extends` uses.
const BUILT_IN: [(&str, &str); 1] = [("builtin:base", include_str!("../../../configs/base.toml"))];

/// The top-level keys of a file.
const TOP: [&str; 3] = ["extends", "run", "stage"];

/// Tables of the file of an experiment, which is no configuration.
const EXPERIMENT: [&str; 3] = ["experiment", "arm", "grid"];

/// A parsed configuration, not validated yet: tables of keys, in order, with origins.
#[derive(Clone, Debug, Default)]
pub(crate) struct Raw {
    pub run: Table,
    pub stages: Vec<(String, Table)>,
    /// Whether a file could not be read or parsed.
    pub incomplete: bool,
}

impl Raw {
    pub fn stage(&self, id: &str) -> Option<&Table> {
        self.stages.iter().find(|(name, _)| name == id).map(|(_, table)| table)
    }

    pub fn stage_mut(&mut self, id: &str) -> Option<&mut Table> {
        self.stages.iter_mut().find(|(name, _)| name == id).map(|(_, table)| table)
    }

    /// Applies `upper` to this configuration, key by key, except that a stage of another type replaces the old one, and
    /// that a key replaces its alternative ([`ALTERNATIVES`]).
    pub(super) fn overlay(&mut self, upper: Raw) {
        self.incomplete |= upper.incomplete;
        merge(&mut self.run, upper.run);
        for (id, table) in upper.stages {
            let type_of = |table: &Table| table.get("type").map(|entry| entry.value.clone());
            match self.stage_mut(&id) {
                Some(old) if type_of(&table).is_some_and(|new| Some(new) != type_of(old)) => *old = table,
                Some(old) => merge(old, table),
                None => self.stages.push((id, table)),
            }
        }
    }
}

/// Pairs of keys that are alternatives, so that a table may have only one of them: the one in the extending file or on
/// the command line wins.
const ALTERNATIVES: [[&str; 2]; 2] = [["max_steps", "max_epochs"], ["validation_fraction", "validation_every"]];

/// Removes from `table` the alternative of `key`.
pub(crate) fn remove_alternative(table: &mut Table, key: &str) {
    for keys in ALTERNATIVES.iter().filter(|keys| keys.contains(&key)) {
        keys.iter().filter(|other| **other != key).for_each(|other| drop(table.remove(other)));
    }
}

fn merge(lower: &mut Table, upper: Table) {
    lower.origin = upper.origin;
    upper.entries.iter().for_each(|(key, _)| remove_alternative(lower, key));
    for (key, entry) in upper.entries {
        lower.set(&key, entry);
    }
}

/// Reads `path` and what it extends. Returns what could be parsed, and adds the rest to `problems`.
pub(crate) fn load(path: &Path, problems: &mut Problems) -> Raw {
    let mut raw = Raw::default();
    for layer in layers(path, problems).into_iter().rev() {
        raw.overlay(layer);
    }
    raw
}

/// The file and those that it extends, the most general one first.
fn layers(path: &Path, problems: &mut Problems) -> Vec<Raw> {
    let mut found = Vec::new();
    let mut seen: Vec<PathBuf> = Vec::new();
    let mut next = Some((path.to_owned(), Origin::file(path.display().to_string())));
    while let Some((path, asked_by)) = next.take() {
        let identity = path.canonicalize().unwrap_or_else(|_| path.clone());
        if seen.contains(&identity) {
            let message = format!("`{}` extends itself", path.display());
            problems.push(Diagnostic::new(message, asked_by).next("take `extends` out of one of the files"));
            break;
        }
        seen.push(identity);
        let text = match path.to_str().filter(|name| name.starts_with("builtin:")) {
            Some(name) => built_in(name, asked_by, problems),
            None => read(&path, asked_by, problems),
        };
        let Some(text) = text else {
            found.push(Raw { incomplete: true, ..Raw::default() });
            break;
        };
        let (raw, extends) = parse(&path, &text, problems);
        found.push(raw);
        next = extends.map(|entry| {
            let base = entry.value.as_str().unwrap_or_default();
            let folder = path.parent().filter(|_| !base.starts_with("builtin:")).unwrap_or(Path::new(""));
            (folder.join(base), entry.origin)
        });
    }
    found
}

/// The text of a built-in configuration, or a problem at the place that refers to it.
fn built_in(name: &str, asked_by: Origin, problems: &mut Problems) -> Option<String> {
    let found = BUILT_IN.iter().find(|(known, _)| *known == name);
    if found.is_none() {
        let names = BUILT_IN.map(|(known, _)| known);
        let problem = Diagnostic::new(format!("there is no built-in configuration `{name}`"), asked_by);
        problems.push(problem.similar_to(name, names).next(format!("there is {}", names.join(", "))));
    }
    found.map(|(_, text)| (*text).to_owned())
}

/// The text of a file, or a problem at the place that refers to it.
pub(crate) fn read(path: &Path, asked_by: Origin, problems: &mut Problems) -> Option<String> {
    let error = match std::fs::read_to_string(path) {
        Ok(text) => return Some(text),
        Err(error) => error,
    };
    let name = path.display();
    problems.push(match error.kind() {
        ErrorKind::NotFound => missing(path, asked_by),
        ErrorKind::InvalidData => Diagnostic::new(format!("`{name}` is not UTF-8 text"), asked_by),
        _ => {
            let problem = Diagnostic::new(format!("cannot read `{name}`: {error}"), asked_by);
            Diagnostic { failed: is_not_of_the_configuration(&error.into()), ..problem }
        }
    });
    None
}

fn missing(path: &Path, asked_by: Origin) -> Diagnostic {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let problem = Diagnostic::new(format!("there is no file `{}`", path.display()), asked_by);
    let Ok(entries) = std::fs::read_dir(folder) else {
        return problem.next(format!("there is no folder `{}` either", folder.display()));
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".toml"))
        .collect();
    names.sort();
    let wanted = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let near = similar(wanted.trim_end_matches(".toml"), names.iter().map(|name| name.trim_end_matches(".toml")));
    let near = near.iter().map(|stem| path.with_file_name(format!("{stem}.toml")).display().to_string()).collect();
    let shown = if names.is_empty() { "no .toml file".into() } else { names[..names.len().min(6)].join(", ") };
    Diagnostic { similar: near, ..problem }.next(format!("`{}` holds {shown}", folder.display()))
}

/// The table of stage `id` from a file that consists of it (`--stage id=FILE`).
pub(crate) fn load_table(id: &str, path: &Path, problems: &mut Problems) -> Option<Table> {
    let file = path.display().to_string();
    let origin = Origin::StageFile { file, line: 0 };
    let text = read(path, origin.clone(), problems)?;
    parse_table(id, &text, origin, problems)
}

/// The table of stage `id` from a file that consists of it and that the place `asked_by` of another file names.
pub(crate) fn load_table_of(id: &str, path: &Path, asked_by: Origin, problems: &mut Problems) -> Option<Table> {
    let text = read(path, asked_by, problems)?;
    parse_table(id, &text, Origin::file(path.display().to_string()), problems)
}

/// The table of stage `id` from a text that consists of it.
pub(crate) fn parse_table(id: &str, text: &str, origin: Origin, problems: &mut Problems) -> Option<Table> {
    let document = document(text, &origin, problems)?;
    Some(table(id, document.as_table(), text, origin, problems))
}

fn parse(path: &Path, text: &str, problems: &mut Problems) -> (Raw, Option<Entry>) {
    let origin = Origin::file(path.display().to_string());
    let mut raw = Raw::default();
    let mut extends = None;
    let Some(document) = document(text, &origin, problems) else {
        raw.incomplete = true;
        return (raw, None);
    };
    for (key, item) in document.iter() {
        let at = origin.on_line(line_of(document.as_table(), key, text));
        match (key, item) {
            ("extends", item) => match item.as_str() {
                Some(base) => extends = Some(Entry { value: base.into(), origin: at }),
                None => problems.push(Diagnostic::new("`extends` must be the name of a file, in quotes", at)),
            },
            ("run", item) => match item.as_table_like() {
                Some(body) => raw.run = table("run", body, text, at, problems),
                None => problems.push(Diagnostic::new("`run` must be a table", at).next("write `[run]`")),
            },
            ("stage", item) => match item.as_table_like() {
                Some(body) => stages(body, text, &origin, &mut raw, problems),
                None => problems.push(Diagnostic::new("`stage` must be a table", at).next("write `[stage.NAME]`")),
            },
            (_, item) => {
                let problem = Diagnostic::new(format!("unknown key `{key}`"), at).similar_to(key, TOP);
                let near = problem.similar.first().cloned().unwrap_or_default();
                problems.push(match item.as_table_like() {
                    Some(_) if EXPERIMENT.contains(&key) => {
                        problem.next("this is the file of an experiment: `pipeline experiment` runs it")
                    }
                    Some(_) if near.is_empty() => problem.next(format!("write `[stage.{key}]`")),
                    _ => problem.next("a file has `extends`, `[run]` and `[stage.NAME]`"),
                });
                // Read as what is meant, so that nothing is reported as missing.
                match item.as_table_like() {
                    Some(body) if near == "stage" => stages(body, text, &origin, &mut raw, problems),
                    _ => {}
                }
            }
        }
    }
    (raw, extends)
}

fn stages(body: &dyn toml_edit::TableLike, text: &str, origin: &Origin, raw: &mut Raw, problems: &mut Problems) {
    for (id, item) in body.iter() {
        let at = origin.on_line(line_of(body, id, text));
        match item.as_table_like() {
            Some(keys) => raw.stages.push((id.to_owned(), table(id, keys, text, at, problems))),
            None => {
                let message = format!("stage `{id}` must be a table");
                problems.push(Diagnostic::new(message, at).next(format!("write `[stage.{id}]`")));
            }
        }
    }
}

pub(crate) fn table(
    name: &str,
    body: &dyn toml_edit::TableLike,
    text: &str,
    origin: Origin,
    problems: &mut Problems,
) -> Table {
    let mut table = Table { origin, entries: Vec::new() };
    for (key, item) in body.iter() {
        let origin = table.origin.on_line(line_of(body, key, text));
        match json_of_item(item) {
            Ok(value) => table.entries.push((key.to_owned(), Entry { value, origin })),
            Err(message) => problems.push(Diagnostic::new(format!("`{name}.{key}`: {message}"), origin)),
        }
    }
    table
}

/// Parses TOML, or adds the problem with line, column and the line itself.
pub(crate) fn document<'a>(text: &'a str, origin: &Origin, problems: &mut Problems) -> Option<Document<&'a str>> {
    let error = match Document::parse(text) {
        Ok(document) => return Some(document),
        Err(error) => error,
    };
    let at = error.span().map_or(text.len(), |span| span.start);
    let (line, column) = place(text, at);
    let content: String = text.lines().nth(line - 1).unwrap_or_default().chars().take(100).collect();
    let content = content.replace(|c: char| c.is_control(), " ");
    let gutter = line.to_string();
    let caret = " ".repeat(gutter.len() + column.min(101) + 2);
    let message = error.message().trim().replace('\n', ", ");
    let next = match super::syntax::advice(text, line, &message) {
        Some(advice) => format!("column {column}; {advice}"),
        None => format!("column {column}"),
    };
    problems.push(Diagnostic {
        excerpt: Some(format!("{gutter} | {content}\n{caret}^")),
        ..Diagnostic::new(format!("not TOML: {message}"), origin.on_line(line)).next(next)
    });
    None
}

/// The line of a key, or of the first key in its table if it has no line of its own.
pub(crate) fn line_of(body: &dyn toml_edit::TableLike, key: &str, text: &str) -> usize {
    let item = body.get(key);
    let header = item.and_then(Item::as_table).filter(|table| !table.is_implicit() && !table.is_dotted());
    let span: Option<Range<usize>> = header
        .and_then(toml_edit::Table::span)
        .or_else(|| body.key(key).and_then(toml_edit::Key::span))
        .or_else(|| item.and_then(Item::span));
    span.map_or(0, |span| place(text, span.start).0)
}

/// Line and column, from 1, of a byte offset.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}
