//! The Protocol Buffers messages of ttrpc and of NRI (`nri.pkg.api.v1alpha1`), with the fields that the
//! agent uses. Fields that are not listed are skipped when they are received.

use std::collections::BTreeMap;

/// A call (ttrpc).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    #[prost(string, tag = "1")]
    pub service: String,
    #[prost(string, tag = "2")]
    pub method: String,
    #[prost(bytes = "vec", tag = "3")]
    pub payload: Vec<u8>,
    /// What is left of the caller's time; 0 where it did not say.
    #[prost(int64, tag = "4")]
    pub timeout_nano: i64,
}

/// The result of a call (ttrpc).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Response {
    /// Absent, or code 0: it succeeded.
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
    #[prost(bytes = "vec", tag = "2")]
    pub payload: Vec<u8>,
}

/// Why a call failed, as in gRPC.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    #[prost(int32, tag = "1")]
    pub code: i32,
    #[prost(string, tag = "2")]
    pub message: String,
}

/// Sent by the agent to register.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RegisterPlugin {
    #[prost(string, tag = "1")]
    pub plugin_name: String,
    #[prost(string, tag = "2")]
    pub plugin_idx: String,
}

/// Received after registration.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Configure {
    #[prost(string, tag = "2")]
    pub runtime_name: String,
    #[prost(string, tag = "3")]
    pub runtime_version: String,
    /// Milliseconds that an event may take; 0 in containerd 1.7, which allows 2 s.
    #[prost(int64, tag = "5")]
    pub request_timeout: i64,
}

/// The answer to [`Configure`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Configured {
    /// A bit for each kind of event.
    #[prost(int32, tag = "2")]
    pub events: i32,
}

/// Received after [`Configure`], in one or several parts.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Synchronize {
    #[prost(message, repeated, tag = "1")]
    pub pods: Vec<Pod>,
    #[prost(message, repeated, tag = "2")]
    pub containers: Vec<Container>,
    /// Another part follows.
    #[prost(bool, tag = "3")]
    pub more: bool,
}

/// The answer to [`Synchronize`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Synchronized {
    /// Repeats [`Synchronize::more`]; otherwise the runtime closes the connection.
    #[prost(bool, tag = "2")]
    pub more: bool,
}

/// `RunPodSandbox`, `StopPodSandbox` and `RemovePodSandbox`, which are calls of their own since NRI 0.12.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodEvent {
    #[prost(message, optional, tag = "1")]
    pub pod: Option<Pod>,
}

/// The same and other events in one call, which is what NRI before 0.12 sends.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StateChange {
    #[prost(int32, tag = "1")]
    pub event: i32,
    #[prost(message, optional, tag = "2")]
    pub pod: Option<Pod>,
    #[prost(message, optional, tag = "3")]
    pub container: Option<Container>,
}

/// A container that is about to be created.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CreateContainer {
    #[prost(message, optional, tag = "1")]
    pub pod: Option<Pod>,
    #[prost(message, optional, tag = "2")]
    pub container: Option<Container>,
}

/// The answer to [`CreateContainer`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerCreated {
    #[prost(message, optional, tag = "1")]
    pub adjust: Option<Adjustment>,
}

/// A pod's sandbox.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Pod {
    /// The ID of the sandbox.
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, tag = "3")]
    pub uid: String,
    #[prost(string, tag = "4")]
    pub namespace: String,
    #[prost(btree_map = "string, string", tag = "6")]
    pub annotations: BTreeMap<String, String>,
    #[prost(message, optional, tag = "8")]
    pub linux: Option<LinuxPod>,
}

/// A pod's Linux properties.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxPod {
    /// The cgroup of the pod: a path, or the name of a slice where systemd manages them.
    #[prost(string, tag = "3")]
    pub cgroup_parent: String,
    /// Empty where the runtime does not say, which it does not when a sandbox is stopped or removed.
    #[prost(message, repeated, tag = "5")]
    pub namespaces: Vec<Namespace>,
}

/// A namespace of a pod's sandbox.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Namespace {
    #[prost(string, tag = "1")]
    pub kind: String,
    #[prost(string, tag = "2")]
    pub path: String,
}

/// A container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Container {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub pod_sandbox_id: String,
    #[prost(string, tag = "3")]
    pub name: String,
    /// See [`Container::may_run`].
    #[prost(int32, tag = "4")]
    pub state: i32,
    #[prost(btree_map = "string, string", tag = "6")]
    pub annotations: BTreeMap<String, String>,
    /// `NAME=value`. Bytes, because an image can have variables that are not UTF-8.
    #[prost(bytes = "vec", repeated, tag = "8")]
    pub env: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "9")]
    pub mounts: Vec<Mount>,
}

impl Container {
    /// Whether it is created, paused or running: not stopped, and not unknown.
    pub fn may_run(&self) -> bool {
        (1..=3).contains(&self.state)
    }
}

/// A mount of a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Mount {
    #[prost(string, tag = "1")]
    pub destination: String,
    #[prost(string, tag = "2")]
    pub kind: String,
    #[prost(string, tag = "3")]
    pub source: String,
    #[prost(string, repeated, tag = "4")]
    pub options: Vec<String>,
}

/// What the runtime changes in a container that it creates.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Adjustment {
    #[prost(message, repeated, tag = "3")]
    pub mounts: Vec<Mount>,
    /// A variable that the container has already is replaced in its place.
    #[prost(message, repeated, tag = "4")]
    pub env: Vec<Variable>,
}

/// An environment variable.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Variable {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
}
