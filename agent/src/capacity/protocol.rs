//! The device plugin API of kubelet, `v1beta1`: its messages and methods, as far as they matter here. The numbers are
//! those of `k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1/api.proto`.

use std::convert::Infallible;
use std::future::ready;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use autoport::error::in_one_line;
use futures_util::StreamExt as _;
use prost::Message;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::body::Body;
use tonic::client;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService};
use tonic::transport::Endpoint;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

/// The version of the API, which a registration names.
const VERSION: &str = "v1beta1";

/// The socket of kubelet in the directory of device plugins.
pub(super) const KUBELET: &str = "kubelet.sock";

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Empty {}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct RegisterRequest {
    #[prost(string, tag = "1")]
    pub(super) version: String,
    /// The file name of the plugin's socket.
    #[prost(string, tag = "2")]
    pub(super) endpoint: String,
    #[prost(string, tag = "3")]
    pub(super) resource_name: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Devices {
    #[prost(message, repeated, tag = "1")]
    pub(super) devices: Vec<Device>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Device {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) health: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct AllocateRequest {
    #[prost(message, repeated, tag = "1")]
    pub(super) containers: Vec<Allocated>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Allocated {
    #[prost(string, repeated, tag = "1")]
    pub(super) devices: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct AllocateResponse {
    /// One for each container: it gets nothing from kubelet.
    #[prost(message, repeated, tag = "1")]
    pub(super) containers: Vec<Empty>,
}

/// How many devices there are, and whether they are healthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) devices: usize,
    pub(super) healthy: bool,
}

impl From<Count> for Devices {
    fn from(Count { devices, healthy }: Count) -> Self {
        let health = if healthy { "Healthy" } else { "Unhealthy" };
        let device = |number: usize| Device { id: number.to_string(), health: health.to_owned() };
        Self { devices: (0..devices).map(device).collect() }
    }
}

/// The service that kubelet asks.
#[derive(Clone)]
pub(super) struct DevicePlugin {
    pub(super) count: watch::Receiver<Count>,
    pub(super) listing: Arc<Listing>,
}

/// Kubelet's listing of the devices: one for each registration.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) has_begun: AtomicBool,
    pub(super) is_over: AtomicBool,
}

impl NamedService for DevicePlugin {
    const NAME: &'static str = "v1beta1.DevicePlugin";
}

/// Notes the end of a listing.
struct End(Arc<Listing>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

impl Service<http::Request<Body>> for DevicePlugin {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Self { count, listing } = self.clone();
        match request.uri().path() {
            // Neither a call before each start, nor one that recommends devices.
            "/v1beta1.DevicePlugin/GetDevicePluginOptions" => Box::pin(async move {
                let options = |_: Request<Empty>| ready(Ok(Response::new(Empty {})));
                Ok(Grpc::new(ProstCodec::default()).unary(service_fn(options), request).await)
            }),
            "/v1beta1.DevicePlugin/ListAndWatch" => Box::pin(async move {
                let list = move |_: Request<Empty>| {
                    listing.has_begun.store(true, Ordering::Relaxed);
                    let end = End(listing.clone());
                    let counts = WatchStream::new(count.clone()).map(move |count| {
                        let _ = &end;
                        Ok::<_, Status>(Devices::from(count))
                    });
                    ready(Ok(Response::new(counts)))
                };
                Ok(Grpc::new(ProstCodec::default())
                    .server_streaming(service_fn(list), request)
                    .await)
            }),
            "/v1beta1.DevicePlugin/Allocate" => Box::pin(async move {
                let allocate = |request: Request<AllocateRequest>| {
                    let containers =
                        request.into_inner().containers.iter().map(|_| Empty {}).collect();
                    ready(Ok(Response::new(AllocateResponse { containers })))
                };
                Ok(Grpc::new(ProstCodec::default()).unary(service_fn(allocate), request).await)
            }),
            _ => Box::pin(ready(Ok(Status::unimplemented("").into_http()))),
        }
    }
}

/// Tells kubelet, by its socket in `dir`, of the socket `endpoint` in it.
///
/// # Errors
/// In words.
pub(super) async fn register(dir: &Path, endpoint: &str, resource: &str) -> Result<(), String> {
    let words = |error: tonic::transport::Error| in_one_line(&error);
    let kubelet = Endpoint::from_shared(format!("unix:{}", dir.join(KUBELET).display()));
    let channel = kubelet.map_err(words)?.connect().await;
    let mut client = client::Grpc::new(channel.map_err(words)?);
    client.ready().await.map_err(words)?;
    let request = RegisterRequest {
        version: VERSION.to_owned(),
        endpoint: endpoint.to_owned(),
        resource_name: resource.to_owned(),
    };
    let path = http::uri::PathAndQuery::from_static("/v1beta1.Registration/Register");
    let codec = ProstCodec::<RegisterRequest, Empty>::default();
    let registered = client.unary(Request::new(request), path, codec).await;
    registered.map(drop).map_err(|status| status.message().to_owned())
}
