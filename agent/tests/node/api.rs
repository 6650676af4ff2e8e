//! A small API server of Kubernetes: it lists and watches Pods over HTTP, and can be away.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

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
        self.change(|state| {
            state.version += 1;
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "namespace": "games", "name": "web", "uid": uid,
                    "resourceVersion": state.version.to_string(), "annotations": annotations,
                },
                "spec": {"nodeName": "n1", "containers": [{"name": "main", "ports": ports}]},
            });
            let kind = if state.pods.contains_key(uid) { "MODIFIED" } else { "ADDED" };
            state.events.push((state.version, json!({"type": kind, "object": pod})));
            state.pods.insert(uid.to_owned(), pod);
        });
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

    /// The paths that were asked for.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.state.lock().expect("no test failed").asked.clone()
    }
}

fn serve(mut stream: &TcpStream, state: &Mutex<State>) {
    let mut lines = BufReader::new(stream).lines();
    loop {
        let Some(Ok(request)) = lines.next() else { return };
        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let list = {
            let mut state = state.lock().expect("no test failed");
            if state.is_away {
                return;
            }
            state.asked.push(path.clone());
            let pods: Vec<&Value> = state.pods.values().collect();
            json!({
                "kind": "PodList", "apiVersion": "v1", "items": pods,
                "metadata": {"resourceVersion": state.version.to_string()},
            })
            .to_string()
        };
        if path.contains("watch=true") {
            let from = path.split("resourceVersion=").nth(1).unwrap_or_default();
            let from = from.split('&').next().unwrap_or_default().parse().expect("a version");
            let _ = watch(stream, state, from);
            return;
        }
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}",
            list.len()
        );
        if stream.write_all(format!("{head}\r\n\r\n{list}").as_bytes()).is_err() {
            return;
        }
    }
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
