//! Advice for common mistakes in TOML, where the parser's message does not say what to write.

/// What to write instead of line `number` (from 1) of `text`, which the parser rejects with `message`.
pub(super) fn advice(text: &str, number: usize, message: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let line = lines.get(number - 1)?.trim();
    if message.contains("duplicate key") {
        return first_place(&lines, number);
    }
    if message.contains("overflow") {
        return Some(format!("the largest whole number is {}", i64::MAX));
    }
    open_string(&lines, number).or_else(|| colon(line)).or_else(|| number_with_letter(line)).or_else(|| comma(line))
}

/// Where a table or a key that line `number` gives again is given first.
fn first_place(lines: &[&str], number: usize) -> Option<String> {
    let key = |line: &str| line.split_once('=').map(|(key, _)| key.trim().to_owned());
    let line = lines[number - 1].trim();
    let header = line.starts_with('[');
    let before = lines[..number - 1].iter().enumerate().rev();
    let mut same_table = before.take_while(|(_, line)| header || !line.trim().starts_with('['));
    let name = if header { line.split('#').next().unwrap_or(line).trim().to_owned() } else { key(line)? };
    let is_first = |other: &str| match header {
        true => other.split('#').next().unwrap_or(other).trim() == name,
        false => key(other).is_some_and(|key| key == name),
    };
    let (first, _) = same_table.find(|(_, other)| is_first(other))?;
    Some(format!("`{name}` is already on line {}", first + 1))
}

/// A string that line `number` or the nearest line with text before it opens and does not close.
fn open_string(lines: &[&str], number: usize) -> Option<String> {
    let at = (0..number).rev().filter(|at| !lines[*at].trim().is_empty()).take(3).find(|at| is_open(lines[*at]))?;
    Some(format!("the string that begins on line {} with {} is not closed", at + 1, opened(lines[at])))
}

/// Whether a line has a quotation mark without its pair. (Not for strings of several lines, or with escaped marks.)
fn is_open(line: &str) -> bool {
    let line = line.split(" #").next().unwrap_or(line);
    !line.contains("\"\"\"") && !line.contains("\\\"") && !line.contains('\'') && line.matches('"').count() % 2 == 1
}

fn opened(line: &str) -> String {
    let from = line.rfind('"').unwrap_or(0);
    line[from..].chars().take(40).collect()
}

/// `layers: 1`
fn colon(line: &str) -> Option<String> {
    let (key, value) = line.split_once(':')?;
    let plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    plain.then(|| format!("TOML writes `{key} = {}`", value.trim()))
}

/// `max_steps = 1k`
fn number_with_letter(line: &str) -> Option<String> {
    let (_, value) = line.split_once('=')?;
    let value = value.split('#').next()?.trim();
    Some(format!("{value} is no number: write {}", written_out(value)?))
}

/// The number that 1k, 2M or 1.5B stand for.
pub(super) fn written_out(value: &str) -> Option<String> {
    let (digits, factor) = match value.char_indices().last()? {
        (at, 'k' | 'K') => (&value[..at], 1e3),
        (at, 'm' | 'M') => (&value[..at], 1e6),
        (at, 'g' | 'G' | 'b' | 'B') => (&value[..at], 1e9),
        _ => return None,
    };
    let number: f64 = digits.parse().ok()?;
    (number.is_finite() && number.abs() < 1e9).then(|| format!("{}", (number * factor).round()))
}

/// `learning_rate = 0,001`
fn comma(line: &str) -> Option<String> {
    let (_, value) = line.split_once('=')?;
    let value = value.split('#').next()?.trim();
    let (whole, part) = value.split_once(',')?;
    let digits = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    (digits(whole.trim_start_matches('-')) && digits(part)).then(|| format!("decimals have a point: {whole}.{part}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_mistakes_have_advice() {
        for (text, line, said) in [
            ("max_steps = 1k", 1, "1k is no number: write 1000"),
            ("steps = 1.5M # long", 1, "1.5M is no number: write 1500000"),
            ("rate = 0,001", 1, "decimals have a point: 0.001"),
            ("layers: 1", 1, "TOML writes `layers = 1`"),
            ("paths = [\"d.jsonl]\n\n[stage.x]", 3, "the string that begins on line 1 with \"d.jsonl] is not closed"),
        ] {
            assert_eq!(advice(text, line, "").as_deref(), Some(said), "{text}");
        }
        for text in ["x = 1", "x = [1, 2]", "x = \"a,b\"", "x = k", "[a", ""] {
            assert_eq!(advice(text, 1, ""), None, "{text}");
        }
    }

    #[test]
    fn a_number_with_too_many_digits_has_advice() {
        let said = advice("max_steps = 99999999999999999999", 1, "integer number overflowed");
        assert_eq!(said.as_deref(), Some("the largest whole number is 9223372036854775807"));
    }

    #[test]
    fn the_first_place_of_a_duplicate_is_named() {
        let text = "[a]\nx = 1\n[b]\nx = 2\ny = 3\nx = 4\n[a] # again\n";
        assert_eq!(advice(text, 6, "duplicate key").as_deref(), Some("`x` is already on line 4"));
        assert_eq!(advice(text, 7, "duplicate key").as_deref(), Some("`[a]` is already on line 1"));
    }
}
