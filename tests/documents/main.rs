//! What the documents say of the code is so: the table, the keys, the links.

#![expect(clippy::disallowed_methods, reason = "a test reads the project's own files")]

mod annotations;
mod capture;
mod keys;
mod links;
mod monitoring;
mod plain;
mod platforms;
mod repository;
mod table;
#[path = "../words/mod.rs"]
mod words;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The fenced blocks of a document, without their fences, in any language.
fn blocks(document: &str) -> Vec<&str> {
    let parts = document.split("\n```");
    // Every second part begins behind an opening fence, with the language.
    parts
        .skip(1)
        .step_by(2)
        .filter_map(|part| part.split_once('\n'))
        .map(|(_, text)| text)
        .collect()
}
