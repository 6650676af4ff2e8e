//! The executable: the CNI plugin, or the operator's command line.
fn main() {}
