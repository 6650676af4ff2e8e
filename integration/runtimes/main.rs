//! The programs people run, driving the plugin: podman, containerd by its CRI, and libcni.
//!
//! `make test-clients`, as root: container runtimes need devices, mounts and cgroups, which a user
//! namespace does not give. `integration/setup.sh clients` unpacks the runtimes. The harness is
//! that of the integration tests.
//!
//! Each test has a [`machine::Machine`]: a node in network, mount and PID namespaces of its own, on
//! which everything that was started ends with the test. [`recording`] keeps what the runtimes send.

#![expect(clippy::disallowed_methods, reason = "a runtime has files and children")]

#[path = "../chain.rs"]
#[expect(dead_code, reason = "shared with the integration tests, as are all files above")]
mod chain;
mod containerd;
#[path = "../echo.rs"]
mod echo;
mod libcni;
#[expect(dead_code, reason = "shared with the cluster's tests")]
mod machine;
#[path = "../netns.rs"]
#[expect(dead_code, reason = "shared")]
mod netns;
#[path = "../node.rs"]
#[expect(dead_code, reason = "shared")]
mod node;
#[path = "../plugin.rs"]
#[expect(dead_code, reason = "shared")]
mod plugin;
mod podman;
#[path = "../probe.rs"]
#[expect(dead_code, reason = "shared")]
mod probe;
#[expect(dead_code, reason = "shared with the cluster's tests")]
mod recording;
#[path = "../view.rs"]
#[expect(dead_code, reason = "shared")]
mod view;
