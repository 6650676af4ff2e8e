//! The floor: what a program costs that does nothing at all, built like the plugin.

fn main() {}
