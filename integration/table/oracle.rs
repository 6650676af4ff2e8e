//! The table that we build equals the one that nft builds from the script that we print, so that
//! nft determines what a table means.

use std::fs;
use std::path::Path;

use autoport::kernel::Nft;
use autoport::model::{Masquerade, Policy, Protocol, Record};
use autoport::ruleset::Ruleset;

use crate::stage::netns::{elsewhere, full_ruleset, in_one_transaction, nft};
use crate::stage::records::{INSTANCE, map, networks, pod, policy, record, ruleset};

/// Builds the table in the kernel of the calling thread.
pub(crate) fn rebuild(ruleset: &Ruleset) {
    let mut nft = Nft::open(INSTANCE).expect("netlink works");
    nft.adopt(ruleset).unwrap_or_else(|error| panic!("{error}: {error:?}"));
}

/// Insists that nft and we build the same table, that building it twice changes nothing, and that
/// nft reads what it lists.
fn agree(name: &str, ruleset: &Ruleset) {
    let script = ruleset.to_string();
    let of_nft = elsewhere(|| {
        nft(&script);
        full_ruleset()
    });
    let (ours, again, read_back) = elsewhere(|| {
        // Nothing is built for nobody, so somebody has to be there before.
        rebuild(&self::ruleset(&[&pod("before", "10.250.0.5/32", &[1])]));
        rebuild(ruleset);
        let ours = full_ruleset();
        rebuild(ruleset);
        let again = full_ruleset();
        nft(&format!("flush ruleset\n{ours}"));
        (ours, again, full_ruleset())
    });
    assert!(ours.contains("chain guard"), "{name}: nothing was built: {ours}");
    assert_eq!(ours, of_nft, "{name}: nft makes something else of\n{script}");
    assert_eq!(again, ours, "{name}: built again");
    assert_eq!(read_back, ours, "{name}: nft does not read what it lists");
}

#[test]
fn golden_scripts_are_what_we_build() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases = 0;
    for case in fs::read_dir(folder).expect("the golden cases").flatten() {
        let bytes = fs::read(case.path().join("records.json")).expect("records.json");
        let mut records: Vec<Record> = serde_json::from_slice(&bytes).expect("records");
        // Of the other table see `packets::offload`.
        for record in &mut records {
            record.offload = None;
        }
        let records: Vec<&Record> = records.iter().collect();
        agree(&case.path().display().to_string(), &ruleset(&records));
        cases += 1;
    }
    assert!(cases > 0, "there are no golden cases");
}

/// Every protocol on every address, on one of each family and on both loopbacks.
fn everything(name: &str, policy: Policy, addresses: &[&str], first_port: u16) -> Record {
    let mut record = record(name, policy, addresses);
    for (protocol, port) in Protocol::ALL.into_iter().zip(first_port..) {
        for host in ["*", "192.0.2.1", "2001:db8::1", "127.0.0.1", "::1", "192.0.2.255"] {
            record = map(record, protocol, host, port);
        }
    }
    record
}

const DUAL: [&str; 2] = ["10.1.0.5/24", "fd00:1::5/64"];

fn policies() -> Vec<(&'static str, Policy)> {
    let ranges = ["10.0.0.0/9", "192.0.2.7/32", "172.16.0.0/12", "2001:db8::/33", "fd00::1/128"];
    let everywhere = ["0.0.0.0/0", "::/0"];
    vec![
        ("snat", policy()),
        ("no-snat", Policy { masquerade: Masquerade::Nobody, ..policy() }),
        ("masq-all", Policy { masquerade: Masquerade::Everybody, ..policy() }),
        ("bit-0", Policy { mark_bit: 0, ..policy() }),
        ("bit-31", Policy { mark_bit: 31, ..policy() }),
        ("sources", Policy { source_ranges: networks(&ranges), ..policy() }),
        ("hosts", Policy { host_addresses: networks(&ranges), ..policy() }),
        ("everywhere", Policy { host_addresses: networks(&everywhere), ..policy() }),
        ("only-v4", Policy { source_ranges: networks(&["0.0.0.0/0"]), ..policy() }),
        (
            "all-of-it",
            Policy {
                masquerade: Masquerade::Everybody,
                mark_bit: 31,
                source_ranges: networks(&everywhere),
                host_addresses: networks(&ranges),
            },
        ),
    ]
}

#[test]
fn every_policy_is_built_as_printed() {
    for (name, policy) in policies() {
        agree(name, &ruleset(&[&everything(name, policy, &DUAL, 8000)]));
    }
}

#[test]
fn every_kind_of_pod_address_is_built_as_printed() {
    let kinds: [(&str, &[&str]); 7] = [
        ("v4", &["10.1.0.5/24"]),
        ("v6", &["fd00:1::5/64"]),
        ("host-prefix-v4", &["10.1.0.5/32"]),
        ("host-prefix-v6", &["fd00:1::5/128"]),
        ("host-prefixes", &["10.1.0.5/32", "fd00:1::5/128"]),
        ("odd-prefixes", &["10.1.0.5/23", "fd00:1::5/61"]),
        ("no-address", &[]),
    ];
    for (name, addresses) in kinds {
        agree(name, &ruleset(&[&everything(name, policy(), addresses, 8000)]));
    }
}

#[test]
fn networks_stand_side_by_side_as_printed() {
    let mut records =
        vec![pod("lone", "10.9.0.5/32", &[7000]), pod("other", "fd09::5/128", &[7001])];
    for ((name, policy), number) in policies().into_iter().zip(0..) {
        records.push(everything(name, policy, &DUAL, 8000 + 10 * number));
    }
    agree("side by side", &ruleset(&records.iter().collect::<Vec<_>>()));
}

#[test]
fn no_mapping_and_five_thousand_are_built_as_printed() {
    agree("none", &ruleset(&[]));
    agree("one", &ruleset(&[&pod("one", "10.1.0.5/24", &[8080])]));
    let pods = in_one_transaction(50);
    let many: Vec<Record> = (0..pods)
        .map(|number| {
            let addresses = [format!("10.1.0.{}/24", number + 2), format!("fd00:1::{number:x}/64")];
            let bare =
                record(&format!("pod{number}"), policy(), &addresses.each_ref().map(|a| &**a));
            let first = 10_000 + 50 * number;
            (first..first + 50).fold(bare, |record, port| map(record, Protocol::Udp, "*", port))
        })
        .collect();
    let ruleset = ruleset(&many.iter().collect::<Vec<_>>());
    // 5,000 of them, of two elements each.
    assert_eq!(ruleset.elements.len(), usize::from(pods) * 50 * 2 * 2);
    agree("five thousand", &ruleset);
}
