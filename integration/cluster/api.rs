//! Talking to the API server: over the socket on which `kubectl proxy` does the TLS.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use serde_json::Value;

/// Where the proxy listens.
pub(crate) const SOCKET: &str = "/run/api.sock";

/// Sends a request; gives the status, 0 if there was no answer, and what came back.
pub(crate) fn request(method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
    exchange(method, path, body).unwrap_or_else(|error| (0, error.to_string()))
}

fn exchange(method: &str, path: &str, body: Option<&Value>) -> std::io::Result<(u16, String)> {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut stream = UnixStream::connect(SOCKET)?;
    // To a client of HTTP/1.0 the answer ends where the connection does.
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: {kind}\r\n\
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

/// Has an object deleted; it may be there for a while.
pub(crate) fn delete(kind: &str, name: &str) {
    does("DELETE", &format!("{}/{name}", folder(kind)), None);
}
