//! The fuzz targets without libFuzzer: the corpus as it is, and changed at random.
//!
//! `FUZZ_SECONDS` says how long each target is fed with changes (otherwise a few hundred), `FUZZ_SEED`
//! with which.

#![expect(clippy::disallowed_methods, reason = "a test reads the project's files and the clock")]

#[path = "corpus/random.rs"]
mod random;
#[path = "../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "the crate for libFuzzer is another one")]
mod targets;

use std::path::Path;

use autoport::kernel::{self, Asked};

const TARGETS: [(&str, random::Target); 4] = [
    ("request", targets::request),
    ("annotation", targets::annotation),
    ("record", targets::record),
    ("netlink", targets::netlink),
];

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus"))
}

/// The recorded chains and rules equal those that autoport makes. Otherwise the fuzzer would never reach the
/// comparison.
#[test]
fn the_base_chains_and_their_rules_are_known() {
    for (asked, name, count) in [(Asked::Chains, "chains", 6), (Asked::Rules, "rules", 13)] {
        let seed = std::fs::read(folder().join("netlink").join(name)).expect("a seed");
        assert_eq!(kernel::read(asked, &seed[1..]), count, "{name}");
    }
}
