//! Plain aligned tables, and the table of time per stage.
use super::human::{count, fit, time, width, workers};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Alignment of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// An aligned table. If it is wider than `columns`, the widest text columns are shortened.
pub fn table(heads: &[(&str, Align)], rows: &[Vec<String>], columns: usize) -> String {
    const GAP: usize = 2;
    let cell = |row: &'_ Vec<String>, i: usize| row.get(i).map_or(0, |text| width(text));
    let mut widths: Vec<usize> = heads
        .iter()
        .enumerate()
        .map(|(i, (head, _))| rows.iter().map(|row| cell(row, i)).chain([width(head)]).max().unwrap_or(0))
        .collect();
    let whole = |widths: &[usize]| widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
    while whole(&widths) > columns {
        let words = (0..heads.len()).filter(|i| heads[*i].1 == Align::Left && widths[*i] > 4);
        match words.max_by_key(|i| widths[*i]) {
            Some(widest) => widths[widest] -= 1,
            None => break,
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (i, (text, room)) in cells.zip(&widths).enumerate() {
            let text = fit(text, *room);
            let pad = " ".repeat(room.saturating_sub(width(&text)));
            line.push_str(if i > 0 { "  " } else { "" });
            line.push_str(&if heads[i].1 == Align::Left { text + &pad } else { pad + &text });
        }
        line.trim_end().to_owned()
    };
    let mut lines = vec![line(&mut heads.iter().map(|(head, _)| *head))];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

/// Time of one stage, summed over all workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageTime {
    /// The stage.
    pub stage: String,
    /// Time spent in it.
    #[serde(rename = "seconds", with = "seconds")]
    pub time: Duration,
    /// How often it was called.
    pub calls: u64,
}

/// Time per stage of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// The stages, in the order of the plan.
    pub stages: Vec<StageTime>,
    /// Worker threads.
    pub workers: usize,
    /// From first to last step.
    #[serde(rename = "wall_seconds", with = "seconds")]
    pub wall: Duration,
    /// Waiting times of compute, over all workers, by cause: `data`, `others`.
    pub waits: Vec<Wait>,
}

/// Time in which workers had nothing to do, summed over all workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wait {
    /// What they waited for.
    pub what: String,
    /// The sum of their waiting times.
    #[serde(rename = "seconds", with = "seconds")]
    pub time: Duration,
}

impl Times {
    /// Time of the workers that is spent neither in stages nor waiting.
    pub fn rest(&self) -> Duration {
        let known = self.stages.iter().map(|s| s.time).chain(self.waits.iter().map(|w| w.time));
        self.wall.saturating_mul(self.workers as u32).saturating_sub(known.sum())
    }
}

/// A duration as a number of seconds.
mod seconds {
    use super::Duration;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(time.as_secs_f64())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

/// The table of time per stage. Shares are of the workers' time (wall time × workers).
pub fn stage_times(times: &Times, columns: usize) -> String {
    let whole = times.wall.as_secs_f64() * times.workers as f64;
    let share = |part: Duration| match whole > 0.0 {
        true => format!("{:.1}%", 100.0 * part.as_secs_f64() / whole),
        false => "-".into(),
    };
    let row = |name: String, spent: Duration, calls: String| vec![name, time(spent), share(spent), calls];
    let mut rows: Vec<_> = times.stages.iter().map(|s| row(s.stage.clone(), s.time, count(s.calls))).collect();
    rows.extend(times.waits.iter().map(|w| row(format!("waiting for {}", w.what), w.time, String::new())));
    rows.push(row("everything else".into(), times.rest(), String::new()));
    let heads = [("stage", Align::Left), ("time", Align::Right), ("share", Align::Right), ("calls", Align::Right)];
    let workers = workers(times.workers);
    format!("{}\n{workers}, {} each", table(&heads, &rows, columns), time(times.wall))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stage_times_are_rendered() {
        let stage = |stage: &str, ms, calls| StageTime { stage: stage.into(), time: Duration::from_millis(ms), calls };
        let times = Times {
            stages: vec![stage("read", 12, 1200), stage("forward", 81_000, 1200), stage("backward", 159_000, 7200)],
            workers: 2,
            wall: Duration::from_secs(130),
            waits: vec![Wait { what: "data".into(), time: Duration::from_micros(1900) }],
        };
        let json = serde_json::to_string(&times).unwrap();
        assert!(json.contains(r#"{"stage":"read","seconds":0.012,"calls":1200}"#), "{json}");
        assert_eq!(serde_json::from_str::<Times>(&json).unwrap(), times);
        insta::assert_snapshot!(stage_times(&times, 80), @r"
        stage                time  share  calls
        read              12.0 ms   0.0%  1.2 k
        forward            81.0 s  31.2%  1.2 k
        backward             2:39  61.2%  7.2 k
        waiting for data   1.9 ms   0.0%
        everything else    20.0 s   7.7%
        2 workers, 2:10 each
        ");
        assert!(stage_times(&Times::default(), 80).contains("everything else"));
    }

    #[test]
    fn text_columns_are_shortened() {
        let row = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        let heads = [("what", Align::Left), ("n", Align::Right)];
        let text = table(&heads, &[row("a long description of things", "123456"), row("b", "7")], 20);
        insta::assert_snapshot!(text, @r"
        what               n
        a long desc…  123456
        b                  7
        ");
    }
}
