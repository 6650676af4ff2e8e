//! Mappings held by other pods, one each: made quickly, and the same as if each had come by ADD.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use autoport::app::{self, World};
use autoport::cni::NodeFiles;
use autoport::event::Silent;

use crate::measure::Call;
use crate::node::{Node, tool};
use crate::plugins::{Executables, Plugin, Pod};

/// The host port of the first pod; the others follow.
pub(crate) const FIRST_PORT: u16 = 10_000;

/// The pod with this number, as every node has it.
fn holder(number: u16, dual: bool) -> Pod {
    Pod::numbered(number, dual, [FIRST_PORT + number - 1])
}

/// Brings a node from `from` to `to` mappings held.
pub(crate) fn fill(
    executables: &Executables,
    plugin: Plugin,
    node: &Node,
    dual: bool,
    from: u16,
    to: u16,
) {
    if from == to {
        return;
    }
    match plugin {
        // A process of its own, since the store looks where its process is, not which thread asks.
        Plugin::Autoport => {
            let own = std::env::current_exe().expect("the path of this program");
            let words = [from, to, u16::from(dual)].map(|number| number.to_string());
            node.space.run(|| tool(Command::new(own).arg(ADD_MANY).args(words), ""));
        }
        Plugin::PortmapNftables | Plugin::PortmapIptables | Plugin::PortmapOld => {
            node.space.run(|| {
                if from == 0 {
                    assert_same(executables, plugin, dual);
                }
                load(plugin, dual, from, to);
            });
        }
    }
}

/// The word by which this program asks itself for [`add_many`].
pub(crate) const ADD_MANY: &str = "add-many";

/// Runs ADD for many pods in this process: the plugin's own code, without starting it each time.
pub(crate) fn add_many(words: &[String]) {
    let number = |word: &String| word.parse::<u16>().expect("a number");
    let [from, to, dual] = words else { panic!("{ADD_MANY} takes three numbers") };
    for pod in number(from)..number(to) {
        let pod = holder(pod + 1, number(dual) == 1);
        let variables = pod.environment("ADD");
        let os = |(name, value)| (OsString::from(name), OsString::from(value));
        let outcome = app::run(World {
            env: &variables.into_iter().map(os).collect(),
            stdin: Ok(Plugin::Autoport.config(&pod).to_string().into_bytes()),
            node_files: NodeFiles::default,
            is_awaited: &|| true,
            now: SystemTime::now().duration_since(UNIX_EPOCH).expect("a time of today").as_secs(),
            log: &mut Silent,
        });
        assert!(!outcome.failed, "{}", String::from_utf8_lossy(&outcome.stdout));
    }
}

/// Where autoport's store is on every node.
pub(crate) const STATE: &str = "/run/autoport";

/// Deletes a part of the store, in the calling thread's mount namespace.
pub(crate) fn clear(part: &str) {
    match fs::remove_dir_all(Path::new(STATE).join(part)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => panic!("{part}: {error}"),
        Ok(()) | Err(_) => {}
    }
}

fn load(plugin: Plugin, dual: bool, from: u16, to: u16) {
    let families: &[bool] = if dual { &[false, true] } else { &[false] };
    for v6 in families {
        let pods = (from..to).map(|number| holder(number + 1, dual));
        match plugin {
            Plugin::PortmapNftables => {
                let script: String = pods.map(|pod| nft_rules(&pod, *v6)).collect();
                tool(Command::new("nft").args(["-f", "-"]), &script);
            }
            Plugin::PortmapIptables | Plugin::PortmapOld => {
                let mut script = "*nat\n".to_owned();
                script.extend(pods.map(|pod| iptables_rules(&pod, *v6)));
                script.push_str("COMMIT\n");
                let restore = if *v6 { "ip6tables-restore" } else { "iptables-restore" };
                tool(Command::new(restore).arg("--noflush"), &script);
            }
            Plugin::Autoport => {}
        }
    }
}

/// What portmap's nftables backend adds for a pod.
fn nft_rules(pod: &Pod, v6: bool) -> String {
    let (id, ip) = (&pod.id, pod.address(v6));
    let (table, bracketed) = if v6 { ("ip6", format!("[{ip}]")) } else { ("ip", ip.clone()) };
    let mut rules = String::new();
    for (port, inside) in &pod.ports {
        let _ = writeln!(
            rules,
            "add rule {table} cni_hostport hostports \
             tcp dport {port} dnat to {bracketed}:{inside} comment \"{id}\""
        );
    }
    let loopback = (!v6).then(|| Ipv4Addr::LOCALHOST.to_string());
    for source in [ip.clone()].into_iter().chain(loopback) {
        let _ = writeln!(
            rules,
            "add rule {table} cni_hostport masquerading \
             {table} saddr {source} {table} daddr {ip} masquerade comment \"{id}\""
        );
    }
    rules
}

/// What portmap's iptables backend adds for a pod; it names the chain by a hash.
fn iptables_rules(pod: &Pod, v6: bool) -> String {
    let ip = pod.address(v6);
    let bracketed = if v6 { format!("[{ip}]") } else { ip };
    let subnet = if v6 { "fd00:1::/64" } else { "10.1.0.0/16" };
    let chain = format!("CNI-DN-{}", &pod.id[pod.id.len() - 21..]);
    let mut rules = format!(":{chain} - [0:0]\n");
    let mut dports = Vec::new();
    for (port, inside) in &pod.ports {
        dports.push(port.to_string());
        for source in [subnet, "127.0.0.1/32"].into_iter().take(2 - usize::from(v6)) {
            let _ = writeln!(
                rules,
                "-A {chain} -s {source} -p tcp -m tcp --dport {port} -j CNI-HOSTPORT-SETMARK"
            );
        }
        let _ = writeln!(
            rules,
            "-A {chain} -p tcp -m tcp --dport {port} -j DNAT --to-destination {bracketed}:{inside}"
        );
    }
    let _ = writeln!(
        rules,
        "-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment \"dnat name: \\\"bench\\\" id: \\\"{}\\\"\" \
         -m multiport --dports {} -j {chain}",
        pod.id,
        dports.join(",")
    );
    rules
}

/// Shows that what [`load`] makes is what ADD makes: one pod comes both ways, and nobody could tell.
fn assert_same(executables: &Executables, plugin: Plugin, dual: bool) {
    let pod = holder(1, dual);
    let run = |command: &str| Call::cni(executables, plugin, command, &pod).time().success(command);
    run("ADD");
    let added = listing(plugin);
    run("DEL");
    load(plugin, dual, 0, 1);
    assert_eq!(added, listing(plugin), "{plugin:?}: what was loaded is not what ADD makes");
    run("DEL");
    // The chain that was loaded has another name, so that DEL does not find it.
    if plugin != Plugin::PortmapNftables {
        for restore in ["iptables-restore", "ip6tables-restore"] {
            tool(&mut Command::new(restore), "*nat\nCOMMIT\n");
        }
        run("ADD");
        run("DEL");
    }
}

/// The rules, but for the names of chains and what is different each time.
fn listing(plugin: Plugin) -> Vec<String> {
    let programs: &[(&str, &[&str])] = match plugin {
        Plugin::PortmapNftables => &[("nft", &["list", "ruleset"])],
        Plugin::PortmapIptables | Plugin::PortmapOld => {
            &[("iptables-save", &["-t", "nat"]), ("ip6tables-save", &["-t", "nat"])]
        }
        Plugin::Autoport => &[],
    };
    let mut lines = Vec::new();
    for (program, arguments) in programs {
        let text = tool(Command::new(program).args(*arguments), "");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let mut line = line.to_owned();
            if let Some(at) = line.find("CNI-DN-") {
                line.replace_range(at..at + "CNI-DN-".len() + 21, "CNI-DN-*");
                // The chain's name comes twice in no line.
            }
            lines.push(line);
        }
    }
    // Chains are listed by their name.
    lines.sort();
    lines
}
