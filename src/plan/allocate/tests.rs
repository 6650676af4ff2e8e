use std::collections::BTreeSet;
use std::convert::Infallible;

use super::*;
use crate::model::{ContainerPort, HostListeners, PortRange};

fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).expect("a test port")
}

fn range(first: u16, last: u16) -> PortRange {
    PortRange { first: port(first), last: port(last) }
}

fn policy(ranges: &[PortRange]) -> PortPolicy {
    PortPolicy {
        ranges: ranges.to_vec(),
        named_ranges: BTreeMap::from([("game".to_owned(), vec![range(7000, 7001)])]),
        excluded: Vec::new(),
        min_port: port(1),
        allocation: Allocation::Sequential,
        host_listeners: HostListeners::Reject,
        allowed_namespaces: None,
    }
}

fn wish(count: u16, protocols: &[Protocol]) -> Wish {
    Wish {
        name: None,
        protocols: protocols.to_vec(),
        container_port: ContainerPort::Same,
        count: port(count),
        address: None,
        range: None,
    }
}

fn tcp() -> Wish {
    wish(1, &[Protocol::Tcp])
}

/// A node on which some ports are not free, and who was asked how often.
#[derive(Default)]
struct World {
    state: BTreeMap<(Protocol, u16), Availability>,
    /// Held by somebody who turns out to be no more.
    gone: BTreeSet<(Protocol, u16)>,
    looks: usize,
    examinations: usize,
}

impl World {
    fn with(used: &[u16], state: Availability) -> Self {
        let state = used.iter().map(|number| ((Protocol::Tcp, *number), state)).collect();
        Self { state, ..Self::default() }
    }

    fn choose(
        &mut self,
        wishes: &[Wish],
        policy: &PortPolicy,
        cursor: Option<u16>,
        seed: u64,
        earlier: &[Option<Earlier>],
    ) -> Result<Granted, Exhausted> {
        let name = Wish::DEFAULT_RANGE.to_owned();
        let cursors = cursor.into_iter().map(|cursor| (name.clone(), port(cursor))).collect();
        let ask = Ask {
            wishes,
            fixed: &[],
            earlier,
            policy,
            allocation: policy.allocation,
            cursors: &cursors,
            seed,
        };
        let (state, gone) = (&self.state, &self.gone);
        let (mut looks, mut examinations) = (0, 0);
        let at = |spot: Spot| {
            let place = (spot.protocol, spot.port.get());
            state.get(&place).copied().unwrap_or(Availability::Free)
        };
        let chosen = allocate::<Infallible>(
            &ask,
            |spot| {
                looks += 1;
                Ok(at(spot))
            },
            |spot| {
                examinations += 1;
                let is_gone = gone.contains(&(spot.protocol, spot.port.get()));
                Ok(if is_gone { Availability::Free } else { at(spot) })
            },
        );
        self.looks += looks;
        self.examinations += examinations;
        match chosen {
            Ok(chosen) => chosen,
        }
    }

    fn numbers(
        &mut self,
        wishes: &[Wish],
        policy: &PortPolicy,
        cursor: Option<u16>,
    ) -> Option<Vec<u16>> {
        let granted = self.choose(wishes, policy, cursor, 1, &[]).ok()?;
        Some(granted.grants.iter().map(|grant| grant.port.get()).collect())
    }
}

/// The vectors of `KubeWharf`'s kubelet: range, used, the last one chosen, how many, and the answer.
#[test]
fn kubewharfs_vectors_hold() {
    type Vector<'a> = ((u16, u16), &'a [u16], u16, usize, Option<&'a [u16]>);
    let vectors: [Vector; 4] = [
        ((9200, 9499), &[9200, 9201], 9201, 2, Some(&[9202, 9203])),
        ((9200, 9499), &[9200, 9203], 9203, 2, Some(&[9204, 9205])),
        ((9200, 9203), &[9201, 9202], 9202, 2, Some(&[9203, 9200])),
        ((9200, 9203), &[9201, 9202], 9202, 3, None),
    ];
    for ((first, last), used, cursor, count, expected) in vectors {
        let mut world = World::with(used, Availability::Held);
        let policy = policy(&[range(first, last)]);
        let chosen = world.numbers(&vec![tcp(); count], &policy, Some(cursor));
        assert_eq!(chosen.as_deref(), expected, "{first}-{last} {used:?} after {cursor}");
    }
}

#[test]
fn the_ring_begins_where_it_should() {
    let policy = policy(&[range(20, 22)]);
    for (cursor, expected) in [(None, 20), (Some(20), 21), (Some(22), 20), (Some(9), 20)] {
        let chosen = World::default().numbers(&[tcp()], &policy, cursor);
        assert_eq!(chosen, Some(vec![expected]), "{cursor:?}");
    }
    let granted = World::default().choose(&[tcp(), tcp()], &policy, Some(20), 1, &[]);
    let cursors = granted.expect("two are free").cursors;
    assert_eq!(cursors.get(Wish::DEFAULT_RANGE), Some(&port(22)), "the last one chosen");
}

/// A number that was given back comes last.
#[test]
fn the_ring_is_as_long_as_the_range() {
    let policy = policy(&[range(20, 29)]);
    let mut cursor = None;
    for turn in 0..3 {
        for expected in 20..=29 {
            let chosen = World::default().numbers(&[tcp()], &policy, cursor);
            assert_eq!(chosen, Some(vec![expected]), "turn {turn}");
            cursor = Some(expected);
        }
    }
}

#[test]
fn the_last_free_port_is_found_and_then_there_is_none() {
    let one = policy(&[range(20, 20)]);
    assert_eq!(World::default().numbers(&[tcp()], &one, Some(20)), Some(vec![20]));
    assert_eq!(World::default().numbers(&[tcp(), tcp()], &one, None), None, "all or nothing");
    let mut world = World::with(&[20, 21, 23], Availability::Held);
    assert_eq!(world.numbers(&[tcp()], &policy(&[range(20, 23)]), Some(21)), Some(vec![22]));
    world.state.insert((Protocol::Tcp, 22), Availability::Busy);
    let full = world.choose(&[tcp()], &policy(&[range(20, 23)]), None, 1, &[]);
    let text = full.expect_err("it is full").to_string();
    assert!(
        text.starts_with("OutOfHostPort: no tcp port is left in range default (20-23"),
        "{text}"
    );
    assert!(text.contains("3 held, 1 with a listener"), "{text}");
}

#[test]
fn blocks_stay_in_one_piece() {
    let policy = policy(&[range(20, 24), range(30, 33)]);
    let block = [wish(3, &[Protocol::Udp])];
    let mut world = World::default();
    assert_eq!(world.numbers(&block, &policy, None), Some(vec![20]));
    // Neither past the end of a part of the range, nor around.
    assert_eq!(world.numbers(&block, &policy, Some(22)), Some(vec![30]));
    assert_eq!(world.numbers(&block, &policy, Some(31)), Some(vec![20]));
    world.state.insert((Protocol::Udp, 22), Availability::Held);
    world.state.insert((Protocol::Udp, 32), Availability::Busy);
    assert_eq!(world.numbers(&block, &policy, None), None);
}

#[test]
fn one_number_serves_two_protocols() {
    let both = [wish(1, &[Protocol::Tcp, Protocol::Udp])];
    let mut world = World::with(&[20], Availability::Held);
    world.state.insert((Protocol::Udp, 21), Availability::Held);
    assert_eq!(world.numbers(&both, &policy(&[range(20, 22)]), None), Some(vec![22]));
    assert_eq!(world.numbers(&both, &policy(&[range(20, 21)]), None), None);
}

#[test]
fn what_is_excluded_or_too_low_is_not_chosen() {
    let mut policy = policy(&[range(20, 25)]);
    policy.excluded = vec![range(22, 22), range(24, 24)];
    policy.min_port = port(21);
    let numbers = World::default().numbers(&[tcp(), tcp(), tcp()], &policy, None);
    assert_eq!(numbers, Some(vec![21, 23, 25]));
    assert_eq!(World::default().numbers(&vec![tcp(); 4], &policy, None), None);
    let named = Wish { range: Some("game".to_owned()), ..tcp() };
    assert_eq!(World::default().numbers(&[named, tcp()], &policy, None), Some(vec![7000, 21]));
}

#[test]
fn what_is_better_goes_first() {
    let policy = policy(&[range(20, 22)]);
    let mut world = World::default();
    world.state.insert((Protocol::Tcp, 20), Availability::Held);
    world.state.insert((Protocol::Tcp, 21), Availability::Recent);
    world.gone.insert((Protocol::Tcp, 20));
    assert_eq!(world.numbers(&[tcp()], &policy, None), Some(vec![22]), "free");
    world.state.insert((Protocol::Tcp, 22), Availability::Busy);
    assert_eq!(world.numbers(&[tcp()], &policy, None), Some(vec![21]), "released lately");
    assert_eq!(world.examinations, 0, "nobody was looked behind");
    world.state.insert((Protocol::Tcp, 21), Availability::Busy);
    assert_eq!(world.numbers(&[tcp()], &policy, None), Some(vec![20]), "a holder who is no more");
}

#[test]
fn what_the_pod_had_goes_before_everything() {
    let policy = policy(&[range(20, 29)]);
    let mut world = World::default();
    let mut again = |earlier| {
        let granted = world.choose(&[tcp()], &policy, Some(20), 1, &[Some(earlier)]);
        granted.expect("one is free").grants[0].port.get()
    };
    assert_eq!(again(Earlier::Former(port(27))), 27);
    assert_eq!(again(Earlier::Own(port(27))), 27);
    assert_eq!(again(Earlier::Former(port(40))), 21, "not in the range any more");
    world.state.insert((Protocol::Tcp, 27), Availability::Held);
    let taken = world.choose(&[tcp()], &policy, Some(20), 1, &[Some(Earlier::Former(port(27)))]);
    assert_eq!(taken.expect("others are free").grants[0].port.get(), 21);
}

#[test]
fn random_reaches_every_free_port_and_no_other() {
    let mut policy = policy(&[range(20, 29)]);
    policy.allocation = Allocation::Random;
    let mut world = World::with(&[20, 25], Availability::Held);
    let mut seen = BTreeMap::new();
    for seed in 0..2000 {
        let granted = world.choose(&[tcp()], &policy, None, seed, &[]).expect("eight are free");
        *seen.entry(granted.grants[0].port.get()).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 8);
    // 250 each are expected, with a standard deviation of 15.
    assert!(seen.values().all(|count| (175..=325).contains(count)), "{seen:?}");
}

#[test]
fn a_range_that_is_nearly_full_costs_one_look_each() {
    let policy = policy(&[range(20_000, 29_999)]);
    let used: Vec<u16> = (20_000..29_900).collect();
    let mut world = World::with(&used, Availability::Held);
    assert_eq!(world.numbers(&[tcp()], &policy, Some(29_999)), Some(vec![29_900]));
    assert!(world.looks <= 10_000, "{} looks", world.looks);
    assert_eq!(world.examinations, 0);
}

/// The generator of Steele, Lea and Flood (`SplitMix64`), so that a failure can be had again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Random claims and releases against a model: nothing is granted twice, and a claim gets all or
/// nothing.
#[test]
fn no_sequence_of_commands_grants_a_port_twice() {
    for (seed, allocation) in (0..6).zip([Allocation::Sequential, Allocation::Random].repeat(3)) {
        let mut policy = policy(&[range(20, 39)]);
        policy.allocation = allocation;
        let mut dice = Dice(seed);
        let mut world = World::default();
        let mut holders: Vec<Vec<(Protocol, u16)>> = Vec::new();
        let mut cursor = None;
        for step in 0..2000 {
            if dice.below(5) < 2 && !holders.is_empty() {
                let index = usize::try_from(dice.below(holders.len() as u64)).expect("small");
                let released = holders.swap_remove(index);
                for place in released {
                    world.state.remove(&place);
                }
                continue;
            }
            let kinds = [&[Protocol::Tcp][..], &[Protocol::Udp], &[Protocol::Tcp, Protocol::Udp]];
            let wishes: Vec<Wish> = (0..=dice.below(2))
                .map(|_| {
                    let kind = usize::try_from(dice.below(3)).expect("small");
                    wish(1 + u16::try_from(dice.below(3)).expect("small"), kinds[kind])
                })
                .collect();
            let before = world.state.clone();
            let chosen = world.choose(&wishes, &policy, cursor, dice.below(u64::MAX), &[]);
            let Ok(granted) = chosen else {
                assert_eq!(world.state, before, "seed {seed}, step {step}");
                continue;
            };
            assert_eq!(granted.grants.len(), wishes.len());
            cursor = granted.cursors.get(Wish::DEFAULT_RANGE).map(|port| port.get()).or(cursor);
            let mut own = Vec::new();
            for grant in &granted.grants {
                for offset in 0..grant.wish.count.get() {
                    for protocol in &grant.wish.protocols {
                        let place = (*protocol, grant.port.get() + offset);
                        assert!((20..=39).contains(&place.1), "seed {seed}, step {step}");
                        let twice = world.state.insert(place, Availability::Held);
                        assert_eq!(twice, None, "seed {seed}, step {step}: {place:?} twice");
                        own.push(place);
                    }
                }
            }
            holders.push(own);
        }
    }
}
