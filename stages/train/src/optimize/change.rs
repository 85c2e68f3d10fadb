//! What an update does to a section of a parameter: measured at steps after which the run validates.
use compute::kernels::sum::{block_distances, block_squares};
use contract::{Buffer, SectionChange};

/// A section before its update.
pub(super) struct Before {
    section: usize,
    /// Squared norm of its mean gradient, before clipping.
    gradient: f64,
    values: Buffer,
}

impl Before {
    /// Copies the values of a section, so that memory for one section is needed at a time.
    pub fn new(section: usize, gradient: f64, values: &Buffer) -> Self {
        Self { section, gradient, values: values.clone() }
    }

    /// The change to the values `after` the update. Sums are over blocks of fixed size, in order, in f64.
    pub fn changed(self, after: &[f32]) -> SectionChange {
        let Self { section, gradient, values } = self;
        let [weight, update] =
            [block_squares(&values), block_distances(&values, after)].map(|blocks| blocks.iter().sum::<f64>());
        SectionChange { section, gradient, weight, update }
    }
}
