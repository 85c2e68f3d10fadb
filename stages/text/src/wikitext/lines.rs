//! Line by line: headings, list items, rules, and rows of tables that are not closed.
use super::Kinds;

/// Text in which each paragraph and list item is a line. Headings are surrounded by empty lines, and kept only if text
/// follows before the next heading of their level.
pub fn lines(text: &str, unhandled: &mut Kinds) -> String {
    let mut out = String::with_capacity(text.len());
    let mut headings: Vec<(usize, &str)> = Vec::new();
    let (mut gap, mut in_table) = (false, false);
    for line in text.lines() {
        let line = line.trim();
        if let Some((level, title)) = heading(line) {
            headings.retain(|(above, _)| *above < level);
            headings.push((level, title));
            in_table = false;
            continue;
        }
        if line.starts_with('|') || in_table && line.starts_with('!') {
            unhandled.add("table row");
            in_table = true;
            continue;
        }
        in_table &= !line.is_empty();
        let line = line.trim_start_matches(['*', '#', ':', ';']).trim_start();
        if line.is_empty() || line.starts_with("----") {
            gap = true;
            continue;
        }
        for (_, title) in headings.drain(..) {
            out.push('\n');
            out.push_str(title);
            out.push_str("\n\n");
            gap = false;
        }
        if gap {
            out.push('\n');
            gap = false;
        }
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// `== Title ==`: its level and title.
fn heading(line: &str) -> Option<(usize, &str)> {
    if !line.starts_with('=') {
        return None;
    }
    let from = line.len() - line.trim_start_matches('=').len();
    let to = line.trim_end_matches('=').len();
    let title = line.get(from..to)?.trim();
    let level = from.min(line.len() - to);
    (level > 0 && !title.is_empty()).then_some((level.min(6), title))
}
