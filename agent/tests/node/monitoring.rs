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
use super::busy::{Busy, KEYS};
use super::doors::ADDRESS;
use super::{ip, tool};

/// Where it listens.
pub(crate) const PROMETHEUS: &str = "127.0.0.1:9090";

pub(crate) fn component(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes/monitoring");
    fs::read_to_string(path.join(file)).expect("it can be read")
}

/// A node, a container of the `DaemonSet` on it, and the address of the node.
pub(crate) type Target<'a> = (&'a str, &'a str, &'a str);

/// What the operator of Prometheus writes for the `PodMonitor`, with these targets in the place of those that the API
/// server tells of: a container that has no metrics is one of them. Each agent is asked every `seconds`.
pub(crate) fn configuration(targets: &[Target<'_>], seconds: u32) -> String {
    let monitor = component("podmonitor.yaml");
    let (_, relabelings) = monitor.split_once("relabelings:\n").expect("they are last");
    let relabelings = relabelings
        .replace("sourceLabels:", "source_labels:")
        .replace("targetLabel:", "target_label:");
    let target = |(node, container, address): &Target<'_>| {
        format!(
            "      - targets: [\"192.0.2.9:1\"]
        labels:
          __meta_kubernetes_pod_container_name: {container}
          __meta_kubernetes_pod_host_ip: \"{address}\"
          __meta_kubernetes_pod_node_name: {node}
"
        )
    };
    let targets: String = targets.iter().map(target).collect();
    format!(
        "global: {{scrape_interval: {seconds}s, evaluation_interval: {seconds}s}}
rule_files: [rules.yaml]
scrape_configs:
  - job_name: autoport
    static_configs:
{targets}    relabel_configs:
{relabelings}"
    )
}

/// What integration/setup.sh unpacks.
pub(crate) fn tools() -> PathBuf {
    let here = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools");
    env::var_os("AUTOPORT_TOOLS").map_or_else(here, PathBuf::from)
}

/// The groups of the `PrometheusRule`, as a file of rules.
fn rules() -> String {
    let rules = component("rules.yaml");
    let (_, spec) = rules.split_once("\nspec:\n").expect("a specification");
    spec.to_owned()
}

/// A Prometheus; it is killed with the test.
pub(crate) struct Prometheus(Child);

impl Prometheus {
    pub(crate) fn start(dir: &Path, configuration: &str) -> Self {
        let write = |name, text: &str| {
            fs::write(dir.join(name), text).expect("the directory is ours");
        };
        write("prometheus.yaml", configuration);
        write("rules.yaml", &rules());
        let log = fs::File::create(dir.join("log")).expect("the directory is ours");
        let child = Command::new(tools().join("prometheus/usr/bin/prometheus"))
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

/// The queries of the dashboard, each with the title of its panel.
fn queries() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&component("dashboard.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let of_panel = |panel: &Value| {
        let title = panel["title"].as_str().expect("a title").to_owned();
        let targets = panel["targets"].as_array().expect("queries").clone();
        targets.into_iter().map(move |target| {
            let query = target["expr"].as_str().expect("a query");
            (title.clone(), query.replace("$node", ".*").replace("$__rate_interval", "20s"))
        })
    };
    panels.iter().flat_map(of_panel).collect()
}

/// Waits until every alert is evaluated, and in the state that this node causes.
fn await_alerts() {
    let expected = |name: &str| match name {
        "AutoportContainersWithoutVariables" => "firing",
        "AutoportTableKeepsBreaking" => "pending",
        _ => "inactive",
    };
    // A write may just wait.
    let begun = Instant::now();
    loop {
        let groups = Prometheus::asks("rules").expect("they are known");
        let rules = groups["groups"][0]["rules"].as_array().expect("rules");
        assert_eq!(rules.len(), 7, "{groups:#}");
        let is_right = |rule: &Value| {
            let name = rule["name"].as_str().expect("a name");
            rule["health"] == "ok" && rule["state"] == expected(name)
        };
        if rules.iter().all(is_right) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{groups:#}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
#[ignore = "needs Prometheus: make test-packages"]
fn prometheus_understands_the_dashboard_and_the_alerts() {
    let mut busy = Busy::new(Node::new(KEYS), [ADDRESS, "[::1]:9418"]);
    let targets = [
        ("n1", "install", "127.0.0.1"),
        ("n1", "agent", "127.0.0.1"),
        ("n1", "agent-standby", "::1"),
    ];
    let configuration = configuration(&targets, 1);
    let _prometheus = Prometheus::start(busy.node.node_dir(), &configuration);
    let queries = queries();
    assert!(queries.len() >= 16, "{queries:?}");
    let begun = Instant::now();
    loop {
        busy.begin_both();
        for reason in 0..4 {
            busy.reject(reason);
        }
        busy.end();
        // As another program would.
        tool("nft", "flush ruleset");
        let found = queries.iter().map(|(title, query)| (title, query, Prometheus::finds(query)));
        let missing: Vec<_> =
            found.filter(|(_, _, found)| !matches!(found, Ok(found) if *found > 0)).collect();
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
    await_alerts();
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
