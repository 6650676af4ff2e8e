//! What a process remembers of records is what their files have.

use std::thread::sleep;

use super::*;

/// Longer than a file counts as changed just now.
const SETTLED: Duration = Duration::from_millis(150);

/// The container of each readable record, with the number of its first port, and how many cannot be read.
fn found(store: &Store) -> (Vec<(String, u16)>, usize) {
    let shared = store.read(&mut Silent).expect("reading").expect("a store");
    let (mut readable, mut unreadable) = (Vec::new(), 0);
    for read in shared.owned_records().expect("listing") {
        match read {
            Ok(record) => {
                let container = record.owner.container_id().expect("an attachment").to_owned();
                readable.push((
                    container,
                    record.mappings.first().map_or(0, |one| one.host.port.get()),
                ));
            }
            Err(_) => unreadable += 1,
        }
    }
    (readable, unreadable)
}

fn ports(wanted: &[(&str, u16)]) -> Vec<(String, u16)> {
    wanted.iter().map(|(container, port)| ((*container).to_owned(), *port)).collect()
}

#[test]
fn every_change_is_seen() {
    let node = Node::new();
    let path = node.path("attachments/cbr0:one:eth0.json");
    save(&node, "one", &[host("0.0.0.0", 1111)]);
    save(&node, "two", &[host("0.0.0.0", 2222)]);
    let store = node.store.clone().recalling();
    let settled = || {
        sleep(SETTLED);
        found(&store)
    };
    for _ in 0..2 {
        assert_eq!(settled(), (ports(&[("one", 1111), ("two", 2222)]), 0));
    }
    save(&node, "one", &[host("0.0.0.0", 3333)]);
    assert_eq!(found(&store), (ports(&[("one", 3333), ("two", 2222)]), 0), "replaced");
    assert_eq!(settled(), (ports(&[("one", 3333), ("two", 2222)]), 0));
    let text = fs::read_to_string(&path).expect("reading");
    fs::write(&path, text.replace("\"port\": 3333", "\"port\": 4444")).expect("writing");
    assert_eq!(
        found(&store),
        (ports(&[("one", 4444), ("two", 2222)]), 0),
        "written into, same length"
    );
    fs::write(&path, "{").expect("writing");
    assert_eq!(settled(), (ports(&[("two", 2222)]), 1), "damaged");
    fs::write(&path, &text).expect("writing");
    assert_eq!(settled(), (ports(&[("one", 3333), ("two", 2222)]), 0), "as before");
    fs::remove_file(&path).expect("deleting");
    assert_eq!(found(&store), (ports(&[("two", 2222)]), 0), "deleted");
    save(&node, "one", &[host("0.0.0.0", 3333)]);
    assert_eq!(found(&store), (ports(&[("one", 3333), ("two", 2222)]), 0), "there again");
    save(&node, "three", &[host("0.0.0.0", 2222)]);
    assert_eq!(found(&store).0, ports(&[("one", 3333), ("three", 2222), ("two", 0)]), "taken over");
}

#[test]
fn what_is_as_it_was_is_read_once() {
    let node = Node::new();
    save(&node, "one", &[host("0.0.0.0", 1111)]);
    sleep(SETTLED);
    let shared = node.read().expect("a store");
    let recall = recall::Recall::default();
    let read = || {
        let read = recall.record(&shared.disk, &key_of("one"), &shared.instance.boot_id);
        read.expect("readable").expect("there")
    };
    let first = read();
    assert!(Arc::ptr_eq(&first, &read()));
    recall.keep(&[]);
    assert!(!Arc::ptr_eq(&first, &read()), "forgotten");
}
