//! What is on the page.
use super::Seen;
use super::document::{document, section};
use super::html::{escape, facts};
use super::metrics::plot_of;
use super::plot::{Plot, Series, Style};
use super::{blocks, samples, sources};
use crate::curves::{number, smoothed, window};
use crate::experiment::statistics::median;
use crate::show::Times;
use crate::show::human::{bytes, count, time, utc, workers};
use crate::train_run::status::{State, now};
use serde_json::Value;
use std::fmt::Write;
use std::time::Duration;
use train::record::StepLine;
use train::record::spikes::spikes;

/// The page of a run.
pub(super) fn page(seen: &Seen) -> String {
    let body = format!(
        "{}{}{}{}{}{}{}{}{}",
        header(seen),
        cards(&seen.metrics),
        section(&plots(&seen.metrics)),
        samples::section(&seen.samples),
        sources::section(&seen.metrics),
        blocks::section(&seen.metrics),
        stage_times(seen),
        about(seen),
        footer(seen),
    );
    document(&format!("{} · run report", seen.name), &body)
}

fn header(seen: &Seen) -> String {
    let (name, state) = (escape(&seen.name), seen.state.name());
    let done = seen.metrics.last().map_or(0, |line| line.step);
    let steps = seen.status.as_ref().map_or(done, |status| status.steps.max(done));
    let said = |key: &str| seen.environment[key].as_str().map(str::to_owned);
    let parameters = seen.environment["parameters"].as_u64().map(|n| format!("{} parameters", count(n)));
    let line: Vec<String> = [said("model"), parameters, Some(format!("step {done} of {steps}")), said("cpu")]
        .into_iter()
        .flatten()
        .collect();
    let mut out = format!(
        "<header><h1>{name}</h1><span class=\"state {state}\">{state}</span><p>{}</p></header>\n",
        escape(&line.join(" · "))
    );
    if let (State::Failed, Some(error)) = (seen.state, seen.status.as_ref().and_then(|s| s.error.as_ref())) {
        let _ = writeln!(out, "<p class=\"error\">{}</p>", escape(error));
    }
    out
}

fn cards(metrics: &[StepLine]) -> String {
    let Some(last) = metrics.last() else { return String::new() };
    let mut out = String::from("<section class=\"cards\">\n");
    let mut card = |name: &str, value: String, more: String| {
        let _ = writeln!(out, "<div class=\"card\"><span>{name}</span><b>{value}</b><small>{more}</small></div>");
    };
    let validated: Vec<(u64, f64)> = metrics.iter().filter_map(|l| Some((l.step, l.validation_loss?))).collect();
    if let Some((step, loss)) = validated.last() {
        let best = validated.iter().fold((0, f64::INFINITY), |best, now| if now.1 < best.1 { *now } else { best });
        let more = if best.1 < *loss {
            format!("best {:.4} at step {}", best.1, best.0)
        } else {
            format!("at step {step}, the best")
        };
        card("Validation loss", format!("{loss:.4}"), more);
    }
    if let Some((step, bits)) = metrics.iter().rev().find_map(|line| Some((line.step, line.bits_per_byte?))) {
        card("Bits per byte", format!("{bits:.4}"), format!("held-out text, step {step}"));
    }
    let recent = &metrics[metrics.len().saturating_sub(20)..];
    let mean = recent.iter().map(|line| line.loss).sum::<f64>() / recent.len() as f64;
    card("Training loss", format!("{mean:.4}"), format!("mean of the last {}", steps(recent.len())));
    card("Trained on", count(last.tokens), format!("tokens, {:.2} epochs", last.epoch));
    card("Speed", number(median_of(metrics, |l| l.tok_per_sec)), "tokens/s, median step".into());
    let mfu = median_of(metrics, |l| l.mfu);
    if mfu > 0.0 {
        card("MFU", format!("{:.1} %", 100.0 * mfu), "model FLOPs utilisation".into());
    }
    let seconds = spent(metrics);
    let waited: f64 = metrics.iter().map(|line| line.data_wait_ms / 1e3).sum();
    let share = if seconds > 0.0 { 100.0 * waited / seconds } else { 0.0 };
    let shown = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    card("Training time", time(shown), format!("{share:.1} % of it waiting for data"));
    out + "</section>\n"
}

fn steps(n: usize) -> String {
    if n == 1 { "step".into() } else { format!("{n} steps") }
}

/// Seconds that the steps took, also over several sessions.
fn spent(metrics: &[StepLine]) -> f64 {
    let before = std::iter::once(0).chain(metrics.iter().map(|line| line.tokens));
    metrics.iter().zip(before).map(|(line, before)| line.seconds(before)).sum()
}

fn median_of(metrics: &[StepLine], value: fn(&StepLine) -> f64) -> f64 {
    median(metrics.iter().map(value).filter(|v| v.is_finite()).collect()).unwrap_or_default()
}

fn plots(metrics: &[StepLine]) -> Vec<Plot> {
    let over = |value: fn(&StepLine) -> f64| move |line: &StepLine| (line.step as f64, value(line));
    let width = window(metrics.len());
    // What is measured at every step, and its course.
    let course = |metric, value: fn(&StepLine) -> f64| {
        let raw = Series::new("step", Style::Raw, metrics.iter().map(over(value)));
        let mean = Series::new(format!("mean of {width}"), Style::Smooth, smoothed(&raw.points, width));
        plot_of(metric, "step", vec![raw, mean])
    };
    let validation = |value: fn(&StepLine) -> Option<f64>| {
        let points = metrics.iter().filter_map(move |line| Some((line.step as f64, value(line)?)));
        Series::new("validation", Style::Marked, points)
    };
    let mut loss = course("loss", |line| line.loss);
    loss.wide = true;
    loss.series[0].name = "training".into();
    loss.series.push(validation(|line| line.validation_loss));
    let spikes = spikes(metrics).into_iter().map(|spike| (spike.step as f64, spike.loss));
    loss.series.push(Series::new("spike", Style::Points, spikes));
    let rate = Series::new("rate", Style::Smooth, metrics.iter().map(over(|line| line.learning_rate)));
    vec![
        loss,
        plot_of("bits_per_byte", "step", vec![validation(|line| line.bits_per_byte)]),
        plot_of("learning_rate", "step", vec![rate]),
        course("gradient_norm", |line| line.gradient_norm),
        course("tok_per_sec", |line| line.tok_per_sec),
        course("mfu", |line| line.mfu),
        course("data_wait_ms", |line| line.data_wait_ms),
    ]
}

fn stage_times(seen: &Seen) -> String {
    let Some(times) = seen.status.as_ref().and_then(|status| status.times.as_ref()) else {
        let why =
            "Available after a run that finished or was interrupted, but not after one that failed or was killed.";
        return format!("<h2>Time per stage</h2>\n<p class=\"none\">{why}</p>\n");
    };
    let (rows, whole) = (rows(times), times.wall.as_secs_f64() * times.workers as f64);
    let most = rows.iter().map(|row| row.1.as_secs_f64()).fold(0.0, f64::max);
    let mut out = String::from("<h2>Time per stage</h2>\n<div class=\"panel\"><table class=\"times\">\n");
    for (name, spent, calls, wait) in rows {
        let of = |all: f64| if all > 0.0 { 100.0 * spent.as_secs_f64() / all } else { 0.0 };
        let _ = writeln!(
            out,
            "<tr{}><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{:.1} %</td><td class=\"n calls\">{}</td>\
             <td class=\"bar\" style=\"width:100%\"><i style=\"width:{:.2}%\"></i></td></tr>",
            if wait { " class=\"wait\"" } else { "" },
            escape(&name),
            time(spent),
            of(whole),
            calls.map(|calls| format!("{} calls", count(calls))).unwrap_or_default(),
            of(most),
        );
    }
    let workers = workers(times.workers);
    let first = seen.status.as_ref().map_or(0, |status| status.first);
    let since = if first > 0 { format!(", since step {first}") } else { String::new() };
    out + &format!("</table><p class=\"none\">{workers}, {} each{since}.</p></div>\n", time(times.wall))
}

/// Name, time, calls, and whether it is time in which nothing was done.
fn rows(times: &Times) -> Vec<(String, Duration, Option<u64>, bool)> {
    let stages = times.stages.iter().map(|s| (s.stage.clone(), s.time, Some(s.calls), false));
    let waits = times.waits.iter().map(|w| (format!("waiting for {}", w.what), w.time, None, true));
    stages.chain(waits).chain([("everything else".into(), times.rest(), None, true)]).collect()
}

fn about(seen: &Seen) -> String {
    let environment = &seen.environment;
    let mut out = String::from("<h2>Corpus</h2>\n<div class=\"panel\">\n");
    let part = |name: &str| {
        let part = &environment["corpus"][name];
        let n = |key: &str| part[key].as_u64().unwrap_or_default();
        let text = if n("bytes") > 0 { format!(", {}", bytes(n("bytes"))) } else { String::new() };
        format!("{} tokens in {} rows{text}", count(n("tokens")), count(n("rows")))
    };
    let mut rows = Vec::new();
    for source in environment["sources"].as_array().into_iter().flatten() {
        for (label, key) in
            [("Source", "name"), ("From", "url"), ("Licence", "licence"), ("Attribution", "attribution")]
        {
            if let Some(value) = source[key].as_str().filter(|value| !value.is_empty()) {
                rows.push((label, value.to_owned()));
            }
        }
    }
    if rows.is_empty() {
        rows.push(("Licence", "not stated by the data".into()));
    }
    if environment["corpus"].is_object() {
        rows.push(("Learned from", part("train")));
        rows.push(("Held out", part("validation")));
    }
    for (reason, documents) in environment["dropped"].as_object().into_iter().flatten() {
        rows.push(("Dropped", format!("{} documents: {reason}", count(documents.as_u64().unwrap_or_default()))));
    }
    out += &facts(&rows);
    out += "</div>\n<h2>Environment</h2>\n<div class=\"panel\">\n";
    let told = ["corpus", "sources", "dropped", "mixture", "model", "parameters"];
    let others = environment.as_object().into_iter().flatten().filter(|(key, _)| !told.contains(&key.as_str()));
    let rows: Vec<(&str, String)> = others.map(|(key, value)| (key.as_str(), plain(value))).collect();
    out += &facts(&rows);
    if let Some(checkpoint) = &seen.checkpoint {
        out += &facts(&[("last checkpoint", checkpoint.display().to_string())]);
    }
    let config = escape(seen.config.trim_end());
    out += "</div>\n<details open><summary>Configuration</summary>\n";
    out + &format!("<div class=\"panel\"><pre>{config}</pre></div>\n</details>\n")
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

fn footer(seen: &Seen) -> String {
    let mut said = format!("Written by millrace {} on {}", env!("CARGO_PKG_VERSION"), utc(now()));
    if let Some(status) = &seen.status {
        let _ = write!(said, "; the run began on {}", utc(status.started));
        if let Some(ended) = status.ended {
            let _ = write!(said, " and ended on {}", utc(ended));
        }
    }
    format!("<footer>{said}. This file is self-contained.</footer>\n")
}
