//! Block storage for virtual machines: command lines and wiring.
fn main() {}
