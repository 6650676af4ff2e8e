//! Documents are in plain words, as messages are.

use super::*;

/// The capture of the demo, code and what other programs print are quoted as they are; a released
/// section of the changelog stays as it was.
fn prose(path: &str) -> String {
    let text = read(path);
    let text = match (text.split_once("<!-- demo -->"), text.split_once("<!-- /demo -->")) {
        (Some((before, _)), Some((_, after))) => format!("{before}{after}"),
        _ => text,
    };
    let unreleased = |text: &str| text.split("\n## [").nth(1).unwrap_or_default().to_owned();
    let text = if path == "CHANGELOG.md" { unreleased(&text) } else { text };
    let outside = text.split("\n```").step_by(2).collect::<Vec<_>>().join("\n");
    outside.split('`').step_by(2).collect::<Vec<_>>().join("code")
}

fn files(folder: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(root().join(folder)).expect("a folder of the project").flatten() {
        let name = entry.file_name().into_string().expect("a name of ours");
        let path = format!("{folder}/{name}");
        if entry.path().is_dir() {
            files(&path, found);
        } else if !name.contains(".svg") && !name.contains(".png") && !name.contains(".conflist") {
            found.push(path);
        }
    }
}

#[test]
fn documents_are_in_plain_words() {
    let root = fs::read_dir(root()).expect("the project").flatten();
    let names = root.map(|entry| entry.file_name().into_string().expect("a name of ours"));
    let mut all: Vec<_> = names.filter(|name| name.contains(".md") || name == "Makefile").collect();
    assert!(all.len() >= 6, "{all:?}");
    for folder in ["docs", "deploy", "conflist-examples", ".github", ".ci", "scripts"] {
        files(folder, &mut all);
    }
    all.extend(["setup", "demo", "packages"].map(|name| format!("integration/{name}.sh")));
    assert!(all.len() > 40, "only {} documents", all.len());
    let mut found = Vec::new();
    for path in all {
        for line in prose(&path).split("\n\n") {
            for phrase in words::banned_in(line) {
                found.push(format!("{path}: {phrase:?} in {line:?}"));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}
