//! Talking to the API server: over the socket on which `kubectl proxy` does the TLS.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use std::time::Duration;

use serde_json::Value;

use crate::machine::wait_for;

/// How long Kubernetes may take for anything on a machine that has other things to do. Its own
/// timers are the larger part: kubelet cleans up once a minute.
pub(crate) const PATIENCE: Duration = Duration::from_mins(3);

/// Where the proxy listens.
pub(crate) const SOCKET: &str = "/run/api.sock";

/// Sends a request; gives the status, 0 if there was no answer, and what came back.
pub(crate) fn request(method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
    request_as(&[], method, path, body)
}

/// The same with these further headers, such as those of user impersonation.
pub(crate) fn request_as(
    headers: &[String],
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> (u16, String) {
    exchange(headers, method, path, body).unwrap_or_else(|error| (0, error.to_string()))
}

fn exchange(
    headers: &[String],
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> std::io::Result<(u16, String)> {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut stream = UnixStream::connect(SOCKET)?;
    let headers: String = headers.iter().flat_map(|header| [header, "\r\n"]).collect();
    // To a client of HTTP/1.0 the answer ends where the connection does.
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: {kind}\r\n{headers}\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.unwrap_or(0), body.to_owned()))
}

/// One that has to succeed.
pub(crate) fn does(method: &str, path: &str, body: Option<&Value>) -> Value {
    let (status, text) = request(method, path, body);
    assert!((200..300).contains(&status), "{method} {path}: {status} {text}");
    serde_json::from_str(&text).unwrap_or_default()
}

/// What is there.
pub(crate) fn get(path: &str) -> Value {
    does("GET", path, None)
}

/// The items of a list in the namespace of the tests.
pub(crate) fn items(kind: &str) -> Vec<Value> {
    get(&folder(kind))["items"].as_array().cloned().unwrap_or_default()
}

/// Where the objects of a kind are.
pub(crate) fn folder(kind: &str) -> String {
    let group = if kind == "deployments" { "/apis/apps/v1" } else { "/api/v1" };
    format!("{group}/namespaces/default/{kind}")
}

/// Makes an object.
pub(crate) fn create(kind: &str, object: &Value) -> Value {
    does("POST", &folder(kind), Some(object))
}

/// Changes an object.
pub(crate) fn patch(kind: &str, name: &str, change: &Value) {
    does("PATCH", &format!("{}/{name}", folder(kind)), Some(change));
}

/// Whether an object says that this condition is true.
pub(crate) fn is_true(object: &Value, condition: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|found| found["type"] == condition && found["status"] == "True")
}

/// Has an object deleted; it may be there for a while.
pub(crate) fn delete(kind: &str, name: &str) {
    does("DELETE", &format!("{}/{name}", folder(kind)), None);
}

fn path_of(pod: &str) -> String {
    format!("{}/{pod}", folder("pods"))
}

/// Makes a pod and waits until it is ready.
pub(crate) fn runs(pod: &Value) {
    create("pods", pod);
    wait_for_pod(pod["metadata"]["name"].as_str().expect("it has a name"));
}

/// Waits until a pod is ready.
pub(crate) fn wait_for_pod(name: &str) {
    wait_for(PATIENCE, &format!("{name} is ready"), || is_true(&get(&path_of(name)), "Ready"));
}

/// Waits until a node is ready.
pub(crate) fn wait_for_node(name: &str) {
    let path = format!("/api/v1/nodes/{name}");
    wait_for(PATIENCE, &format!("{name} is ready"), || {
        let node = request("GET", &path, None).1;
        is_true(&serde_json::from_str(&node).unwrap_or_default(), "Ready")
    });
}

/// Waits until this many pods are ready, and nobody else is there.
pub(crate) fn wait_for_pods(number: usize) -> Vec<Value> {
    let mut found = Vec::new();
    wait_for(PATIENCE, &format!("{number} pods are ready and no more"), || {
        found = items("pods");
        found.len() == number && found.iter().all(|pod| is_true(pod, "Ready"))
    });
    found
}

/// Deletes a pod and waits until kubelet has ended it.
pub(crate) fn ends(name: &str) {
    delete("pods", name);
    let path = path_of(name);
    wait_for(PATIENCE, &format!("{name} is gone"), || request("GET", &path, None).0 == 404);
}

/// What the events of this reason say about a pod.
pub(crate) fn events(pod: &str, reason: &str) -> String {
    let events = items("events");
    let wanted = events
        .iter()
        .filter(|event| event["reason"] == reason && event["involvedObject"]["name"] == pod);
    wanted.filter_map(|event| event["message"].as_str()).collect::<Vec<_>>().join("\n")
}
