//! The table that records imply, against the scripts in `golden/`. Each case there is a folder with
//! `records.json`, as the store writes them, and `ruleset.nft`. The integration tests load every
//! script into a kernel, so none is only an opinion.
//!
//! `BLESS=1 cargo test --test ruleset` writes the scripts again; the difference is the review.

#![expect(clippy::disallowed_methods, reason = "tests read their own files")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use autoport::model::Record;
use autoport::ruleset::{Identity, Ruleset, chains_of, elements_of};

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let entries = fs::read_dir(folder).expect("the folder of the cases");
    let mut cases: Vec<_> = entries.map(|entry| entry.expect("a case").path()).collect();
    cases.sort();
    assert!(!cases.is_empty(), "there are no cases");
    cases
}

fn records(case: &Path) -> Vec<Record> {
    let bytes = fs::read(case.join("records.json")).expect("records.json");
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", case.display()))
}

#[test]
fn records_imply_the_golden_scripts() {
    for case in cases() {
        let printed = Ruleset::new(Identity::current("golden"), &records(&case)).to_string();
        let golden = case.join("ruleset.nft");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&golden, &printed).expect("writing the script");
        }
        let expected = fs::read_to_string(&golden).expect("ruleset.nft; BLESS=1 writes it");
        assert_eq!(printed, expected, "{}", case.display());
    }
}

/// The other table is there only where a record asks for it, and the first does not change for it.
#[test]
fn records_imply_what_is_offloaded() {
    for case in cases() {
        let mut records = records(&case);
        let ruleset = |records: &[Record]| Ruleset::new(Identity::current("golden"), records);
        let whole = ruleset(&records);
        let golden = case.join("offload.nft");
        if whole.offload.is_empty() {
            assert!(!golden.exists(), "{}", case.display());
            continue;
        }
        let printed = whole.offload.to_string();
        if std::env::var_os("BLESS").is_some() {
            fs::write(&golden, &printed).expect("writing the script");
        }
        let expected = fs::read_to_string(&golden).expect("offload.nft; BLESS=1 writes it");
        assert_eq!(printed, expected, "{}", case.display());
        for record in &mut records {
            record.offload = None;
        }
        let without = ruleset(&records);
        assert_eq!(without.to_string(), whole.to_string(), "{}", case.display());
        assert!(without.offload.is_empty());
    }
}

/// Nothing varies with a pod but elements: twice the pods of every network are the same chains.
#[test]
fn the_number_of_rules_does_not_depend_on_the_number_of_pods() {
    for case in cases() {
        let records = records(&case);
        let more: Vec<Record> = records
            .iter()
            .cloned()
            .chain(records.iter().cloned().map(|mut record| {
                for mapping in &mut record.mappings {
                    let port = mapping.host.port.checked_add(10_000).expect("a low test port");
                    mapping.host.port = port;
                }
                record
            }))
            .collect();
        let identity = || Identity::current("golden");
        let (few, many) = (Ruleset::new(identity(), &records), Ruleset::new(identity(), &more));
        assert_eq!(few.chains(), many.chains(), "{}", case.display());
        assert_eq!(2 * few.elements.len(), many.elements.len(), "{}", case.display());
    }
}

/// Every name that a rule or an element refers to exists in the table.
#[test]
fn nothing_refers_to_what_is_not_there() {
    for case in cases() {
        let records = records(&case);
        let script = Ruleset::new(Identity::current("golden"), &records).to_string();
        let declared: BTreeSet<&str> = script
            .lines()
            .filter_map(|line| line.trim().strip_suffix(" {")?.split_once(' '))
            .map(|(_, name)| name)
            .collect();
        let words = script.split([' ', '\n', '}']).collect::<Vec<_>>();
        for pair in words.windows(2).filter(|pair| ["jump", "goto"].contains(&pair[0])) {
            assert!(declared.contains(pair[1]), "{}: {pair:?}", case.display());
        }
        for name in words.iter().filter_map(|word| word.strip_prefix('@')) {
            assert!(declared.contains(name), "{}: {name}", case.display());
        }
        let translated = |record: &&Record| elements_of(record, &record.mappings).next().is_some();
        for chain in records.iter().filter(translated).flat_map(chains_of) {
            assert!(declared.contains(chain.name.as_str()), "{}: {}", case.display(), chain.name);
        }
    }
}

#[test]
fn only_our_own_comments_are_recognised() {
    let identity = Identity::current("0123456789abcdef");
    assert_eq!(Identity::parse(&identity.to_string()), Some(identity));
    for foreign in ["", "autoport", "autoport layout x instance y", "CNI portmap plugin"] {
        assert_eq!(Identity::parse(foreign), None, "{foreign:?}");
    }
}
