//! Many seeds, and wrong variants that they must find.
use super::{Report, run, wrong};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many seeds the test runs; with MILLRACE_SOAK=1 a hundred times as many.
const SEEDS: u64 = 10_000;

/// What must happen in some seed, lest a promise about it is kept in vain.
const EVERYTHING: &[&str] = &[
    "Joined",
    "Refused",
    "Lost Closed",
    "Lost Silent",
    "Lost Hung",
    "Released",
    "SetAside Unprepared",
    "SetAside Unconnected",
    "SetAside Disconnected",
    "Gathering",
    "Training",
    "Ended Lost",
    "Ended Broken",
    "Ended Stalled",
    "Ended Drained",
    "HeadLost",
    "OldHead",
    "Expelled Silent",
    "Expelled Hung",
    "head Done",
    "head Interrupted",
    "head Failed",
    "head Superseded",
    "member Done",
    "member Interrupted",
    "member Failed",
    "member Left",
    "member Rejected",
    "member Unreachable",
    "member HeadLost",
    "member Stuck",
];

/// Runs seeds on all cores, until `stop` finds something.
fn seeds(count: u64, visit: impl Fn(u64, Report) -> bool + Sync) {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(2, |threads| threads.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count || !visit(seed, run(seed, None, false)) {
                        next.store(count, Ordering::Relaxed);
                        return;
                    }
                }
            });
        }
    });
}

#[test]
fn every_seed_keeps_every_promise() {
    if let Some(seed) = std::env::var("MILLRACE_SEED").ok().and_then(|seed| seed.parse().ok()) {
        let report = run(seed, None, true);
        report.trace.iter().for_each(|line| println!("{line}"));
        assert_eq!(report.violation, None, "seed {seed}");
        return;
    }
    let soak = std::env::var_os("MILLRACE_SOAK").is_some();
    let count = if soak { 100 * SEEDS } else { SEEDS };
    let totals = [const { AtomicU64::new(0) }; 4];
    let longest = [const { AtomicU64::new(0) }; 2];
    let failures = Mutex::new(Vec::new());
    let seen = Mutex::new(BTreeSet::new());
    seeds(count, |seed, report| {
        for (total, of) in totals.iter().zip([report.events, report.generations, report.done.into(), report.seconds]) {
            total.fetch_add(of, Ordering::Relaxed);
        }
        longest[0].fetch_max(report.detection, Ordering::Relaxed);
        longest[1].fetch_max(report.change, Ordering::Relaxed);
        seen.lock().unwrap().extend(report.seen);
        let Some(violation) = report.violation else { return true };
        println!("seed {seed}: {violation}");
        let mut failures = failures.lock().unwrap();
        failures.push((seed, violation));
        failures.len() < 20
    });
    let [events, generations, done, seconds] = totals.map(|total| total.load(Ordering::Relaxed));
    let [detection, change] = longest.map(|time| time.load(Ordering::Relaxed) as f64 / 1e6);
    println!("{count} seeds: {events} events, {generations} generations, {done} runs done, {seconds} s simulated");
    println!("{count} seeds: detection within {detection:.3} s, the next generation within {change:.3} s");
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    let lines: Vec<String> = failures.iter().map(|(seed, violation)| format!("seed {seed}: {violation}")).collect();
    assert!(
        failures.is_empty(),
        "{}\nreplay one with: MILLRACE_SEED={} cargo test -p millrace-pipelines every_seed -- --nocapture",
        lines.join("\n"),
        failures[0].0
    );
    let seen = seen.into_inner().unwrap();
    let missing: Vec<&&str> = EVERYTHING.iter().filter(|name| !seen.contains(**name)).collect();
    assert!(missing.is_empty(), "never happens: {missing:?}");
}

#[test]
fn a_seed_replays_a_run() {
    for seed in 0..20 {
        assert_eq!(run(seed, None, true).trace, run(seed, None, true).trace, "seed {seed}");
    }
}

#[test]
fn every_wrong_variant_is_found() {
    let mut missed = Vec::new();
    for (wrong, within) in wrong::ALL {
        let found = (0..*within).find_map(|seed| Some((seed, run(seed, Some(*wrong), false).violation?)));
        match found {
            Some((seed, violation)) => println!("{wrong:?}: seed {seed}: {violation}"),
            None => missed.push(wrong),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
