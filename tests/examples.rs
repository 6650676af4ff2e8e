//! Every file in conflist-examples/ is a configuration that ADD accepts without a warning.

#![expect(clippy::disallowed_methods, reason = "a test reads the project's own files")]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use autoport::cni::{Env, Request};
use serde_json::{Map, Value, json};

fn examples() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conflist-examples");
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("the examples are in the repository")
        .map(|entry| entry.expect("a folder can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "conflist"))
        .collect();
    files.sort();
    files
}

/// The configuration as libcni hands it to the plugin at `index` of `list`.
fn as_libcni_does(list: &Value, index: usize) -> Vec<u8> {
    let mut plugin: Map<String, Value> =
        list["plugins"][index].as_object().expect("a plugin is an object").clone();
    plugin.insert("name".into(), list["name"].clone());
    plugin.insert("cniVersion".into(), list["cniVersion"].clone());
    let declared = plugin.remove("capabilities").unwrap_or_default();
    let annotations = "io.kubernetes.cri.pod-annotations";
    let mut runtime = json!({
        "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }],
        annotations: { "autoport.cni/ports": "game=7777/tcp+udp" },
    });
    if let Some(offered) = runtime.as_object_mut() {
        offered.retain(|capability, _| declared[capability] == json!(true));
    }
    plugin.insert("runtimeConfig".into(), runtime);
    plugin.insert(
        "prevResult".into(),
        json!({
            "cniVersion": list["cniVersion"],
            "interfaces": [
                { "name": "veth0", "mac": "02:00:00:00:00:01" },
                { "name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/run/netns/pod" }
            ],
            "ips": [{ "address": "10.200.0.2/24", "gateway": "10.200.0.1", "interface": 1 }],
        }),
    );
    serde_json::to_vec(&plugin).expect("a map of values is JSON")
}

#[test]
fn each_is_accepted_without_a_warning() {
    let variables = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", "/run/netns/pod"),
        ("CNI_PATH", "/opt/cni/bin"),
    ];
    let env: Env = variables
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)))
        .collect();
    let files = examples();
    assert!(files.len() >= 3, "where are the examples? found {files:?}");
    for file in files {
        let text = fs::read_to_string(&file).expect("an example can be read");
        let list: Value = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let plugins = list["plugins"].as_array().expect("plugins is a list");
        let ours: Vec<_> =
            (0..plugins.len()).filter(|i| plugins[*i]["type"] == "autoport").collect();
        assert_eq!(ours.len(), 1, "{} must chain autoport once", file.display());
        assert!(ours[0] > 0, "{}: autoport goes after the main plugin", file.display());
        let parsed = Request::parse(&env, &as_libcni_does(&list, ours[0]), || Ok(None))
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert_eq!(parsed.warnings, Vec::<String>::new(), "{}", file.display());
        let Request::Add(claim) = parsed.request else { panic!("ADD was asked for") };
        assert_eq!(claim.mappings.len(), 2, "{}: one mapping, both families", file.display());
        assert_eq!(claim.wishes.len(), 1, "{}: the annotation is handed over", file.display());
    }
}
