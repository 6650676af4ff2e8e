//! The device plugin: what a kubelet is told of the node's host ports, on real sockets by the gRPC library's client and
//! server, with messages of the tests' own.

use std::convert::Infallible;
use std::future::ready;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use prost::Message;
use serde_json::json;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::agent::{Agent, Node};
use super::api::Api;
use super::runtime::Runtime;
use super::{PORTS, host_pod, run};

pub(crate) const RESOURCE: &str = "autoport.cni/ports";

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Registered {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "2")]
    endpoint: String,
    #[prost(string, tag = "3")]
    resource: String,
}

#[derive(Clone, PartialEq, Message)]
struct Listed {
    #[prost(message, repeated, tag = "1")]
    devices: Vec<Device>,
}

#[derive(Clone, PartialEq, Message)]
struct Device {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    health: String,
}

#[derive(Clone, PartialEq, Message)]
struct Containers {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<Names>,
}

#[derive(Clone, PartialEq, Message)]
struct Names {
    #[prost(string, repeated, tag = "1")]
    names: Vec<String>,
}

/// What a kubelet saw: a registration, or how many devices of the resource are healthy and how many not.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Registered(Registered),
    Devices(String, usize, usize),
    /// Nothing is listed any more: a kubelet then has none that is healthy.
    Ended(String),
}

fn runtime() -> tokio::runtime::Runtime {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.expect("a runtime of tokio")
}

/// A kubelet: it lists the devices of each plugin that registers.
pub(crate) struct Kubelet {
    seen: Receiver<Seen>,
    /// It ends with this.
    _running: oneshot::Sender<Infallible>,
}

#[derive(Clone)]
struct Registration {
    dir: PathBuf,
    seen: mpsc::Sender<Seen>,
    lists: bool,
}

impl NamedService for Registration {
    const NAME: &'static str = "v1beta1.Registration";
}

impl Service<http::Request<Body>> for Registration {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        assert_eq!(request.uri().path(), "/v1beta1.Registration/Register");
        let own = self.clone();
        let register = move |request: Request<Registered>| {
            let registered = request.into_inner();
            let _ = own.seen.send(Seen::Registered(registered.clone()));
            if own.lists {
                tokio::spawn(list(own.clone(), registered));
            }
            ready(Ok::<_, Status>(Response::new(Names::default())))
        };
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::default());
            Ok(grpc.unary(tower::service_fn(register), request).await)
        })
    }
}

/// Calls a method of a plugin that has one answer, or the first of several.
async fn client(dir: &Path, endpoint: &str) -> tonic::client::Grpc<tonic::transport::Channel> {
    let plugin = Endpoint::from_shared(format!("unix:{}", dir.join(endpoint).display()));
    let channel = plugin.expect("a path").connect().await.expect("the plugin listens");
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.expect("it is connected");
    client
}

fn method(name: &str) -> http::uri::PathAndQuery {
    format!("/v1beta1.DevicePlugin/{name}").parse().expect("a path")
}

async fn list(own: Registration, registered: Registered) {
    let mut client = client(&own.dir, &registered.endpoint).await;
    let codec = ProstCodec::<Names, Listed>::default();
    let asked = Request::new(Names::default());
    let listed = client.server_streaming(asked, method("ListAndWatch"), codec).await;
    let mut listed = listed.expect("it lists").into_inner();
    while let Ok(Some(list)) = listed.message().await {
        let healthy = list.devices.iter().filter(|one| one.health == "Healthy").count();
        let ill = list.devices.iter().filter(|one| one.health == "Unhealthy").count();
        assert_eq!(healthy + ill, list.devices.len());
        let mut ids: Vec<_> = list.devices.iter().map(|one| &one.id).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), list.devices.len(), "each has an ID of its own");
        let _ = own.seen.send(Seen::Devices(registered.resource.clone(), healthy, ill));
    }
    let _ = own.seen.send(Seen::Ended(registered.resource));
}

impl Kubelet {
    /// Listens in `dir`, as one that has just started: the sockets of all plugins are deleted.
    pub(crate) fn new(dir: &Path) -> Self {
        Self::that(dir, true)
    }

    /// One that lists the devices of a plugin, or, as kubelets before 1.26, cannot.
    fn that(dir: &Path, lists: bool) -> Self {
        for file in std::fs::read_dir(dir).expect("the directory").flatten() {
            std::fs::remove_file(file.path()).expect("a socket");
        }
        let (sender, seen) = mpsc::channel();
        let (running, ended) = oneshot::channel();
        let service = Registration { dir: dir.to_owned(), seen: sender, lists };
        let socket = dir.join("kubelet.sock");
        thread::spawn(move || {
            runtime().block_on(async {
                let listener = UnixListener::bind(socket).expect("a socket");
                let incoming = UnixListenerStream::new(listener);
                let serving = Server::builder().add_service(service).serve_with_incoming(incoming);
                tokio::select! {
                    served = serving => served.expect("it serves"),
                    _ = ended => {}
                }
            });
        });
        Self { seen, _running: running }
    }

    /// Waits for what is `expected`, and gives what was seen on the way.
    fn awaits(&self, expected: impl Fn(&Seen) -> bool) -> Vec<Seen> {
        let (begun, mut all) = (Instant::now(), Vec::new());
        while begun.elapsed() < Duration::from_secs(20) {
            match self.seen.recv_timeout(Duration::from_millis(100)) {
                Ok(seen) => {
                    all.push(seen);
                    if all.last().is_some_and(&expected) {
                        return all;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        panic!("kubelet has only seen {all:?}");
    }

    fn awaits_devices(&self, resource: &str, healthy: usize, ill: usize) -> Vec<Seen> {
        let expected = Seen::Devices(resource.to_owned(), healthy, ill);
        self.awaits(|seen| *seen == expected)
    }

    pub(crate) fn awaits_registration(&self, resource: &str) -> Registered {
        let mut all = self.awaits(
            |seen| matches!(seen, Seen::Registered(registered) if registered.resource == resource),
        );
        let Some(Seen::Registered(registered)) = all.pop() else { panic!("it was awaited") };
        registered
    }
}

pub(crate) struct Scene {
    node: Node,
    api: Api,
    pub(crate) runtime: Runtime,
    pub(crate) dir: TempDir,
}

impl Scene {
    pub(crate) fn new(keys: &str) -> Self {
        let node = Node::new(keys);
        let dir = tempfile::tempdir().expect("a directory");
        Self { node, api: Api::new(), runtime: Runtime::new(), dir }
    }

    pub(crate) fn start(&self, runtime: &Runtime, options: &[&str]) -> Agent {
        let kubeconfig = self.api.kubeconfig(self.node.node_dir());
        let kubeconfig = kubeconfig.to_str().expect("an ASCII path");
        let dir = self.dir.path().to_str().expect("an ASCII path");
        let common = ["--kubeconfig", kubeconfig, "--node-name", "n1", "--device-plugins", dir];
        self.node.start(&runtime.socket(), &[&common[..], options].concat())
    }
}

#[test]
fn kubelet_counts_what_pods_can_still_get() {
    let scene = Scene::new(
        r#""portRange": "20000-20009", "excludePorts": ["20009"], "namedRanges": {"game": "7000-7004"}"#,
    );
    let kubelet = Kubelet::new(scene.dir.path());
    let agent = scene.start(&scene.runtime, &[]);
    let mut runtime = scene.runtime.connect(Vec::new(), Vec::new());
    let registered = kubelet.awaits_registration(RESOURCE);
    assert_eq!(registered.version, "v1beta1");
    kubelet.awaits_devices(RESOURCE, 9, 0);
    let mut start = |uid: &str, limits: serde_json::Value| {
        let container = json!({"name": "main", "resources": {"limits": limits}});
        scene.api.put_with(uid, &json!({}), &container);
        let pod = host_pod(uid, uid, &[(PORTS, "http=auto, more=auto")]);
        run(&mut runtime, &pod).expect("it gets its ports");
    };
    start("u1", json!({}));
    kubelet.awaits_devices(RESOURCE, 7, 0);
    // The scheduler counts what a Pod has asked for, and the agent what it holds besides.
    start("u2", json!({RESOURCE: "2"}));
    start("u3", json!({RESOURCE: "1"}));
    let seen = kubelet.awaits_devices(RESOURCE, 6, 0);
    assert_eq!(seen.len(), 1, "{seen:?}");
    drop(runtime);
    kubelet.awaits(|seen| *seen == Seen::Ended(RESOURCE.to_owned()));
    let _runtime = scene.runtime.connect(Vec::new(), Vec::new());
    let seen = kubelet.awaits_devices(RESOURCE, 6, 0);
    assert!(
        seen.contains(&Seen::Devices(RESOURCE.to_owned(), 0, 6)),
        "only after a while: {seen:?}"
    );
    // It answers the runtime for a while, but kubelet admits no more Pods.
    agent.signal(Signal::SIGTERM);
    kubelet.awaits_devices(RESOURCE, 0, 6);
    agent.end();
    let left: Vec<_> = std::fs::read_dir(scene.dir.path()).expect("it").flatten().collect();
    assert_eq!(left.len(), 1, "kubelet's own: {left:?}");
}

#[test]
fn an_allocation_gives_nothing() {
    let scene = Scene::new("");
    let kubelet = Kubelet::new(scene.dir.path());
    let _agent = scene.start(&scene.runtime, &[]);
    let _connection = scene.runtime.connect(Vec::new(), Vec::new());
    let registered = kubelet.awaits_registration(RESOURCE);
    kubelet.awaits_devices(RESOURCE, 10_000, 0);
    let names = Names { names: vec!["17".to_owned(), "4".to_owned()] };
    let asked = Containers { containers: vec![names.clone(), names] };
    runtime().block_on(async {
        let mut client = client(scene.dir.path(), &registered.endpoint).await;
        let codec = ProstCodec::<Containers, Containers>::default();
        let answer = client.unary(Request::new(asked), method("Allocate"), codec).await;
        let expected = Containers { containers: vec![Names::default(); 2] };
        assert_eq!(answer.expect("it allocates").into_inner(), expected);
        client.ready().await.expect("it is connected");
        let codec = ProstCodec::<Names, Names>::default();
        let other =
            client.unary(Request::new(Names::default()), method("PreStartContainer"), codec);
        assert_eq!(other.await.expect_err("not offered").code(), tonic::Code::Unimplemented);
    });
}

/// A kubelet that starts again has forgotten the plugin and deleted its socket.
#[test]
fn another_kubelet_is_told_again() {
    let scene = Scene::new(r#""portRange": "20000-20002""#);
    let _agent = scene.start(&scene.runtime, &[]);
    let _connection = scene.runtime.connect(Vec::new(), Vec::new());
    for _ in 0..3 {
        let kubelet = Kubelet::new(scene.dir.path());
        kubelet.awaits_registration(RESOURCE);
        kubelet.awaits_devices(RESOURCE, 3, 0);
    }
}

/// Kubelets before 1.26 take the registration, and cannot ask.
#[test]
fn a_kubelet_that_does_not_ask_is_told_of_once() {
    let scene = Scene::new("");
    let kubelet = Kubelet::that(scene.dir.path(), false);
    let agent = scene.start(&scene.runtime, &[]);
    let _connection = scene.runtime.connect(Vec::new(), Vec::new());
    for _ in 0..3 {
        kubelet.awaits_registration(RESOURCE);
    }
    let kubelet = Kubelet::new(scene.dir.path());
    kubelet.awaits_devices(RESOURCE, 10_000, 0);
    agent.signal(Signal::SIGTERM);
    let (_, log) = agent.end();
    assert_eq!(log.matches("kubelet does not ask for the devices").count(), 1, "{log}");
}

/// Whatever the agents do, kubelet is told by the one that leads.
#[test]
fn the_standby_offers_what_a_killed_agent_offered() {
    let scene = Scene::new(r#""portRange": "20000-20002""#);
    let other = Runtime::new();
    let kubelet = Kubelet::new(scene.dir.path());
    let agent = scene.start(&scene.runtime, &[]);
    let _to_agent = scene.runtime.connect(Vec::new(), Vec::new());
    let first = kubelet.awaits_registration(RESOURCE);
    kubelet.awaits_devices(RESOURCE, 3, 0);
    let _standby = scene.start(&other, &["--standby"]);
    let _to_standby = other.connect(Vec::new(), Vec::new());
    agent.signal(Signal::SIGKILL);
    let second = kubelet.awaits_registration(RESOURCE);
    assert_ne!(first.endpoint, second.endpoint);
    kubelet.awaits_devices(RESOURCE, 3, 0);
}
