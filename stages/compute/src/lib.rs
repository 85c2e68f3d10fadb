//! (empty until its first module lands)
