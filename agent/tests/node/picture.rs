//! The picture of the dashboard in `docs/monitoring.md`: three nodes at work, a real Prometheus, and a browser.

use std::env;
use std::f64::consts::TAU;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::unistd::gettid;
use serde_json::{Value, json};

use super::agent::Node;
use super::busy::{Busy, KEYS};
use super::monitoring::{PROMETHEUS, Prometheus, component, configuration, tools};
use super::{ip, tool};

/// How long the nodes work, and how often Prometheus asks.
const LENGTH: Duration = Duration::from_mins(10);
const INTERVAL: u32 = 5;

const NODES: [&str; 3] = ["n1", "n2", "n3"];

enum Incident {
    /// Requests of this kind are rejected.
    Rejected(u32),
    /// Another program flushes this.
    Damaged(&'static str),
    /// The API server rejects what the agent writes.
    Unwritten,
}

/// On which node, and in which part of the time.
const INCIDENTS: [(u32, Range<f64>, Incident); 6] = [
    (0, 0.25..0.252, Incident::Damaged("ruleset")),
    (0, 0.3..0.42, Incident::Rejected(0)),
    (1, 0.45..0.452, Incident::Damaged("map inet autoport ports4")),
    (1, 0.5..0.62, Incident::Rejected(3)),
    (2, 0.65..0.75, Incident::Unwritten),
    (2, 0.85..0.852, Incident::Damaged("ruleset")),
];

/// Where the agents of a node are asked.
fn address(number: u32) -> String {
    format!("10.9.{number}.2")
}

/// A node, connected with the namespace of the thread `hub`, whose agents work until the end.
fn live(number: u32, hub: i32) {
    let (node, own, name) = (Node::new(KEYS), address(number), NODES[number as usize]);
    ip(&format!("link add eth0 type veth peer name {name} netns {hub}"));
    ip(&format!("addr add {own}/24 dev eth0"));
    ip("link set eth0 up");
    for command in
        [format!("addr add 10.9.{number}.1/24 dev {name}"), format!("link set {name} up")]
    {
        tool("nsenter", &format!("--net=/proc/{hub}/ns/net ip {command}"));
    }
    let mut busy = Busy::new(node, [&format!("{own}:9417"), &format!("{own}:9418")]);
    let begun = Instant::now();
    for tick in 0.. {
        let past = begun.elapsed().as_secs_f64() / LENGTH.as_secs_f64();
        if past > 1.0 {
            return;
        }
        work(&mut busy, number, past, tick);
        thread::sleep(Duration::from_millis(700));
    }
}

/// What happens after this part of the time: pods come and go in waves, and there are incidents.
fn work(busy: &mut Busy, number: u32, past: f64, tick: u32) {
    let wave = (TAU * (1.5 * past + f64::from(number) / 3.0)).sin();
    let wanted = (20.0 + 14.0 * f64::from(number)) * (1.0 + 0.6 * wave);
    if tick.is_multiple_of(8) {
        busy.begin_both();
    } else if f64::from(busy.running()) < wanted || tick.is_multiple_of(3) {
        busy.begin();
    } else {
        busy.end();
    }
    for reason in 0..4 {
        if tick.is_multiple_of(37 + 8 * reason + number) {
            busy.reject(reason);
        }
    }
    let mut code = None;
    for (_, _, incident) in
        INCIDENTS.iter().filter(|(node, time, _)| *node == number && time.contains(&past))
    {
        match incident {
            Incident::Rejected(reason) => busy.reject(*reason),
            Incident::Damaged(what) => tool("nft", &format!("flush {what}")),
            Incident::Unwritten => code = Some(500),
        }
    }
    busy.api.reject_all(code);
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time of today").as_secs()
}

/// Has the browser draw what the page is given; both are in `dir`.
fn draw(dir: &Path, given: &Value, picture: &Path) {
    let write = |name, text: &str| fs::write(dir.join(name), text).expect("a directory of ours");
    write("dashboard.html", include_str!("picture.html"));
    write("given.js", &format!("const given = {given};"));
    for file in ["uPlot.iife.min.js", "uPlot.min.css"] {
        let from = tools().join("uplot/usr/share/nodejs/uplot/dist").join(file);
        fs::copy(from, dir.join(file)).expect("integration/setup.sh picture unpacks uPlot");
    }
    let drawn = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--hide-scrollbars", "--enable-logging=stderr"])
        .args([
            "--window-size=1200,1740",
            "--force-device-scale-factor=1.25",
            "--virtual-time-budget=30000",
        ])
        .arg(format!("--user-data-dir={}", dir.join("browser").display()))
        .arg(format!("--screenshot={}", picture.display()))
        .arg(format!("file://{}", dir.join("dashboard.html").display()))
        .output()
        .expect("integration/setup.sh picture installs chromium");
    let log = String::from_utf8_lossy(&drawn.stderr);
    assert!(drawn.status.success() && log.contains("17 panels drawn"), "{log}");
}

#[test]
#[ignore = "takes 10 minutes, and needs a browser: make dashboard-picture"]
fn the_dashboard_is_drawn() {
    let picture = env::var_os("AUTOPORT_PICTURE").expect("the path of the picture");
    let _hub = Node::new("");
    ip("link set lo up");
    let (hub, dir) = (gettid().as_raw(), tempfile::tempdir().expect("a directory"));
    thread::scope(|scope| {
        for number in 0..NODES.len() as u32 {
            scope.spawn(move || live(number, hub));
        }
        let addresses: Vec<_> = (0..NODES.len() as u32).map(address).collect();
        let agents = NODES.iter().zip(&addresses);
        let targets: Vec<_> = agents
            .flat_map(|(node, address)| {
                ["agent", "agent-standby"].map(|container| (*node, container, address.as_str()))
            })
            .collect();
        let configuration = configuration(&targets, INTERVAL);
        let _prometheus = Prometheus::start(dir.path(), &configuration);
        let from = now();
        thread::sleep(LENGTH);
        let dashboard: Value = serde_json::from_str(&component("dashboard.json")).expect("JSON");
        let given = json!({"dashboard": dashboard, "prometheus": format!("http://{PROMETHEUS}"),
                           "from": from + 30, "to": now(), "interval": INTERVAL});
        draw(dir.path(), &given, Path::new(&picture));
    });
}
