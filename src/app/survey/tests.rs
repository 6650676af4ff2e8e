//! A survey on a real store against questions one by one.
#![expect(clippy::disallowed_methods, reason = "a test makes the files of a store")]

use std::fs;
use std::num::NonZeroU16;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::event::Silent;
use crate::model::{
    Allocation, Attachment, ContainerPort, HostListeners, Mapping, Masquerade, Policy, PortPolicy,
    PortRange, Record, Wish,
};
use crate::plan::{Choice, Cursors, Exhausted, Granted, allocate};
use crate::store::{Locked, REMEMBERED, Store};

/// In the middle of a period.
const NOW: u64 = 1_700_000_400 + 300;
const FIRST: u16 = 20_000;

/// How a number may stand in a store.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Nothing,
    Entered,
    /// Of this age, by somebody else or by the claimant.
    Marked {
        age: u64,
        own: bool,
    },
    /// No mark at all, in the period before.
    Damaged,
    /// Both, of which the later one counts.
    MarkedTwice,
}

const KINDS: [Kind; 11] = [
    Kind::Nothing,
    Kind::Entered,
    Kind::Marked { age: 0, own: false },
    Kind::Marked { age: 300, own: false },
    Kind::Marked { age: 301, own: false },
    Kind::Marked { age: REMEMBERED - 1, own: false },
    Kind::Marked { age: REMEMBERED, own: false },
    Kind::Marked { age: 0, own: true },
    Kind::Marked { age: 301, own: true },
    Kind::Damaged,
    Kind::MarkedTwice,
];

struct Scene {
    _parent: TempDir,
    dir: PathBuf,
    locked: Locked,
    owner: Owner,
    own: Releaser,
}

fn owner(container_id: &str) -> Owner {
    let attachment = Attachment::new("net", container_id, "eth0").expect("a valid attachment");
    Owner::bare(attachment)
}

fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).expect("a port is not 0")
}

fn tcp(port: NonZeroU16) -> Spot {
    Spot { protocol: Protocol::Tcp, address: None, port }
}

impl Scene {
    fn new() -> Self {
        // Many small files: in the memory, where a node has them, if there is such a place.
        let parents = ["/dev/shm", "/tmp"].into_iter();
        let parent = { parents }.find_map(|dir| tempfile::tempdir_in(dir).ok()).expect("a folder");
        let dir = parent.path().join("state");
        let locked = Store::at(&dir).lock(Duration::from_mins(1), &mut Silent);
        let owner = owner("own");
        let (locked, own) = (locked.expect("locking"), Releaser::of(&owner));
        Self { _parent: parent, dir, locked, owner, own }
    }

    fn put(&self, protocol: Protocol, number: u16, kind: Kind) {
        let link = |at: u64, target: &str| {
            let period = self.dir.join(format!("released/{}", at / REMEMBERED));
            let marks = period.join(protocol.to_string());
            fs::create_dir_all(&marks).expect("making a directory");
            symlink(target, marks.join(number.to_string())).expect("linking");
            period
        };
        let mark = |at: u64, by: &Releaser| link(at, &format!("{at}/{by}"));
        match kind {
            Kind::Nothing => {}
            Kind::Entered => {
                fs::create_dir_all(self.dir.join(format!("ports/{protocol}/{number}")))
                    .expect("making a directory");
            }
            Kind::Marked { age, own: false } => {
                mark(NOW - age, &Releaser::of(&owner("other")));
            }
            Kind::Marked { age, own: true } => {
                let period = mark(NOW - age, &self.own);
                fs::write(period.join(format!("{}.json", self.own)), "").expect("writing");
            }
            Kind::Damaged => {
                link(NOW - REMEMBERED, "x");
            }
            Kind::MarkedTwice => {
                mark(NOW - 301, &self.own);
                mark(NOW, &Releaser::of(&owner("other")));
            }
        }
    }

    fn survey(&self) -> Survey<'_> {
        Survey::new(Past(Some(&self.locked)), &self.owner, &self.own, NOW)
    }

    /// What every look of its own would say.
    fn stands(&self, protocol: Protocol, port: NonZeroU16) -> Availability {
        let mark = self.locked.released_at(protocol, port, NOW).expect("looking");
        match mark {
            _ if self.locked.entered_at(protocol, port).expect("looking") => Availability::Held,
            Some(mark) if mark.by != self.own => Availability::Recent,
            Some(_) | None => Availability::Free,
        }
    }
}

fn is_listed(survey: &Survey<'_>, protocol: Protocol) -> bool {
    survey.protocols.get(&protocol).is_some_and(|asked| asked.listing.is_some())
}

/// The number at which it ceases to look one by one, and those beside it, of every kind.
#[test]
fn the_last_look_and_the_first_without() {
    for kind in KINDS {
        for before in PATIENCE - 2..=PATIENCE + 1 {
            let scene = Scene::new();
            let numbers = (FIRST..).take(before + 3).map(port);
            let all: Vec<NonZeroU16> = numbers.collect();
            for number in &all[..before] {
                scene.put(Protocol::Tcp, number.get(), Kind::Entered);
            }
            for number in &all[before..] {
                scene.put(Protocol::Tcp, number.get(), kind);
            }
            let mut survey = scene.survey();
            let mut in_vain = 0;
            for number in &all {
                let found = survey.look(tcp(*number)).expect("looking");
                assert_eq!(found, scene.stands(Protocol::Tcp, *number), "{number}, {kind:?}");
                let listed = is_listed(&survey, Protocol::Tcp);
                assert_eq!(listed, in_vain >= PATIENCE, "{number}, {kind:?}");
                in_vain += usize::from(found != Availability::Free);
            }
        }
    }
}

#[test]
fn what_is_free_is_looked_for_one_by_one_however_much_it_is() {
    let scene = Scene::new();
    scene.put(Protocol::Udp, FIRST, Kind::Entered);
    let mut survey = scene.survey();
    for number in (FIRST..).take(10 * PATIENCE).map(port) {
        assert_eq!(survey.look(tcp(number)).expect("looking"), Availability::Free);
    }
    assert!(!is_listed(&survey, Protocol::Tcp));
}

fn choose(
    random: &mut fastrand::Rng,
    wishes: &[Wish],
    size: u16,
    mut look: impl FnMut(Spot) -> Availability,
) -> Result<Granted, Exhausted> {
    let policy = PortPolicy {
        ranges: vec![PortRange { first: port(FIRST), last: port(FIRST + size - 1) }],
        named_ranges: BTreeMap::new(),
        excluded: Vec::new(),
        min_port: NonZeroU16::MIN,
        allocation: Allocation::Sequential,
        host_listeners: HostListeners::Reject,
        allowed_namespaces: None,
        max_per_pod: port(128),
        max_per_namespace: None,
    };
    let cursor = port(FIRST + random.u16(..size));
    let mut ask = crate::model::test_ask(policy);
    ask.requested = wishes.to_vec();
    if random.bool() {
        ask.allocation = Allocation::Random;
    }
    let cursors = Cursors::from([(Wish::DEFAULT_RANGE.to_owned(), cursor)]);
    let choice = Choice { ask: &ask, earlier: &[], cursors: &cursors, seed: random.u64(..) };
    let held = |_| Ok::<_, Error>(Availability::Held);
    allocate(&choice, |spot| Ok(look(spot)), held).expect("the store can be read")
}

#[test]
fn the_choice_is_the_same_with_and_without_a_listing() {
    let (mut listed, mut granted) = ([0, 0], [0, 0]);
    for seed in 0..100 {
        let mut random = fastrand::Rng::with_seed(seed);
        let scene = Scene::new();
        let size = random.u16(50..300);
        // So many in a hundred are not free: held, or recently released as well.
        let full = [0, 50, 90, 99, 100][random.usize(..5)];
        let taken = 1..[2, 6][random.usize(..2)];
        for number in FIRST..FIRST + size {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let is_taken = random.u8(..100) < full;
                let kinds = if is_taken { taken.clone() } else { 0..KINDS.len() };
                scene.put(protocol, number, KINDS[random.usize(kinds)]);
            }
        }
        let wish = |random: &mut fastrand::Rng| Wish {
            name: None,
            protocols: [Protocol::Tcp, Protocol::Udp][..random.usize(1..3)].to_vec(),
            container_port: ContainerPort::Same,
            count: port(random.u16(1..4)),
            address: None,
            range: None,
        };
        let wishes: Vec<Wish> = (0..random.u8(1..6)).map(|_| wish(&mut random)).collect();
        let mut survey = scene.survey();
        let chosen =
            choose(&mut random.clone(), &wishes, size, |spot| survey.look(spot).expect("looking"));
        let expected =
            choose(&mut random, &wishes, size, |spot| scene.stands(spot.protocol, spot.port));
        assert_eq!(chosen, expected, "seed {seed}");
        listed[usize::from(is_listed(&survey, Protocol::Tcp))] += 1;
        granted[usize::from(chosen.is_ok())] += 1;
    }
    assert!(listed.iter().chain(&granted).all(|count| *count > 10), "{listed:?} {granted:?}");
}

/// A record is read for the first of its numbers only, and says the same of each as if it were read
/// every time.
#[test]
fn who_is_behind_an_entry_is_known_from_one_reading() {
    let scene = Scene::new();
    let save = |container_id: &str, numbers: std::ops::Range<u16>| {
        let hosts = numbers.flat_map(|number| tcp(port(number)).hosts().collect::<Vec<_>>());
        let mut mappings: Vec<_> =
            hosts.map(|host| Mapping::towards(host, port(80), &[])).collect();
        mappings.sort_unstable();
        let record = Record {
            owner: owner(container_id),
            pod_addresses: Vec::new(),
            policy: Policy {
                masquerade: Masquerade::Local,
                mark_bit: 13,
                source_ranges: Vec::new(),
                host_addresses: Vec::new(),
                counters: false,
            },
            mappings,
            grants: Vec::new(),
            dialects: [].into(),
            created: NOW,
            boot_id: scene.locked.instance().boot_id.clone(),
        };
        scene.locked.save(&record).expect("saving");
        scene.dir.join(format!("attachments/net:{container_id}:eth0.json"))
    };
    save("other", FIRST..FIRST + 10);
    save("own", FIRST + 10..FIRST + 20);
    fs::remove_file(save("lost", FIRST + 20..FIRST + 30)).expect("it is there");
    fs::write(save("damaged", FIRST + 30..FIRST + 40), "{").expect("writing");
    // The entries that it has taken over are not the other's any more, and it gives some back.
    save("late", FIRST + 5..FIRST + 8);
    save("late", FIRST + 5..FIRST + 7);
    scene.put(Protocol::Tcp, FIRST + 40, Kind::Entered);
    scene.put(Protocol::Tcp, FIRST + 10, Kind::MarkedTwice);
    let mut survey = scene.survey();
    for _ in 0..2 {
        let found = (FIRST..FIRST + 42).map(|number| {
            match survey.examine(tcp(port(number))).expect("looking") {
                Availability::Free => '.',
                Availability::Recent => 'r',
                Availability::Held => 'h',
                Availability::Busy => 'b',
            }
        });
        let expected = "hhhhhhh.hhr.........\
                        ..........hhhhhhhhhh..";
        assert_eq!(found.collect::<String>(), expected);
    }
}
