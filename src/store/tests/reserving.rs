//! Reservations, and bringing them back after a boot.

use crate::event::{Event, Silent};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

use nix::unistd::geteuid;

use super::protection::directory_of_somebody_else;
use super::*;

fn reservation(name: &str, hosts: &[HostPort]) -> Reservation {
    let (hosts, created) = (hosts.to_vec(), 1_700_000_000);
    Reservation { name: name.to_owned(), hosts, created, persistent: false }
}

fn names(shared: &Shared) -> Vec<String> {
    let all = shared.reservations().expect("listing");
    all.into_iter().map(|read| read.expect("readable").name).collect()
}

impl Node {
    /// The same node, with a place for what outlives a boot.
    fn persistent() -> Self {
        let node = Self::new();
        let store = node.store.clone().with_persistent(&node.kept());
        Self { store, ..node }
    }

    /// What a boot does to a tmpfs.
    fn reboot(&self) {
        fs::remove_dir_all(&self.dir).expect("deleting");
    }
}

#[test]
fn a_reservation_holds_and_is_no_attachment() {
    let node = Node::new();
    let locked = node.lock();
    save_in(&locked, "4f2a", &[host("0.0.0.0", 80)]);
    let hosts = [host("0.0.0.0", 9100), host("::", 9100)];
    locked.reserve(&reservation("node-exporter", &hosts)).expect("reserving");
    assert_eq!(
        holders(&locked, &[host("192.0.2.1", 9100), host("0.0.0.0", 80)]),
        [
            ("4f2a".to_owned(), vec![host("0.0.0.0", 80)]),
            ("reservation node-exporter".to_owned(), vec![host("0.0.0.0", 9100)]),
        ]
    );
    assert!(locked.entered_at(Protocol::Tcp, host("::", 9100).port).expect("looking"));
    assert_eq!(locked.records().expect("listing").len(), 1, "only attachments");
    assert_eq!(names(&locked), ["node-exporter"]);
    locked.tidy().expect("tidying");
    assert_eq!(holders(&locked, &hosts).len(), 1, "it is exempt");
    let entry = "ports/tcp/9100/0.0.0.0 -> ../../../reservations/node-exporter.json".to_owned();
    assert!(node.tree().contains(&entry), "{:?}", node.tree());

    assert_eq!(locked.release("node-exporter").expect("releasing"), Some(hosts.to_vec()));
    assert_eq!(locked.release("node-exporter").expect("releasing"), None);
    assert_eq!(holders(&locked, &hosts), []);
    assert!(!node.path("ports/tcp/9100").exists());
}

fn save_in(locked: &Locked, container_id: &str, hosts: &[HostPort]) {
    locked.save(&record(locked, container_id, hosts)).expect("saving");
}

#[test]
fn reserving_again_replaces() {
    let node = Node::new();
    let locked = node.lock();
    let (kept, gone, new) = (host("::", 1), host("::", 2), host("::", 3));
    locked.reserve(&reservation("a", &[gone, kept, kept])).expect("reserving");
    locked.reserve(&reservation("a", &[new, kept])).expect("reserving");
    let name = "reservation a".to_owned();
    assert_eq!(holders(&locked, &[kept, gone, new]), [(name, vec![kept, new])]);
    assert_eq!(locked.release("a").expect("releasing"), Some(vec![kept, new]));
}

#[test]
fn no_name_leaves_the_directory() {
    let node = Node::persistent();
    let locked = node.lock();
    for name in ["", "..", "../attachments/x", "a/b", ".hidden", &"n".repeat(201)] {
        let refused = locked.reserve(&reservation(name, &[host("::", 1)]));
        assert!(matches!(refused, Err(Error::Name(_))), "{refused:?}");
        assert!(matches!(locked.release(name), Err(Error::Name(_))));
    }
    assert_eq!(node.tree(), [""; 0]);
}

#[test]
fn an_unreadable_reservation_keeps_its_ports_until_it_is_released() {
    let node = Node::new();
    let locked = node.lock();
    let hosts = [host("0.0.0.0", 9100)];
    locked.reserve(&reservation("a", &hosts)).expect("reserving");
    locked.reserve(&reservation("b", &[host("0.0.0.0", 9101)])).expect("reserving");
    let text = fs::read_to_string(node.path("reservations/b.json")).expect("reading");
    fs::write(node.path("reservations/a.json"), &text).expect("writing");
    locked.tidy().expect("tidying");
    assert_eq!(holders(&locked, &hosts), [("?".to_owned(), hosts.to_vec())]);
    let unreadable = locked.reserve(&reservation("a", &hosts)).expect_err("it must be released");
    assert!(unreadable.to_string().ends_with("until `autoport release a`"), "{unreadable}");
    assert_eq!(locked.release("a").expect("releasing"), Some(hosts.to_vec()));
    assert_eq!(holders(&locked, &hosts), []);
    assert!(node.path("unreadable/reservation:a.1").exists(), "{:?}", node.tree());
    assert_eq!(names(&locked), ["b"]);
}

#[test]
fn what_is_persistent_comes_back_after_a_boot() {
    let node = Node::persistent();
    let hosts = [host("0.0.0.0", 53), host("::", 53)];
    let dns = Reservation { persistent: true, ..reservation("dns", &hosts) };
    {
        let locked = node.lock();
        locked.reserve(&dns).expect("reserving");
        locked.reserve(&reservation("short", &[host("::", 54)])).expect("reserving");
        save_in(&locked, "4f2a", &[host("::", 80)]);
    }
    assert_eq!(mode(&node.kept()), 0o700);
    assert_eq!(mode(&node.kept().join("dns.json")), 0o600);
    node.reboot();
    let locked = node.lock();
    assert_eq!(holders(&locked, &hosts), [("reservation dns".to_owned(), hosts.to_vec())]);
    assert_eq!(locked.reservations().expect("listing").pop().expect("one").expect("readable"), dns);
    assert_eq!(holders(&locked, &[host("::", 54), host("::", 80)]), []);

    locked.release("dns").expect("releasing").expect("it was there");
    drop(locked);
    node.reboot();
    assert_eq!(names(&node.lock()), [""; 0]);
}

#[test]
fn a_reservation_can_lose_its_persistence() {
    let node = Node::persistent();
    let short = reservation("dns", &[host("::", 53)]);
    let long = Reservation { persistent: true, ..short.clone() };
    node.lock().reserve(&long).expect("reserving");
    node.lock().reserve(&short).expect("reserving");
    assert_eq!(names(&node.lock()), ["dns"]);
    node.reboot();
    assert_eq!(names(&node.lock()), [""; 0]);
    let error = Node::new().lock().reserve(&long).expect_err("there is no place for it");
    assert!(matches!(error, Error::NotPersistent { .. }), "{error}");
}

/// Off tmpfs what is void is deleted first.
#[test]
fn a_boot_on_a_disk_leaves_what_is_persistent() {
    let node = Node::on_disk();
    let store = node.store.clone().with_persistent(&node.kept());
    let node = Node { store, ..node };
    let persistent = Reservation { persistent: true, ..reservation("a", &[host("::", 1)]) };
    node.lock().reserve(&persistent).expect("reserving");
    node.lock().reserve(&reservation("b", &[host("::", 2)])).expect("reserving");
    let boot_id = node.lock().instance().boot_id.clone();
    let text = fs::read_to_string(node.path("instance")).expect("reading");
    fs::write(node.path("instance"), text.replace(&boot_id, "earlier")).expect("writing");
    assert!(node.read().is_none());
    assert_eq!(names(&node.lock()), ["a"]);
    assert_eq!(holders(&node.lock(), &[host("::", 1), host("::", 2)]).len(), 1);
}

#[test]
fn what_cannot_be_brought_back_is_said_and_left() {
    let node = Node::persistent();
    drop(node.lock());
    let persistent = Reservation { persistent: true, ..reservation("good", &[host("::", 1)]) };
    node.lock().reserve(&persistent).expect("reserving");
    fs::write(node.kept().join("bad.json"), "{").expect("writing");
    fs::write(node.kept().join("README"), "").expect("writing");
    symlink("good.json", node.kept().join("link.json")).expect("linking");
    node.reboot();
    let mut log = Vec::new();
    let locked = node.store.lock(&mut log).expect("locking");
    assert_eq!(names(&locked), ["good"]);
    let log: Vec<String> = log.iter().map(Event::to_string).collect();
    assert_eq!(log.len(), 2, "{log:?}");
    let lost =
        "bad.json is unreadable (the file does not hold a record): its ports are not reserved";
    assert!(log.iter().any(|line| line.contains(lost)), "{log:?}");
    assert!(node.kept().join("bad.json").exists());
    drop(locked);
}

/// Who may write there decides which ports the node gives away.
#[test]
fn a_directory_of_reservations_that_is_not_ours_alone_is_refused() {
    let node = Node::persistent();
    let kept = Reservation { persistent: true, ..reservation("good", &[host("::", 1)]) };
    node.lock().reserve(&kept).expect("reserving");
    let refused = |store: &Store, dir: &Path| {
        let error = store.lock(&mut Silent).expect_err("bringing back");
        assert!(error.to_string().contains(&dir.display().to_string()), "{error}");
        assert!(!node.path("instance").exists(), "the next command has to begin again");
        error
    };
    node.reboot();
    for open in [0o720, 0o702, 0o1777] {
        fs::set_permissions(node.kept(), fs::Permissions::from_mode(open)).expect("opening up");
        let error = refused(&node.store, &node.kept());
        assert!(matches!(error, Error::WritableByOthers { mode, .. } if mode == open), "{error}");
    }
    fs::set_permissions(node.kept(), fs::Permissions::from_mode(0o700)).expect("protecting");

    let moved = node.dir.with_file_name("moved");
    fs::rename(node.kept(), &moved).expect("moving");
    symlink(&moved, node.kept()).expect("linking");
    let error = refused(&node.store, &node.kept());
    assert!(matches!(error, Error::NotADirectory { found: "a symbolic link", .. }), "{error}");
    fs::remove_file(node.kept()).expect("removing");
    fs::rename(&moved, node.kept()).expect("moving back");

    let foreign = match chown(node.kept(), Some(65_533), None) {
        Ok(()) => node.kept(),
        Err(_) => directory_of_somebody_else(),
    };
    let error = refused(&node.store.clone().with_persistent(&foreign), &foreign);
    assert!(matches!(error, Error::ForeignOwner { .. }), "{error}");
    // As root it was given away.
    let _ = chown(node.kept(), Some(geteuid().as_raw()), None);
    assert_eq!(names(&node.lock()), ["good"], "nothing was lost");

    // The same for what is to be kept while the store is in use.
    fs::set_permissions(node.kept(), fs::Permissions::from_mode(0o770)).expect("opening up");
    let another = Reservation { name: "another".to_owned(), ..kept };
    let refused = node.lock().reserve(&another).expect_err("not ours alone");
    assert!(matches!(refused, Error::WritableByOthers { mode: 0o770, .. }), "{refused}");
    assert_eq!(names(&node.lock()), ["good"]);
}

/// The instance file was lost while the node was running.
#[test]
fn nobody_loses_a_port_to_what_is_brought_back() {
    let node = Node::persistent();
    let (mine, theirs) = (host("::", 1), host("::", 2));
    let persistent = Reservation { persistent: true, ..reservation("a", &[mine, theirs]) };
    node.lock().reserve(&persistent).expect("reserving");
    fs::remove_file(node.path("reservations/a.json")).expect("deleting");
    save_in(&node.lock(), "4f2a", &[theirs]);
    fs::remove_file(node.path("instance")).expect("deleting");
    assert_eq!(
        holders(&node.lock(), &[mine, theirs]),
        [("4f2a".to_owned(), vec![theirs]), ("reservation a".to_owned(), vec![mine])]
    );
}
