//! The program of the port guard.

use super::*;
use crate::hook::refusal::{Guarded, Held, refusal};

const ROOT: u64 = 1;
const ONE: u64 = 0x2_0000_0011;
const TWO: u64 = 0x2_0000_0022;

fn held(protocol: Protocol, cgroup: u64, first: u16, count: u16) -> Held {
    Held { protocol, cgroup, run: Run { first, count } }
}

fn guarded() -> Guarded {
    Guarded {
        runs: vec![Run { first: 20000, count: 1000 }, Run { first: 30000, count: 1 }],
        held: vec![
            held(Protocol::Tcp, ONE, 20000, 1),
            held(Protocol::Tcp, TWO, 20010, 5),
            held(Protocol::Udp, TWO, 20000, 1),
        ],
    }
}

/// What becomes of a bind in these cgroups.
fn bind(chooses: bool, protocol: u32, port: u16, netns: u64, cgroups: &[u64]) -> (u64, i32) {
    let code = refusal(&guarded(), NETNS, chooses).expect("it is short").bytes();
    let mut context = [0_u8; 80];
    context[12..16].copy_from_slice(&protocol.to_ne_bytes());
    context[44..48].copy_from_slice(&u32::from(port).to_ne_bytes());
    run(&code, &mut context, netns, cgroups)
}

#[test]
fn the_holder_alone_binds_its_ports() {
    let (permitted, refused) = ((1, 0), (0, -98));
    let (one, two) = ([ROOT, 5, 6, ONE, 7], [ROOT, TWO]);
    for (cgroups, protocol, port, expected) in [
        (&one[..], 6, 20000, permitted),
        (&two, 6, 20000, refused),
        (&two, 17, 20000, permitted),
        (&one, 17, 20000, refused),
        (&two, 6, 20010, permitted),
        (&two, 6, 20014, permitted),
        (&two, 6, 20015, refused),
        (&two, 6, 20009, refused),
        (&one, 6, 20010, refused),
        (&[ROOT], 6, 20000, refused),
        (&one, 6, 30000, refused),
        // What is not of the ranges, or of another protocol.
        (&one, 6, 19999, permitted),
        (&one, 6, 21000, permitted),
        (&one, 6, 29999, permitted),
        (&one, 6, 30001, permitted),
        (&one, 6, 8080, permitted),
        (&one, 136, 20500, permitted),
    ] {
        let done = bind(true, protocol, port, NETNS, cgroups);
        assert_eq!(done, expected, "{protocol} {port} {cgroups:?}");
    }
    assert_eq!(bind(true, 6, 20500, NETNS + 1, &one), permitted, "another network namespace");
    assert_eq!(bind(false, 6, 20500, NETNS, &one), (0, 0), "it cannot choose the error");
}

#[test]
fn a_holder_is_known_twelve_levels_below_the_root() {
    let mut deep = vec![ROOT; 12];
    deep.push(ONE);
    assert_eq!(bind(true, 6, 20000, NETNS, &deep), (1, 0));
}

#[test]
fn the_listing_of_the_guard_shows_every_instruction() {
    let listing = refusal(&guarded(), NETNS, true).expect("it is short").to_string();
    assert_eq!(listing, include_str!("../guard.txt"));
}
