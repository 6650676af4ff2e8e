//! The API server of Kubernetes, which tells of the Pods of this node. The only door to it.

mod events;
mod items;
mod taint;
mod writer;

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::{Duration, Instant};

use autoport::error::in_one_line;
use futures_util::TryStreamExt as _;
use futures_util::io::AsyncBufReadExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig};
use kube::core::Request;
use kube::{Client, Resource as _};
use tokio::time::{sleep, timeout};

pub use self::events::{Reason, Waiting, Warnings, warnings};
use self::items::Items;
pub use self::taint::STARTUP_TAINT;
pub use self::writer::{Failure, Writer};

/// The pause after a failure: doubled each time, and never the same for two nodes.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// How long the API server may take for an answer.
const LIMIT: Duration = Duration::from_secs(30);

/// How long a list may take.
const LONGEST_LIST: Duration = Duration::from_mins(2);

/// How often [`Pods::check`] is called.
const CHECK: Duration = Duration::from_secs(30);

/// Within so many seconds the API server ends a watch: not at the same time those that began together.
const WATCH: RangeInclusive<u32> = 200..=290;

/// The API server says once in a minute that a watch is still alive; a connection that is silent for longer may
/// lead nowhere.
const SILENCE: Duration = Duration::from_secs(100);

/// A watch that ended earlier than this is not begun again at once.
const SHORT: Duration = Duration::from_secs(5);

/// What a container of a Pod has if its `ServiceAccount` may use the API.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// Who is told of the Pods of the node. A failure has everything listed again after a pause.
pub trait Pods {
    /// Everything is told from the beginning.
    fn begin(&mut self);

    /// This one is there, is new, or has changed.
    ///
    /// # Errors
    /// In words.
    fn changed(&mut self, pod: &Pod) -> Result<(), String>;

    /// This one no longer exists.
    ///
    /// # Errors
    /// In words.
    fn deleted(&mut self, pod: &Pod) -> Result<(), String>;

    /// Time has passed.
    ///
    /// # Errors
    /// In words.
    fn check(&mut self) -> Result<(), String>;
}

/// Why the API server cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot use kubeconfig {}", path.display())]
    Kubeconfig { path: PathBuf, source: kube::config::KubeconfigError },
    #[error(
        "cannot use kubeconfig {}: server has the host {host:?}, and this program resolves no names; write its \
         IP address, and the name as tls-server-name",
        path.display()
    )]
    HostName { path: PathBuf, host: String },
}

/// The API server, and the node whose Pods count.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// In a Pod it is read for each session: the certificate may come later, and changes.
    config: Option<kube::Config>,
    node: String,
}

impl Cluster {
    /// The API server that a kubeconfig file names.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub async fn of_file(path: &Path, node: String) -> Result<Self, Error> {
        let wrong = |source| Error::Kubeconfig { path: path.to_owned(), source };
        let file = Kubeconfig::read_from(path).map_err(wrong)?;
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(file, &options).await.map_err(wrong)?;
        let host = config.cluster_url.host().unwrap_or_default();
        if host.trim_matches(['[', ']']).parse::<IpAddr>().is_err() {
            return Err(Error::HostName { path: path.to_owned(), host: host.to_owned() });
        }
        Ok(Self { config: Some(config), node })
    }

    /// The API server of the cluster in whose Pod this process runs.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub fn of_pod(node: String) -> Result<Self, String> {
        if let Err(InClusterError::ReadEnvironmentVariable(_)) = kube::Config::incluster_env() {
            return Err("the agent does not run in a Pod of a cluster, and no kubeconfig is given"
                .to_owned());
        }
        if !Path::new(TOKEN).exists() {
            return Err(format!(
                "the Pod has no {TOKEN}: its ServiceAccount's token is not mounted"
            ));
        }
        Ok(Self { config: None, node })
    }

    /// Tells `pods` of the node's Pods for ever.
    pub async fn watch(&self, pods: &mut impl Pods) {
        let (mut told, mut pause) = (String::new(), PAUSES.0);
        let node = self.node.clone();
        loop {
            let begun = Instant::now();
            let Err(reason) = self.session(pods, &mut told).await;
            // One that was served for long begins again.
            if begun.elapsed() > PAUSES.1 {
                pause = PAUSES.0;
            }
            // The same failure over and over is one line.
            if told != reason {
                tracing::warn!(
                    node,
                    "cannot watch the node's Pods: {reason}; retrying, meanwhile Pods that need \
                     their spec wait"
                );
                told = reason;
            }
            sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// A client, and the server's address.
    fn client(&self) -> Result<(Client, String), String> {
        let config = self.config.clone().map_or_else(kube::Config::incluster_env, Ok);
        let config = config.map_err(|error| in_one_line(&error))?;
        let server = config.cluster_url.to_string();
        Ok((Client::try_from(config).map_err(|error| in_one_line(&error))?, server))
    }

    /// Lists the Pods and follows their changes until something fails.
    async fn session(&self, pods: &mut impl Pods, told: &mut String) -> Result<Infallible, String> {
        let (client, server) = self.client()?;
        let selector = format!("spec.nodeName={}", self.node);
        pods.begin();
        let list = list(&client, &selector, pods);
        let late = |_| {
            format!("the API server did not finish the list within {} s", LONGEST_LIST.as_secs())
        };
        let (count, mut version) = timeout(LONGEST_LIST, list).await.map_err(late)??;
        told.clear();
        tracing::info!(node = self.node, server, pods = count, "watching the node's Pods");
        let api = Api::<Pod>::all(client);
        let mut checked = Instant::now();
        loop {
            let begun = Instant::now();
            let params = WatchParams::default().fields(&selector).timeout(fastrand::u32(WATCH));
            let mut events = pin!(in_time(api.watch(&params, &version)).await?);
            let mut heard = Instant::now();
            while heard.elapsed() < SILENCE {
                let left = CHECK.saturating_sub(checked.elapsed());
                let Ok(event) = timeout(left, events.try_next()).await else {
                    pods.check()?;
                    checked = Instant::now();
                    continue;
                };
                let Some(event) = event.map_err(|error| in_one_line(&error))? else { break };
                heard = Instant::now();
                if let Some(seen) = tell(pods, event)? {
                    version = seen;
                }
            }
            if begun.elapsed() < SHORT {
                sleep(PAUSES.0.mul_f64(1.0 + fastrand::f64())).await;
            }
        }
    }
}

/// Tells `pods` of all Pods that there are, one after the other; gives their number and the version of the list.
async fn list(
    client: &Client,
    selector: &str,
    pods: &mut impl Pods,
) -> Result<(usize, String), String> {
    // Any version: the API server answers from its memory, as it does to kubelet.
    let params = ListParams::default().fields(selector).match_any();
    let request = Request::new(Pod::url_path(&(), None)).list(&params);
    let request = request.map_err(|error| in_one_line(&error))?;
    let mut answer = pin!(in_time(client.request_stream(request)).await?);
    let (mut items, mut count) = (Items::default(), 0);
    loop {
        let failed = |error: io::Error| format!("the watch broke off: {error}");
        let late = |_| format!("the API server has sent nothing for {} s", LIMIT.as_secs());
        let bytes = timeout(LIMIT, answer.fill_buf()).await.map_err(late)?.map_err(failed)?;
        if bytes.is_empty() {
            return Ok((count, items.version()?));
        }
        items.read(bytes, &mut |text| {
            count += 1;
            let pod = serde_json::from_slice(text);
            pods.changed(
                &pod.map_err(|error| format!("an item of the list is not a Pod: {error}"))?,
            )
        })?;
        let length = bytes.len();
        answer.consume_unpin(length);
    }
}

/// Tells `pods` of an event; gives the version after it.
fn tell(pods: &mut impl Pods, event: WatchEvent<Pod>) -> Result<Option<String>, String> {
    match event {
        WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
            pods.changed(&pod)?;
            Ok(pod.metadata.resource_version)
        }
        WatchEvent::Deleted(pod) => {
            pods.deleted(&pod)?;
            Ok(pod.metadata.resource_version)
        }
        WatchEvent::Bookmark(bookmark) => Ok(Some(bookmark.metadata.resource_version)),
        WatchEvent::Error(status) => Err(status.message),
    }
}

/// What is asked for, if the answer begins, and a list ends, before [`LIMIT`].
async fn in_time<T>(asked: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    let late = |_| format!("the API server did not answer within {} s", LIMIT.as_secs());
    timeout(LIMIT, asked).await.map_err(late)?.map_err(|error| in_one_line(&error))
}
