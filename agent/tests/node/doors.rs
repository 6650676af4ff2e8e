//! Metrics and probes, and clients that mean no good.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use autoport_agent::nri::message::Container;
use nix::sys::signal::Signal;

use super::agent::Node;
use super::runtime::Runtime;
use super::{asking, cbr0_pod, create, ip, run, stop, try_add};

pub(crate) const ADDRESS: &str = "127.0.0.1:9417";

fn get(path: &str) -> io::Result<(String, String)> {
    let mut stream = TcpStream::connect(ADDRESS)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    Ok((status.to_owned(), body.to_owned()))
}

/// Waits until this has that status; gives the text.
fn wait_for(path: &str, status: &str) -> String {
    let begun = Instant::now();
    loop {
        let answer = get(path);
        match answer {
            Ok((seen, text)) if seen == status => return text,
            _ => assert!(begun.elapsed() < Duration::from_secs(10), "{path}: {answer:?}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn value(metrics: &str, name: &str) -> Option<u64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("{name} ")))?;
    line.parse().ok()
}

/// What the agent counts.
pub(crate) fn metrics() -> String {
    wait_for("/metrics", "200")
}

fn probe(door: &Path, runtime: &Path, question: &str) -> Output {
    let mut probe = Command::new(env!("CARGO_BIN_EXE_autoport-agent"));
    probe.arg("--probe-socket").arg(door).arg("--socket").arg(runtime);
    probe.args(["--probe", question]).output().expect("it can be started")
}

#[test]
fn the_metrics_count_what_happened_and_the_probes_tell_it() {
    let (node, runtime) = (Node::new(""), Runtime::new());
    ip("link set lo up");
    let door = node.state().with_file_name("door.sock");
    fs::write(&door, "left by a former agent").expect("it can be written");
    let text = door.to_str().expect("a path of ours");
    let agent =
        node.start(&runtime.socket(), &["--metrics-address", ADDRESS, "--probe-socket", text]);
    let reason = wait_for("/readyz", "503");
    assert!(reason.contains("connected to the runtime"), "{reason}");
    assert_eq!(get("/healthz").expect("an answer"), ("200".to_owned(), "ok\n".to_owned()));
    let ready = |runtime: &Path| probe(&door, runtime, "ready");
    let unready = ready(&runtime.socket());
    assert_eq!(unready.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unready.stderr).contains("runtime"), "{unready:?}");
    assert_eq!(ready(Path::new("/no/such.sock")).status.code(), Some(0), "no runtime with NRI");

    let missed = cbr0_pod("missed", "s0", &[("autoport.cni/ports", "http=8080")]);
    let lacking = Container {
        pod_sandbox_id: "s0".to_owned(),
        name: "main".to_owned(),
        state: 3,
        ..Container::default()
    };
    let mut connection = runtime.connect(vec![missed], vec![lacking]);
    wait_for("/readyz", "200");
    assert_eq!(ready(&runtime.socket()).status.code(), Some(0));
    assert_eq!(probe(&door, &runtime.socket(), "alive").status.code(), Some(0));
    run(&mut connection, &asking("one")).expect("it is assigned a port");
    create(&mut connection, &asking("one")).expect("it is created");
    let wrong = super::host_pod("two", "s2", &[("autoport.cni/ports", "http=8080")]);
    run(&mut connection, &wrong).expect_err("a number on the host network");
    stop(&mut connection, &asking("one"));
    let metrics = metrics();
    for (name, expected) in [
        ("nri_connected", 1),
        ("leader", 1),
        (r#"nri_requests_total{method="CreateContainer",result="answered"}"#, 1),
        (r#"nri_requests_total{method="RunPodSandbox",result="rejected"}"#, 1),
        (r#"rejections_total{reason="request"}"#, 1),
        ("injected_containers_total", 1),
        ("uninjected_containers_total", 1),
        (r#"allocations_total{network="host",result="assigned"}"#, 1),
        (r#"allocations_total{network="host",result="rejected"}"#, 1),
        (r#"allocations_total{network="host",result="released"}"#, 1),
    ] {
        let name = format!("autoport_agent_{name}");
        assert_eq!(value(&metrics, &name), Some(expected), "{name} in\n{metrics}");
    }
    drop(connection);
    wait_for("/readyz", "503");
    assert_eq!(get("/other").expect("an answer").0, "404");
    agent.signal(Signal::SIGSTOP);
    assert_eq!(probe(&door, &runtime.socket(), "alive").status.code(), Some(1));
    agent.signal(Signal::SIGCONT);
}

#[test]
fn what_the_plugin_rejects_is_counted_by_the_leader() {
    let (node, runtime) = (Node::new(""), Runtime::new());
    ip("link set lo up");
    let wrong = r#"{"io.kubernetes.cri.pod-annotations": {"autoport.cni/ports": "="}}"#;
    let reject = || assert!(!try_add(&node, "web", "s1", wrong).0);
    let leader = node.start(&runtime.socket(), &["--metrics-address", ADDRESS]);
    let first = runtime.connect(Vec::new(), Vec::new());
    let standby = ["--standby", "--metrics-address", ADDRESS];
    let counted = "autoport_agent_plugin_events_total{kind=\"rejected\",code=\"7\"}";
    let wait = |count| {
        let begun = Instant::now();
        while value(&metrics(), counted) != Some(count) {
            assert!(begun.elapsed() < Duration::from_secs(10), "{}", metrics());
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    reject();
    reject();
    wait(2);
    drop((leader, first));
    // The next agent does not count what was counted.
    let _standby = node.start(&runtime.socket(), &standby);
    let _second = runtime.connect(Vec::new(), Vec::new());
    reject();
    wait(1);
}

#[test]
fn slow_and_hostile_clients_of_the_port_hold_nothing_up() {
    let (node, runtime) = (Node::new(""), Runtime::new());
    ip("link set lo up");
    let agent = node.start(&runtime.socket(), &["--metrics-address", ADDRESS]);
    let mut connection = runtime.connect(Vec::new(), Vec::new());
    wait_for("/readyz", "200");
    let connect = || TcpStream::connect(ADDRESS);
    // Those that say nothing, or half a request, or read no answer; more than are served at a time.
    let slow: Vec<_> = (0..16).filter_map(|_| connect().ok()).collect();
    for mut stream in slow.iter().step_by(2) {
        write!(stream, "GET /metrics HTTP/1.1\r\nX-Slow: ").expect("the agent is there");
    }
    let files = || fs::read_dir(format!("/proc/{}/fd", agent.pid())).expect("it runs").count();
    for _ in 0..50 {
        let begun = Instant::now();
        create(&mut connection, &asking("one")).expect("it is created");
        assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    }
    assert!(files() < 40, "{} open files", files());
    let begun = Instant::now();
    wait_for("/readyz", "200");
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    drop(slow);
    // A request that does not end is not read to its end. The sockets hold some megabytes of it.
    let mut endless = connect().expect("it is served");
    let piece = [b'a'; 4096];
    let begun = Instant::now();
    let wrote = (0..8192).take_while(|_| endless.write_all(&piece).is_ok()).count();
    assert!(wrote < 8192, "32 MiB of a request were taken");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let _ = endless.shutdown(Shutdown::Both);
    wait_for("/healthz", "200");
}
