//! onemac.
fn main() {}
