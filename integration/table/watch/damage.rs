//! What other programs do to the table, and that the watch, GC and `repair` undo it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;

use serde_json::{Value, json};

use super::super::damage::{Scene, command, elements, nft_json};
use super::{PATIENCE, TABLE, Watch};
use crate::stage::bare::{add, attachment, network, run, tcp};
use crate::stage::chain::PortMapping;
use crate::stage::netns::{nft, ruleset, run as tool, settle};
use crate::stage::node::{CLIENT, FIRST, Pod, address};
use crate::stage::plugin::Plugin;
use crate::stage::probe::{Answer, Probe};
use crate::stage::talk::{self, Talk};

/// What others do to the table of [`Scene`], with `net` and `from` the chains of its network.
fn damages() -> Vec<(String, String)> {
    let listing = ruleset();
    let chain = |prefix: &str| {
        let rest = listing.split(&format!("chain {prefix}_")).nth(1).expect("the network's chain");
        format!("{prefix}_{}", &rest[..16])
    };
    let (net, from) = (chain("net"), chain("from"));
    let held = |set: &str| net.replace("net", set);
    let mut damages = vec![
        ("the ruleset is flushed".to_owned(), "flush ruleset".to_owned()),
        ("the table is deleted".into(), format!("delete table {TABLE}")),
        ("the table is flushed".into(), format!("flush table {TABLE}")),
        ("the table sleeps".into(), format!("add table {TABLE} {{ flags dormant; }}")),
        ("an empty table".into(), format!("delete table {TABLE}\ntable {TABLE} {{ }}")),
        (
            "a rule exchanged".into(),
            format!(
                "flush chain {TABLE} prerouting\n\
                 add rule {TABLE} prerouting fib saddr type != local return"
            ),
        ),
        (
            "a rule of the network exchanged".into(),
            format!("flush chain {TABLE} {from}\nadd rule {TABLE} {from} drop\n").repeat(1)
                + &format!("add rule {TABLE} {from} drop\n").repeat(4),
        ),
        ("a foreign rule".into(), format!("insert rule {TABLE} {net} drop")),
        (
            "a foreign base chain".into(),
            format!(
                "add chain {TABLE} thief {{ type nat hook prerouting priority -150; }}\n\
                 add rule {TABLE} thief tcp dport 8080 redirect to :1"
            ),
        ),
        ("another policy".into(), format!("add chain {TABLE} prerouting {{ policy drop; }}")),
        ("a chain gone".into(), format!("flush chain {TABLE} output\ndelete chain {TABLE} output")),
        (
            "an element with another protocol".into(),
            format!("add element {TABLE} {} {{ udplite . 8080 }}", held("held4")),
        ),
        ("a catch-all".into(), format!("add element {TABLE} ports6 {{ * : fd00:1::9 . 80 }}")),
        (
            "an element that will expire".into(),
            format!(
                "delete element {TABLE} gated_ports4 {{ tcp . 8080 : {target} }}\n\
                 add element {TABLE} gated_ports4 {{ tcp . 8080 timeout 1h : {target} }}",
                target = "10.1.0.2 . 80"
            ),
        ),
        (
            "an element of another name".into(),
            format!(
                "delete element {TABLE} gated_ports4 {{ tcp . 8080 : {target} }}\n\
                 add element {TABLE} gated_ports4 {{ tcp . 8080 comment \"evil\" : {target} }}",
                target = "10.1.0.2 . 80"
            ),
        ),
    ];
    for (element, sets) in [
        ("tcp . 9999 : 10.1.0.9 . 80", &["ports4", "gated_ports4"][..]),
        ("udp . 9999 timeout 1h : fd00:1::9 . 80", &["ports6", "gated_ports6"]),
        ("192.0.2.1 . tcp . 8080 : 10.1.0.9 . 80", &["host_ports4"]),
        ("2001:db8::1 . sctp . 9 : fd00:1::9 . 80", &["host_ports6"]),
        ("tcp . 9999", &[&held("held4"), &held("held6")]),
        ("192.0.2.1 . tcp . 8080", &[&held("host_held4")]),
        ("2001:db8::1 . tcp . 8080", &[&held("host_held6")]),
        ("10.1.0.9 . tcp . 8080", &["hairpins4"]),
        ("fd00:1::9 . tcp . 8080", &["hairpins6"]),
    ] {
        for set in sets {
            let script = format!("add element {TABLE} {set} {{ {element} }}");
            damages.push((format!("a foreign element in {set}"), script));
        }
    }
    damages
}

/// The scene with one more pod, and a connection through its host port that has to outlive it all.
struct Talking {
    scene: Scene,
    _pod: Pod,
    talk: Talk,
}

impl Talking {
    fn new() -> Self {
        let mut scene = Scene::new();
        let pod = scene.node.pod("talker");
        let own = PortMapping { container_port: talk::POD_PORT, ..tcp(8085) };
        let mut own = pod.in_network(&scene.attachment.network).mapping([own]);
        scene.node.add(&mut own);
        let talk = Talk::begin(&scene.node, &pod, 8085);
        scene.intact = ruleset();
        Self { scene, _pod: pod, talk }
    }

    /// Insists that all is as it was: for new connections, for the one that is there, for CHECK.
    fn assert_works(&mut self, what: &str) {
        // What was removed goes on translating until the kernel's next timer tick.
        settle();
        for address in FIRST {
            let answer = self.scene.node.client_asks(&Probe::tcp(address, 8080));
            assert_eq!(answer.by(), Some("web"), "{what}: {address}");
        }
        self.talk.goes_on(what);
        let outcome = self.scene.attachment.check();
        assert!(outcome.status.success(), "{what}: {outcome}");
        assert_eq!(ruleset(), self.scene.intact, "{what}");
    }
}

/// The watch alone, each time a new one: it slows down when it is kept busy.
#[test]
fn the_watch_undoes_every_damage() {
    let mut talking = Talking::new();
    for (what, damage) in damages() {
        let watch = Watch::start();
        nft(&damage);
        watch.wait_for(&what, || {
            let said = watch.said();
            said.contains("built table") || said.contains("mended table")
        });
        talking.assert_works(&what);
        let said = watch.stop();
        assert_eq!(said.matches(" table inet autoport").count(), 2, "{what}: {said}");
        talking.scene.node.note(format!("{what}: {said}"));
    }
    for (set, key, data) in elements() {
        let watch = Watch::start();
        lose(&set, &key, data.as_ref());
        watch.wait_for("the element", || watch.said().contains("mended table"));
        let said = watch.stop();
        assert!(said.contains("is missing") && !said.contains("built"), "{set} {key}: {said}");
        assert_eq!(ruleset(), talking.scene.intact, "{set} {key}: {said}");
    }
}

/// Deletes one element.
fn lose(set: &Value, key: &Value, data: Option<&Value>) {
    let whole = data.map_or_else(|| key.clone(), |data| json!([key, data]));
    nft_json(&json!([command("delete", set, &whole)]));
}

/// GC and repair find the same, since they look at the same.
#[test]
fn gc_and_repair_undo_every_damage() {
    let mut talking = Talking::new();
    let attachment = talking.scene.attachment.clone();
    let gc = || {
        let mut config = attachment.config();
        config["cniVersion"] = json!("1.1.0");
        let valid = |id: &str| json!({"containerID": id, "ifname": "eth0"});
        config["cni.dev/valid-attachments"] = json!([valid("web"), valid("talker")]);
        attachment.plugin_call("GC").stdin(config.to_string()).run()
    };
    for (what, damage) in damages() {
        nft(&damage);
        let outcome = gc();
        assert!(outcome.status.success(), "GC after {what}: {outcome}");
        talking.assert_works(&format!("GC after {what}: {outcome}"));
        nft(&damage);
        let (ok, text) = repair();
        assert!(ok, "repair after {what}: {text}");
        talking.assert_works(&format!("repair after {what}: {text}"));
    }
    for (set, key, data) in elements() {
        lose(&set, &key, data.as_ref());
        let outcome = gc();
        assert!(outcome.stderr.contains("is missing"), "{set} {key}: {outcome}");
        assert!(!outcome.stderr.contains("built"), "one element is no reason: {outcome}");
        assert_eq!(ruleset(), talking.scene.intact, "{set} {key}: {outcome}");
        lose(&set, &key, data.as_ref());
        let (ok, text) = repair();
        let told = text.contains("1 elements added, 0 removed") && text.contains("is missing");
        assert!(ok && told, "{set} {key}: {text}");
        assert_eq!(ruleset(), talking.scene.intact, "{set} {key}: {text}");
    }
}

fn repair() -> (bool, String) {
    tool(Command::new(Plugin::Autoport.path()).arg("repair").env_clear(), "")
}

/// Where the node goes on translating, as it does beside kube-proxy, nothing that is on its way is
/// lost with the table, nor when it is put in its place.
#[test]
fn a_transfer_goes_on_while_the_table_is_lost_and_restored() {
    const LENGTH: usize = 64 << 20;
    let scene = Scene::new();
    nft("table ip kube-proxy {
           chain nat-postrouting {
             type nat hook postrouting priority srcnat
             meta mark & 0x4000 == 0x4000 masquerade
           }
         }");
    let pod = scene.node.pod("sink");
    let listener = pod.netns.run(|| TcpListener::bind("[::]:81").expect("a free port"));
    let sink = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let (mut buffer, mut total, mut right) = (vec![0; 1 << 16], 0_usize, true);
        loop {
            let read = stream.read(&mut buffer).expect("the connection works");
            if read == 0 {
                break;
            }
            right &= buffer[..read].iter().zip(total..).all(|(byte, at)| *byte == (at % 251) as u8);
            total += read;
        }
        stream.write_all(&[u8::from(right)]).expect("the connection works");
        total
    });
    let mut own = pod
        .in_network(&scene.attachment.network)
        .mapping([PortMapping { container_port: 81, ..tcp(8085) }]);
    scene.node.add(&mut own);
    let watch = Watch::start();
    let to = (address(FIRST[0]), 8085);
    let mut stream = scene.node.client.run(|| TcpStream::connect(to).expect("a connection"));
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    let damages = ["delete table", "flush table"].map(|verb| format!("{verb} {TABLE}"));
    let mut sent = 0;
    for (damage, part) in damages.iter().cycle().zip(1..=4) {
        nft(damage);
        let upto = LENGTH * part / 4;
        while sent < upto {
            let bytes: Vec<u8> =
                (sent..upto.min(sent + (1 << 16))).map(|at| (at % 251) as u8).collect();
            stream.write_all(&bytes).expect("the connection is open");
            sent += bytes.len();
        }
        watch.wait_for("the table", || watch.said().matches("built table").count() == part);
        own.check().success();
    }
    stream.shutdown(std::net::Shutdown::Write).expect("the connection is open");
    let mut right = [0];
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.read_exact(&mut right).expect("the connection works");
    assert_eq!((right, sink.join().expect("no panic")), ([1], LENGTH));
}

/// A UDP client that began, or went on, while there was no translation must not stay in that flow.
#[test]
fn a_flow_that_began_in_the_gap_does_not_outlive_it() {
    let scene = Scene::new();
    let other = attachment(&scene.node, &network("green"), "other", 200).mapping([tcp(9090)]);
    for (who, source) in ["watch", "ADD", "DEL", "repair"].into_iter().zip(5555..) {
        let probe = Probe::udp(FIRST[0], 8080).from(CLIENT[0], source);
        let ask = || scene.node.client_asks(&probe);
        if who == "DEL" {
            add(&scene.node, &other);
        }
        nft(&format!("flush chain {TABLE} prerouting"));
        assert_eq!(ask(), Answer::Refused, "nobody translates");
        match who {
            "watch" => drop(Watch::start()),
            "repair" => assert!(repair().0),
            command => drop(run(&other, command).success()),
        }
        assert_eq!(ask().by(), Some("web"), "after {who}");
    }
}

/// What Debian's /etc/nftables.conf loads.
const DEBIANS: &str = "table inet filter {
\tchain input {
\t\ttype filter hook input priority filter; policy accept;
\t}

\tchain forward {
\t\ttype filter hook forward priority filter; policy accept;
\t}

\tchain output {
\t\ttype filter hook output priority filter; policy accept;
\t}
}
";

/// The lines of Debian's `nftables.service` for one key.
fn unit_lines(key: &str) -> Vec<String> {
    let unit = fs::read_to_string("/lib/systemd/system/nftables.service");
    let unit = unit.expect("Debian's package nftables has it");
    let lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let lines: Vec<String> = lines.map(str::to_owned).collect();
    assert!(!lines.is_empty(), "{key} in {unit}");
    lines
}

#[test]
fn debians_firewall_service_is_restarted_and_reloaded() {
    let mut talking = Talking::new();
    for keys in [&["ExecStop", "ExecStart"][..], &["ExecReload"], &["ExecStop"]] {
        let watch = Watch::start();
        for line in keys.iter().flat_map(|key| unit_lines(key)) {
            let (ok, text) = tool(Command::new("sh").args(["-c", &line]), "");
            assert!(ok, "{line}: {text}");
        }
        let ours = || ruleset().replace(DEBIANS, "");
        watch.wait_for("the table", || ours() == talking.scene.intact);
        assert_eq!(ruleset().contains(DEBIANS), keys != ["ExecStop"], "{}", ruleset());
        nft("add table inet filter\ndelete table inet filter");
        talking.assert_works(&format!("{keys:?}"));
        watch.stop();
    }
}
