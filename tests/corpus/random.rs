//! Seeds of `fuzz/corpus`, as they are and changed at random, for one target after the other.

use std::env;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::time::{Duration, Instant};

use fastrand::Rng;

pub(crate) type Target = fn(&[u8]);

#[test]
fn every_seed_goes_through_its_door() {
    replay(super::folder(), &super::TARGETS);
}

#[test]
fn no_change_of_a_seed_makes_a_panic() {
    feed_changes(super::folder(), &super::TARGETS);
}

/// Feeds each target with its seeds.
fn replay(folder: &Path, targets: &[(&str, Target)]) {
    for (name, target) in targets {
        for (seed, bytes) in corpus(folder, name) {
            let outcome = panic::catch_unwind(|| target(&bytes));
            assert!(outcome.is_ok(), "{seed}");
        }
    }
}

/// Feeds each target with changes of its seeds: for `FUZZ_SECONDS`, otherwise with 500. The order is that
/// of `FUZZ_SEED`.
#[expect(clippy::print_stderr, reason = "the figures are what `make fuzz` is run for")]
fn feed_changes(folder: &Path, targets: &[(&str, Target)]) {
    let seed = setting("FUZZ_SEED").unwrap_or(1);
    let time = setting("FUZZ_SECONDS").map(Duration::from_secs);
    for (name, target) in targets {
        let seeds = corpus(folder, name);
        let mut rng = Rng::with_seed(seed);
        let begun = Instant::now();
        let mut runs = 0_u64;
        while time.map_or(runs < 500, |time| begun.elapsed() < time) {
            let bytes = changed(&mut rng, &seeds);
            runs += 1;
            let outcome = panic::catch_unwind(AssertUnwindSafe(|| target(&bytes)));
            let input = bytes.escape_ascii();
            assert!(outcome.is_ok(), "FUZZ_SEED={seed}, {name}, input {runs}: \"{input}\"");
        }
        eprintln!("{name}: {runs} inputs, seed {seed}, {:.0?}", begun.elapsed());
    }
}

/// The seeds of a target, each with its name.
fn corpus(folder: &Path, target: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder.join(target)).expect("there is a corpus");
    let mut seeds: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("the corpus can be listed").path();
            let name = path.display().to_string();
            (name, fs::read(path).expect("the corpus can be read"))
        })
        .collect();
    seeds.sort();
    assert!(seeds.len() >= 5, "{target} has only {} seeds", seeds.len());
    seeds
}

fn setting(name: &str) -> Option<u64> {
    let text = env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, it must be a number")))
}

/// Words that mean something to one of the readers.
const WORDS: [&[u8]; 16] = [
    b"\"",
    b"{",
    b"[",
    b"null",
    b"-1",
    b"65535",
    b"65536",
    b"0",
    b"1e999",
    b"\xff\xff",
    b"\x00\x00",
    b"\x00",
    b"\\u0000",
    b"::",
    b"\n",
    b",",
];

/// A seed after a few changes: bytes and bits flipped, numbers made extreme, pieces removed, doubled,
/// or taken from another seed.
fn changed(rng: &mut Rng, seeds: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = seeds[rng.usize(0..seeds.len())].1.clone();
    for _ in 0..1 << rng.u8(0..4) {
        let at = rng.usize(0..=bytes.len());
        let end = (at + rng.usize(0..16)).min(bytes.len());
        match rng.u8(0..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(0..8),
            1 if at < bytes.len() => bytes[at] = rng.u8(..),
            2 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.usize(0..5)],
            3 => drop(bytes.drain(at..end)),
            4 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            5 => {
                let other = &seeds[rng.usize(0..seeds.len())].1;
                let from = rng.usize(0..=other.len());
                let to = (from + rng.usize(0..64)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            6 => drop(bytes.splice(at..end, WORDS[rng.usize(0..WORDS.len())].iter().copied())),
            _ => bytes.truncate(bytes.len() - rng.usize(0..=bytes.len().min(8))),
        }
    }
    bytes
}
