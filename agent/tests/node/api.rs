//! A small API server of Kubernetes: it lists, watches and changes Pods over HTTP, and can be away.

mod changes;
mod slices;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

pub(crate) use self::changes::Change;
use self::changes::Changes;

/// What it knows and was asked.
#[derive(Default)]
struct State {
    version: u64,
    pods: BTreeMap<String, Value>,
    events: Vec<(u64, Value)>,
    /// The request lines.
    asked: Vec<String>,
    is_away: bool,
    /// Watches that began before this version end with "410 Gone".
    forgotten: u64,
    /// Of the node n1, and the version at which another program changed them last.
    taints: Vec<Value>,
    tainted: u64,
    /// What was created as events, and whether that is forbidden.
    reported: Vec<Value>,
    forbids_events: bool,
    changes: Changes,
    objects: slices::Objects,
}

impl State {
    /// A Pod is as follows from now on.
    fn put(&mut self, uid: &str, mut pod: Value) {
        self.version += 1;
        pod["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let kind = if self.pods.contains_key(uid) { "MODIFIED" } else { "ADDED" };
        self.events.push((self.version, json!({"type": kind, "object": pod})));
        self.pods.insert(uid.to_owned(), pod);
    }
}

/// The server; it runs in the network namespace of its test.
pub(crate) struct Api {
    state: Arc<Mutex<State>>,
    port: u16,
}

impl Api {
    pub(crate) fn new() -> Self {
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.expect("ip can be started").success());
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(Mutex::new(State { version: 1, ..State::default() }));
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                thread::spawn(move || serve(&stream, &state));
            }
        });
        Self { state, port }
    }

    /// Writes a kubeconfig of it.
    pub(crate) fn kubeconfig(&self, dir: &Path) -> PathBuf {
        let path = dir.join("kubeconfig");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://127.0.0.1:{}", self.port)}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {"token": "secret"}}],
        });
        fs::write(&path, text.to_string()).expect("it can be written");
        path
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().expect("no test failed"));
    }

    /// Creates or changes a Pod.
    pub(crate) fn put(&self, uid: &str, annotations: &Value, ports: &Value) {
        self.put_with(uid, annotations, &json!({"name": "main", "ports": ports}));
    }

    /// The same, with this container.
    pub(crate) fn put_with(&self, uid: &str, annotations: &Value, container: &Value) {
        let spec = json!({"nodeName": "n1", "containers": [container]});
        self.put_pod(uid, annotations, &spec, &json!({}));
    }

    /// The same, with this spec and status.
    pub(crate) fn put_pod(&self, uid: &str, annotations: &Value, spec: &Value, status: &Value) {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "spec": spec, "status": status,
            "metadata": {"namespace": "games", "name": "web", "uid": uid, "annotations": annotations},
        });
        self.change(|state| state.put(uid, pod));
    }

    pub(crate) fn delete(&self, uid: &str) {
        self.change(|state| {
            state.version += 1;
            let mut pod = state.pods.remove(uid).expect("it was created");
            pod["metadata"]["resourceVersion"] = json!(state.version.to_string());
            state.events.push((state.version, json!({"type": "DELETED", "object": pod})));
        });
    }

    /// Ends all connections and refuses others, or comes back.
    pub(crate) fn set_away(&self, is_away: bool) {
        self.change(|state| state.is_away = is_away);
    }

    /// Forgets which changes there were, and tells nobody of them.
    pub(crate) fn forget(&self) {
        self.change(|state| {
            state.events.clear();
            state.version += 1;
            state.forgotten = state.version;
        });
    }

    /// Gives the node n1 taints of these keys.
    pub(crate) fn taint(&self, keys: &[&str]) {
        self.change(|state| {
            state.version += 1;
            state.tainted = state.version;
            let taint = |key: &&str| json!({"key": key, "effect": "NoSchedule"});
            state.taints = keys.iter().map(taint).collect();
        });
    }

    /// The keys of the taints that the node n1 has.
    pub(crate) fn taints(&self) -> Vec<String> {
        let state = self.state.lock().expect("no test failed");
        state.taints.iter().map(|one| one["key"].as_str().expect("a key").to_owned()).collect()
    }

    /// The events that were created about Pods.
    pub(crate) fn reported(&self) -> Vec<Value> {
        self.state.lock().expect("no test failed").reported.clone()
    }

    /// Forbids it to create events.
    pub(crate) fn forbid_events(&self) {
        self.change(|state| state.forbids_events = true);
    }

    /// The paths that were asked for.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.state.lock().expect("no test failed").asked.clone()
    }
}

fn serve(mut stream: &TcpStream, state: &Mutex<State>) {
    let mut input = BufReader::new(stream);
    while let Some((request, body)) = read(&mut input) {
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        changes::delay(state, &path);
        let (status, answer) = {
            let mut state = state.lock().expect("no test failed");
            if state.is_away {
                return;
            }
            state.asked.push(path.clone());
            if let Some(answered) = slices::answer(&mut state, &request, &body) {
                answered
            } else if request.starts_with("PATCH") && path.contains("/pods/") {
                changes::change(&mut state, &path, &body)
            } else if path.starts_with("/api/v1/nodes/n1") {
                node(&mut state, &body)
            } else if path.starts_with("/apis/events.k8s.io/v1/namespaces/games/events") {
                report(&mut state, &body)
            } else {
                list(&state)
            }
        };
        if path.contains("watch=true") {
            let from = path.split("resourceVersion=").nth(1).unwrap_or_default();
            let from = from.split('&').next().unwrap_or_default().parse().expect("a version");
            let _ = watch(stream, state, from);
            return;
        }
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}",
            answer.len()
        );
        if stream.write_all(format!("{head}\r\n\r\n{answer}").as_bytes()).is_err() {
            return;
        }
    }
}

/// The request line and the body of the next request; `None` after the last.
fn read(input: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let (mut request, mut length) = (String::new(), 0);
    input.read_line(&mut request).ok().filter(|length| *length > 0)?;
    loop {
        let mut line = String::new();
        input.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body).ok()?;
    Some((request, body))
}

fn list(state: &State) -> (&'static str, String) {
    let pods: Vec<&Value> = state.pods.values().collect();
    let list = json!({
        "kind": "PodList", "apiVersion": "v1", "items": pods,
        "metadata": {"resourceVersion": state.version.to_string()},
    });
    ("200 OK", list.to_string())
}

/// Shows the node, after it was changed as the body says, if there is one.
fn node(state: &mut State, body: &[u8]) -> (&'static str, String) {
    if !body.is_empty() {
        let patch: Value = serde_json::from_slice(body).expect("JSON");
        let version = patch["metadata"]["resourceVersion"].as_str().expect("a version");
        if version.parse() != Ok(state.tainted) {
            let conflict = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 409,
                                  "reason": "Conflict", "message": "the object has been modified"});
            return ("409 Conflict", conflict.to_string());
        }
        let taints = patch["spec"]["taints"].as_array().expect("a list");
        state.taints.clone_from(taints);
        state.version += 1;
        state.tainted = state.version;
    }
    let node = json!({
        "kind": "Node", "apiVersion": "v1", "spec": {"taints": state.taints},
        "metadata": {"name": "n1", "resourceVersion": state.tainted.to_string()},
    });
    ("200 OK", node.to_string())
}

/// Takes an event, if that is permitted.
fn report(state: &mut State, body: &[u8]) -> (&'static str, String) {
    if state.forbids_events {
        let forbidden = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403,
                               "reason": "Forbidden", "message": "events is forbidden"});
        return ("403 Forbidden", forbidden.to_string());
    }
    let event: Value = serde_json::from_slice(body).expect("JSON");
    state.reported.push(event.clone());
    ("201 Created", event.to_string())
}

/// Sends events until the client or the server goes away.
fn watch(mut stream: &TcpStream, state: &Mutex<State>, mut from: u64) -> std::io::Result<()> {
    stream.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n",
    )?;
    loop {
        let (lines, is_over) = {
            let state = state.lock().expect("no test failed");
            if state.is_away {
                return Ok(());
            }
            if from < state.forgotten {
                let gone = json!({"kind": "Status", "status": "Failure", "code": 410,
                                  "reason": "Expired", "message": "too old resource version"});
                (vec![json!({"type": "ERROR", "object": gone}).to_string()], true)
            } else {
                let new = state.events.iter().filter(|(version, _)| *version > from);
                let lines: Vec<String> = new.map(|(_, event)| event.to_string()).collect();
                from = state.version;
                (lines, false)
            }
        };
        for line in lines {
            stream.write_all(format!("{line}\n").as_bytes())?;
        }
        if is_over {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(10));
    }
}
