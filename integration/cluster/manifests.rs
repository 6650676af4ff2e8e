//! The project's own manifests, judged by a real API server.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cluster::Cluster;
use crate::deployed::kustomized;

/// How kubectl is given what is in `folder`: each folder with a kustomization as one, each other
/// YAML file by itself.
fn manifests(folder: &Path, found: &mut Vec<[String; 2]>) {
    let word = |path: &Path| path.to_string_lossy().into_owned();
    let entries = fs::read_dir(folder).expect("it can be listed").flatten();
    let (folders, files): (Vec<PathBuf>, Vec<PathBuf>) =
        entries.map(|entry| entry.path()).partition(|path| path.is_dir());
    if folder.join("kustomization.yaml").exists() {
        found.push(["-k".to_owned(), kustomized(folder)]);
    } else {
        let files = files.iter().filter(|path| path.extension().is_some_and(|kind| kind == "yaml"));
        found.extend(files.map(|path| ["-f".to_owned(), word(path)]));
    }
    for folder in folders {
        manifests(&folder, found);
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
    for [how, path] in found {
        let said = cluster.kubectl(&["apply", "--dry-run=server", &how, &path]);
        assert!(said.contains("(server dry run)"), "{path}: {said}");
    }
}
