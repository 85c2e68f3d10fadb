//! Every file of Apache's collection of odd and damaged Parquet is read, refused or set aside.
use crate::support::{Scratch, repository};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Longer than any of these small files takes.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn every_file_of_apache_parquet_testing() {
    let root = repository().join("../shared/data/parquet/apache-parquet-testing");
    if !root.exists() {
        println!("skipped: {} is not here", root.display());
        return;
    }
    let mut files: Vec<_> = ["data", "bad_data"]
        .iter()
        .flat_map(|folder| std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == "parquet" || ending == "encrypted"))
        .collect();
    files.sort();
    assert!(files.len() >= 35, "{files:?}");
    let scratch = Scratch::new();
    let (left, outcomes) = (Mutex::new(files), Mutex::new([0; 3]));
    std::thread::scope(|threads| {
        for number in 0..2 {
            let (scratch, left, outcomes) = (&scratch, &left, &outcomes);
            threads.spawn(move || {
                while let Some(path) = { left.lock().unwrap().pop() } {
                    let try_column = |column: &str| {
                        let read = [format!("read.paths=[{path:?}]"), format!("read.column={column:?}")];
                        let directory = format!("r{number}-{}", path.file_name().unwrap().display());
                        let mut more = vec!["run", "run.toml", "--run-dir", &directory, "--workers", "1"];
                        for setting in read.iter().map(String::as_str).chain([
                            "read.max_bad_fraction=1",
                            "run.max_steps=1",
                            "pack.sequence_length=2",
                        ]) {
                            more.extend(["--set", setting]);
                        }
                        let began = Instant::now();
                        let ran = scratch.pipeline(&more);
                        assert!(began.elapsed() < PATIENCE, "{} took {:?}", ran.command, began.elapsed());
                        let code = ran.code.filter(|code| (0..=2).contains(code));
                        let code = code.unwrap_or_else(|| panic!("{}: {:?}\n{}", ran.command, ran.code, ran.stderr));
                        outcomes.lock().unwrap()[code as usize] += 1;
                        if code == 0 { ran } else { ran.fails(code, &["error: "]) }
                    };
                    let said = try_column("no such column").stderr;
                    assert!(said.contains(&*path.file_name().unwrap().to_string_lossy()), "{said}");
                    // All columns are tried in stages/text/tests/files.rs.
                    let columns = said.split_once("; columns: ").map_or("", |(_, columns)| columns);
                    let columns = columns.lines().next().unwrap_or("");
                    if let Some(column) = columns.split(';').next().unwrap_or("").trim().rsplit(", ").next() {
                        try_column(column);
                    }
                }
            });
        }
    });
    println!("exit codes 0, 1, 2: {:?}", outcomes.lock().unwrap());
}
