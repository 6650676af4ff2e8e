//! A survey on a real store.
#![expect(clippy::disallowed_methods, reason = "a test makes the files of a store")]

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::model::{Attachment, Mapping, Record, test_record};
use crate::store::{Locked, REMEMBERED, Store};

const NOW: u64 = 1_700_000_400 + 300;
const FIRST: u16 = 20_000;

struct Scene {
    _parent: TempDir,
    dir: PathBuf,
    locked: Locked,
}

fn owner(container_id: &str) -> Owner {
    Owner::bare(Attachment::new("net", container_id, "eth0").expect("a valid attachment"))
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
        let locked = Store::at(&dir).lock(&mut crate::event::Silent);
        Self { _parent: parent, dir, locked: locked.expect("locking") }
    }

    fn record(&self, container_id: &str, numbers: impl Iterator<Item = u16>) -> Record {
        let hosts = numbers.flat_map(|number| tcp(port(number)).hosts().collect::<Vec<_>>());
        let mut mappings: Vec<_> =
            hosts.map(|host| Mapping::towards(host, port(80), &[])).collect();
        mappings.sort_unstable();
        Record {
            mappings,
            offload: None,
            created: NOW,
            boot_id: self.locked.instance().boot_id.clone(),
            ..test_record(owner(container_id))
        }
    }

    fn save(&self, container_id: &str, numbers: std::ops::Range<u16>) -> PathBuf {
        self.locked.save(&self.record(container_id, numbers)).expect("saving");
        self.dir.join(format!("attachments/net:{container_id}:eth0.json"))
    }

    fn release(&self, container_id: &str, numbers: std::ops::Range<u16>, at: u64) {
        let record = self.record(container_id, numbers);
        self.locked.save(&record).expect("saving");
        self.locked.remember(&record, at).expect("remembering");
        self.locked.remove(&record).expect("removing");
    }

    /// How numbers stand to the container `own`, a letter for each.
    fn stand(&self, numbers: std::ops::Range<u16>, examined: bool) -> String {
        let own = owner("own");
        let memory = self.locked.memory(&own, NOW);
        let mut survey = Survey::new(Some(&self.locked), &own, &memory, NOW);
        let mut ask = |spot| survey.look(spot, examined);
        let letter = |number| match ask(tcp(port(number))).expect("looking") {
            Availability::Free => '.',
            Availability::Recent => 'r',
            Availability::Held => 'h',
            Availability::Busy => 'b',
        };
        numbers.map(letter).collect()
    }
}

/// The same, looked up one by one and from a listing.
#[test]
fn what_is_entered_or_was_released_is_seen() {
    for held_before in [0, PATIENCE as u16 - 1, PATIENCE as u16, 200] {
        let scene = Scene::new();
        scene.save("many", FIRST - 200..FIRST - 200 + held_before);
        scene.save("other", FIRST..FIRST + 2);
        scene.release("gone", FIRST + 2..FIRST + 4, NOW);
        scene.release("before", FIRST + 4..FIRST + 5, NOW + 1 - REMEMBERED);
        scene.release("long-ago", FIRST + 5..FIRST + 6, NOW - REMEMBERED);
        scene.release("gone", FIRST + 6..FIRST + 8, NOW - 60);
        scene.release("own", FIRST + 7..FIRST + 10, NOW - 30);
        scene.release("later", FIRST + 9..FIRST + 10, NOW - 10);
        scene.save("other", FIRST..FIRST + 2);
        fs::create_dir_all(scene.dir.join(format!("ports/tcp/{}", FIRST + 10))).expect("a folder");
        let seen = scene.stand(FIRST - 200..FIRST + 12, false);
        let (before, seen) = seen.split_at(200);
        assert_eq!(before.matches('h').count(), usize::from(held_before));
        assert_eq!(seen, "hhrrr.r..rh.", "{held_before} held before");
    }
    let nothing =
        Survey::new(None, &owner("own"), &Memory::default(), NOW).look(tcp(port(80)), true);
    assert_eq!(nothing.expect("no store"), Availability::Free);
}

/// So that a range full of living pods costs no more than that.
#[test]
fn only_so_many_records_are_read() {
    let scene = Scene::new();
    // Of each number the entries are read, and the record that they lead to.
    let read = READ / 2;
    let last = FIRST + u16::try_from(read).expect("few") + 4;
    for number in FIRST..last {
        scene.save(&format!("c{number}"), number..number + 1);
    }
    // All that is entered for them leads nowhere.
    for number in FIRST..last {
        let path = scene.dir.join(format!("attachments/net:c{number}:eth0.json"));
        fs::remove_file(path).expect("it is there");
    }
    let seen = scene.stand(FIRST..last, true);
    assert_eq!(seen, format!("{}hhhh", ".".repeat(read)));
}

/// A record is read for the first of its numbers only, and says the same of each as if it were read
/// every time.
#[test]
fn who_is_behind_an_entry_is_known_from_one_reading() {
    let scene = Scene::new();
    scene.release("gone", FIRST + 10..FIRST + 11, NOW);
    scene.save("other", FIRST..FIRST + 10);
    scene.save("own", FIRST + 10..FIRST + 20);
    fs::remove_file(scene.save("lost", FIRST + 20..FIRST + 30)).expect("it is there");
    fs::write(scene.save("damaged", FIRST + 30..FIRST + 40), "{").expect("writing");
    // The entries that it has taken over are not the other's any more, and it gives some back.
    scene.save("late", FIRST + 5..FIRST + 8);
    scene.save("late", FIRST + 5..FIRST + 7);
    fs::create_dir_all(scene.dir.join(format!("ports/tcp/{}", FIRST + 40))).expect("a folder");
    let expected = "hhhhhhh.hhr...................hhhhhhhhhh..";
    assert_eq!(scene.stand(FIRST..FIRST + 42, true), expected);
}
