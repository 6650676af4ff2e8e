//! Which system calls the plugin makes.

use crate::stage::bare::{add, attachment, network, tcp, udp};
use crate::stage::chain::{Main, Network};
use crate::stage::node::Node;
use crate::stage::plugin::Plugin;
use crate::stage::strace::trace;

/// The absolute paths that were looked up, in order, without what belongs to starting a program:
/// its libraries, and what the language's runtime asks of /proc and /sys.
fn paths(trace: &[String]) -> Vec<String> {
    const STARTING: [&str; 6] =
        ["/lib", "/usr/lib", "/etc/ld.so", "/proc/self/", "/sys/", "/dev/null"];
    // The runtime looks up its own executable.
    let own = |line: &&String| line.contains("execve(") || line.contains("\"/proc/self/exe\"");
    let calls = trace.iter().filter(|line| !own(line));
    let all = calls.flat_map(|line| line.split('"').skip(1).step_by(2));
    // What is written and sent is no path; a line break or a brace gives it away.
    let all = all.filter(|text| text.starts_with('/') && !text.contains(['\\', '{']));
    let ours = all.filter(|path| STARTING.iter().all(|start| !path.starts_with(start)));
    ours.map(str::to_owned).collect()
}

fn calls<'a>(trace: &'a [String], names: &[&str]) -> Vec<&'a String> {
    let is = |line: &&String| {
        let call = line.split_whitespace().nth(1).unwrap_or_default();
        names.iter().any(|name| call.starts_with(&format!("{name}(")))
    };
    trace.iter().filter(is).collect()
}

const SOCKETS: [&str; 4] = ["socket", "socketpair", "connect", "sendmsg"];
const CHILDREN: [&str; 5] = ["fork", "vfork", "clone", "clone3", "execveat"];
const LOCKS: [&str; 3] = ["flock", "mkdir", "mkdirat"];

const LOST: &str = "no store yet";
const IN_USE: &str = "a store in use";

const NODE: &str = "/etc/cni/autoport.json";
const CLUSTER: &str = "/etc/cni/autoport.cluster.json";
const CONTAINERS: &str = "/run/autoport/containers";
const CONTAINER: &str = "/run/autoport/containers/idle";
const INSTANCE: &str = "/run/autoport/instance";
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

#[test]
fn a_pod_without_ports_costs_nothing() {
    let node = Node::new();
    let idle = attachment(&node, &network("blue"), "idle", 5);
    let holder = attachment(&node, &network("blue"), "holder", 6).mapping([tcp(8080)]);
    for store in [LOST, IN_USE] {
        for command in ["ADD", "CHECK", "DEL"] {
            let trace = trace(&idle, command);
            let what = format!("{command} with {store}");
            let looked_up: &[&str] = match (command, store) {
                ("DEL", IN_USE) => &[NODE, CLUSTER, CONTAINER, CONTAINERS],
                // A store can be lost while its table is not: only that one knows the container.
                ("DEL", _) => &[NODE, CLUSTER, CONTAINER, CONTAINERS, INSTANCE, BOOT],
                _ => &[],
            };
            assert_eq!(paths(&trace), looked_up, "{what}");
            if (command, store) != ("DEL", LOST) {
                assert_eq!(calls(&trace, &SOCKETS), [""; 0], "{what}");
            }
            assert_eq!(calls(&trace, &LOCKS), [""; 0], "{what}");
            assert_eq!(calls(&trace, &CHILDREN), [""; 0], "{what}");
        }
        add(&node, &holder);
    }
}

#[test]
fn a_pod_with_ports_costs_no_process() {
    let node = Node::new();
    let blue = Network::new("blue", Main::Bridge, 1, Plugin::Autoport);
    let pod = node.pod("web");
    let mut web = pod.in_network(&blue).mapping([tcp(8080), udp(8080)]);
    web.attach_main();
    for (command, what) in [
        ("ADD", "the first"),
        ("ADD", "again"),
        ("CHECK", "with ports"),
        ("DEL", "with ports"),
        ("DEL", "again"),
    ] {
        let trace = trace(&web, command);
        assert_eq!(calls(&trace, &CHILDREN), [""; 0], "{command} {what}");
        assert_eq!(calls(&trace, &["execve"]).len(), 1, "{command} {what}: its own start");
    }
}
