//! The sink `csv`: a table of all steps, `metrics.csv` in the run directory.
use contract::{Result, files::write_whole};
use std::fs::{File, OpenOptions};
use std::io::Write;
use train::record::{Opening, Sink, SinkType, StepLine};

/// For `record.sinks = ["jsonl", "csv"]`.
pub const CSV: SinkType = SinkType { name: "csv", open };

struct Csv(File);

/// Begins the table with the steps before the one that a run is resumed at.
fn open(opening: &Opening) -> Result<Box<dyn Sink>> {
    let path = opening.run_dir.join("metrics.csv");
    let mut table = String::from("step,tokens,loss,validation_loss\n");
    table.extend(opening.lines.iter().map(row));
    write_whole(&path, |out| Ok(out.write_all(table.as_bytes())?))?;
    Ok(Box::new(Csv(OpenOptions::new().append(true).open(&path)?)))
}

fn row(line: &StepLine) -> String {
    let validation = line.validation_loss.map(|loss| loss.to_string()).unwrap_or_default();
    format!("{},{},{},{validation}\n", line.step, line.tokens, line.loss)
}

impl Sink for Csv {
    fn write(&mut self, line: &StepLine) -> Result<()> {
        Ok(self.0.write_all(row(line).as_bytes())?)
    }
}
