//! Human-readable numbers, times and text layout.
use std::borrow::Cow;
use std::time::Duration;

/// `1.2 M`, `34.5 k`, `987`.
pub fn count(n: u64) -> String {
    scaled(n as f64, &["", " k", " M", " G", " T"])
}

/// `3.4 GB`, `512 B` (powers of 1,000).
pub fn bytes(n: u64) -> String {
    scaled(n as f64, &[" B", " kB", " MB", " GB", " TB"])
}

fn scaled(mut value: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // 999.95 would be shown as 1000.0.
    while value >= if unit == 0 { 1000.0 } else { 999.95 } && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{value:.0}{}", units[0]) } else { format!("{value:.1}{}", units[unit]) }
}

/// `0:07`, `12:34`, `1:02:03`.
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// `18 µs`, `3.2 ms`, `4.5 s`, `12:34`.
pub fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        0.0 => "0".into(),
        _ if seconds < 0.9995e-3 => format!("{:.0} µs", seconds * 1e6),
        _ if seconds < 0.09995 => format!("{:.1} ms", seconds * 1e3),
        _ if seconds < 0.9995 => format!("{:.0} ms", seconds * 1e3),
        _ if seconds < 99.95 => format!("{seconds:.1} s"),
        _ => clock(time),
    }
}

/// `2026-11-25 03:40 UTC`, from seconds since 1970.
pub fn utc(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| chrono::DateTime::from_timestamp(seconds, 0));
    time.map(|time| time.format("%Y-%m-%d %H:%M UTC").to_string()).unwrap_or_default()
}

/// How long ago something was: `now`, `5 min ago`, `3 h ago`, `12 days ago`.
pub fn ago(seconds: u64) -> String {
    match seconds {
        0..60 => "now".into(),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

/// `21.4 k tok/s`, `987 documents/s`, `2.5 tok/s`; of `unit` nothing if it is empty: `21.4 k/s`.
pub fn rate(value: f64, unit: &str) -> String {
    let number = if value < 9.95 && value.fract() != 0.0 { format!("{value:.1}") } else { count(value.round() as u64) };
    if unit.is_empty() { format!("{number}/s") } else { format!("{number} {unit}/s") }
}

/// Estimated remaining time when `done` of `total` took `spent`; `None` while nothing is done.
pub fn left(spent: Duration, done: u64, total: u64) -> Option<Duration> {
    let rest = total.saturating_sub(done) as f64;
    (done > 0).then(|| Duration::try_from_secs_f64(spent.as_secs_f64() * rest / done as f64).unwrap_or(Duration::MAX))
}

/// `text` without control characters, which would move a terminal's cursor or reprogram it: file names, keys and
/// messages from data may hold any. Each becomes a replacement character; tabs and ends of lines stay.
pub fn printable(text: &str) -> Cow<'_, str> {
    let unsafe_to_print = |c: char| c.is_control() && c != '\n' && c != '\t';
    match text.contains(unsafe_to_print) {
        true => text.replace(unsafe_to_print, "\u{fffd}").into(),
        false => text.into(),
    }
}

/// Columns of `text` (one per character).
pub fn width(text: &str) -> usize {
    text.chars().count()
}

/// `text` in at most `room` columns, with `…` for what is cut off.
pub fn fit(text: &str, room: usize) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(room.saturating_sub(1)).collect();
    if room > 0 {
        cut.push('…');
    }
    cut
}

/// `path` in at most `room` columns: of one that is too long, its end says most.
pub fn end_of(path: &str, room: usize) -> String {
    let long = width(path).saturating_sub(room);
    if long == 0 { path.to_owned() } else { format!("…{}", path.chars().skip(long + 1).collect::<String>()) }
}

/// `text` in lines of at most `room` columns, broken between words.
pub fn wrap(text: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        match lines[last].is_empty() {
            true => lines[last].push_str(word),
            false if width(&lines[last]) + 1 + width(word) <= room => {
                lines[last].push(' ');
                lines[last].push_str(word);
            }
            false => lines.push(word.to_owned()),
        }
    }
    lines
}

/// `1 worker`, `2 workers`.
pub fn workers(n: usize) -> String {
    if n == 1 { "1 worker".into() } else { format!("{n} workers") }
}

/// A number with so many digits after the point; `-` if there is none.
pub fn decimal(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.digits$}"))
}

/// Facts as lines of at most `columns` columns, each after its name, which has at most eight. Empty ones are left out.
pub fn facts(facts: &[(&str, String)], columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, fact) in facts.iter().filter(|(_, fact)| !fact.is_empty()) {
        for (i, line) in wrap(fact, columns - 9).iter().enumerate() {
            lines.push(format!("{:<9}{line}", if i == 0 { *name } else { "" }).trim_end().to_owned());
        }
    }
    lines
}

/// `text` with every line in at most `room` columns: broken between words, with continuation lines indented. A word
/// that has no room stays whole, so that it can be copied.
pub fn hang(text: &str, room: usize) -> String {
    let mut lines = Vec::new();
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len() + 2;
        let (mut rest, mut before, mut room_here) = (line, 0, room);
        while width(rest) > room_here {
            let end = rest.char_indices().nth(room_here + 1).map_or(rest.len(), |(at, _)| at);
            let text_at = rest.len() - rest.trim_start().len();
            let at = rest[..end].rfind(' ').filter(|at| *at > text_at);
            let Some(at) = at.or_else(|| rest[text_at..].find(' ').map(|at| text_at + at)) else { break };
            lines.push(" ".repeat(before) + rest[..at].trim_end());
            before = indent;
            (rest, room_here) = (rest[at..].trim_start(), room.saturating_sub(indent));
        }
        lines.push(" ".repeat(before) + rest);
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        assert_eq!(printable("a\tb\né漢"), "a\tb\né漢");
        assert_eq!(printable("\u{1b}[2Ja\r\u{9b}31m\u{7}"), "\u{fffd}[2Ja\u{fffd}\u{fffd}31m\u{fffd}");
    }

    #[test]
    fn numbers() {
        let counts = [0, 999, 1000, 1_234_567, 999_949, 999_999, 25_600_000_000].map(count);
        assert_eq!(counts, ["0", "999", "1.0 k", "1.2 M", "999.9 k", "1.0 M", "25.6 G"]);
        let rates = [0.0, 2.54, 9.96, 987.4, 21_379.0].map(|value| rate(value, "tok"));
        assert_eq!(rates, ["0 tok/s", "2.5 tok/s", "10 tok/s", "987 tok/s", "21.4 k tok/s"]);
        assert_eq!(rate(8_400.0, ""), "8.4 k/s");
        assert_eq!([0, 512, 3_400_000_000].map(bytes), ["0 B", "512 B", "3.4 GB"]);
        assert_eq!([0, 7, 754, 3723].map(|s| clock(Duration::from_secs(s))), ["0:00", "0:07", "12:34", "1:02:03"]);
        let times = [0, 18, 3_200, 450_000, 4_500_000, 754_000_000].map(|us| time(Duration::from_micros(us)));
        assert_eq!(times, ["0", "18 µs", "3.2 ms", "450 ms", "4.5 s", "12:34"]);
    }

    #[test]
    fn dates() {
        let times = [5, 60, 7_300, 172_800, 9_999_999].map(ago);
        assert_eq!(times, ["now", "1 min ago", "2 h ago", "2 days ago", "115 days ago"]);
        assert_eq!([0, 1_795_578_000].map(utc), ["1970-01-01 00:00 UTC", "2026-11-25 03:40 UTC"]);
    }

    #[test]
    fn what_is_left() {
        assert_eq!(left(Duration::from_secs(10), 1, 4), Some(Duration::from_secs(30)));
        assert_eq!(left(Duration::from_secs(10), 0, 4), None);
        assert_eq!(left(Duration::from_secs(10), 9, 4), Some(Duration::ZERO));
    }

    #[test]
    fn text() {
        assert_eq!(fit("abcdef", 4), "abc…");
        assert_eq!(fit("abcd", 4), "abcd");
        assert_eq!(fit("abcd", 0), "");
        assert_eq!(end_of("a/long/path", 6), "…/path");
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(hang("one two three\n  four   (five)\nshort", 9), "one two\n  three\n  four\n    (five)\nshort");
        assert_eq!(hang("a/path/that/is/long and more", 9), "a/path/that/is/long\n  and\n  more");
        assert_eq!(hang("  é é é é é", 7), "  é é é\n    é é");
    }
}
