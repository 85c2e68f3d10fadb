//! Nothing: Cargo looks at build dependencies only of crates with a build script.
fn main() {}
