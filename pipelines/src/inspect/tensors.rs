//! Safetensors: each tensor with its shape, type and a summary of its values.
use super::size;
use crate::show::human::{bytes, count};
use crate::show::{Align, table};
use anyhow::Result;
use serde::Serialize;
use std::path::Path;
use train::weights::TensorFile;

/// The content of a safetensors file.
#[derive(Debug, Serialize)]
pub struct Tensors {
    file: String,
    bytes: u64,
    /// Number of values in all tensors.
    pub parameters: u64,
    tensors: Vec<One>,
}

#[derive(Debug, Serialize)]
struct One {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    #[serde(flatten)]
    values: Option<Summary>,
}

/// A summary of the values that are finite.
#[derive(Clone, Copy, Debug, Serialize)]
struct Summary {
    min: f64,
    mean: f64,
    max: f64,
    /// Square root of the sum of squares.
    norm: f64,
    not_finite: u64,
}

/// Reads all of `path`.
///
/// # Errors
/// If it is not a valid safetensors file.
pub fn open(path: &Path) -> Result<Tensors> {
    let file = TensorFile::open(path)?;
    let mut tensors = Vec::new();
    for (name, info) in file.tensors() {
        let mut sums = Sums::default();
        let known = file.values(&name, &mut |values| values.iter().for_each(|value| sums.add(*value)))?;
        let (dtype, shape) = (info.dtype.to_string(), info.shape.clone());
        tensors.push(One { name, dtype, shape, values: known.then(|| sums.summary()) });
    }
    let parameters = tensors.iter().map(|one| one.shape.iter().map(|n| *n as u64).product::<u64>()).sum();
    Ok(Tensors { file: path.display().to_string(), bytes: size(path)?, parameters, tensors })
}

#[derive(Clone, Copy)]
struct Sums {
    finite: u64,
    not_finite: u64,
    min: f64,
    max: f64,
    sum: f64,
    squares: f64,
}

impl Default for Sums {
    fn default() -> Self {
        Self { finite: 0, not_finite: 0, min: f64::INFINITY, max: f64::NEG_INFINITY, sum: 0.0, squares: 0.0 }
    }
}

impl Sums {
    fn add(&mut self, value: f64) {
        if !value.is_finite() {
            self.not_finite += 1;
            return;
        }
        self.finite += 1;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.sum += value;
        self.squares += value * value;
    }

    fn summary(&self) -> Summary {
        let some = |value: f64| if self.finite > 0 { value } else { 0.0 };
        Summary {
            min: some(self.min),
            mean: some(self.sum / self.finite as f64),
            max: some(self.max),
            norm: self.squares.sqrt(),
            not_finite: self.not_finite,
        }
    }
}

impl Tensors {
    /// For people.
    pub fn text(&self, columns: usize) -> String {
        format!("safetensors, {}\n\n{}", bytes(self.bytes), self.listed(columns))
    }

    /// The tensors as a table.
    pub fn listed(&self, columns: usize) -> String {
        let number = |value: f64| match value {
            0.0 => "0".into(),
            _ if (1e-3..1e4).contains(&value.abs()) => format!("{value:.3}"),
            _ => format!("{value:.1e}"),
        };
        let rows: Vec<Vec<String>> = self
            .tensors
            .iter()
            .map(|one| {
                let shape = one.shape.iter().map(usize::to_string).collect::<Vec<_>>().join("×");
                let shape = if shape.is_empty() { "1".into() } else { shape };
                let value = |f: fn(&Summary) -> f64| one.values.as_ref().map_or("-".into(), |values| number(f(values)));
                let name = one.name.strip_prefix("transformer.").unwrap_or(&one.name).to_owned();
                let numbers = [value(|v| v.min), value(|v| v.mean), value(|v| v.max), value(|v| v.norm)];
                [vec![name, one.dtype.to_lowercase(), shape], numbers.to_vec()].concat()
            })
            .collect();
        let heads = [
            ("tensor", Align::Left),
            ("type", Align::Left),
            ("shape", Align::Right),
            ("min", Align::Right),
            ("mean", Align::Right),
            ("max", Align::Right),
            ("norm", Align::Right),
        ];
        let mut out = format!("{}\n", table(&heads, &rows, columns));
        for one in &self.tensors {
            if let Some(values) = one.values.filter(|values| values.not_finite > 0) {
                out += &format!("warning: {} has {} values that are NaN or infinite\n", one.name, values.not_finite);
            }
        }
        let tensors =
            if self.tensors.len() == 1 { "1 tensor".into() } else { format!("{} tensors", self.tensors.len()) };
        out + &format!("{tensors}, {} parameters\n", count(self.parameters))
    }
}
