//! The suites of `integration/`, for documents that name tests.

use std::fs;
use std::path::{Path, PathBuf};

fn is_source(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.expect("a folder of the project").path()).collect()
}

/// The source of a suite with the files below it, in whichever room it is: `lost` is
/// `integration/failures/lost.rs`.
pub(crate) fn source_of(suite: &str) -> String {
    let mut source = String::new();
    for room in entries(&Path::new(env!("CARGO_MANIFEST_DIR")).join("integration")) {
        let folder = room.join(suite);
        let below = if folder.is_dir() { entries(&folder) } else { Vec::new() };
        let own = Some(room.join(suite).with_extension("rs")).filter(|path| path.exists());
        for path in own.into_iter().chain(below).filter(|path| is_source(path)) {
            source += &fs::read_to_string(&path).expect("a source file can be read");
        }
    }
    assert!(!source.is_empty(), "no room of integration/ has the suite {suite}");
    source
}
