//! From measured points to what is drawn, for pages and for the terminal.
//!
//! - [`Scale`]: axes with round numbers; [`number`]: their labels
//! - [`decimated`]: as many points as there is room for; [`smoothed`]: means over neighbours
mod decimate;
mod scale;

pub use decimate::{Keep, decimated, merged, smoothed, window};
pub use scale::{Scale, number};

/// A point of a curve.
pub type Point = (f64, f64);
