//! What an agent takes while nothing happens. It measures, and fails for no figure.

use std::fs;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use autoport::event::Silent;
use autoport::kernel::{Events, Extent, Nft, Woken};
use autoport::model::Record;
use autoport::ruleset::{Element, Place, elements_of};
use autoport::store::Store;
use serde_json::json;

use autoport_agent::nri::message::{Container, Pod};

use super::agent::{Agent, Node};
use super::capacity::{Kubelet, RESOURCE, Scene};
use super::doors::ADDRESS;
use super::runtime::Runtime;
use super::{asking, create, ip, run, tool};

/// Fields of `/proc/<pid>/status`, such as the memory.
fn status(agent: &Agent, fields: &[&str]) -> String {
    let text = fs::read_to_string(format!("/proc/{}/status", agent.pid())).expect("it runs");
    let is_meant = |line: &&str| fields.iter().any(|field| line.starts_with(field));
    let lines: Vec<_> = text.lines().filter(is_meant).map(|line| line.replace('\t', " ")).collect();
    lines.join(", ")
}

/// How long its threads have had a processor.
fn processor_time(agent: &Agent) -> Duration {
    let threads = fs::read_dir(format!("/proc/{}/task", agent.pid())).expect("it runs").flatten();
    let time = threads.filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    });
    time.map(Duration::from_nanos).sum()
}

fn pods(count: usize) -> (Vec<Pod>, Vec<Container>) {
    let pods: Vec<_> = (0..count).map(|number| asking(&format!("pod{number}"))).collect();
    let container = |pod: &Pod| Container {
        pod_sandbox_id: pod.id.clone(),
        name: "main".to_owned(),
        state: 3,
        env: (0..20).map(|it| format!("SERVICE_{it}_HOST=10.0.0.{it}").into_bytes()).collect(),
        ..Container::default()
    };
    let containers = pods.iter().map(container).collect();
    (pods, containers)
}

#[test]
#[ignore = "a measurement, run by make bench-agent"]
#[expect(clippy::print_stdout, reason = "what was measured")]
fn what_an_idle_agent_takes() {
    for count in [0, 100, 500] {
        let (node, runtime) = (Node::new(""), Runtime::new());
        ip("link set lo up");
        let agent = node.start(&runtime.socket(), &["--metrics-address", ADDRESS]);
        let mut connection = runtime.connect(Vec::new(), Vec::new());
        let (pods, _) = pods(count);
        let mut claims: Vec<_> = pods
            .iter()
            .map(|pod| {
                let begun = Instant::now();
                run(&mut connection, pod).expect("it is assigned a port");
                begun.elapsed()
            })
            .collect();
        claims.sort_unstable();
        if count > 0 {
            let [p50, p99] = [50, 99].map(|share| claims[count * share / 100]);
            println!("{count} Pods on the host network: a port after p50 {p50:.2?}, p99 {p99:.2?}");
        }
        thread::sleep(Duration::from_secs(2));
        println!("{count} Pods with a port each: {}", status(&agent, &["VmRSS", "RssAnon"]));
        if count != 100 {
            let before = processor_time(&agent);
            thread::sleep(Duration::from_mins(1));
            let spent = processor_time(&agent).saturating_sub(before);
            println!(
                "{count} Pods, a minute later: {spent:.1?} of processor time, {}",
                status(&agent, &["VmRSS", "RssAnon"])
            );
        }
    }
    // What an agent lists that connects to a runtime with many pods.
    let (node, runtime) = (Node::new(""), Runtime::new());
    let agent = node.start(&runtime.socket(), &[]);
    let (pods, containers) = pods(500);
    let _connection = runtime.connect(pods, containers);
    thread::sleep(Duration::from_secs(2));
    println!("500 Pods at once: {}", status(&agent, &["VmRSS", "RssAnon", "VmHWM"]));
}

/// It looks at the files of the node every second.
#[test]
#[ignore = "a measurement, run by make bench-agent"]
#[expect(clippy::print_stdout, reason = "what was measured")]
fn what_an_idle_agent_takes_that_offers_ports() {
    let scene = Scene::new("");
    let kubelet = Kubelet::new(scene.dir.path());
    let agent = scene.start(&scene.runtime, &[]);
    let _connection = scene.runtime.connect(Vec::new(), Vec::new());
    kubelet.awaits_registration(RESOURCE);
    thread::sleep(Duration::from_secs(5));
    let before = processor_time(&agent);
    thread::sleep(Duration::from_mins(1));
    let spent = processor_time(&agent).saturating_sub(before);
    println!(
        "a minute with --device-plugins and the API server: {spent:.1?} of processor time, {}",
        status(&agent, &["VmRSS", "RssAnon"])
    );
}

/// Records so many pods with a port each, over IPv4 and IPv6; gives the instance of the store and the last element.
pub(crate) fn fill(store: &Store, count: u16) -> (String, Place) {
    let locked = store.lock(&mut Silent).expect("the agent has made it");
    let instance = locked.instance();
    let mut last = None;
    for number in 0..count {
        let port = 10_000 + number;
        let [v4, v6] =
            [format!("10.1.{}.{}", number / 256, number % 256), format!("fd00:1::{number:x}")];
        let mapping = |address: &str, target: String| json!({"protocol": "tcp", "address": address, "port": port, "containerPort": 80, "target": target});
        let record = json!({
            "network": "cbr0", "containerId": format!("c{number}"), "ifname": "eth0",
            "pod": {"namespace": "games", "name": format!("game-{number}"), "uid": ""},
            "podAddresses": [format!("{v4}/16"), format!("{v6}/64")],
            "policy": {"masquerade": "local", "markBit": 13, "sourceRanges": [], "hostAddresses": []},
            "mappings": [mapping("0.0.0.0", format!("{v4}:80")), mapping("::", format!("[{v6}]:80"))],
            "created": 0, "bootId": instance.boot_id,
        });
        let record: Record = serde_json::from_value(record).expect("a record");
        locked.save(&record).expect("it can be saved");
        last = elements_of(&record, &record.mappings).map(|it: Element| it.place()).last();
    }
    (instance.id.clone(), last.expect("there is a record"))
}

/// How soon the table is restored by an agent that is asked about containers all the time, and how long one of
/// those has to wait.
#[test]
#[ignore = "a measurement, run by make bench-agent"]
#[expect(clippy::print_stdout, reason = "what was measured")]
fn how_soon_a_busy_agent_restores_the_table() {
    // More does not fit into a transaction in a user namespace.
    let is_initial =
        fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.contains("4294967295"));
    let count = if is_initial { 5_000 } else { 250 };
    let (node, runtime) = (Node::new(""), Runtime::new());
    let agent = node.start(&runtime.socket(), &[]);
    let mut connection = runtime.connect(Vec::new(), Vec::new());
    run(&mut connection, &asking("one")).expect("it is assigned a port");
    let (instance, place) = fill(&Store::at(&node.state()), count);
    let mut kernel = Nft::open(&instance).expect("netlink works");
    tool("nft", "add table inet autoport");
    let (never, _writer) = std::io::pipe().expect("a pipe");
    let is_over = AtomicBool::new(false);
    let (mut times, mut spent) = (Vec::new(), Vec::new());
    let slowest = thread::scope(|scope| {
        let events = scope.spawn(|| {
            let (mut slowest, mut created) = (Duration::ZERO, 0);
            while !is_over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                create(&mut connection, &asking("one")).expect("it is created");
                (slowest, created) = (slowest.max(begun.elapsed()), created + 1);
                thread::sleep(Duration::from_millis(5));
            }
            format!("the slowest of {created} containers took {slowest:.1?}")
        });
        for _ in 0..7 {
            thread::sleep(Duration::from_millis(1500));
            let before = processor_time(&agent);
            let mut changes = Events::open().expect("netlink works");
            let flush = scope.spawn(|| tool("nft", "flush ruleset"));
            let woken = changes.wait(never.as_fd(), Some(Duration::from_secs(20)));
            assert!(matches!(woken, Ok(Woken::Changed)), "{woken:?}");
            let begun = Instant::now();
            // A process that listens would take the kernel's time.
            drop(changes);
            while !kernel
                .look(Extent::Places(&[place]))
                .is_ok_and(|look| look.elements.contains_key(&place))
            {
                assert!(begun.elapsed() < Duration::from_secs(20), "it is not restored");
                thread::sleep(Duration::from_millis(2));
            }
            times.push(begun.elapsed());
            flush.join().expect("it is flushed");
            spent.push(processor_time(&agent).saturating_sub(before));
        }
        is_over.store(true, Ordering::Relaxed);
        events.join().expect("it does not panic")
    });
    times.sort_unstable();
    spent.sort_unstable();
    println!(
        "{count} mappings, flushed beside events: restored after {:.1?} (median; {times:.1?}), with {:.1?} of \
         processor time; {slowest}",
        times[3], spent[3]
    );
}
