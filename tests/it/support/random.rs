//! Random numbers for tests.
use std::time::SystemTime;

/// A linear congruential generator (Knuth's MMIX). Equal seeds give equal numbers.
pub struct Random(pub u64);

impl Random {
    /// A generator with another seed each time.
    pub fn from_clock() -> Self {
        Self(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos() as u64)
    }

    /// A number from 0 to `n - 1`.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}
