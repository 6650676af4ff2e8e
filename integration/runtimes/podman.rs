//! Podman 4.3 with its CNI backend, from Debian 12.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::machine::{CONFIGURATIONS, Machine, PLUGINS, configure, wait_until};
use crate::recording::{assert_recorded, calls, commands};
use crate::stage::chain::{Main, Network};
use crate::stage::netns::{nft, run};
use crate::stage::node::SECOND;
use crate::stage::plugin::{DEBIAN, Plugin, tool};
use crate::stage::probe::{Answer, Probe, Transport};
use crate::stage::view::assert_nothing_held;

/// What the containers run: `integration/programs/echo/main.go`.
const IMAGE: &str = "autoport.test/echo:1";

/// A machine with podman, its image loaded, and the networks blue and green.
struct Podman {
    machine: Machine,
}

impl Podman {
    fn new() -> Self {
        let mut machine = Machine::new("bookworm");
        let programs = tool("bookworm/usr");
        // Not even root may raise these limits everywhere, and podman insists unless told.
        let configuration = format!(
            r#"[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
conmon_path = ["{0}/bin/conmon"]
[engine.runtimes]
runc = ["{0}/sbin/runc"]
[network]
network_backend = "cni"
network_config_dir = "{CONFIGURATIONS}"
cni_plugin_dirs = ["{PLUGINS}"]
"#,
            programs.display()
        );
        let storage = "[storage]\ndriver = \"vfs\"\ngraphroot = \"/run/podman/root\"\n\
                       runroot = \"/run/podman/run\"\n";
        let policy = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
        fs::create_dir_all("/run/home/.config/containers").expect("/run is ours");
        for (path, text) in [
            ("/run/containers.conf", configuration.as_str()),
            ("/run/storage.conf", storage),
            ("/run/home/.config/containers/policy.json", policy),
        ] {
            fs::write(path, text).expect("/run is ours");
        }
        machine.environment = vec![
            ("CONTAINERS_CONF", "/run/containers.conf".to_owned()),
            ("CONTAINERS_STORAGE_CONF", "/run/storage.conf".to_owned()),
        ];
        for (name, subnet) in [("blue", 1), ("green", 2)] {
            configure(&Network::new(name, Main::Bridge, subnet, Plugin::Autoport));
        }
        let podman = Self { machine };
        podman.does(&["load", "--quiet", "--input", &tool("image.tar").to_string_lossy()]);
        podman
    }

    /// `podman words...`, which has to succeed.
    fn does(&self, words: &[&str]) -> String {
        self.machine.run("podman", words)
    }

    /// `podman run` of a container that answers with its name.
    fn container(&self, name: &str, options: &[&str], arguments: &[&str]) {
        let fixed = ["run", "--detach", "--name", name, "--cgroup-parent", &self.machine.cgroup];
        self.does(&[&fixed, options, &[IMAGE, "-name", name], arguments].concat());
    }

    /// What podman says about a container's ports: container port and protocol, host port.
    fn port(&self, name: &str, container_port: &str) -> u16 {
        let text = self.does(&["port", name, container_port]);
        let (_, port) = text.rsplit_once(':').expect("an address and a port");
        port.parse().expect("a port")
    }

    /// Removes containers, one after the other, and insists that nothing is left.
    fn ends(&self, names: &[&str]) {
        for name in names {
            self.does(&["rm", "--force", "--time", "0", name]);
        }
        assert_nothing_held();
        assert_eq!(self.machine.held(), [""; 0]);
    }
}

#[test]
fn ports_of_several_protocols_and_addresses() {
    let podman = Podman::new();
    let ports = [
        &["-p", "8080:80/tcp", "-p", "8080:80/udp", "-p", "192.0.2.2:9090:81"][..],
        &["-p", "[2001:db8:0:1::2]:9090:81", "-p", "5000:80/sctp"],
    ]
    .concat();
    podman.container("web", &[&["--network", "blue"], &ports[..]].concat(), &[]);
    for transport in Transport::BOTH {
        podman.machine.assert_reached("web", transport, 8080);
    }
    podman.machine.assert_refused(9090);
    for host in SECOND {
        let answer = podman.machine.node.client_asks(&Probe::tcp(host, 9090));
        assert_eq!(answer.by(), Some("web"), "{host}: {answer}");
        let answer = podman.machine.node.client_asks(&Probe::udp(host, 9090));
        assert_eq!(answer, Answer::Refused, "only TCP was asked for on {host}");
    }
    assert_eq!(podman.machine.held(), ["5000/sctp", "8080/tcp", "8080/udp", "9090/tcp"]);
    podman.ends(&["web"]);
    podman.machine.assert_refused(8080);
}

/// The file of conflist-examples/ as it is there, which is podman's own network with autoport.
#[test]
fn the_example_configuration() {
    let podman = Podman::new();
    let file = "87-podman.conflist";
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("conflist-examples").join(file);
    fs::copy(example, Path::new(CONFIGURATIONS).join(file)).expect("the example can be copied");
    for name in ["firewall", "tuning"] {
        symlink(Path::new(DEBIAN).join(name), format!("{PLUGINS}/{name}")).expect("it is ours");
    }
    podman.container("web", &["-p", "8080:80"], &[]);
    wait_until("web answers over IPv4, which is all that the network has", || {
        podman.machine.answers(Transport::Tcp, 8080)[0].by() == Some("web")
    });
    podman.ends(&["web"]);
    podman.machine.assert_refused(8080);
}

#[test]
fn a_port_that_podman_picks_and_a_range() {
    let podman = Podman::new();
    let options = ["--network", "blue", "-p", "80", "-p", "8100-8103:90-93/tcp"];
    podman.container("web", &options, &["80", "90", "91", "92", "93"]);
    let picked = podman.port("web", "80/tcp");
    for port in [picked, 8100, 8101, 8102, 8103] {
        podman.machine.assert_reached("web", Transport::Tcp, port);
    }
    podman.machine.assert_refused(8104);
    assert_eq!(podman.machine.held().len(), 5);
    podman.ends(&["web"]);
}

/// conmon listens on the published ports all the while: that must not be held against them.
#[test]
fn network_reload_while_a_container_runs() {
    let podman = Podman::new();
    podman.container("web", &["--network", "blue", "-p", "8080:80", "-p", "81"], &[]);
    let picked = podman.port("web", "81/tcp");
    let held = podman.machine.held();
    commands();
    podman.does(&["network", "reload", "web"]);
    assert_eq!(commands(), ["VERSION", "VERSION", "DEL", "ADD"]);
    // This is what reload is for.
    nft("flush ruleset");
    let answers = podman.machine.answers(Transport::Tcp, picked);
    assert!(answers.iter().all(|answer| answer.by().is_none()), "{answers:?}");
    podman.does(&["network", "reload", "--all"]);
    for port in [8080, picked] {
        podman.machine.assert_reached("web", Transport::Tcp, port);
    }
    assert_eq!(podman.machine.held(), held);
    podman.ends(&["web"]);
}

#[test]
fn restart_stop_and_start() {
    let podman = Podman::new();
    podman.container("web", &["--network", "blue", "-p", "8080:80", "-p", "81"], &[]);
    let picked = podman.port("web", "81/tcp");
    let held = podman.machine.held();
    podman.does(&["restart", "--time", "5", "web"]);
    assert_eq!(podman.machine.held(), held);
    podman.machine.assert_reached("web", Transport::Tcp, picked);
    podman.does(&["stop", "--time", "5", "web"]);
    assert_nothing_held();
    podman.machine.assert_refused(8080);
    podman.does(&["start", "web"]);
    assert_eq!(podman.machine.held(), held);
    podman.machine.assert_reached("web", Transport::Tcp, 8080);
    podman.ends(&["web"]);
}

#[test]
fn a_port_that_is_held_is_refused_by_name() {
    let podman = Podman::new();
    podman.container("web", &["--network", "blue", "-p", "192.0.2.1:8080:80"], &[]);
    for port in ["8080:80", "192.0.2.1:8080:80"] {
        commands();
        let words =
            ["run", "--detach", "--name", "other", "--network", "green", "-p", "8079:80/udp"];
        let (ok, text) =
            podman.machine.try_run("podman", &[&words[..], &["-p", port, IMAGE]].concat());
        assert!(!ok && text.contains("held by pod web"), "the holder is named: {text}");
        let calls: Vec<_> = commands().into_iter().filter(|call| call != "VERSION").collect();
        assert_eq!(calls, ["ADD", "DEL"]);
        assert_eq!(podman.machine.held(), ["8080/tcp"], "nothing of the other is left");
        podman.does(&["rm", "--force", "other"]);
    }
    podman.ends(&["web"]);
}

#[test]
fn a_container_in_two_networks() {
    let podman = Podman::new();
    podman.container("web", &["--network", "blue,green", "-p", "8080:80", "-p", "81"], &[]);
    let picked = podman.port("web", "81/tcp");
    for port in [8080, picked] {
        podman.machine.assert_reached("web", Transport::Tcp, port);
    }
    // Each container has its own; only its networks share.
    let words = ["run", "--detach", "--name", "other", "--network", "green", "-p", "8080:80"];
    let (ok, text) = podman.machine.try_run("podman", &[&words[..], &[IMAGE]].concat());
    assert!(!ok && text.contains("held by pod web"), "{text}");
    podman.does(&["rm", "--force", "other"]);
    podman.does(&["network", "reload", "web"]);
    for port in [8080, picked] {
        podman.machine.assert_reached("web", Transport::Tcp, port);
    }
    podman.ends(&["web"]);
    podman.machine.assert_refused(8080);
}

#[test]
fn a_pod_with_two_containers() {
    let podman = Podman::new();
    let create = ["pod", "create", "--name", "shop", "--infra-image", IMAGE];
    // The first of its processes is ours too, on ports 80 and 81.
    let infra = ["--infra-command", "/echo", "--cgroup-parent", &podman.machine.cgroup];
    let ports = ["--network", "blue", "-p", "8080:8001", "-p", "8081:8002/udp"];
    podman.does(&[&create[..], &infra, &ports].concat());
    for (name, port) in [("one", "8001"), ("two", "8002")] {
        podman.does(&[
            "run", "--detach", "--pod", "shop", "--name", name, IMAGE, "-name", name, port,
        ]);
    }
    podman.machine.assert_reached("one", Transport::Tcp, 8080);
    podman.machine.assert_reached("two", Transport::Udp, 8081);
    podman.does(&["rm", "--force", "--time", "0", "two"]);
    assert_eq!(podman.machine.held(), ["8080/tcp", "8081/udp"], "the pod keeps them");
    podman.does(&["pod", "restart", "shop"]);
    podman.machine.assert_reached("one", Transport::Tcp, 8080);
    podman.does(&["pod", "rm", "--force", "--time", "0", "shop"]);
    assert_nothing_held();
}

/// The image of `make image`, in which there is nothing but the program.
#[test]
fn the_image_is_loaded_and_runs() {
    const EXECUTABLE: &str = "/run/autoport.stripped";
    let podman = Podman::new();
    // The debug symbols are most of it, and would be compressed.
    let plugin = Plugin::Autoport.path();
    let agent = plugin.with_file_name("autoport-agent");
    for (from, to) in [(&*plugin, EXECUTABLE), (&agent, "/run/autoport-agent")] {
        let (ok, text) = run(Command::new("strip").args(["-o", to]).arg(from), "");
        assert!(ok, "{text}");
    }
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::create_dir("/run/licenses").expect("/run is ours");
    fs::copy(project.join("NOTICE"), "/run/licenses/NOTICE").expect("/run is ours");
    let script = project.join("scripts/image.sh");
    let (ok, text) = run(Command::new(script).args(["/run/image", EXECUTABLE]), "");
    assert!(ok, "{text}");
    let (file, _) = text.split_once(": ").expect("the file and its size");
    podman.does(&["load", "--quiet", "--input", file]);
    let version = env!("CARGO_PKG_VERSION");
    let image = format!("localhost/autoport:{version}");
    // Attached, or with `podman wait`, podman takes 20 s more here.
    let run =
        ["run", "--detach", "--name", "once", "--network", "none", "--log-driver", "k8s-file"];
    let cgroup = ["--cgroup-parent", &podman.machine.cgroup];
    podman.does(&[&run[..], &cgroup, &[&image, "--version"]].concat());
    let said = format!("autoport {version}");
    wait_until("it has said its version", || podman.does(&["logs", "once"]) == said);
    podman.ends(&["once"]);
}

#[test]
fn what_podman_sends() {
    let podman = Podman::new();
    let ports = ["-p", "8080:80/tcp", "-p", "8080:80/udp", "-p", "192.0.2.2:9000-9001:90-91"];
    podman.container("web", &[&["--network", "blue"], &ports[..]].concat(), &[]);
    podman.does(&["network", "reload", "web"]);
    podman.container("plain", &["--network", "green"], &[]);
    podman.ends(&["web", "plain"]);
    let version = podman.does(&["--version"]);
    let version = version.rsplit(' ').next().unwrap_or_default();
    let calls = calls();
    assert!(calls.iter().all(|call| !["CHECK", "GC", "STATUS"].contains(&call.command())));
    assert_recorded("podman", version, calls);
}
