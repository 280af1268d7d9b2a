//! nfdrop.
fn main() {}
