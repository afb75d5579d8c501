//! vsctl.
fn main() {}
