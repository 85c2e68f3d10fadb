//! The list of GEMM backends, and which of them this process uses.
use super::backend::Backend;
#[cfg(target_arch = "x86_64")]
use super::{amx::Amx, avx2::Avx2, avx512::Avx512};
use super::{openblas::OpenBlas, portable::Portable};
use contract::Precision;
use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

/// All backends, fastest first: `auto` selects the first that is available.
static BACKENDS: &[&dyn Backend] = &[
    #[cfg(target_arch = "x86_64")]
    &Amx,
    #[cfg(target_arch = "x86_64")]
    &Avx512,
    #[cfg(target_arch = "x86_64")]
    &Avx2,
    &OpenBlas,
    &Portable,
];

/// The name that selects the fastest available backend.
pub const AUTO: &str = "auto";

/// The backend of this process: its index in [`BACKENDS`], plus one; 0 if none is selected yet. It is always available:
/// only [`find`] and [`fastest`] set it.
static CHOSEN: AtomicUsize = AtomicUsize::new(NONE);
const NONE: usize = 0;

thread_local! {
    /// Overrides the process's backend on this thread: see [`with_backend`].
    static SCOPED: Cell<Option<&'static dyn Backend>> = const { Cell::new(None) };
}

/// Why a backend cannot be selected.
#[derive(Debug, PartialEq, Eq)]
pub enum ChooseError {
    /// No backend has this name.
    Unknown(String),
    /// This CPU cannot run it.
    Unavailable(&'static str),
    /// This process has already computed products on another backend.
    AlreadyChosen {
        /// The requested backend.
        asked: &'static str,
        /// The backend in use.
        in_use: &'static str,
    },
}

impl fmt::Display for ChooseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = available().join(", ");
        match self {
            Self::Unknown(name) => write!(f, "there is no GEMM backend `{name}`; available here: {AUTO}, {list}"),
            Self::Unavailable(name) => {
                write!(f, "GEMM backend `{name}` is not available on this CPU; available here: {AUTO}, {list}")
            }
            Self::AlreadyChosen { asked, in_use } => {
                write!(f, "GEMM backend `{asked}` was asked for, but this process already uses `{in_use}`")
            }
        }
    }
}

impl std::error::Error for ChooseError {}

/// Names of all backends, available or not, fastest first.
pub fn names() -> Vec<&'static str> {
    BACKENDS.iter().map(|backend| backend.name()).collect()
}

/// Names of the backends that this machine can run, fastest first.
pub fn available() -> Vec<&'static str> {
    BACKENDS.iter().filter(|backend| backend.is_available()).map(|backend| backend.name()).collect()
}

/// Checks that [`choose`] can select `name` on this machine.
///
/// # Errors
/// If there is no such backend, or this machine cannot run it.
pub fn check(name: &str) -> Result<(), ChooseError> {
    find(name).map(|_| ())
}

/// Selects the backend of this process: `name`, or the fastest available one if that is [`AUTO`]. The first product
/// selects [`AUTO`] if none was selected before.
///
/// # Errors
/// If there is no such backend, this machine cannot run it, or the process already uses another one.
pub fn choose(name: &str) -> Result<(), ChooseError> {
    let backend = find(name)?;
    let in_use = chosen_or(backend).name();
    if in_use == backend.name() { Ok(()) } else { Err(ChooseError::AlreadyChosen { asked: backend.name(), in_use }) }
}

/// Like [`choose`], but replaces the backend that the process already uses: for commands that assess several
/// configurations one after another. No other thread may compute meanwhile, since its results would be of two backends.
///
/// # Errors
/// If there is no such backend, or this machine cannot run it.
pub fn choose_again(name: &str) -> Result<(), ChooseError> {
    CHOSEN.store(number(find(name)?), Ordering::Relaxed);
    Ok(())
}

/// Runs `f` with the backend `name` for products on the calling thread, instead of the process's backend: for tests and
/// comparisons. Threads that `f` starts are not affected.
///
/// # Errors
/// If there is no such backend, or this machine cannot run it.
pub fn with_backend<R>(name: &str, f: impl FnOnce() -> R) -> Result<R, ChooseError> {
    /// Restores the previous value, also when `f` panics.
    struct Restore(Option<&'static dyn Backend>);
    impl Drop for Restore {
        fn drop(&mut self) {
            SCOPED.set(self.0);
        }
    }
    let backend = find(name)?;
    let _restore = Restore(SCOPED.replace(Some(backend)));
    Ok(f())
}

/// Name of the backend for products on the calling thread.
pub fn chosen() -> &'static str {
    backend().name()
}

/// Description of the backend for products in `precision`, for messages and checkpoints. Backends with different
/// descriptions may give different bits. (In eight bits, products give the same on all of them, but everything else is
/// computed in bfloat16.)
pub fn description(precision: Precision) -> String {
    let (backend, float) = (backend(), backend().description(precision.float()));
    match (precision, backend.int8()) {
        (Precision::F32 | Precision::Bf16, _) => float,
        (Precision::Int8, Some(kernel)) => format!("{}, eight bits; {float}", kernel.name),
        (Precision::Int8, None) => format!("eight bits, no faster than bf16 on this CPU; {float}"),
    }
}

/// The faster precision for products on the calling thread: bfloat16 if the backend has an instruction for it that is
/// faster than f32. If no backend is selected yet, that of [`AUTO`] counts, and another one can still be selected.
pub fn fast_precision() -> Precision {
    let backend = SCOPED.get().or_else(already_chosen).unwrap_or_else(fastest);
    if backend.has_fast_bf16() { Precision::Bf16 } else { Precision::F32 }
}

/// The backend for products on the calling thread; always an available one.
pub(super) fn backend() -> &'static dyn Backend {
    SCOPED.get().or_else(already_chosen).unwrap_or_else(|| chosen_or(fastest()))
}

fn already_chosen() -> Option<&'static dyn Backend> {
    CHOSEN.load(Ordering::Relaxed).checked_sub(1).map(|index| BACKENDS[index])
}

/// The backend of this process, which becomes `backend` if none is selected yet.
fn chosen_or(backend: &'static dyn Backend) -> &'static dyn Backend {
    match CHOSEN.compare_exchange(NONE, number(backend), Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => backend,
        Err(before) => BACKENDS[before - 1],
    }
}

/// What [`CHOSEN`] is for a backend.
fn number(backend: &'static dyn Backend) -> usize {
    let index = BACKENDS.iter().position(|listed| listed.name() == backend.name());
    1 + index.expect("a backend is in the list")
}

fn find(name: &str) -> Result<&'static dyn Backend, ChooseError> {
    if name == AUTO {
        return Ok(fastest());
    }
    let known = BACKENDS.iter().copied().find(|backend| backend.name() == name);
    let backend = known.ok_or_else(|| ChooseError::Unknown(name.into()))?;
    if backend.is_available() { Ok(backend) } else { Err(ChooseError::Unavailable(backend.name())) }
}

fn fastest() -> &'static dyn Backend {
    let available = BACKENDS.iter().copied().find(|backend| backend.is_available());
    available.expect("OpenBLAS is always available")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_available_backend_can_be_used_in_a_scope() {
        let before = chosen();
        for name in available() {
            assert_eq!(with_backend(name, chosen), Ok(name));
            assert_eq!(chosen(), before);
        }
        assert_eq!(with_backend(AUTO, chosen), Ok(available()[0]));
        assert!(available().contains(&"openblas") && available().contains(&"portable"));
        let panicked = std::panic::catch_unwind(|| with_backend("portable", || panic!("expected")));
        assert!(panicked.is_err() && chosen() == before, "a panic restores the previous backend");
    }

    #[test]
    fn a_process_has_one_backend() {
        let in_use = with_backend(AUTO, chosen).unwrap();
        assert_eq!(choose(AUTO), Ok(()));
        assert_eq!(choose(in_use), Ok(()));
        assert_eq!(choose("portable"), Err(ChooseError::AlreadyChosen { asked: "portable", in_use }));
        assert_eq!(choose_again(in_use), Ok(()));
        assert_eq!(chosen(), in_use);
        let unknown = choose("cublas").unwrap_err().to_string();
        assert!(unknown.contains("`cublas`") && unknown.contains("auto, "), "{unknown}");
        for name in names().into_iter().filter(|name| !available().contains(name)) {
            assert_eq!(choose(name), Err(ChooseError::Unavailable(name)));
        }
    }

    #[test]
    fn descriptions_of_backends_and_precisions_are_distinct() {
        let mut all = Vec::new();
        for name in available() {
            for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
                all.push(with_backend(name, || description(precision)).unwrap());
            }
        }
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count, "{all:?}");
    }
}
