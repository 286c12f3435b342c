//! Holdfast's harness.
fn main() {}
