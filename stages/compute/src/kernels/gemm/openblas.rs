//! The OpenBLAS backend, through ndarray. It runs on every machine.
use super::backend::{Backend, Product};
use super::matrix::{MatRef, Matrix, MatrixMut, Operand, OutputBlock, Scalar, Values, bf16, block_mut, matrix};
use super::portable;
use super::round::round_to_bf16;
use super::tile::PanelKernel;
use blas_src as _;
use contract::{Buffer, Precision};
use ndarray::ArrayView2;
use ndarray::linalg::general_mat_mul;
use std::ffi::{CStr, c_char, c_int};
use std::sync::Once;

unsafe extern "C" {
    fn openblas_set_num_threads(threads: c_int);
    fn openblas_get_corename() -> *const c_char;
}

/// Rows per product where only the elements on and above the diagonal are needed.
const UPPER_ROWS: usize = 128;

/// The backend. OpenBLAS has no interface for packed panels, so it uses those of the portable backend.
pub(super) struct OpenBlas;

impl Backend for OpenBlas {
    fn name(&self) -> &'static str {
        "openblas"
    }

    fn is_available(&self) -> bool {
        true
    }

    fn description(&self, precision: Precision) -> String {
        match precision {
            Precision::F32 => format!("OpenBLAS {}", core()),
            Precision::Bf16 | Precision::Int8 => format!("OpenBLAS {}, rounded to bfloat16", core()),
        }
    }

    unsafe fn product(&self, precision: Precision, p: &mut Product<'_>) {
        let (rows, columns) = (p.rows, p.columns);
        // SAFETY: the caller guarantees that the operands cover their sizes.
        let (a, b) = unsafe { (view(p.a, rows, p.depth), view(p.b, p.depth, columns)) };
        let mut whole = Buffer::scratch(if p.c.is_none() { rows * columns } else { 0 });
        let (base, stride) = p.c.unwrap_or((whole.as_mut_ptr(), columns));
        // SAFETY: the caller guarantees that `c` has that many rows and columns and is not accessed elsewhere
        // meanwhile.
        let c = unsafe { std::slice::from_raw_parts_mut(base, (rows - 1) * stride + columns) };
        let beta = f32::from(u8::from(p.add));
        if p.upper {
            for row in (0..rows.min(columns)).step_by(UPPER_ROWS) {
                let high = UPPER_ROWS.min(rows - row);
                let c = block_mut(c, row * stride + row, high, columns - row, stride);
                product(precision, p.alpha, a.rows(row..row + high), b.columns(row..columns), beta, c);
            }
        } else {
            product(precision, p.alpha, a, b, beta, block_mut(c, 0, rows, columns, stride));
        }
        (p.then)(&mut OutputBlock { rows: 0..rows, columns: 0..columns, c: base, stride });
    }

    fn panels(&self, precision: Precision) -> PanelKernel {
        portable::panels(precision)
    }
}

/// # Safety
/// The operand must have that many rows and columns and outlive the view.
unsafe fn view<'a>(operand: Operand, rows: usize, columns: usize) -> MatRef<'a> {
    // SAFETY: guaranteed by the caller.
    unsafe {
        match operand {
            Operand::F32(x) => x.view(rows, columns).into(),
            Operand::Bf16(x) => x.view(rows, columns).into(),
        }
    }
}

/// The kernel that OpenBLAS chose when it was loaded, for example `SkylakeX` or `Haswell`; the environment variable
/// `OPENBLAS_CORETYPE` sets it. Results are bit-identical only with the same kernel, and a version older than the CPU
/// may choose a slow one (0.3.21 treats an Emerald Rapids as a Prescott: a fifth of its speed).
pub fn core() -> String {
    // SAFETY: returns a static, NUL-terminated string.
    unsafe { CStr::from_ptr(openblas_get_corename()) }.to_string_lossy().into_owned()
}

/// `c = alpha · a · b + beta · c` on the calling thread, operands rounded to `precision`. With `beta` 0, the previous
/// content of `c` is ignored.
///
/// # Panics
/// If the shapes do not match.
pub fn product(precision: Precision, alpha: f32, a: MatRef<'_>, b: MatRef<'_>, beta: f32, mut c: MatrixMut<'_>) {
    static SINGLE_THREADED: Once = Once::new();
    // SAFETY: an OpenBLAS function that accepts any positive number.
    SINGLE_THREADED.call_once(|| unsafe { openblas_set_num_threads(1) });
    if let (Precision::F32, Values::F32(a), Values::F32(b)) = (precision, a.values, b.values) {
        return general_mat_mul(alpha, &a, &b, beta, &mut c);
    }
    let (a, b) = (F32Copy::of(precision, a), F32Copy::of(precision, b));
    general_mat_mul(alpha, &a.matrix(), &b.matrix(), beta, &mut c);
}

/// A copy of a matrix in f32, in its original memory order.
struct F32Copy {
    data: Buffer,
    shape: (usize, usize),
    by_column: bool,
}

impl F32Copy {
    fn of(precision: Precision, matrix: MatRef<'_>) -> Self {
        match (matrix.values, precision) {
            (Values::F32(x), Precision::F32) => Self::new(x, |x| x),
            (Values::F32(x), Precision::Bf16 | Precision::Int8) => Self::new(x, round_to_bf16),
            (Values::Bf16(x), _) => Self::new(x, bf16::widen),
        }
    }

    fn new<E: Copy>(matrix: ArrayView2<'_, E>, to_f32: impl Fn(E) -> f32) -> Self {
        let (shape, by_column) = (matrix.dim(), matrix.ncols() > 1 && matrix.strides()[1] != 1);
        let lines = if by_column { matrix.reversed_axes() } else { matrix };
        let mut data = Buffer::scratch(lines.len());
        for (line, out) in lines.rows().into_iter().zip(data.chunks_exact_mut(lines.ncols())) {
            match line.as_slice() {
                Some(line) => line.iter().zip(out).for_each(|(x, out)| *out = to_f32(*x)),
                None => line.iter().zip(out).for_each(|(x, out)| *out = to_f32(*x)),
            }
        }
        Self { data, shape, by_column }
    }

    fn matrix(&self) -> Matrix<'_> {
        let (rows, columns) = self.shape;
        if self.by_column { matrix(&self.data, rows).reversed_axes() } else { matrix(&self.data, columns) }
    }
}
