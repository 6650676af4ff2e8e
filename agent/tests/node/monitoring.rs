//! A real Prometheus asks real agents as the component `monitoring` of `deploy/kubernetes` has it done, and
//! understands every query of its dashboard and of its alerts.

use std::env;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::agent::Node;
use super::doors::ADDRESS;
use super::runtime::{Connection, Runtime};
use super::{asking, create, host_pod, ip, run, stop, try_add};

/// Where it listens.
const PROMETHEUS: &str = "127.0.0.1:9090";

/// What of the dashboard has no data here: the agents have no API server and no kubelet, and the table is not damaged.
const WITHOUT_DATA: [&str; 3] =
    ["Resource for the scheduler", "Table restored", "Writes to the API server"];

fn component(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes/monitoring");
    fs::read_to_string(path.join(file)).expect("it can be read")
}

/// What the operator of Prometheus writes for the `PodMonitor`, with these targets in the place of those that the API
/// server tells of: a container that has no metrics is one of them.
fn configuration() -> String {
    let monitor = component("podmonitor.yaml");
    let (_, relabelings) = monitor.split_once("relabelings:\n").expect("they are last");
    let relabelings = relabelings
        .replace("sourceLabels:", "source_labels:")
        .replace("targetLabel:", "target_label:");
    let target = |container: &str, address: &str| {
        format!(
            "      - targets: [\"192.0.2.9:1\"]
        labels:
          __meta_kubernetes_pod_container_name: {container}
          __meta_kubernetes_pod_host_ip: \"{address}\"
          __meta_kubernetes_pod_node_name: n1
"
        )
    };
    let targets = [("install", "127.0.0.1"), ("agent", "127.0.0.1"), ("agent-standby", "::1")];
    let targets: String =
        targets.into_iter().map(|(container, address)| target(container, address)).collect();
    format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [rules.yaml]
scrape_configs:
  - job_name: autoport
    static_configs:
{targets}    relabel_configs:
{relabelings}"
    )
}

/// The groups of the `PrometheusRule`, as a file of rules.
fn rules() -> String {
    let rules = component("rules.yaml");
    let (_, spec) = rules.split_once("\nspec:\n").expect("a specification");
    spec.to_owned()
}

/// A Prometheus; it is killed with the test.
struct Prometheus(Child);

impl Prometheus {
    fn start(dir: &Path, configuration: &str) -> Self {
        let write = |name, text: &str| {
            fs::write(dir.join(name), text).expect("the directory is ours");
        };
        write("prometheus.yaml", configuration);
        write("rules.yaml", &rules());
        let here = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools");
        let tools = env::var_os("AUTOPORT_TOOLS").map_or_else(here, PathBuf::from);
        let log = fs::File::create(dir.join("log")).expect("the directory is ours");
        let child = Command::new(tools.join("prometheus/usr/bin/prometheus"))
            .arg(format!("--config.file={}", dir.join("prometheus.yaml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address={PROMETHEUS}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("integration/setup.sh packages unpacks Prometheus");
        Self(child)
    }

    /// The data of an answer.
    fn asks(path: &str) -> Result<Value, String> {
        let ask = || {
            let mut stream = TcpStream::connect(PROMETHEUS)?;
            write!(stream, "GET /api/v1/{path} HTTP/1.0\r\nHost: prometheus\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text).map(|_| text)
        };
        let text = ask().map_err(|error: std::io::Error| error.to_string())?;
        let (_, body) = text.split_once("\r\n\r\n").ok_or("no answer")?;
        let answer: Value = serde_json::from_str(body).map_err(|error| error.to_string())?;
        if answer["status"] != "success" {
            return Err(body.to_owned());
        }
        Ok(answer["data"].clone())
    }

    /// How many series a query finds now.
    fn finds(query: &str) -> Result<usize, String> {
        let encoded: Vec<_> = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let data = Self::asks(&format!("query?query={}", encoded.concat()))?;
        Ok(data["result"].as_array().map_or(0, Vec::len))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Something happens of everything that is counted without Kubernetes.
fn works(node: &Node, runtime: &mut Connection, number: usize) {
    let pod = asking(&format!("pod-{number}"));
    run(runtime, &pod).expect("it is assigned a port");
    create(runtime, &pod).expect("it is created");
    let wrong = host_pod("wrong", "s2", &[("autoport.cni/ports", "http=8080")]);
    run(runtime, &wrong).expect_err("a number on the host network");
    stop(runtime, &pod);
    let annotation = r#"{"io.kubernetes.cri.pod-annotations": {"autoport.cni/ports": "="}}"#;
    assert!(!try_add(node, "web", "s1", annotation).0);
}

#[test]
#[ignore = "needs Prometheus: make test-packages"]
fn prometheus_understands_the_dashboard_and_the_alerts() {
    let (node, runtime) = (Node::new(""), Runtime::new());
    ip("link set lo up");
    let _agent = node.start(&runtime.socket(), &["--metrics-address", ADDRESS]);
    let mut connection = runtime.connect(Vec::new(), Vec::new());
    let standby = ["--standby", "--metrics-address", "[::1]:9418"];
    let _standby = node.start(&runtime.socket(), &standby);
    let _second = runtime.connect(Vec::new(), Vec::new());
    let _prometheus = Prometheus::start(node.node_dir(), &configuration());
    let dashboard: Value = serde_json::from_str(&component("dashboard.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let queries: Vec<(&str, String)> = panels
        .iter()
        .flat_map(|panel| {
            let title = panel["title"].as_str().expect("a title");
            let targets = panel["targets"].as_array().expect("queries").iter();
            targets.map(move |target| {
                let query = target["expr"].as_str().expect("a query");
                (title, query.replace("$node", ".*").replace("$__rate_interval", "20s"))
            })
        })
        .collect();
    assert!(queries.len() >= 16, "{queries:?}");
    let begun = Instant::now();
    let mut number = 0;
    loop {
        number += 1;
        works(&node, &mut connection, number);
        let found = queries.iter().map(|(title, query)| (title, query, Prometheus::finds(query)));
        let missing: Vec<_> = found
            .filter(|(title, _, found)| {
                let is_without = WITHOUT_DATA.contains(title);
                !matches!(found, Ok(found) if *found > 0 || is_without)
            })
            .collect();
        if missing.is_empty() {
            break;
        }
        assert!(begun.elapsed() < Duration::from_mins(1), "no data: {missing:#?}");
        std::thread::sleep(Duration::from_millis(500));
    }
    // Both agents, and not the third container.
    let up = Prometheus::asks("query?query=up").expect("it is known");
    let of = |container: &str| {
        let mut all = up["result"].as_array().into_iter().flatten();
        all.any(|one| {
            let labels = &one["metric"];
            labels["container"] == container && labels["node"] == "n1" && one["value"][1] == "1"
        })
    };
    assert!(of("agent") && of("agent-standby"), "{up:#}");
    assert_eq!(up["result"].as_array().map(Vec::len), Some(2), "{up:#}");
    let groups = Prometheus::asks("rules").expect("they are known");
    let rules = groups["groups"][0]["rules"].as_array().expect("rules");
    assert_eq!(rules.len(), 7, "{groups:#}");
    for rule in rules {
        assert_eq!(
            (&rule["health"], &rule["state"]),
            (&"ok".into(), &"inactive".into()),
            "{rule:#}"
        );
    }
}

/// The job of `deploy/examples/prometheus.yml`, with these Pods in the place of those that the API server tells of: one
/// on each family, and one without a host port for metrics.
fn example() -> String {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/prometheus.yml");
    let example = fs::read_to_string(example).expect("it can be read");
    let pods =
        [("a", "192.0.2.10", "20417"), ("b", "2001:db8::10", "20418"), ("c", "192.0.2.10", "")];
    let pods = pods.map(|(name, address, port)| {
        format!(
            "      - targets: [\"10.0.0.2:80\"]
        labels:
          __meta_kubernetes_pod_name: {name}
          __meta_kubernetes_pod_host_ip: \"{address}\"
          __meta_kubernetes_pod_annotation_autoport_cni_host_port_metrics: \"{port}\"
"
        )
    });
    let discovery = "    kubernetes_sd_configs:\n      - role: pod\n";
    assert!(example.contains(discovery), "{example}");
    example.replace(discovery, &format!("    static_configs:\n{}", pods.concat()))
}

#[test]
#[ignore = "needs Prometheus: make test-packages"]
fn the_example_finds_host_ports_by_the_annotation() {
    ip("link set lo up");
    let dir = tempfile::tempdir().expect("a directory");
    let _prometheus = Prometheus::start(dir.path(), &example());
    let begun = Instant::now();
    let targets = loop {
        match Prometheus::asks("targets") {
            Ok(targets) if targets["activeTargets"] != serde_json::json!([]) => break targets,
            other => assert!(begun.elapsed() < Duration::from_mins(1), "{other:?}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let active = targets["activeTargets"].as_array().expect("a list");
    let mut found: Vec<_> = active
        .iter()
        .map(|target| {
            [&target["labels"]["pod"], &target["scrapeUrl"]].map(|it| it.as_str().expect("text"))
        })
        .collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [["a", "http://192.0.2.10:20417/metrics"], ["b", "http://[2001:db8::10]:20418/metrics"]]
    );
}
