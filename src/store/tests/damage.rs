use std::error::Error as _;
use std::os::unix::fs::symlink;

use super::*;

const RECORD: &str = "attachments/cbr0:hers:eth0.json";

/// A node with two holders, the record of one of them damaged.
fn damaged(bytes: &[u8]) -> Node {
    let node = Node::new();
    save(&node, "hers", &[host("0.0.0.0", 80), host("::", 80), host("192.0.2.1", 81)]);
    save(&node, "mine", &[host("0.0.0.0", 82)]);
    fs::write(node.path(RECORD), bytes).expect("writing");
    node
}

fn kept(aside: Aside) -> PathBuf {
    match aside {
        Aside::Kept(path) => path,
        Aside::Lost(error) => panic!("{error}"),
    }
}

fn damage(node: &Node) -> String {
    match node.lock().record(&key_of("hers")) {
        Err(unreadable) => {
            assert_eq!(unreadable.key, Key::of_attachment(&attachment("hers")));
            assert_eq!(unreadable.path, node.path(RECORD));
            unreadable.source.to_string()
        }
        other => panic!("not unreadable but {other:?}"),
    }
}

#[test]
fn every_kind_of_damage_is_noticed() {
    let good = Node::new();
    save(&good, "hers", &[host("0.0.0.0", 80), host("192.0.2.1", 81)]);
    let text = fs::read_to_string(good.path(RECORD)).expect("reading");
    let change = |from: &str, to: &str| {
        let changed = text.replace(from, to);
        assert_ne!(changed, text, "{from}");
        damage(&damaged(changed.as_bytes()))
    };
    for junk in ["", "{", "null", "[]", "{\"version\":1}", "\0\0\0", &text[..text.len() / 2]] {
        assert_eq!(damage(&damaged(junk.as_bytes())), "the file does not hold a record", "{junk}");
    }
    assert_eq!(change("\"port\": 81", "\"port\": 0"), "the file does not hold a record");
    assert!(change("\"version\": 1", "\"version\": 3").starts_with("it has layout version 3"));
    assert!(change("\"hers\"", "\"his\"").starts_with("it names cbr0/his/eth0"));
    assert_eq!(change("\"cbr0\"", "\"../x\""), "the file does not hold a record");
    let place = |address, port| format!("\"address\": \"{address}\",\n      \"port\": {port},");
    let twice = change(&place("192.0.2.1", 81), &place("0.0.0.0", 80));
    assert_eq!(twice, "it holds 0.0.0.0:80/tcp twice");
    let other = change("\"address\": \"0.0.0.0\"", "\"address\": \"::\"");
    assert!(other.starts_with("it leads [::]:80/tcp to 10.0.0.2:80, which is"), "{other}");
    assert!(change("\"markBit\": 13", "\"markBit\": 32").starts_with("it has mark bit 32"));
    assert_eq!(change("\"markBit\": 13", "\"markBit\": 256"), "the file does not hold a record");
    let two = change("\"10.0.0.2/24\"", "\"10.0.0.2/24\", \"fd00::2/64\", \"10.0.0.3/24\"");
    assert!(two.ends_with("of one family, 10.0.0.2/24 and 10.0.0.3/24"), "{two}");

    let node = damaged(b"");
    fs::remove_file(node.path(RECORD)).expect("removing");
    symlink("cbr0:mine:eth0.json", node.path(RECORD)).expect("linking");
    assert_eq!(damage(&node), "it is no regular file", "a link");
    fs::remove_file(node.path(RECORD)).expect("removing");
    fs::create_dir(node.path(RECORD)).expect("making a directory");
    assert_eq!(damage(&node), "it is no regular file", "a directory");
}

#[test]
fn an_unreadable_record_keeps_its_ports_and_blocks_nobody_else() {
    let node = damaged(b"{\"version\":1,");
    assert!(node.holds("hers"));
    let locked = node.lock();
    let found = locked.holders(&[host("192.0.2.7", 80), host("0.0.0.0", 82)]).expect("looking");
    assert_eq!(found.len(), 2);
    let Who::Unreadable(unreadable) = &found[0].who else { panic!("not damaged: {found:?}") };
    assert_eq!(unreadable.key.attachment(), Some(attachment("hers")));
    assert!(unreadable.to_string().contains("its ports stay held"), "{unreadable}");
    assert!(unreadable.source().is_some_and(|source| source.source().is_some()));
    assert_eq!(found[0].hosts, [host("0.0.0.0", 80)]);
    assert!(matches!(found[1].who, Who::Record(_)));

    let mine = record(&locked, "mine", &[host("0.0.0.0", 82), host("0.0.0.0", 83)]);
    locked.save(&mine).expect("saving somebody else");
    let hers = record(&locked, "hers", &[host("0.0.0.0", 80)]);
    let error = locked.save(&hers).expect_err("it must be discarded first");
    assert!(matches!(error, Error::Unreadable(_)), "{error}");
    locked.tidy().expect("tidying");
    assert_eq!(locked.entered(&Key::of_attachment(&attachment("hers"))).expect("looking").len(), 3);
}

#[test]
fn discarding_frees_the_ports_and_keeps_the_bytes() {
    let node = damaged(b"first");
    let key = Key::of_attachment(&attachment("hers"));
    let locked = node.lock();
    let all = [host("0.0.0.0", 80), host("::", 80), host("192.0.2.1", 81)];
    assert_eq!(locked.entered(&key).expect("looking"), all);

    let copy = kept(locked.discard(&key).expect("discarding"));
    assert_eq!(copy, node.path("unreadable/cbr0:hers:eth0.1"));
    assert_eq!(fs::read(&copy).expect("reading"), b"first");
    assert_eq!(locked.record(&key_of("hers")).expect("loading"), None);
    assert_eq!(holders(&locked, &all), []);
    assert!(!node.path("ports/tcp/81").exists());
    assert_eq!(holders(&locked, &[host("0.0.0.0", 82)])[0].0, "mine");

    fs::write(node.path(RECORD), b"second").expect("writing");
    let second = kept(locked.discard(&key).expect("discarding another"));
    assert_eq!(second, node.path("unreadable/cbr0:hers:eth0.2"));
    assert_eq!(fs::read(&second).expect("reading"), b"second");
    assert_eq!(fs::read(&copy).expect("reading"), b"first");
    assert_eq!(mode(&node.path("unreadable")), 0o700);
}

#[test]
fn discarding_leaves_what_another_took_over() {
    let node = damaged(b"");
    let taken = save(&node, "new", &[host("0.0.0.0", 80)]);
    let locked = node.lock();
    let key = Key::of_attachment(&attachment("hers"));
    assert_eq!(locked.entered(&key).expect("looking"), [host("::", 80), host("192.0.2.1", 81)]);
    locked.discard(&key).expect("discarding");
    assert_eq!(locked.owned(&taken).expect("looking"), taken.mappings);
}

#[test]
fn a_directory_in_the_place_of_a_record_can_be_discarded() {
    let node = damaged(b"");
    fs::remove_file(node.path(RECORD)).expect("removing");
    fs::create_dir(node.path(RECORD)).expect("making a directory");
    let (locked, key) = (node.lock(), Key::of_attachment(&attachment("hers")));
    kept(locked.discard(&key).expect("discarding"));
    assert_eq!(locked.record(&key_of("hers")).expect("loading"), None);
}

/// On a full disk there is no room for the name of a copy.
#[test]
fn what_cannot_be_put_aside_can_be_discarded() {
    let node = damaged(b"{");
    fs::write(node.path("unreadable"), "in the way").expect("writing");
    let (locked, key) = (node.lock(), Key::of_attachment(&attachment("hers")));
    let aside = locked.discard(&key).expect("discarding");
    assert!(aside.to_string().contains("no copy could be kept: cannot"), "{aside}");
    assert_eq!(locked.record(&key_of("hers")).expect("loading"), None);
    assert_eq!(holders(&locked, &[host("0.0.0.0", 80)]), []);
}

#[test]
fn many_records_are_read_whole() {
    let node = Node::new();
    let total = 20;
    for port in 1..=total {
        save(&node, &format!("{port:03}"), &[host("0.0.0.0", port), host("::", port)]);
    }
    let taken = [3, total - 3];
    for port in taken {
        save(&node, &format!("after-{port}"), &[host("0.0.0.0", port)]);
    }
    let damaged = [7, total - 7];
    for port in damaged {
        fs::write(node.path(&format!("attachments/cbr0:{port:03}:eth0.json")), "{")
            .expect("writing");
    }
    let mut unreadable = Vec::new();
    let mut owned = Vec::new();
    for read in node.read().expect("a store").owned_records().expect("reading") {
        match read {
            Ok(record) => owned.extend(record.mappings.iter().map(|mapping| mapping.host)),
            Err(damage) => unreadable.push(damage.key),
        }
    }
    unreadable.sort();
    let keys = damaged.map(|port| Key::of_attachment(&attachment(&format!("{port:03}"))));
    assert_eq!(unreadable, keys);
    owned.sort();
    let mut expected: Vec<HostPort> = (1..=total)
        .filter(|port| !damaged.contains(port))
        .flat_map(|port| [host("0.0.0.0", port), host("::", port)])
        .collect();
    expected.sort();
    assert_eq!(owned, expected, "each once, by who has it now");
}
