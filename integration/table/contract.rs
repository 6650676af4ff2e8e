//! The contract of `kernel::Nft`: applying a difference gives the same as rebuilding everything.

use std::collections::BTreeSet;
use std::process::Command;

use autoport::kernel::{Change, Error, Nft};
use autoport::model::{Attachment, Policy, Protocol, Record};
use autoport::ruleset::{Digest, Ruleset, chains_of};

use super::oracle::rebuild;
use crate::stage::netns::{elsewhere, full_ruleset, in_one_transaction, nft, run};
use crate::stage::records::{INSTANCE, change, map, networks, pod, policy, record, ruleset};

fn open() -> Nft {
    Nft::open(INSTANCE).expect("netlink works")
}

/// Applies `change`, to the end; gives the reason if the table was built again for it.
fn apply(change: &Change, everything: &Ruleset) -> Result<Option<String>, Error> {
    let applied = open().apply(change, || Ok::<_, Error>(everything.clone()))?;
    assert!(applied.unfinished.is_none(), "{:?}", applied.unfinished);
    Ok(applied.rebuilt)
}

/// The elements of a listing are in the order of a hash table, and chains in the order of their
/// making, so lines are compared as a set. Rules keep their chain's name beside them.
fn parts(listing: &str) -> BTreeSet<String> {
    let mut block = String::new();
    let mut parts = BTreeSet::new();
    for line in listing.lines() {
        let text = line.trim();
        if text.ends_with('{') && !text.starts_with("elements") {
            text.clone_into(&mut block);
        }
        let elements = text.trim_start_matches("elements = {").trim_end_matches('}');
        for part in elements.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            parts.insert(format!("{block} {part}"));
        }
    }
    parts
}

/// Insists that going from `before` to `after` by a difference gives what building `after` gives.
///
/// Chains stay when the last pod of a network goes, so `after` is listed with what `kept` needs.
fn same_as_rebuild(before: &[&Record], released: &[&Record], wanted: &[&Record], kept: &[&Record]) {
    let mut after: Vec<&Record> = before.to_vec();
    after.retain(|record| released.iter().all(|gone| !std::ptr::eq(*gone, *record)));
    after.extend(wanted);
    let by_difference = elsewhere(|| {
        rebuild(&ruleset(before));
        let applied = apply(&change(released, wanted), &ruleset(&after));
        assert_eq!(applied.expect("the kernel accepts it"), None);
        full_ruleset()
    });
    let by_rebuild = elsewhere(|| {
        let mut with_chains = ruleset(&[&after[..], kept].concat());
        with_chains.elements = ruleset(&after).elements;
        // Nothing is built for nobody, so somebody has to be there before.
        rebuild(&ruleset(before));
        rebuild(&with_chains);
        full_ruleset()
    });
    let (by_difference, by_rebuild) = (parts(&by_difference), parts(&by_rebuild));
    let only = |these: &BTreeSet<String>, those: &BTreeSet<String>| {
        these.difference(those).cloned().collect::<Vec<_>>()
    };
    let (more, less) = (only(&by_difference, &by_rebuild), only(&by_rebuild, &by_difference));
    assert!(more.is_empty() && less.is_empty(), "too much: {more:?}, too little: {less:?}");
}

#[test]
fn a_difference_comes_to_the_same_as_a_rebuild() {
    let (one, two) = (pod("one", "10.1.0.5/24", &[8001]), pod("two", "10.1.0.6/24", &[8002, 8003]));
    let successor = pod("three", "10.1.0.7/24", &[8002, 8003]);
    let green = Policy { mark_bit: 14, ..policy() };
    let green = map(record("green", green, &["10.2.0.5/24"]), Protocol::Udp, "192.0.2.1", 8001);
    let gated = Policy { source_ranges: networks(&["192.0.2.0/24"]), ..policy() };
    let gated = map(record("gated", gated, &["10.1.0.9/24"]), Protocol::Sctp, "*", 8001);
    let lone = map(record("lone", policy(), &["10.3.0.5/32"]), Protocol::Tcp, "192.0.2.1", 9000);
    let named = map(record("named", policy(), &["10.1.0.8/24"]), Protocol::Tcp, "192.0.2.1", 8005);
    same_as_rebuild(&[&one], &[], &[&two], &[]);
    same_as_rebuild(&[&one, &two], &[&two], &[&successor], &[]);
    same_as_rebuild(&[&one, &two], &[&two], &[], &[]);
    same_as_rebuild(&[&one], &[&one], &[], &[&one]);
    same_as_rebuild(&[&one], &[], &[&green], &[]);
    same_as_rebuild(&[&one], &[], &[&gated], &[]);
    same_as_rebuild(&[&one], &[], &[&lone], &[]);
    same_as_rebuild(&[&one], &[], &[&named], &[]);
    same_as_rebuild(&[&one, &named], &[&named], &[], &[&named]);
    same_as_rebuild(&[&one, &green, &lone], &[&green, &lone], &[&gated], &[&green, &lone]);
}

#[test]
fn many_elements_come_and_go_as_a_difference() {
    let ports: Vec<u16> = (0..in_one_transaction(2500)).map(|number| 10_000 + number).collect();
    let (one, many) = (pod("one", "10.1.0.5/24", &[8001]), pod("many", "10.1.0.6/24", &ports));
    let moved = pod("moved", "10.1.0.7/24", &ports);
    same_as_rebuild(&[&one], &[], &[&many], &[]);
    same_as_rebuild(&[&one, &many], &[&many], &[&moved], &[]);
    same_as_rebuild(&[&one, &many], &[&many], &[], &[]);
}

/// ADD asked again, and the next pod of a network that is known, change no chain.
#[test]
fn applying_again_changes_nothing() {
    elsewhere(|| {
        let one = pod("one", "10.1.0.5/24", &[8001, 8002]);
        rebuild(&ruleset(&[&one]));
        let before = full_ruleset();
        for _ in 0..2 {
            let applied = apply(&change(&[&one], &[&one]), &ruleset(&[&one]));
            assert_eq!(applied.expect("nothing is to be done"), None);
            assert_eq!(full_ruleset(), before);
        }
        apply(&change(&[&one], &[]), &ruleset(&[])).expect("a release");
        let after = full_ruleset();
        apply(&change(&[&one], &[]), &ruleset(&[])).expect("a release of what is gone");
        assert_eq!(full_ruleset(), after);
    });
}

#[test]
fn an_element_that_nobody_released_is_not_overwritten() {
    elsewhere(|| {
        let (one, other) = (pod("one", "10.1.0.5/24", &[8001]), pod("two", "10.1.0.6/24", &[8001]));
        rebuild(&ruleset(&[&one]));
        let before = full_ruleset();
        let refused = apply(&change(&[], &[&other]), &ruleset(&[&other]));
        assert!(matches!(refused, Err(Error::Unrecorded { .. })), "{refused:?}");
        assert_eq!(full_ruleset(), before);
    });
}

/// What names the container goes, with what serves only that, and nothing else: not another
/// container's, not the same container's by another interface.
#[test]
fn the_elements_of_a_container_leave_the_table_by_its_name() {
    elsewhere(|| {
        let by = |network: &str, id: &str, ifname: &str, address: &str, ports: &[u16]| {
            let mut one = pod(id, address, ports);
            one.owner.holder = Attachment::new(network, id, ifname).expect("valid").into();
            one
        };
        let long = "n".repeat(60);
        let id = "f".repeat(64);
        let web = by("blue", "web", "eth0", "10.1.0.5/32", &[8080, 8081]);
        let renamed = by("green", "web", "eth0", "10.1.0.6/24", &[8082]);
        let second = by("blue", "web", "net1", "10.1.0.7/24", &[8083]);
        let near = by("blue", "web2", "eth0", "10.1.0.8/32", &[8084]);
        let named = by(&long, &id, "eth0", "10.1.0.9/32", &[8085]);
        let all = [&web, &renamed, &second, &near, &named];
        rebuild(&ruleset(&all));
        // The lock is nobody's, and the store may be another.
        let mut nft = Nft::open("another").expect("netlink works");
        let gone = nft.withdraw_container("web", "eth0").expect("the kernel accepts it");
        let ports: Vec<u16> = gone.iter().map(|mapping| mapping.host.port.get()).collect();
        assert_eq!(ports, [8080, 8081, 8082]);
        assert!(gone.iter().all(|mapping| mapping.target.is_some()), "{gone:?}");
        let differences = |rest: &[&Record]| open().differences(&ruleset(rest)).expect("a look");
        assert_eq!(differences(&[&second, &near, &named]), [""; 0]);
        assert_eq!(nft.withdraw_container("web", "net1").expect("the kernel accepts it").len(), 1);
        assert_eq!(nft.withdraw_container(&id, "eth0").expect("the kernel accepts it").len(), 1);
        assert_eq!(differences(&[&near]), [""; 0]);
        assert_eq!(nft.withdraw_container("nobody", "eth0").expect("nothing to do"), []);
    });
}

/// A port belongs to one network policy. Two sets could contain it; the rule that comes first would apply.
#[test]
fn a_port_that_is_treated_otherwise_is_not_taken_but_waited_for() {
    let one = pod("one", "10.1.0.5/24", &[8001]);
    let gated = Policy { source_ranges: networks(&["192.0.2.0/24"]), ..policy() };
    let other = map(record("two", gated, &["10.1.0.6/24"]), Protocol::Tcp, "*", 8001);
    let (take, everything) = (change(&[], &[&other]), ruleset(&[&other]));
    let chain = chains_of(&one).into_iter().find_map(|chain| Digest::of_chain(&chain.name));
    let held = format!("held4_{}", chain.expect("it has a network policy"));
    // Where it leads is forgotten, how it is treated is not.
    let forget = "delete element inet autoport ports4 { tcp . 8001 }";
    elsewhere(|| {
        rebuild(&ruleset(&[&one]));
        nft(forget);
        let before = full_ruleset();
        let refused = apply(&take, &everything);
        let Err(Error::Unrecorded { host, set, .. }) = &refused else { panic!("{refused:?}") };
        assert_eq!((host.port.get(), &*set.to_string()), (8001, &*held));
        assert_eq!(full_ruleset(), before);

        // Released a moment ago, so long that this machine cannot miss it.
        nft(&format!("delete element inet autoport {held} {{ tcp . 8001 }}"));
        nft(&format!("add element inet autoport {held} {{ tcp . 8001 timeout 90ms }}"));
        assert_eq!(apply(&take, &everything).expect("it goes within a tick"), None);
        let left = run(Command::new("nft").args(["list", "set", "inet", "autoport", &held]), "").1;
        assert!(left.contains("set held4_") && !left.contains("8001"), "it did not wait: {left}");
        assert_eq!(open().check(&everything).expect("an answer"), None);
    });
}

#[test]
fn what_others_have_is_untouched() {
    let theirs = "table inet theirs {\n\tchain c {\n\t\ttype nat hook prerouting priority dstnat; policy accept;\n\
                  \t\ttcp dport 8001 dnat ip to 10.9.9.9\n\t}\n}\n\
                  table ip autoport {\n\tset s {\n\t\ttype ipv4_addr\n\t\telements = { 10.1.2.3 }\n\t}\n}\n";
    elsewhere(|| {
        nft(theirs);
        let before = full_ruleset();
        let one = pod("one", "10.1.0.5/24", &[8001]);
        rebuild(&ruleset(&[&one]));
        apply(&change(&[&one], &[]), &ruleset(&[])).expect("a release");
        rebuild(&ruleset(&[&one]));
        nft("delete table inet autoport");
        assert_eq!(full_ruleset(), before);
    });
}

#[test]
fn a_table_that_must_not_be_touched_is_not() {
    let one = pod("one", "10.1.0.5/24", &[8001]);
    let later = "autoport layout 5 instance 00112233445566778899aabbccddeeff";
    for comment in [later, "autoport layout 4 instance ffffffffffffffffffffffffffffffff"] {
        elsewhere(|| {
            nft(&format!("table inet autoport {{\n\tcomment \"{comment}\"\n}}\n"));
            let before = full_ruleset();
            let everything = ruleset(&[&one]);
            let applied = apply(&change(&[], &[&one]), &everything);
            let reconciled = open().reconcile(&everything).map(drop);
            for error in [applied.expect_err(comment), reconciled.expect_err(comment)] {
                let newer = matches!(error, Error::NewerLayout { found: 5 });
                let other = matches!(error, Error::OtherInstance { .. });
                assert!(if comment == later { newer } else { other }, "{comment}: {error}");
            }
            assert_eq!(full_ruleset(), before);
        });
    }
}

#[test]
fn a_table_that_is_of_no_use_is_built_again() {
    let (one, two) = (pod("one", "10.1.0.5/24", &[8001]), pod("two", "10.1.0.6/24", &[8002]));
    let everything = ruleset(&[&one, &two]);
    let expected = elsewhere(|| {
        rebuild(&everything);
        full_ruleset()
    });
    let older = "comment \"autoport layout 2 instance 00112233445566778899aabbccddeeff\"";
    let tables = ["", "table inet autoport { }", &format!("table inet autoport {{ {older}; }}")];
    for table in tables {
        elsewhere(|| {
            nft(table);
            let applied = apply(&change(&[], &[&two]), &everything).expect("it can be rebuilt");
            assert!(applied.is_some(), "{table} was not built again");
            assert_eq!(full_ruleset(), expected, "{table}");
        });
    }
}

/// `nft list ruleset > file`, reboot of the firewall service, `nft -f file`: the same table in nft's
/// encoding. CHECK must know it, and so must the next difference.
#[test]
fn a_table_that_nft_saved_and_restored_is_ours() {
    elsewhere(|| {
        let ranges = networks(&["10.0.0.0/9", "192.0.2.0/24", "192.0.2.7/32", "fd00::/15", "::/0"]);
        let gated = Policy { source_ranges: ranges, ..policy() };
        let one =
            map(record("own", gated, &["10.1.0.5/24", "fd00:1::5/64"]), Protocol::Tcp, "*", 8001);
        let lone = map(record("lone", policy(), &["10.3.0.5/32"]), Protocol::Sctp, "192.0.2.1", 1);
        rebuild(&ruleset(&[&one, &lone]));
        nft(&format!("flush ruleset\n{}", full_ruleset()));
        for record in [&one, &lone] {
            assert_eq!(open().check(&ruleset(&[record])).expect("the kernel answers"), None);
            let applied = apply(&change(&[record], &[record]), &ruleset(&[&one, &lone]));
            assert_eq!(applied.expect("nothing is to be done"), None);
        }
    });
}
