//! Writing to the API server, over one connection as long as it works.

use autoport::error::in_one_line;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::Value;
use tokio::time::timeout;

use super::{Cluster, LIMIT};

/// Why nothing was written.
#[derive(Debug)]
pub enum Failure {
    /// In words. Another try may help: the API server is away, slow or has too much to do.
    Passing(String),
    /// The API server has rejected it: this identity lacks the right, say.
    Rejected(String),
    /// The object does not exist any more, or is another one of its name.
    Gone(String),
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        let kube::Error::Api(status) = error else {
            return Self::Passing(in_one_line(&error));
        };
        match status.code {
            404 | 409 | 422 => Self::Gone(status.message),
            400..429 => Self::Rejected(status.message),
            _ => Self::Passing(status.message),
        }
    }
}

/// Writes to the API server. An answer of it that asks for patience (429) is waited for.
pub struct Writer {
    cluster: Cluster,
    client: Option<Client>,
}

impl Writer {
    pub fn new(cluster: Cluster) -> Self {
        Self { cluster, client: None }
    }

    /// The node whose Pods count.
    pub fn node(&self) -> &str {
        &self.cluster.node
    }

    /// Changes the status of a Pod, and its annotations; gives the Pod as it is then. `patch` has its UID, so that
    /// no other Pod of its name is changed.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn patch_status(
        &mut self,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<Pod, Failure> {
        let pods = Api::<Pod>::namespaced(self.client()?, namespace);
        let patch = Patch::Strategic(patch);
        self.written(pods.patch_status(name, &PatchParams::default(), &patch)).await
    }

    /// A Service; `None` where it does not exist.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn service(
        &mut self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Service>, Failure> {
        let services = Api::<Service>::namespaced(self.client()?, namespace);
        self.written(services.get_opt(name)).await
    }

    /// An `EndpointSlice`; `None` where it does not exist.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn slice(
        &mut self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<EndpointSlice>, Failure> {
        let slices = Api::<EndpointSlice>::namespaced(self.client()?, namespace);
        self.written(slices.get_opt(name)).await
    }

    /// Creates an `EndpointSlice`; gives it as it is then.
    ///
    /// # Errors
    /// [`Failure`]: `Gone` where there is another one of its name.
    pub async fn create_slice(
        &mut self,
        namespace: &str,
        slice: &EndpointSlice,
    ) -> Result<EndpointSlice, Failure> {
        let slices = Api::<EndpointSlice>::namespaced(self.client()?, namespace);
        self.written(slices.create(&PostParams::default(), slice)).await
    }

    /// Makes an `EndpointSlice` have what this one has; gives it as it is then.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn patch_slice(
        &mut self,
        namespace: &str,
        slice: &EndpointSlice,
    ) -> Result<EndpointSlice, Failure> {
        let slices = Api::<EndpointSlice>::namespaced(self.client()?, namespace);
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        let patch = Patch::Merge(slice);
        self.written(slices.patch(name, &PatchParams::default(), &patch)).await
    }

    /// Deletes an `EndpointSlice`.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn delete_slice(&mut self, namespace: &str, name: &str) -> Result<(), Failure> {
        let slices = Api::<EndpointSlice>::namespaced(self.client()?, namespace);
        self.written(slices.delete(name, &DeleteParams::default())).await.map(drop)
    }

    fn client(&mut self) -> Result<Client, Failure> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let (client, _) = self.cluster.client().map_err(Failure::Passing)?;
        Ok(self.client.insert(client).clone())
    }

    /// What is asked for, in time. After a failure the next try makes another connection.
    async fn written<T>(
        &mut self,
        asked: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Failure> {
        let late = |_| Failure::Passing(format!("there is no answer within {} s", LIMIT.as_secs()));
        let written = timeout(LIMIT, asked).await.map_err(late);
        let written = written.and_then(|done| done.map_err(Failure::from));
        if matches!(written, Err(Failure::Passing(_))) {
            self.client = None;
        }
        written
    }
}
