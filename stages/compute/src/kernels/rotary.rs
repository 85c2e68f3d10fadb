//! Rotary position embeddings (Su et al. 2021) in Hugging Face's layout (column `i` is paired with `i + head width /
//! 2`), and the step between grouped-query projections and attention: a key or value head that several query heads
//! share (Ainslie et al. 2023) is copied for each of them, so that attention sees equally many query, key and value
//! heads.
use crate::kernels::sum::add;

/// Cosine and sine for every position and pair of columns.
#[derive(Clone, Debug)]
pub struct Rotary {
    /// Columns per head; column `i` of the first half is rotated with column `i` of the second.
    head_width: usize,
    /// `[positions, head width / 2]` of (cosine, sine).
    turns: Vec<(f32, f32)>,
}

/// How the frequencies are lowered for a longer context than that of the first training.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    #[default]
    None,
    /// All of them are divided by `factor` (Chen et al. 2023).
    Linear {
        /// Longer by this factor.
        factor: f64,
    },
    /// As in Llama 3.1 (Grattafiori et al. 2024): low frequencies are divided by `factor`, high ones stay, and those
    /// between are interpolated.
    Llama3 {
        /// Longer by this factor.
        factor: f64,
        /// Frequencies with fewer periods than this in the original context are low.
        low: f64,
        /// Frequencies with more periods than this in the original context are high; larger than `low`.
        high: f64,
        /// The original context, in tokens.
        original: f64,
    },
}

impl RopeScaling {
    /// The scaled frequency, in radians per position.
    pub fn scaled(self, frequency: f64) -> f64 {
        match self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low, high, original } => {
                let periods = original * frequency / std::f64::consts::TAU;
                let kept = ((periods - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 - kept) * frequency / factor + kept * frequency
            }
        }
    }
}

/// Head counts of a grouped-query attention layer.
#[derive(Clone, Copy, Debug)]
pub struct Groups {
    /// Number of query heads.
    pub heads: usize,
    /// Number of key heads and of value heads; divides `heads`. Each serves `heads / kv_heads` consecutive query heads.
    pub kv_heads: usize,
}

impl Rotary {
    /// Pair `i` is rotated by `position / theta^(2i / head_width)`, with a frequency that `scaling` lowers; frequencies
    /// and angles are rounded to f32, as in transformers.
    ///
    /// # Panics
    /// If `head_width` is odd.
    pub fn new(head_width: usize, positions: usize, theta: f64, scaling: RopeScaling) -> Self {
        assert!(head_width.is_multiple_of(2), "the head width must be even");
        let frequency = |pair: usize| scaling.scaled(1.0 / theta.powf(2.0 * pair as f64 / head_width as f64)) as f32;
        let frequencies: Vec<f32> = (0..head_width / 2).map(frequency).collect();
        let turn = |position: usize, frequency: f32| {
            let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
            (cos as f32, sin as f32)
        };
        let turns = (0..positions).flat_map(|p| frequencies.iter().map(move |f| turn(p, *f))).collect();
        Self { head_width, turns }
    }

    /// The rotation by the same angles in the other direction.
    #[must_use]
    pub fn reversed(mut self) -> Self {
        self.turns.iter_mut().for_each(|(_, sin)| *sin = -*sin);
        self
    }

    /// Rotates adjacent heads by the angles of `position`.
    pub fn rotate(&self, heads: &mut [f32], position: usize) {
        self.each(heads, position, 1.0);
    }

    /// The inverse of [`rotate`](Rotary::rotate), which is also its backward pass.
    pub fn rotate_back(&self, heads: &mut [f32], position: usize) {
        self.each(heads, position, -1.0);
    }

    fn each(&self, heads: &mut [f32], position: usize, direction: f32) {
        let half = self.head_width / 2;
        let turns = &self.turns[position * half..(position + 1) * half];
        for head in heads.chunks_exact_mut(self.head_width) {
            let (a, b) = head.split_at_mut(half);
            for ((a, b), (cos, sin)) in a.iter_mut().zip(b).zip(turns) {
                let (x, y, sin) = (*a, *b, direction * sin);
                *a = x * cos - y * sin;
                *b = y * cos + x * sin;
            }
        }
    }

    /// Turns `projected` `[rows, (heads + 2 · kv_heads) · head width]`, queries, keys and values side by side, into the
    /// input of attention, `qkv` `[rows, 3 · heads · head width]`: queries and keys are rotated by their position in
    /// sequences of `length`, keys and values are copied for each query head of their group.
    pub fn forward(&self, groups: Groups, length: usize, projected: &[f32], qkv: &mut [f32]) {
        let (width, narrow, stride) = self.widths(groups, projected.len(), qkv.len());
        let mut rotated = vec![0.0; width + narrow];
        for (row, (projected, qkv)) in projected.chunks_exact(stride).zip(qkv.chunks_exact_mut(3 * width)).enumerate() {
            rotated.copy_from_slice(&projected[..width + narrow]);
            self.rotate(&mut rotated, row % length);
            qkv[..width].copy_from_slice(&rotated[..width]);
            self.repeat(groups, &rotated[width..], &mut qkv[width..2 * width]);
            self.repeat(groups, &projected[width + narrow..], &mut qkv[2 * width..]);
        }
    }

    /// Takes the gradient of the output of [`forward`](Rotary::forward) in `d_qkv`; writes that of its input.
    pub fn backward(&self, groups: Groups, length: usize, d_qkv: &[f32], d_projected: &mut [f32]) {
        let (width, narrow, stride) = self.widths(groups, d_projected.len(), d_qkv.len());
        for (row, (d, qkv)) in d_projected.chunks_exact_mut(stride).zip(d_qkv.chunks_exact(3 * width)).enumerate() {
            d[..width].copy_from_slice(&qkv[..width]);
            self.gather(groups, &qkv[width..2 * width], &mut d[width..width + narrow]);
            self.gather(groups, &qkv[2 * width..], &mut d[width + narrow..]);
            self.rotate_back(&mut d[..width + narrow], row % length);
        }
    }

    /// Columns of all query heads, of all key heads, and of a row of `projected`.
    fn widths(&self, groups: Groups, projected: usize, qkv: usize) -> (usize, usize, usize) {
        let Groups { heads, kv_heads } = groups;
        assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "kv_heads must divide heads");
        let (width, narrow) = (heads * self.head_width, kv_heads * self.head_width);
        let stride = width + 2 * narrow;
        assert!(projected.is_multiple_of(stride) && qkv == projected / stride * 3 * width);
        (width, narrow, stride)
    }

    fn repeat(&self, groups: Groups, narrow: &[f32], wide: &mut [f32]) {
        let group = groups.heads / groups.kv_heads * self.head_width;
        for (one, all) in narrow.chunks_exact(self.head_width).zip(wide.chunks_exact_mut(group)) {
            all.chunks_exact_mut(self.head_width).for_each(|head| head.copy_from_slice(one));
        }
    }

    /// The backward pass of [`repeat`](Rotary::repeat): sums over each group, in the order of heads.
    fn gather(&self, groups: Groups, wide: &[f32], narrow: &mut [f32]) {
        let group = groups.heads / groups.kv_heads * self.head_width;
        for (one, all) in narrow.chunks_exact_mut(self.head_width).zip(wide.chunks_exact(group)) {
            one.copy_from_slice(&all[..self.head_width]);
            all[self.head_width..].chunks_exact(self.head_width).for_each(|head| add(one, head));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, gradient, random, weighted, wide};
    use proptest::prelude::*;

    const THETA: f64 = 100.0;

    /// The definition, one output element at a time.
    fn reference(groups: Groups, head_width: usize, length: usize, projected: &[f64]) -> Vec<f64> {
        let Groups { heads, kv_heads } = groups;
        let (half, stride) = (head_width / 2, (heads + 2 * kv_heads) * head_width);
        let mut out = Vec::new();
        for (row, x) in projected.chunks(stride).enumerate() {
            for part in 0..3 {
                for head in 0..heads {
                    let shared = head * kv_heads / heads;
                    let head = [head, heads + shared, heads + kv_heads + shared][part];
                    for i in 0..head_width {
                        let x = |i: usize| x[head * head_width + i];
                        let angle = (row % length) as f64 / THETA.powf(2.0 * (i % half) as f64 / head_width as f64);
                        let other = if i < half { -x(i + half) } else { x(i - half) };
                        out.push(if part == 2 { x(i) } else { x(i) * angle.cos() + other * angle.sin() });
                    }
                }
            }
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]
        #[test]
        fn agrees_with_the_reference(kv_heads in 1usize..4, group in 1usize..4, half in 1usize..9,
                                     sequences in 1usize..3, length in 1usize..6) {
            let groups = Groups { heads: kv_heads * group, kv_heads };
            let (head_width, rows) = (2 * half, sequences * length);
            let rotary = Rotary::new(head_width, length + 1, THETA, RopeScaling::None);
            let projected = random(1, rows * (groups.heads + 2 * kv_heads) * head_width);
            let mut qkv = vec![f32::NAN; 3 * rows * groups.heads * head_width];
            rotary.forward(groups, length, &projected, &mut qkv);
            let f = |x: &[f64]| reference(groups, head_width, length, x);
            assert_close(&qkv, &f(&wide(&projected)), 1e-6);

            let d_qkv = random(2, qkv.len());
            let mut d_projected = vec![f32::NAN; projected.len()];
            rotary.backward(groups, length, &d_qkv, &mut d_projected);
            assert_close(&d_projected, &gradient(&projected, |x| weighted(&f(x), &d_qkv)), 1e-4);
        }
    }

    #[test]
    fn low_frequencies_are_lowered_and_high_ones_stay() {
        let llama3 = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 100.0 };
        // Frequencies with this number of periods in 100 positions.
        let scaled = |periods: f64| {
            let frequency = std::f64::consts::TAU * periods / 100.0;
            llama3.scaled(frequency) / frequency
        };
        // 2 is one third of the way from 1 to 4: 2/3 · 1/8 + 1/3.
        for (periods, expected) in [(0.1, 0.125), (1.0, 0.125), (2.0, 5.0 / 12.0), (4.0, 1.0), (50.0, 1.0)] {
            assert!((scaled(periods) - expected).abs() < 1e-12, "{periods}: {}", scaled(periods));
        }
        assert_eq!(RopeScaling::Linear { factor: 4.0 }.scaled(3.0), 0.75);
    }
}
