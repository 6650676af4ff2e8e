//! The project's own manifests, judged by a real API server.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cluster::Cluster;
use crate::configuration::Api;
use crate::deployed::kustomized;

/// How kubectl is given what is in `folder`: each folder with a kustomization as one, each other
/// YAML file by itself. Kubernetes 1.20 knows neither components nor what is in ours.
fn manifests(folder: &Path, found: &mut Vec<[String; 2]>) {
    let word = |path: &Path| path.to_string_lossy().into_owned();
    let entries = fs::read_dir(folder).expect("it can be listed").flatten();
    let (folders, files): (Vec<PathBuf>, Vec<PathBuf>) =
        entries.map(|entry| entry.path()).partition(|path| path.is_dir());
    let kustomization = fs::read_to_string(folder.join("kustomization.yaml"));
    let is_component = kustomization.as_ref().is_ok_and(|text| text.contains("kind: Component"));
    if kustomization.is_ok() && !is_component {
        found.push(["-k".to_owned(), kustomized(folder)]);
    } else if !is_component || Api::of_this_run() == Api::Libraries {
        // What a component adds to another folder is none of the API server's, and what it brings is for later ones.
        let is_manifest = |path: &&PathBuf| {
            path.extension().is_some_and(|kind| kind == "yaml")
                && !path.ends_with("kustomization.yaml")
        };
        let files = files.iter().filter(is_manifest);
        found.extend(files.map(|path| ["-f".to_owned(), word(path)]));
    }
    // Types of the operator of Prometheus, and what is made from the rest by Helm.
    for folder in folders.iter().filter(|it| !it.ends_with("monitoring") && !it.ends_with("helm")) {
        manifests(folder, found);
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
