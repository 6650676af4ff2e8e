//! The fuzz target of the agent without libFuzzer, as `tests/corpus.rs` of the plugin does it.

#![expect(clippy::disallowed_methods, reason = "a test reads the project's files and the clock")]

#[path = "../../tests/corpus/random.rs"]
mod random;
#[path = "../../fuzz/src/nri.rs"]
#[expect(unreachable_pub, reason = "the crate for libFuzzer is another one")]
mod target;

use std::path::Path;

const TARGETS: [(&str, random::Target); 1] = [("nri", target::nri)];

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus"))
}
