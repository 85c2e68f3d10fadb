//! The text of a link to a page.
use super::names::{Names, Prefix};

/// The text of the link with `inside` between its brackets; `None` if it shows none, like a file or a category.
pub fn link_text<'a>(inside: &'a str, names: &Names) -> Option<&'a str> {
    let (target, label) = match inside.split_once('|') {
        Some((target, label)) => (target.trim(), Some(label)),
        None => (inside.trim(), None),
    };
    if !target.starts_with(':') && names.prefix(target) != Prefix::Other {
        return None;
    }
    let target = target.trim_start_matches(':');
    Some(match label {
        None if target.contains("://") => target.split_once(' ').map_or("", |(_, text)| text),
        None => target,
        Some(label) if label.trim().is_empty() => without_hint(target),
        Some(label) => label,
    })
}

/// `Foo (bar)` and `Foo, bar` without the disambiguation: the text of `[[Foo (bar)|]]`.
fn without_hint(target: &str) -> &str {
    let target = target.split_once(':').map_or(target, |(_, name)| name);
    match target.rfind(" (").filter(|_| target.ends_with(')')) {
        Some(at) => &target[..at],
        None => target.split_once(", ").map_or(target, |(name, _)| name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_show_their_label_or_their_target() {
        let names = Names::default();
        for (inside, text) in [
            ("Mill", Some("Mill")),
            ("Mill|the mill", Some("the mill")),
            (" Mill (city) |", Some("Mill")),
            ("Help:Mill, Ohio|", Some("Mill")),
            (":Category:Mills", Some("Category:Mills")),
            ("http://x.org the mill", Some("the mill")),
            ("Category:Mills", None),
            ("File:Mill.jpg|thumb|a mill", None),
        ] {
            assert_eq!(link_text(inside, &names), text, "{inside}");
        }
    }
}
