//! `docs/security.md` names a test for what it says; each must be there.

#![expect(clippy::disallowed_methods, reason = "a test reads the project's own files")]

mod suites;

use std::fs;
use std::path::Path;

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"))
}

#[test]
fn every_test_that_is_named_exists() {
    let document = read("docs/security.md");
    let (mut file, mut source) = (String::new(), String::new());
    let mut found = 0;
    for line in document.lines().filter(|line| line.contains('`')) {
        for code in line.split('`').skip(1).step_by(2) {
            let test = match code.rsplit_once("::") {
                // An address of IPv6.
                Some(("", _)) => continue,
                Some((suite, test)) => {
                    file = suite.to_owned();
                    source = suites::source_of(suite);
                    test
                }
                None if ["src/", "agent/"].iter().any(|room| code.starts_with(room)) => {
                    file = code.to_owned();
                    source = read(&file);
                    ""
                }
                // A name alone is a test of the file before it in the same cell.
                None if code.matches('_').count() >= 4 && !code.contains(['/', ' ']) => code,
                None => continue,
            };
            assert!(test.is_empty() || source.contains(&format!("fn {test}(")), "{file}: {test}");
            found += 1;
        }
    }
    assert!(found > 40, "only {found}");
}
