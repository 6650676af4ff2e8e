//! The node agent of autoport, which the container runtime asks before it creates sandboxes and containers.
//!
//! - [`nri`]: the protocol between runtime and agent.
//! - [`config`]: the agent's configuration file, and the plugin's configuration on this node.
//! - [`hostnet`]: host ports of pods on the node's network.
//! - [`hook`]: programs of eBPF that give a pod on the node's network its host ports.
//! - [`cgroups`]: the node's cgroups.
//! - [`service`]: the agent at work.
//! - [`keeper`]: which of the node's agents answers the runtime.
//! - [`metrics`]: what the agent counts, whether it is well, and the door to both.
//! - [`collect`]: which holders of host ports have no sandbox any more. No I/O.
//! - [`inject`]: what a container is told. No I/O.
//! - [`capacity`]: how many host ports the node has for Pods, told to kubelet.
//! - [`cluster`]: the API server of Kubernetes.
//! - [`requests`]: which ports a Pod declares. No I/O.
//! - [`discovery`]: the `EndpointSlices` of a Pod. No I/O.
//! - [`status`]: what the API server is told of a Pod's host ports. No I/O.

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests prepare their own files"))]

pub mod capacity;
pub mod cgroups;
pub mod cluster;
pub mod collect;
pub mod config;
pub mod discovery;
pub mod hook;
pub mod hostnet;
pub mod inject;
pub mod keeper;
pub mod metrics;
pub mod nri;
pub mod requests;
pub mod service;
pub mod status;
