//! Changes of Pods by the agent: taken, delayed, or rejected.

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Api, State};

/// What was changed, and what the server does about the next changes.
#[derive(Default)]
pub(super) struct Changes {
    /// Each with its time and the status of the answer.
    pub(super) seen: Vec<Change>,
    delay: Duration,
    /// The status of the next answers, in place of a change.
    rejects: Vec<u16>,
    /// That of all others.
    rejects_all: Option<u16>,
    /// Whether changes are taken and have no effect.
    drops: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) at: Instant,
    pub(crate) code: u16,
    pub(crate) patch: Value,
}

impl Api {
    /// The changes that were asked for.
    pub(crate) fn changes(&self) -> Vec<Change> {
        self.state.lock().expect("no test failed").changes.seen.clone()
    }

    /// A Pod as it is now.
    pub(crate) fn pod(&self, uid: &str) -> Value {
        self.state.lock().expect("no test failed").pods[uid].clone()
    }

    /// Rejects the next changes with these codes.
    pub(crate) fn reject(&self, codes: &[u16]) {
        self.change(|state| state.changes.rejects.extend(codes));
    }

    /// Rejects all changes with this code, or none.
    pub(crate) fn reject_all(&self, code: Option<u16>) {
        self.change(|state| state.changes.rejects_all = code);
    }

    /// Takes all changes from now on, without effect.
    pub(crate) fn drop_changes(&self) {
        self.change(|state| state.changes.drops = true);
    }

    /// Takes so long for each change.
    pub(crate) fn slow_down(&self, delay: Duration) {
        self.change(|state| state.changes.delay = delay);
    }
}

/// Waits before a change is answered.
pub(super) fn delay(state: &Mutex<State>, path: &str) {
    if path.contains("/pods/") {
        let delay = state.lock().expect("no test failed").changes.delay;
        thread::sleep(delay);
    }
}

/// Changes a Pod by a strategic merge patch of its status.
pub(super) fn change(state: &mut State, target: &str, body: &[u8]) -> (&'static str, String) {
    assert!(target.starts_with("/api/v1/namespaces/games/pods/web/status"), "{target}");
    let patch: Value = serde_json::from_slice(body).expect("JSON");
    let changes = &mut state.changes;
    let next = if changes.rejects.is_empty() { None } else { Some(changes.rejects.remove(0)) };
    let uid = patch["metadata"]["uid"].as_str().expect("a UID").to_owned();
    let missing = match (state.pods.is_empty(), state.pods.contains_key(&uid)) {
        (true, _) => Some(404),
        (false, false) => Some(409),
        (false, true) => None,
    };
    let code = next.or(changes.rejects_all).or(missing).unwrap_or(200);
    changes.seen.push(Change { at: Instant::now(), code, patch: patch.clone() });
    if code == 200 {
        let mut pod = state.pods[&uid].clone();
        if !state.changes.drops {
            merge(&mut pod, &patch);
        }
        state.put(&uid, pod);
        return ("200 OK", state.pods[&uid].to_string());
    }
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                        "reason": "Test", "message": format!("rejected with {code}")});
    let line = match code {
        403 => "403 Forbidden",
        404 => "404 Not Found",
        409 => "409 Conflict",
        429 => "429 Too Many Requests\r\nRetry-After: 2",
        _ => "500 Internal Server Error",
    };
    (line, status.to_string())
}

/// Conditions are merged by their type.
fn merge(pod: &mut Value, patch: &Value) {
    for (key, value) in patch["metadata"]["annotations"].as_object().into_iter().flatten() {
        let annotations = &mut pod["metadata"]["annotations"];
        if let (true, Some(all)) = (value.is_null(), annotations.as_object_mut()) {
            all.remove(key);
        } else {
            annotations[key] = value.clone();
        }
    }
    for condition in patch["status"]["conditions"].as_array().into_iter().flatten() {
        let mut all = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.retain(|one| one["type"] != condition["type"]);
        all.push(condition.clone());
        pod["status"]["conditions"] = json!(all);
    }
}
