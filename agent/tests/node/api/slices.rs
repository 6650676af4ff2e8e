//! Services, and the `EndpointSlices` of Pods.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Api, State};

const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/games/endpointslices";
const SERVICES: &str = "/api/v1/namespaces/games/services/";

/// What there is of both, by name.
#[derive(Default)]
pub(super) struct Objects {
    services: BTreeMap<String, Value>,
    slices: BTreeMap<String, Value>,
    /// The methods and paths of requests that changed a slice.
    writes: Vec<String>,
    /// How often a slice was asked for.
    reads: usize,
    /// Whether no slice may be written.
    forbids: bool,
}

impl Api {
    /// Creates or changes a Service, or deletes it.
    pub(crate) fn put_service(&self, name: &str, service: Option<Value>) {
        self.change(|state| match service {
            Some(service) => drop(state.objects.services.insert(name.to_owned(), service)),
            None => drop(state.objects.services.remove(name)),
        });
    }

    /// Creates a slice.
    pub(crate) fn put_slice(&self, name: &str, slice: Value) {
        self.change(|state| drop(state.objects.slices.insert(name.to_owned(), slice)));
    }

    pub(crate) fn slices(&self) -> BTreeMap<String, Value> {
        self.state.lock().expect("no test failed").objects.slices.clone()
    }

    /// How often slices were written.
    pub(crate) fn slice_writes(&self) -> Vec<String> {
        self.state.lock().expect("no test failed").objects.writes.clone()
    }

    /// Permits no one to write slices, or does again.
    pub(crate) fn forbid_slices(&self, forbids: bool) {
        self.change(|state| state.objects.forbids = forbids);
    }

    /// How often a slice was asked for.
    pub(crate) fn slice_reads(&self) -> usize {
        self.state.lock().expect("no test failed").objects.reads
    }
}

/// Answers a request about these objects; `None` if it is about others.
pub(super) fn answer(
    state: &mut State,
    request: &str,
    body: &[u8],
) -> Option<(&'static str, String)> {
    let mut words = request.split(' ');
    let (method, path) = (words.next()?, words.next()?.split('?').next()?);
    let objects = &mut state.objects;
    if let Some(name) = path.strip_prefix(SERVICES) {
        let found = objects.services.get(name);
        return Some(found.map_or_else(missing, |service| ("200 OK", service.to_string())));
    }
    let name = path.strip_prefix(SLICES)?.trim_start_matches('/').to_owned();
    if method == "GET" {
        objects.reads += 1;
    } else {
        objects.writes.push(format!("{method} {name}"));
        if objects.forbids {
            return Some(("403 Forbidden", status(403, "endpointslices is forbidden")));
        }
    }
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let slices = &mut objects.slices;
    Some(match method {
        "GET" => slices.get(&name).map_or_else(missing, |slice| ("200 OK", slice.to_string())),
        "POST" => {
            let name = body["metadata"]["name"].as_str().expect("a name").to_owned();
            if slices.contains_key(&name) {
                let text = format!("endpointslices \"{name}\" already exists");
                return Some(("409 Conflict", status(409, &text)));
            }
            slices.insert(name, body.clone());
            ("201 Created", body.to_string())
        }
        "PATCH" => {
            let slice = slices.get_mut(&name).expect("only what is there is changed");
            for (key, value) in body.as_object().expect("an object") {
                slice[key] = value.clone();
            }
            ("200 OK", slice.to_string())
        }
        "DELETE" => {
            slices.remove(&name);
            ("200 OK", status(200, ""))
        }
        other => panic!("{other} {path}"),
    })
}

fn missing() -> (&'static str, String) {
    ("404 Not Found", status(404, "not found"))
}

fn status(code: u16, message: &str) -> String {
    let status = if code == 200 { "Success" } else { "Failure" };
    let reason = if code == 404 { "NotFound" } else { "Test" };
    json!({"kind": "Status", "apiVersion": "v1", "status": status, "code": code,
           "reason": reason, "message": message})
    .to_string()
}
