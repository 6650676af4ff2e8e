//! A real Kubernetes node drives the plugin: API server, scheduler, controller manager, kubelet and
//! kube-proxy, on containerd 1.6 and etcd.
//!
//! `make test-kubernetes`, as root: `integration/setup.sh kubernetes` builds it from Debian's
//! sources. The harness is that of `integration/runtimes`, and each test has a
//! [`cluster::Cluster`] of its own, which takes up to a gigabyte, so few run at a time. Most of the
//! time goes into waiting: kubelet cleans up once a minute.

#![expect(clippy::disallowed_methods, reason = "a cluster has files and children")]

mod api;
mod cluster;
mod configuration;
mod confined;
#[path = "../runtimes/machine.rs"]
#[expect(dead_code, reason = "shared")]
mod machine;
#[path = "../runtimes/recording.rs"]
#[expect(dead_code, reason = "shared")]
mod recording;

mod admission;
mod agents;
mod capacity;
mod daemonset;
mod deployed;
mod discovery;
mod dns;
mod examples;
mod helm;
mod hook;
mod images;
mod inside;
mod manifests;
mod nodes;
mod others;
mod pods;
mod remains;
mod replicas;
mod restarts;
mod rollout;
mod second;
mod services;
#[path = "../stage/mod.rs"]
#[expect(dead_code, reason = "shared with the integration tests")]
mod stage;
mod status;
mod taint;
mod upgrade;
mod warnings;
mod workloads;
