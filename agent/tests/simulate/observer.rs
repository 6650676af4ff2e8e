//! A client that watches all Pods and all `EndpointSlices`, as a controller does, and notes when it sees what.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use k8s_openapi::api::discovery::v1::Endpoint;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use kube::Client;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::Request;
use serde::Deserialize;

use super::servers;

/// By the UID of the Pod.
#[derive(Default)]
pub(crate) struct Seen {
    /// When the Pod carried its ports first.
    pub(crate) status: BTreeMap<String, Instant>,
    /// When there was a slice of it, and when it was ready.
    pub(crate) slice: BTreeMap<String, Instant>,
    pub(crate) ready: BTreeMap<String, Instant>,
}

/// As much of a Pod or of a slice as counts.
#[derive(Clone, Deserialize)]
struct Object {
    metadata: ObjectMeta,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct List {
    metadata: ListMeta,
    items: Vec<Object>,
}

/// Starts watching, and gives what is seen. The threads end with the process.
pub(crate) fn start(dir: &Path) -> Arc<Mutex<Seen>> {
    let seen = Arc::new(Mutex::new(Seen::default()));
    for (path, note) in [
        ("/api/v1/pods", pod as fn(&Object, &mut Seen)),
        ("/apis/discovery.k8s.io/v1/endpointslices", slice),
    ] {
        let (dir, seen) = (dir.to_owned(), seen.clone());
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let client = servers::client(&dir).await;
                let see = |object: &Object| note(object, &mut seen.lock().expect("no test failed"));
                loop {
                    let Err(_) = follow(&client, path, see).await;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
        });
    }
    seen
}

fn pod(object: &Object, seen: &mut Seen) {
    let annotations = object.metadata.annotations.as_ref();
    if annotations.is_some_and(|all| all.contains_key("autoport.cni/status")) {
        let uid = object.metadata.uid.clone().unwrap_or_default();
        seen.status.entry(uid).or_insert_with(Instant::now);
    }
}

fn slice(object: &Object, seen: &mut Seen) {
    let Some(owner) = object.metadata.owner_references.iter().flatten().next() else { return };
    seen.slice.entry(owner.uid.clone()).or_insert_with(Instant::now);
    let conditions = object.endpoints.iter().filter_map(|endpoint| endpoint.conditions.as_ref());
    if conditions.into_iter().any(|conditions| conditions.ready == Some(true)) {
        seen.ready.entry(owner.uid.clone()).or_insert_with(Instant::now);
    }
}

/// Lists, and watches until something fails.
async fn follow(
    client: &Client,
    path: &str,
    see: impl Fn(&Object),
) -> Result<Infallible, kube::Error> {
    let list = Request::new(path).list(&ListParams::default().match_any());
    let List { metadata, items } = client.request(list.expect("a path")).await?;
    items.iter().for_each(&see);
    let mut version = metadata.resource_version.unwrap_or_default();
    loop {
        let watch = Request::new(path).watch(&WatchParams::default(), &version);
        let mut events = pin!(client.request_events::<Object>(watch.expect("a path")).await?);
        while let Some(event) = events.try_next().await? {
            match event {
                WatchEvent::Added(object)
                | WatchEvent::Modified(object)
                | WatchEvent::Deleted(object) => {
                    see(&object);
                    version = object.metadata.resource_version.unwrap_or_default();
                }
                WatchEvent::Bookmark(bookmark) => version = bookmark.metadata.resource_version,
                WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
            }
        }
    }
}
