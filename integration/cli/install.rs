//! From portmap to autoport and back while pods run: `autoport install` and `autoport uninstall`
//! with the real portmap. Calls come from libcni's cnitool, which uses the current configuration,
//! as containerd does.

#[cfg(target_arch = "x86_64")]
mod killed;
mod leftover;
mod settings;
mod staying;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use autoport::ruleset::Identity;
use nix::mount::{MsFlags, mount, umount};
use serde_json::{Value, json};

use crate::stage::chain::{Attachment, Main, Network, PortMapping};
use crate::stage::netns::{ip, nft, ruleset, run};
use crate::stage::node::{FIRST, Node, POD_PORT, Pod};
use crate::stage::operator::{autoport, told, under};
use crate::stage::plugin::{Call, DEBIAN, Plugin, tool};
use crate::stage::probe::{Answer, Probe, Transport};
use crate::stage::view;

/// Below /run, which is the test's own.
const PLUGINS: &str = "/run/plugins";
const NETWORKS: &str = "/run/net.d";
const CONFLIST: &str = "/run/net.d/10-blue.conflist";
const BACKUP: &str = "/run/net.d/10-blue.conflist.before-autoport";
/// Without the link, which would be one of this machine.
const FOLDERS: [&str; 5] = ["--no-link", "--bin-dir", PLUGINS, "--conf-dir", NETWORKS];

/// A node with a network of portmap's, and what a runtime does there.
struct Scene {
    node: Node,
    before: String,
}

impl Scene {
    fn new(portmap: Plugin) -> Self {
        let node = Node::new();
        let network = Network::new("blue", Main::Bridge, 1, portmap);
        let before = serde_json::to_string_pretty(&network.conflist()).expect("JSON");
        for folder in [PLUGINS, NETWORKS] {
            fs::create_dir_all(folder).expect("/run is ours");
        }
        fs::write(CONFLIST, &before).expect("/run is ours");
        for name in ["bridge", "host-local"] {
            let target = Path::new(DEBIAN).join(name);
            symlink(target, Path::new(PLUGINS).join(name)).expect("/run is ours");
        }
        symlink(portmap.path(), Path::new(PLUGINS).join("portmap")).expect("/run is ours");
        Self { node, before }
    }

    /// Runs cnitool for a pod, with these host ports; returns its output and that of the plugins.
    fn cnitool(&self, verb: &str, pod: &Pod, ports: &[u16]) -> String {
        let ports = ports.iter().map(|port| PortMapping::new(Transport::Tcp, *port, POD_PORT));
        self.cnitool_mapping(verb, pod, &ports.collect::<Vec<_>>())
    }

    fn cnitool_mapping(&self, verb: &str, pod: &Pod, ports: &[PortMapping]) -> String {
        let mut command = Command::new(tool("bin/cnitool"));
        command
            .args([verb, "blue", pod.netns.path()])
            .env("NETCONFPATH", NETWORKS)
            .env("CNI_PATH", PLUGINS)
            .env("CAP_ARGS", json!({"portMappings": ports}).to_string());
        let (ok, text) = run(&mut command, "");
        self.node.note(format!("{verb} {}: {text}", pod.name));
        assert!(ok, "{verb} {}: {text}", pod.name);
        text
    }

    fn pod(&self, name: &str, ports: &[u16]) -> Pod {
        let pod = self.node.pod(name);
        self.cnitool("add", &pod, ports);
        pod
    }

    fn reaches(&self, port: u16) -> Answer {
        self.node.client_asks(&Probe::tcp(FIRST[0], port))
    }

    fn reaches_by_loopback(port: u16) -> Option<String> {
        Probe::tcp("127.0.0.1", port).ask().by().map(str::to_owned)
    }
}

fn install(more: &[&str]) -> String {
    told(&[&["install"], &FOLDERS[..], more].concat())
}

fn uninstall(more: &[&str]) -> String {
    told(&[&["uninstall"], &FOLDERS[..], more].concat())
}

/// Whether there is anything to do for `uninstall`, which is not done; and what.
fn would_uninstall() -> (bool, String) {
    let (status, said, _) = autoport(&[&["uninstall", "--dry-run"], &FOLDERS[..]].concat());
    match status.code() {
        Some(0) => (false, said),
        Some(3) => (true, said),
        other => panic!("{other:?}: {said}"),
    }
}

fn types() -> Vec<String> {
    let text = fs::read_to_string(CONFLIST).expect("the configuration");
    let list: Value = serde_json::from_str(&text).expect("JSON");
    let plugins = list["plugins"].as_array().expect("plugins");
    plugins.iter().map(|one| one["type"].as_str().expect("a type").to_owned()).collect()
}

fn route_localnet(interface: &str) -> String {
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/route_localnet");
    fs::read_to_string(path).expect("a sysctl").trim().to_owned()
}

fn from_portmap_and_back(portmap: Plugin) {
    let scene = Scene::new(portmap);
    let old = scene.pod("old", &[8080]);
    assert_eq!(scene.reaches(8080).by(), Some("old"));

    let (status, dry, _) = autoport(&[&["install", "--dry-run"], &FOLDERS[..]].concat());
    assert_eq!(status.code(), Some(3), "it is not installed yet: {dry}");
    assert!(
        dry.contains("-      \"type\": \"portmap\"") && dry.contains("would be copied"),
        "{dry}"
    );
    assert_eq!(fs::read_to_string(CONFLIST).expect("the configuration"), scene.before);
    assert!(!Path::new(PLUGINS).join("autoport").exists() && !Path::new(BACKUP).exists());

    install(&[]);
    assert_eq!(types(), ["bridge", "autoport"]);
    assert_eq!(fs::read_to_string(BACKUP).expect("the text before"), scene.before);
    let (plugins, networks) = (view::states(PLUGINS), view::states(NETWORKS));
    let again = install(&[]);
    assert_eq!(again.matches("nothing to do").count(), 2, "{again}");
    assert_eq!(
        (view::states(PLUGINS), view::states(NETWORKS)),
        (plugins, networks),
        "a second run writes nothing"
    );

    // Pods that portmap mapped go on, and new ones are ours.
    assert_eq!(scene.reaches(8080).by(), Some("old"));
    let new = scene.pod("new", &[8081]);
    assert_eq!(scene.reaches(8081).by(), Some("new"));
    assert_eq!(Scene::reaches_by_loopback(8081).as_deref(), Some("new"));
    assert_eq!(view::records().len(), 1);

    // The DEL of a pod that only portmap knows comes to us. A runtime that does not repeat the ports leaves
    // its rules, which come first.
    scene.cnitool("del", &old, &[]);
    assert_eq!(scene.reaches(8081).by(), Some("new"));
    let next = scene.node.pod("next");
    let said = scene.cnitool("add", &next, &[8080]);
    assert!(said.contains("8080/tcp") && said.contains("portmap"), "{said}");
    assert_ne!(scene.reaches(8080).by(), Some("next"), "portmap's rule comes first");
    forget_portmap();
    assert_eq!(scene.reaches(8080).by(), Some("next"));

    // And back: who has host ports keeps them, and portmap has the new pods.
    assert!(would_uninstall().0);
    let told = uninstall(&[]);
    assert!(told.contains("has host ports") && told.contains("2 attachments"), "{told}");
    assert!(would_uninstall().0, "they have host ports");
    assert_eq!(fs::read_to_string(CONFLIST).expect("the configuration"), scene.before);
    assert!(!Path::new(BACKUP).exists());
    assert!(Path::new(PLUGINS).join("autoport").exists(), "a DEL may still come to it");
    assert_eq!((scene.reaches(8080).by(), scene.reaches(8081).by()), (Some("next"), Some("new")));
    let _portmaps = scene.pod("portmaps", &[8082]);
    assert_eq!(scene.reaches(8082).by(), Some("portmaps"));

    // No DEL comes to us any more, so what is gone is found by its namespace.
    scene.cnitool("del", &new, &[8081]);
    scene.cnitool("del", &next, &[8080]);
    ip("netns del new\nnetns del next");
    let before = view::snapshot();
    let (would, dry) = would_uninstall();
    assert!(would && dry.contains("table inet autoport would be deleted"), "{dry}");
    assert!(!dry.contains("has host ports"), "they would be collected: {dry}");
    assert_eq!(view::snapshot(), before, "a dry run changes nothing");
    let told = uninstall(&[]);
    assert!(told.contains("table inet autoport deleted"), "{told}");
    assert!(!ruleset().contains("autoport"), "{}", ruleset());
    assert_eq!((scene.reaches(8080), scene.reaches(8081)), (Answer::Refused, Answer::Refused));
    assert_eq!(Scene::reaches_by_loopback(8082).as_deref(), Some("portmaps"));
    assert!(!Path::new(PLUGINS).join("autoport").exists(), "nobody calls it any more: {told}");
    assert!(!would_uninstall().0);
    let again = uninstall(&[]);
    assert!(!again.contains("deleted") && !again.contains("removed"), "{again}");
}

/// What the operator does after the last pod of portmap was deleted (docs/migration.md).
fn forget_portmap() {
    for family in ["ip", "ip6"] {
        for chain in ["nat CNI-HOSTPORT-DNAT", "cni_hostport hostports"] {
            let words = format!("flush chain {family} {chain}");
            let _ = run(Command::new("nft").args(words.split(' ')), "");
        }
    }
}

#[test]
fn from_portmap_with_iptables_and_back() {
    from_portmap_and_back(Plugin::PortmapIptables);
}

#[test]
fn from_portmap_with_nftables_and_back() {
    from_portmap_and_back(Plugin::PortmapNftables);
}

/// A number that portmap translates leads to its pod, even if another pod gets the number.
#[test]
fn a_port_of_portmap_is_not_chosen() {
    for portmap in [Plugin::PortmapIptables, Plugin::PortmapNftables] {
        let scene = Scene::new(portmap);
        let _old = scene.pod("old", &[20000, 20001]);
        install(&[]);
        let pod = scene.node.pod("web");
        let said = scene.cnitool("add", &pod, &[0]);
        assert!(!said.contains("portmap"), "{said}");
        assert_eq!(
            scene.reaches(20002).by(),
            Some("web"),
            "{portmap:?}: {}",
            view::index().join(" ")
        );
        assert_eq!(scene.reaches(20001).by(), Some("old"));
        scene.cnitool("del", &pod, &[0]);
    }
}

/// A runtime that calls what it remembers, not what is there (CRI-O).
#[test]
fn a_del_by_the_configuration_that_was_there_before() {
    let scene = Scene::new(Plugin::PortmapNftables);
    install(&[]);
    let network = Network::new("blue", Main::Bridge, 1, Plugin::Autoport);
    let (_pod, attachment) =
        scene.node.attached("web", &network, [PortMapping::new(Transport::Tcp, 8080, POD_PORT)]);
    assert_eq!(route_localnet("cni1"), "1");
    remember(&attachment);
    uninstall(&[]);
    assert_eq!(scene.reaches(8080).by(), Some("web"));
    let installed = format!("{PLUGINS}/autoport");
    let del = |attachment: &Attachment| {
        Call::new(&installed, "DEL")
            .env("CNI_CONTAINERID", &attachment.container_id)
            .env("CNI_NETNS", &attachment.netns)
            .env("CNI_IFNAME", &attachment.ifname)
            .stdin(attachment.config().to_string())
            .run()
            .success()
    };
    del(&attachment);
    view::assert_nothing_held();
    assert_eq!(scene.reaches(8080), Answer::Refused);
    // Its host ports are gone, but the runtime remembers it.
    let told = uninstall(&[]);
    assert!(told.contains("route_localnet of cni1 set back to 0"), "{told}");
    assert_eq!(route_localnet("cni1"), "0");
    assert!(!ruleset().contains("autoport"), "{}", ruleset());
    assert!(told.contains("autoport kept") && told.contains("/var/lib/cni/results"), "{told}");
    assert!(!would_uninstall().0, "nothing before the runtime forgets it");
    del(&attachment);
    fs::remove_dir_all("/var/lib/cni/results").expect("the folder is covered");
    assert!(would_uninstall().0);
    let told = uninstall(&[]);
    assert!(told.contains("autoport removed"), "{told}");
}

/// What libcni writes after an ADD.
fn remember(attachment: &Attachment) {
    fs::create_dir_all("/var/lib/cni/results").expect("the folder is covered");
    let config = attachment.network.conflist().to_string();
    let (ok, config) = run(Command::new("base64").arg("-w0"), &config);
    assert!(ok);
    let cached = json!({"kind": "cniCacheV1", "config": config.trim()}).to_string();
    fs::write("/var/lib/cni/results/blue-web-eth0", cached).expect("the folder is covered");
}

/// Where others switched it on, it stays on.
#[test]
fn route_localnet_of_others_is_left_alone() {
    let scene = Scene::new(Plugin::PortmapNftables);
    let old = scene.pod("old", &[8080]);
    assert_eq!(route_localnet("cni1"), "1", "portmap sets it");
    scene.cnitool("del", &old, &[8080]);
    install(&[]);
    let pod = scene.pod("web", &[8081]);
    scene.cnitool("del", &pod, &[8081]);
    uninstall(&[]);
    assert_eq!(route_localnet("cni1"), "1");
}

/// What a node's hardening does not let go of is named, and done by the next try.
#[test]
fn a_sysctl_that_cannot_be_set_back_is_named() {
    let scene = Scene::new(Plugin::PortmapNftables);
    install(&[]);
    let pod = scene.pod("web", &[8080]);
    scene.cnitool("del", &pod, &[8080]);
    let path = "/proc/sys/net/ipv4/conf/cni1/route_localnet";
    let nothing: Option<&str> = None;
    mount(Some(path), path, nothing, MsFlags::MS_BIND, nothing).expect("a mount of its own");
    let closed = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(nothing, path, nothing, closed, nothing).expect("ours");
    let (status, _, stderr) = under(&[], &[&["uninstall"], &FOLDERS[..]].concat());
    assert!(!status.success(), "{stderr}");
    assert!(stderr.contains(&format!("could not set {path} to 0")), "{stderr}");
    assert!(ruleset().contains("chain guard"), "{}", ruleset());
    umount(path).expect("ours");
    uninstall(&[]);
    assert_eq!(route_localnet("cni1"), "0");
    assert!(!ruleset().contains("autoport"), "{}", ruleset());
}

/// A reservation is no pod: the table goes, the reservation stays.
#[test]
fn reservations_outlive_the_table() {
    let scene = Scene::new(Plugin::PortmapNftables);
    install(&[]);
    told(&["reserve", "ssh", "2222"]);
    let pod = scene.pod("web", &[8081]);
    scene.cnitool("del", &pod, &[8081]);
    uninstall(&[]);
    assert!(!ruleset().contains("autoport"), "{}", ruleset());
    assert!(told(&["list"]).contains("2222"));
    told(&["gc"]);
    told(&["repair"]);
    assert!(!ruleset().contains("autoport"), "{}", ruleset());
    let (would, dry) = would_uninstall();
    assert!(!would && !dry.contains("table inet autoport"), "there is none: {dry}");
    // And another ADD begins anew.
    install(&[]);
    let pod = scene.pod("again", &[8081]);
    assert_eq!(scene.reaches(8081).by(), Some("again"));
    scene.cnitool("del", &pod, &[8081]);
    view::assert_nothing_held_by_attachments();
}

/// A container in the node's PID namespace, with its own mounts: /run there is not the node's. Only in the
/// mount namespace of process 1 can it be determined which pods no longer exist.
#[test]
fn from_a_container_the_node_is_cleared() {
    const CONTAINER: &str = "mount -t proc proc /proc || exit 99
        unshare --mount sh -c 'mount -t tmpfs none /run && exec \"$@\"' sh \"$@\"
        status=$?; umount /proc; exit $status";
    let scene = Scene::new(Plugin::PortmapNftables);
    install(&[]);
    let _web = scene.pod("web", &[8080]);
    ip("netns del web");
    let words = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", CONTAINER, "sh"];
    let within = |more: &[&str]| under(&words, &[&["uninstall"], &FOLDERS[..], more].concat());
    let before = (view::snapshot(), view::states(NETWORKS));
    let (_, stdout, stderr) = within(&[]);
    let after = (view::snapshot(), view::states(NETWORKS));
    assert_eq!(after, before, "it sees its own /run: {stdout}{stderr}");
    let (status, stdout, stderr) = within(&["--host"]);
    assert!(status.success(), "{stdout}{stderr}");
    assert!(stdout.contains("table inet autoport deleted"), "{stdout}{stderr}");
    assert_eq!(fs::read_to_string(CONFLIST).expect("the configuration"), scene.before);
    view::assert_nothing_held();
}

/// The table of another store is not ours to delete.
#[test]
fn the_table_of_others_stays() {
    let _scene = Scene::new(Plugin::PortmapNftables);
    told(&["reserve", "ssh", "2222"]);
    let identity = Identity::current("00000000000000000000000000000000");
    nft(&format!("table inet autoport {{ comment \"{identity}\"; }}"));
    for more in [&["--dry-run"][..], &[]] {
        let (status, _, stderr) = autoport(&[&["uninstall"], &FOLDERS[..], more].concat());
        assert!(
            !status.success() && stderr.contains("belongs to the store with instance 0000"),
            "{stderr}"
        );
    }
    assert!(ruleset().contains("autoport"), "{}", ruleset());
}
