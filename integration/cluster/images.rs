//! Images with our echo server that stand in for those that manifests of others name, and for the one of
//! the sandboxes.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use crate::cluster::PAUSE;
use crate::stage::netns::run;
use crate::stage::plugin::tool;

/// The names of the images, and the ports on which they listen unless they are told others. Port 0 is any
/// that is free, since on the network of the node there are many.
const IMAGES: [(&str, &[&str]); 7] = [
    (PAUSE, &["0"]),
    ("docker.io/library/nginx:latest", &["80", "443"]),
    ("docker.io/library/nginx:1.14.2", &["8080", "8081"]),
    ("registry.example.org/game:1", &["7777"]),
    ("registry.example.org/media:1", &["5060", "10000", "10099"]),
    ("registry.example.org/ingress:1", &["$AUTOPORT_PORT_HTTP", "$AUTOPORT_PORT_ADMIN"]),
    ("registry.example.org/peer:1", &["4001"]),
];

/// An archive of them all.
pub(crate) fn archive() -> PathBuf {
    let folder = PathBuf::from("/run/images");
    fs::create_dir_all(&folder).expect("/run is ours");
    let tar = |words: &[&str]| {
        let (ok, text) = run(Command::new("tar").arg("-C").arg(&folder).args(words), "");
        assert!(ok, "tar {words:?}: {text}");
    };
    tar(&["-xf", &tool("image.tar").to_string_lossy()]);
    let write = |name: &str, value: serde_json::Value| {
        fs::write(folder.join(name), value.to_string()).expect("/run is ours");
    };
    let text = fs::read(folder.join("config.json")).expect("the image has one");
    let config: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let mut manifest = Vec::new();
    for (number, (name, ports)) in IMAGES.iter().enumerate() {
        let mut config = config.clone();
        config["config"]["Cmd"] = json!(ports);
        let file = format!("{number}.json");
        write(&file, config);
        manifest.push(json!({"Config": file, "RepoTags": [name], "Layers": ["layer.tar"]}));
    }
    write("manifest.json", json!(manifest));
    tar(&["-cf", "/run/images.tar", "."]);
    PathBuf::from("/run/images.tar")
}
