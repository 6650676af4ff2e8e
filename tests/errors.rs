//! docs/errors.md has exactly the codes that src/error.rs gives, and shows messages of the code.

#![expect(clippy::disallowed_methods, reason = "a test reads the project's own files")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use autoport::error::Error;
use autoport::{cni, kernel, store};

/// A code and whose it is, such as `(11, "store::LockTaken")`.
type Row = (u32, String);

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

const MODULES: [&str; 3] = ["cni::Error::", "store::Error::", "kernel::Error::"];

/// The arms `Variant { .. } | Variant(_) => number` of src/error.rs. The matches there have no
/// wildcard arm, so the compiler has seen to it that these are all variants.
fn in_code() -> BTreeSet<Row> {
    let text = read("src/error.rs");
    let mut rows = BTreeSet::new();
    let mut pattern = String::new();
    for line in text.lines().map(str::trim) {
        let (before, value) = line.split_once("=>").unwrap_or((line, ""));
        let first = before.trim_start_matches("| ");
        if first.starts_with("Self::") || MODULES.iter().any(|module| first.starts_with(module)) {
            pattern.push_str(before);
        }
        let value = value.trim().trim_end_matches(',');
        if let Ok(code) = value.parse() {
            for alternative in pattern.split('|').map(str::trim).filter(|text| !text.is_empty()) {
                let name = alternative.split(['(', ' ']).next().unwrap_or_default();
                rows.insert((code, name.replace("Self::", "").replace("::Error", "")));
            }
        }
        if !value.is_empty() {
            pattern.clear();
        }
    }
    assert!(read("src/app/command.rs").contains("NEWEST, 999,"), "a panic is told as 999");
    rows.insert((999, "panic".to_owned()));
    rows
}

/// The rows `| code | `Variant` | …` of docs/errors.md.
fn in_document() -> BTreeSet<Row> {
    let mut rows = BTreeSet::new();
    for line in read("docs/errors.md").lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let [_, code, name, rest @ ..] = &cells[..]
            && let Ok(code) = code.parse::<u32>()
        {
            let explained = rest.iter().filter(|cell| !cell.is_empty()).count();
            assert!(explained >= 3, "when, message and remedy are missing: {line}");
            let new = rows.insert((code, name.trim_matches('`').to_owned()));
            assert!(new, "twice in docs/errors.md: {line}");
        }
    }
    rows
}

#[test]
fn the_document_has_the_codes_of_the_code() {
    let (code, document) = (in_code(), in_document());
    let missing: Vec<_> = code.difference(&document).collect();
    let invented: Vec<_> = document.difference(&code).collect();
    assert!(missing.is_empty(), "not in docs/errors.md: {missing:?}");
    assert!(invented.is_empty(), "in docs/errors.md only: {invented:?}");
}

/// The literals of the sources, with their continued lines joined.
fn sources(folder: &Path, found: &mut String) {
    for entry in fs::read_dir(folder).expect("src can be listed").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else {
            let text = fs::read_to_string(&path).expect("a source file can be read");
            let mut parts = text.split("\\\n");
            found.push_str(parts.next().unwrap_or_default());
            parts.for_each(|part| found.push_str(part.trim_start()));
        }
    }
}

/// A message that is shown begins to differ from the code when that is rewritten. Of its longest run of
/// words that are no values, half must be in the sources in a row.
#[test]
fn the_messages_that_are_shown_are_those_of_the_code() {
    const VALUES: [&str; 6] = ["tcp", "http", "default", "game", "sshd", "snat:"];
    let mut code = String::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut code);
    let is_word = |word: &str| {
        let plain = word.chars().all(|c| c.is_ascii_alphabetic() || ",;:'`".contains(c));
        plain && !VALUES.contains(&word)
    };
    let mut seen = 0;
    for line in read("docs/errors.md").lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, number, _, _, message, _, _] = cells[..] else { continue };
        if number.parse::<u32>().is_err() || message.starts_with("as the ") {
            continue;
        }
        let words: Vec<&str> = message.split(' ').collect();
        let run = words.split(|word| !is_word(word)).max_by_key(|run| run.len()).expect("words");
        let half = run.len().div_ceil(2);
        let found = run
            .windows(half)
            .any(|part| code.contains(part.join(" ").trim_end_matches([',', ';', ':'])));
        assert!(found, "not a message of the code: {run:?} in {message:?}");
        seen += 1;
    }
    assert!(seen > 30, "only {seen} messages");
}

/// That the arms above were read as the compiler reads them.
#[test]
fn the_arms_mean_what_they_say() {
    let rows = in_code();
    let io = || std::io::Error::other("a reason");
    for (name, error) in [
        ("Stdin", Error::Stdin { source: io() }),
        ("cni::NodeFile", cni::Error::NodeFile { source: io() }.into()),
        ("cni::Environment", cni::Error::Environment { problems: Vec::new() }.into()),
        ("store::NotADirectory", {
            store::Error::NotADirectory { path: "/run/autoport".into(), found: "a file" }.into()
        }),
        ("store::LockTaken", {
            let (path, waited) = ("/run/autoport/lock".into(), std::time::Duration::ZERO);
            store::Error::LockTaken { path, waited, holder: None }.into()
        }),
        ("kernel::NoTables", kernel::Error::NoTables.into()),
        ("kernel::Restless", kernel::Error::Restless.into()),
        ("kernel::Unanswered", kernel::Error::Unanswered.into()),
        ("Different", { Error::Different { attachment: "a".into(), difference: "b".into() } }),
        ("Unavailable", {
            Error::Unavailable { source: Box::new(kernel::Error::Unanswered.into()) }
        }),
    ] {
        assert!(rows.contains(&(error.code(), name.to_owned())), "{name} is {}", error.code());
    }
}
