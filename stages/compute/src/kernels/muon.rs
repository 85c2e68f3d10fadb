//! The elementwise passes of Muon (Jordan et al. 2024); between them, [`newton_schulz`](super::newton_schulz)
//! orthogonalises the result of the first.
use crate::kernels::gemm::MatrixMut;
use crate::wide;

/// Nesterov momentum: `m = keep · m + scale · g`, then `g = keep · m + scale · g`.
///
/// # Panics
/// If the lengths differ.
pub fn nesterov(keep: f32, scale: f32, momentum: &mut [f32], gradient: &mut [f32]) {
    assert_eq!(momentum.len(), gradient.len(), "slices of equal length");
    add_momentum(keep, scale, momentum, gradient);
}

wide! {
    fn add_momentum(keep: f32, scale: f32, momentum: &mut [f32], gradient: &mut [f32]) {
        for (m, g) in momentum.iter_mut().zip(gradient) {
            let scaled = *g * scale;
            *m = keep.mul_add(*m, scaled);
            *g = keep.mul_add(*m, scaled);
        }
    }
}

/// `p = shrink · p + step · direction`.
///
/// # Panics
/// If the numbers of elements differ, or those of a row of `p` are not next to each other in memory.
pub fn update(shrink: f32, step: f32, mut p: MatrixMut<'_>, direction: &[f32]) {
    assert_eq!(p.len(), direction.len(), "matrices of equal shape");
    let columns = p.ncols().max(1);
    for (mut p, d) in p.rows_mut().into_iter().zip(direction.chunks_exact(columns)) {
        add_direction(shrink, step, p.as_slice_mut().expect("rows are contiguous"), d);
    }
}

wide! {
    fn add_direction(shrink: f32, step: f32, p: &mut [f32], direction: &[f32]) {
        for (p, d) in p.iter_mut().zip(direction) {
            *p = step.mul_add(*d, *p * shrink);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::gemm::block_mut;
    use crate::kernels::testing::{assert_close, random, wide};

    #[test]
    fn equals_the_formulas() {
        let (rows, width, columns) = (5, 37, 3..30);
        let (mut p, mut m, mut g) = (random(1, rows * width), random(2, rows * width), random(3, rows * width));
        let (p64, m64, g64) = (wide(&p), wide(&m), wide(&g));
        nesterov(0.9, 0.5, &mut m, &mut g);
        let m64: Vec<f64> = m64.iter().zip(&g64).map(|(m, g)| 0.9 * m + 0.5 * g).collect();
        let g64: Vec<f64> = m64.iter().zip(&g64).map(|(m, g)| 0.9 * m + 0.5 * g).collect();
        assert_close(&m, &m64, 1e-6);
        assert_close(&g, &g64, 1e-6);
        let direction = random(4, rows * columns.len());
        update(0.75, -0.25, block_mut(&mut p, columns.start, rows, columns.len(), width), &direction);
        let changed = |i: usize| {
            let (row, column) = (i / width, i % width);
            let at = (row * columns.len() + column).checked_sub(columns.start).filter(|_| columns.contains(&column));
            at.map_or(p64[i], |at| 0.75 * p64[i] - 0.25 * f64::from(direction[at]))
        };
        assert_close(&p, &(0..p.len()).map(changed).collect::<Vec<_>>(), 1e-6);
    }
}
