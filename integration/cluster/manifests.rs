//! The project's own manifests, judged by a real API server.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cluster::Cluster;

/// Every YAML file below `folder`.
fn manifests(folder: &Path, found: &mut Vec<PathBuf>) {
    for path in fs::read_dir(folder).expect("it can be listed").flatten().map(|entry| entry.path())
    {
        if path.is_dir() {
            manifests(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "yaml") {
            found.push(path);
        }
    }
}

#[test]
fn the_api_server_takes_the_manifests() {
    let cluster = Cluster::new();
    let mut found = Vec::new();
    for folder in ["deploy", "conflist-examples"] {
        manifests(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut found);
    }
    assert!(!found.is_empty(), "where are the manifests?");
    for path in found {
        let said = cluster.kubectl(&["apply", "--dry-run=server", "-f", &path.to_string_lossy()]);
        assert!(said.contains("(server dry run)"), "{}: {said}", path.display());
    }
}
