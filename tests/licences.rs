//! Every crate in the executable comes from one registry and has a licence of deny.toml's list.
//!
//! Advisories need a database from the network: `cargo deny check`, see deny.toml.

#![expect(clippy::disallowed_methods, reason = "a test asks cargo and reads the project's files")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Everything that cargo resolves for this machine; it needs no network after a build.
fn packages() -> Vec<Value> {
    let host = Command::new("rustc").arg("-vV").output().expect("rustc is beside cargo");
    let host = String::from_utf8(host.stdout).expect("rustc prints UTF-8");
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc has a host");
    let output = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["metadata", "--format-version=1", "--locked", "--offline"])
        .args(["--filter-platform", host])
        .output()
        .expect("cargo runs this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    metadata["packages"].as_array().expect("there are packages").clone()
}

/// The strings of `allow = [ … ]` in deny.toml, one per line.
fn allowed() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deny.toml");
    let text = fs::read_to_string(path).expect("deny.toml is in the repository");
    let (_, list) = text.split_once("\nallow = [\n").expect("deny.toml has an allow list");
    let (list, _) = list.split_once("\n]").expect("the list ends");
    list.lines().map(|line| line.trim().trim_matches(['"', ',']).to_owned()).collect()
}

/// Whether an SPDX expression can be met with the allowed licences. `OR` binds looser than `AND`;
/// crates of old write `/` for `OR`.
fn is_met(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let met = alternatives(&mut words, allowed);
    met && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn alternatives(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut met = requirements(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        met |= requirements(words, allowed);
    }
    met
}

fn requirements(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut met = term(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        met &= term(words, allowed);
    }
    met
}

fn term(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let met = alternatives(words, allowed);
        return words.next_if_eq(&")").is_some() && met;
    }
    let met = words.next().is_some_and(|licence| allowed.contains(licence));
    // An exception only adds permissions.
    if words.next_if_eq(&"WITH").is_some() {
        words.next();
    }
    met
}

#[test]
fn every_licence_is_on_the_list() {
    let allowed = allowed();
    let packages = packages();
    assert!(packages.len() > 10, "cargo names {} packages only", packages.len());
    let wrong: Vec<_> = packages
        .iter()
        .filter(|package| !package["license"].as_str().is_some_and(|text| is_met(text, &allowed)))
        .map(|package| {
            format!("{} {}: {}", package["name"], package["version"], package["license"])
        })
        .collect();
    assert!(wrong.is_empty(), "not covered by licenses.allow of deny.toml:\n{}", wrong.join("\n"));
}

#[test]
fn every_crate_is_from_one_registry_or_from_here() {
    let packages = packages();
    let sources: BTreeSet<_> =
        packages.iter().filter_map(|package| package["source"].as_str()).collect();
    let [source] = sources.into_iter().collect::<Vec<_>>()[..] else {
        panic!("crates come from several places, or none");
    };
    assert!(source.starts_with("registry+"), "{source} is no registry");
}

#[test]
fn an_expression_is_read_as_spdx_means_it() {
    let allowed = BTreeSet::from(["MIT".to_owned(), "Zlib".to_owned()]);
    for met in ["MIT", "MIT/X", "X OR MIT", "(X OR MIT) AND Zlib", "MIT WITH E", "X AND X OR MIT"] {
        assert!(is_met(met, &allowed), "{met}");
    }
    for unmet in ["X", "MIT AND X", "(MIT OR X) AND X", "", "MIT MIT", "X WITH E OR X"] {
        assert!(!is_met(unmet, &allowed), "{unmet}");
    }
}
