//! Every file in conflist-examples/ is a configuration that ADD accepts without a warning, in a chain
//! that keeps the rules, with a result such as that network's own plugin gives; and README.md there
//! has each of them. Those whose plugins Debian has are run in `integration/compatibility/examples.rs`.

#![expect(clippy::disallowed_methods, reason = "a test reads the project's own files")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use autoport::cni::{Call, Claim, Env, Error, NodeFiles, StoreConfig};
use autoport::model::{Masquerade, Pod};
use serde_json::{Map, Value, json};

const PORTS: &str = "portMappings";
const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";
const SANDBOX: &str = "/run/netns/pod";

/// What a configuration is expected to be.
struct Example {
    file: &'static str,
    /// The plugins, in order.
    chain: &'static [&'static str],
    /// What the runtime is asked for.
    capabilities: &'static [&'static str],
    masquerade: Masquerade,
    /// What the plugin that makes the interface answers, and what of it is the pod's.
    result: fn() -> Value,
    addresses: &'static [&'static str],
}

const BOTH: &[&str] = &[ANNOTATIONS, PORTS];

const EXAMPLES: &[Example] = &[
    Example {
        file: "01-kube-ovn.conflist",
        chain: &["kube-ovn", "autoport"],
        capabilities: BOTH,
        masquerade: Masquerade::Local,
        // One interface, the pod's.
        result: || {
            json!({
                "interfaces": [inside("eth0")],
                "ips": [{ "address": "10.16.0.12/16", "gateway": "10.16.0.1", "interface": 0 }],
            })
        },
        addresses: &["10.16.0.12/16"],
    },
    Example {
        file: "05-cilium.conflist",
        chain: &["cilium-cni", "autoport"],
        capabilities: BOTH,
        masquerade: Masquerade::Local,
        // IPv6 first, no subnet.
        result: || {
            json!({
                "interfaces": [outside("lxc12345678"), inside("eth0")],
                "ips": [
                    { "address": "fd00::1f/128", "interface": 1 },
                    { "address": "10.0.1.31/32", "interface": 1 },
                ],
            })
        },
        addresses: &["10.0.1.31/32", "fd00::1f/128"],
    },
    Example {
        file: "05-cilium-generic-veth.conflist",
        chain: &["ptp", "autoport", "cilium-cni"],
        capabilities: BOTH,
        masquerade: Masquerade::Local,
        result: veth,
        addresses: &["10.200.0.2/24"],
    },
    Example {
        file: "06-hybridnet.conflist",
        chain: &["hybridnet", "autoport", "bandwidth"],
        capabilities: BOTH,
        masquerade: Masquerade::Everybody,
        result: veth,
        addresses: &["10.200.0.2/24"],
    },
    Example {
        file: "10-antrea.conflist",
        chain: &["antrea", "autoport", "bandwidth"],
        capabilities: BOTH,
        masquerade: Masquerade::Local,
        result: veth,
        addresses: &["10.200.0.2/24"],
    },
    Example {
        file: "10-bridge.conflist",
        chain: &["bridge", "autoport"],
        capabilities: BOTH,
        masquerade: Masquerade::Local,
        result: bridge,
        addresses: &["10.200.0.2/24"],
    },
    Example {
        file: "10-calico.conflist",
        chain: &["calico", "autoport"],
        capabilities: BOTH,
        masquerade: Masquerade::Local,
        // Up to 3.30: the node's interface, and addresses that belong to none. Later, as of any veth.
        result: || {
            json!({
                "interfaces": [{ "name": "cali0123456789a" }],
                "ips": [{ "address": "192.168.3.4/32" }, { "address": "fd00:3::4/128" }],
            })
        },
        addresses: &["192.168.3.4/32", "fd00:3::4/128"],
    },
    Example {
        file: "10-flannel.conflist",
        chain: &["flannel", "autoport"],
        capabilities: BOTH,
        masquerade: Masquerade::Local,
        result: bridge,
        addresses: &["10.200.0.2/24"],
    },
    Example {
        file: "10-kindnet.conflist",
        chain: &["ptp", "autoport"],
        capabilities: BOTH,
        masquerade: Masquerade::Local,
        result: veth,
        addresses: &["10.200.0.2/24"],
    },
    Example {
        file: "10-terway.conflist",
        chain: &["terway", "autoport"],
        capabilities: BOTH,
        masquerade: Masquerade::Local,
        // The container's ID in the place of the sandbox.
        result: || {
            json!({
                "interfaces": [{ "name": "eth0", "sandbox": "c1" }],
                "ips": [{ "address": "172.16.0.7/32", "gateway": "172.16.0.253", "interface": 0 }],
            })
        },
        addresses: &["172.16.0.7/32"],
    },
    Example {
        file: "11-crio-ipv4-bridge.conflist",
        chain: &["bridge", "autoport"],
        capabilities: &[ANNOTATIONS],
        masquerade: Masquerade::Local,
        result: bridge,
        addresses: &["10.200.0.2/24"],
    },
    Example {
        file: "20-bridge-dual-stack.conflist",
        chain: &["bridge", "autoport"],
        capabilities: BOTH,
        masquerade: Masquerade::Local,
        result: || {
            json!({
                "interfaces": [outside("cni0"), outside("veth1"), inside("eth0")],
                "ips": [
                    { "address": "10.200.0.2/24", "gateway": "10.200.0.1", "interface": 2 },
                    { "address": "fd00:200::2/64", "gateway": "fd00:200::1", "interface": 2 },
                ],
            })
        },
        addresses: &["10.200.0.2/24", "fd00:200::2/64"],
    },
    Example {
        file: "30-ptp.conflist",
        chain: &["ptp", "autoport"],
        capabilities: BOTH,
        masquerade: Masquerade::Local,
        result: veth,
        addresses: &["10.200.0.2/24"],
    },
    Example {
        file: "40-macvlan.conflist",
        chain: &["macvlan", "autoport"],
        capabilities: BOTH,
        masquerade: Masquerade::Everybody,
        result: underlay,
        addresses: &["192.0.2.128/24"],
    },
    Example {
        file: "45-ipvlan.conflist",
        chain: &["ipvlan", "autoport"],
        capabilities: BOTH,
        masquerade: Masquerade::Everybody,
        result: underlay,
        addresses: &["192.0.2.128/24"],
    },
    Example {
        file: "87-podman.conflist",
        chain: &["bridge", "autoport", "firewall", "tuning"],
        capabilities: &[PORTS],
        masquerade: Masquerade::Local,
        result: bridge,
        addresses: &["10.200.0.2/24"],
    },
    Example {
        file: "nomad.conflist",
        chain: &["loopback", "bridge", "firewall", "autoport"],
        capabilities: &[PORTS],
        masquerade: Masquerade::Local,
        result: bridge,
        addresses: &["10.200.0.2/24"],
    },
];

/// An interface on the node's side, and the pod's.
fn outside(name: &str) -> Value {
    json!({ "name": name, "mac": "02:00:00:00:00:01" })
}

fn inside(name: &str) -> Value {
    json!({ "name": name, "mac": "02:00:00:00:00:02", "sandbox": SANDBOX })
}

fn bridge() -> Value {
    json!({
        "interfaces": [outside("cni0"), outside("veth1"), inside("eth0")],
        "ips": [{ "address": "10.200.0.2/24", "gateway": "10.200.0.1", "interface": 2 }],
    })
}

fn veth() -> Value {
    json!({
        "interfaces": [outside("veth1"), inside("eth0")],
        "ips": [{ "address": "10.200.0.2/24", "gateway": "10.200.0.1", "interface": 1 }],
    })
}

fn underlay() -> Value {
    json!({
        "interfaces": [inside("eth0")],
        "ips": [{ "address": "192.0.2.128/24", "gateway": "192.0.2.254", "interface": 0 }],
    })
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conflist-examples")
}

fn text(file: &str) -> String {
    fs::read_to_string(folder().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn list(file: &str) -> Value {
    serde_json::from_str(&text(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn plugins(list: &Value) -> &[Value] {
    list["plugins"].as_array().expect("plugins is a list")
}

fn ours(list: &Value) -> &Value {
    let mut ours = plugins(list).iter().filter(|plugin| plugin["type"] == "autoport");
    let first = ours.next().expect("autoport is chained");
    assert!(ours.next().is_none(), "autoport is chained once");
    first
}

/// The configuration as libcni hands it to the plugin: with the capabilities that it declares, of
/// those that a runtime has.
fn as_libcni_does(list: &Value, result: Value) -> Vec<u8> {
    let mut plugin: Map<String, Value> = ours(list).as_object().expect("an object").clone();
    plugin.insert("name".into(), list["name"].clone());
    plugin.insert("cniVersion".into(), list["cniVersion"].clone());
    let declared = plugin.remove("capabilities").unwrap_or_default();
    let mut runtime = json!({
        PORTS: [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }],
        ANNOTATIONS: { "autoport.cni/ports": "game=7777/tcp+udp" },
    });
    if let Some(offered) = runtime.as_object_mut() {
        offered.retain(|capability, _| declared[capability] == json!(true));
    }
    plugin.insert("runtimeConfig".into(), runtime);
    plugin.insert("prevResult".into(), result);
    serde_json::to_vec(&plugin).expect("a map of values is JSON")
}

fn parse(example: &Example, list: &Value) -> Claim {
    let variables = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", SANDBOX),
        ("CNI_PATH", "/opt/cni/bin"),
    ];
    let env: Env = variables
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)))
        .collect();
    let mut result = (example.result)();
    result["cniVersion"] = list["cniVersion"].clone();
    let parsed = Call::parse(&env, &as_libcni_does(list, result), NodeFiles::default, no_spec)
        .unwrap_or_else(|error| panic!("{}: {error}", example.file));
    assert_eq!(parsed.warnings, Vec::<String>::new(), "{}", example.file);
    let Call::Add(claim) = parsed.call else { panic!("ADD was asked for") };
    claim
}

#[test]
fn each_is_accepted_without_a_warning() {
    for example in EXAMPLES {
        let file = example.file;
        let claim = parse(example, &list(file));
        let has = |capability| example.capabilities.contains(&capability);
        // One mapping, which is one for each family.
        assert_eq!(claim.ask.fixed.len(), if has(PORTS) { 2 } else { 0 }, "{file}");
        assert_eq!(claim.ask.requested.len(), usize::from(has(ANNOTATIONS)), "{file}");
        let addresses: Vec<_> = claim.ask.pod_addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, example.addresses, "{file}");
        assert_eq!(claim.ask.policy.masquerade, example.masquerade, "{file}");
    }
}

#[test]
fn each_is_a_chain_in_its_order() {
    for example in EXAMPLES {
        let (file, list) = (example.file, list(example.file));
        let chain: Vec<_> =
            plugins(&list).iter().map(|plugin| plugin["type"].as_str().expect("a name")).collect();
        assert_eq!(chain, example.chain, "{file}");
        let place = chain.iter().position(|name| *name == "autoport").expect("it is there");
        assert!(place > 0, "{file}: autoport goes after the plugin that makes the interface");
        assert!(!chain.contains(&"portmap"), "{file}: two plugins would map one port");
        let declared = ours(&list)["capabilities"].as_object().expect("capabilities");
        let declared: BTreeSet<_> = declared
            .iter()
            .inspect(|(name, on)| assert_eq!(**on, json!(true), "{file}: {name}"))
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(declared, example.capabilities.iter().copied().collect(), "{file}");
    }
}

#[test]
fn every_file_is_known_here_and_in_the_document() {
    let mut files: Vec<String> = fs::read_dir(folder())
        .expect("the examples are in the repository")
        .map(|entry| entry.expect("a folder can be listed").file_name().into_string())
        .map(|name| name.expect("a name of ours"))
        .filter(|name| name.ends_with(".conflist"))
        .collect();
    files.sort();
    let mut known: Vec<_> = EXAMPLES.iter().map(|example| example.file).collect();
    known.sort_unstable();
    assert_eq!(files, known);
    let document = text("README.md");
    for file in files {
        assert!(document.contains(&format!("[{file}]({file})")), "README.md lacks {file}");
    }
}

/// No example needs the spec of a Pod.
fn no_spec(_: &StoreConfig, pod: &Pod, _: bool) -> Result<String, Error> {
    panic!("the spec of {pod} is read")
}
