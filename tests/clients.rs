//! What real clients were seen to send, and what the plugin understands.
//!
//! A call is `tests/clients/<client>-<version>/NN-<command>.json`, recorded by `make test-clients`
//! and `make test-kubernetes`; what is understood is beside it as `.txt`. `BLESS=1 cargo test --test clients` writes it again.

#![expect(clippy::disallowed_methods, reason = "a test reads the project's own files")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use autoport::cni::{Call, Claim, Env, Error, NodeFiles, StoreConfig};
use autoport::model::Pod;
use serde::Deserialize;
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct Recorded {
    environment: BTreeMap<String, String>,
    stdin: Box<RawValue>,
}

/// The entries of a folder with this extension, or its folders.
fn entries(folder: &Path, extension: Option<&str>) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("a folder can be listed").path());
    let mut paths: Vec<_> = match extension {
        Some(extension) => {
            paths.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
        }
        None => paths.filter(|path| path.is_dir()).collect(),
    };
    paths.sort();
    paths
}

fn clients() -> Vec<PathBuf> {
    entries(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients"), None)
}

/// What was understood, a line for each fact.
#[derive(Default)]
struct Lines(Vec<String>);

impl Lines {
    fn add(&mut self, name: &str, value: impl Display) {
        self.0.push(format!("{name}: {value}"));
    }

    fn all(&mut self, name: &str, values: impl IntoIterator<Item = impl Display>) {
        values.into_iter().for_each(|value| self.add(name, value));
    }

    fn claim(&mut self, claim: &Claim) {
        self.add("attachment", format_args!("{:#}", claim.ask.holder));
        if let Some(pod) = &claim.ask.pod {
            self.add("pod", format_args!("{}/{} {}", pod.namespace, pod.name, pod.uid));
        }
        self.add("netns", claim.ask.netns.as_deref().unwrap_or_default());
        self.all("address", &claim.ask.pod_addresses);
        self.all("interface", &claim.ask.host_interfaces);
        self.all(
            "mapping",
            claim.ask.fixed.iter().map(|mapping| match mapping.target {
                Some(target) => format!("{} to {target}", mapping.host),
                None => format!("{} to nothing", mapping.host),
            }),
        );
        self.all("request", &claim.ask.requested);
        self.all("annotation", claim.ask.annotation);
    }
}

fn understood(path: &Path) -> String {
    let text = fs::read(path).expect("a recorded call");
    let recorded: Recorded =
        serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let env: Env = recorded
        .environment
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)))
        .collect();
    let parsed = Call::parse(&env, recorded.stdin.get().as_bytes(), NodeFiles::default, no_spec)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut lines = Lines::default();
    lines.add("command", &recorded.environment["CNI_COMMAND"]);
    match &parsed.call {
        Call::Add(claim) | Call::Check(claim) => lines.claim(claim),
        Call::Del { attachment, .. } => lines.add("attachment", format_args!("{attachment:#}")),
        Call::Gc { network, valid, .. } => {
            lines.add("network", network);
            match valid {
                Some(valid) => lines.all("valid", valid.iter().map(|one| format!("{one:#}"))),
                None => lines.add("valid", "not said"),
            }
        }
        Call::Status(config) => lines.add("store", config.state_dir.display()),
        Call::Version { cni_version } => lines.add("version", cni_version),
    }
    lines.all("warning", &parsed.warnings);
    lines.0.join("\n") + "\n"
}

#[test]
fn what_clients_send_is_understood() {
    let bless = std::env::var_os("BLESS").is_some();
    for client in clients() {
        let calls = entries(&client, Some("json"));
        if bless {
            for old in entries(&client, Some("txt")) {
                fs::remove_file(old).expect("the repository can be written");
            }
        }
        for path in &calls {
            let (golden, now) = (path.with_extension("txt"), understood(path));
            if bless {
                fs::write(&golden, &now).expect("the repository can be written");
            }
            let expected = fs::read_to_string(&golden).unwrap_or_default();
            assert_eq!(now, expected, "{}", path.display());
        }
        assert_eq!(calls.len(), entries(&client, Some("txt")).len(), "{}", client.display());
    }
}

/// A corpus that lost a part would pass the test above.
#[test]
fn every_client_and_every_command_is_there() {
    let mut found = BTreeSet::new();
    for client in clients() {
        let name = client.file_name().expect("a folder has a name").to_string_lossy().into_owned();
        let (kind, version) = name.split_once('-').expect("a client and its version");
        let (series, _) = version.split_once('.').expect("a version");
        for path in entries(&client, Some("json")) {
            let stem = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
            let (_, command) = stem.split_once('-').expect("a number and a command");
            found.insert(format!("{kind}-{series} {command}"));
        }
    }
    let expected = [
        ("containerd-1", &["add", "del"][..]),
        ("containerd-2", &["add", "del", "status"]),
        ("kubelet-1", &["add", "del"]),
        ("libcni-1", &["add", "check", "del", "gc", "status"]),
        ("podman-4", &["add", "del", "version"]),
    ];
    for (client, commands) in expected {
        for command in commands {
            assert!(found.contains(&format!("{client} {command}")), "{client} {command}");
        }
    }
}

/// No recorded request needs the spec of its Pod.
fn no_spec(_: &StoreConfig, pod: &Pod, _: bool) -> Result<String, Error> {
    panic!("the spec of {pod} is read")
}
