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

/// Where the text is that a variant passes on as it is.
const PASSED_ON: [(&str, &str); 4] = [
    ("Exhausted", "src/plan/exhausted.rs"),
    ("Forbidden", "src/plan/permit.rs"),
    ("store::Name", "src/model/owner.rs"),
    ("panic", "src/app/command.rs"),
];

/// The literals from which the message of a variant is made: of its `#[error(…)]`, or of the file that
/// has the text.
fn formats(name: &str) -> Vec<String> {
    let passed_on = PASSED_ON.iter().find(|(variant, _)| *variant == name);
    let (module, variant) = name.split_once("::").unwrap_or(("", name));
    let path = Path::new("src").join(module).join("error.rs");
    let text = read(passed_on.map_or(path.to_str().expect("a path of ours"), |(_, path)| path));
    let is_its = |item: &&str| {
        let after = item.split_once(")]\n").map_or("", |(_, after)| after);
        let mut lines = after.lines().map(str::trim).skip_while(|line| line.starts_with("///"));
        let item = lines.next().unwrap_or_default().trim_start_matches("pub struct ");
        item.split(|c: char| !c.is_alphanumeric()).next() == Some(variant)
    };
    let whole = passed_on.is_some().then_some(text.as_str());
    let own = text.split("#[error(").skip(1).filter(is_its);
    let own = own.map(|item| item.split_once(")]\n").map_or(item, |(attribute, _)| attribute));
    whole.into_iter().chain(own).flat_map(literals).collect()
}

/// What is between quotes, with continued lines joined.
fn literals(text: &str) -> Vec<String> {
    let text = text.replace("\\\"", "'");
    let join = |literal: &str| literal.split("\\\n").map(str::trim_start).collect();
    text.split('"').skip(1).step_by(2).map(join).collect()
}

/// Whether `format` makes this message, of which "…" may leave out the end.
fn makes(format: &str, message: &str) -> bool {
    let mut rest = message.trim_end_matches(['…', ' ']);
    let is_cut = message.ends_with('…');
    let mut parts = format.split('{').map(|part| part.split_once('}').map_or(part, |(_, to)| to));
    let first = parts.next().unwrap_or_default();
    let Some(after) = rest.strip_prefix(first) else { return is_cut && first.starts_with(rest) };
    rest = after;
    let mut last = first;
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else {
            let mut ends = rest.char_indices().map(|(at, _)| &rest[at..]);
            return is_cut && ends.any(|end| part.starts_with(end));
        };
        (rest, last) = (after, part);
    }
    last.is_empty() || rest.is_empty()
}

/// A message that is shown begins to differ from the code when that is rewritten.
#[test]
fn the_messages_that_are_shown_are_those_of_the_code() {
    let mut seen = 0;
    for line in read("docs/errors.md").lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, number, name, _, message, _, _] = cells[..] else { continue };
        if number.parse::<u32>().is_err() || message.starts_with("as the ") {
            continue;
        }
        let mut formats = formats(name.trim_matches('`'));
        let says = |format: &String| {
            let mut words = format.split(' ').filter(|word| !word.contains('{'));
            words.any(|word| word.len() > 1)
        };
        formats.retain(says);
        assert!(
            formats.iter().any(|format| makes(format, message)),
            "{name} never says {message:?}: {formats:#?}"
        );
        seen += 1;
    }
    assert!(seen > 30, "only {seen} messages");
}

#[test]
fn another_message_than_that_of_the_code_is_seen() {
    let format = "cannot decode {key}: found {value}, expected {expected}";
    assert!(makes(format, "cannot decode snat: found 1, expected true or false"));
    assert!(makes(format, "cannot decode snat: found 1, …"));
    for other in [
        "could not decode snat: found 1, expected true or false",
        "cannot decode snat: it is 1, expected true or false",
        "cannot decode snat: found 1",
        "cannot decode snat: got …",
    ] {
        assert!(!makes(format, other), "{other}");
    }
    assert!(!makes("nothing {} changed", "nothing was changed here"));
}

/// That the arms above were read as the compiler reads them.
#[test]
fn the_arms_mean_what_they_say() {
    let rows = in_code();
    let io = || std::io::Error::other("a reason");
    for (name, error) in [
        ("Stdin", Error::Stdin { source: io() }),
        (
            "cni::NodeFile",
            cni::Error::NodeFile { path: cni::NODE_FILE.into(), source: io() }.into(),
        ),
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

#[test]
fn a_cause_that_an_error_tells_itself_is_told_once() {
    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Told {
        text: &'static str,
        source: Option<Box<Told>>,
    }
    let told = |text, source: Option<Told>| Told { text, source: source.map(Box::new) };
    let lowest = told("connection refused", None);
    let error = told("no answer", Some(told("it failed: connection refused", Some(lowest))));
    assert_eq!(autoport::error::in_one_line(&error), "no answer: it failed: connection refused");
}
