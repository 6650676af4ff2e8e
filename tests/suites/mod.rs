//! The suites of `integration/`, for documents that name tests.

use std::fs;
use std::path::{Path, PathBuf};

/// The source of a suite, in whichever room it is: `lost::records` is
/// `integration/failures/lost/records.rs`.
pub(crate) fn source_of(suite: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration");
    let rooms = fs::read_dir(&folder).expect("integration can be listed");
    let path = format!("{}.rs", suite.replace("::", "/"));
    let files = rooms.map(|room| room.expect("integration can be listed").path().join(&path));
    let found: Vec<PathBuf> = files.filter(|file| file.exists()).collect();
    let [file] = &found[..] else { panic!("the suite {suite} is in {} rooms", found.len()) };
    fs::read_to_string(file).expect("a source file can be read")
}
