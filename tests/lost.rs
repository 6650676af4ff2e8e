//! Every row of the table in docs/store.md of what can be lost names tests, and they exist.

#![expect(clippy::disallowed_methods, reason = "a test reads the project's own files")]

mod suites;

use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Whether a test of this path is there and not ignored: `store::tests::crash::name` in src,
/// `lost::records::name` in a room of integration.
fn exists(path: &str) -> bool {
    let (module, name) = path.rsplit_once("::").expect("a path");
    let unit = format!("src/{}.rs", module.replace("::", "/"));
    let source = if Path::new(env!("CARGO_MANIFEST_DIR")).join(&unit).exists() {
        read(&unit)
    } else {
        suites::source_of(module)
    };
    source.contains(&format!("#[test]\nfn {name}() {{"))
}

#[test]
fn every_case_has_a_test() {
    let document = read("docs/store.md");
    let section = document.split("\n## ").find(|part| part.starts_with("What else can be lost"));
    let table = section.and_then(|part| part.split("\n### ").next()).expect("the section");
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with('|')).skip(2).collect();
    assert!(rows.len() >= 20, "only {} rows", rows.len());
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, _, _, _, tests, _] = cells[..] else { panic!("not four cells: {row}") };
        let mut named = tests.split('`').skip(1).step_by(2).peekable();
        assert!(named.peek().is_some(), "no test: {row}");
        for test in named {
            assert!(exists(test), "{test} is not there: {row}");
        }
    }
}
