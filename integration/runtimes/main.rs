//! The programs people run, driving the plugin: podman, containerd by its CRI, and libcni.
//!
//! `make test-clients`, as root: container runtimes need devices, mounts and cgroups, which a user
//! namespace does not give. `integration/setup.sh clients` unpacks the runtimes. The harness is
//! that of the integration tests.
//!
//! Each test has a [`machine::Machine`]: a node in network, mount and PID namespaces of its own, on
//! which everything that was started ends with the test. [`recording`] keeps what the runtimes send.

#![expect(clippy::disallowed_methods, reason = "a runtime has files and children")]

/// A module for each of these releases of containerd, with a test for each of these functions, which take
/// the release.
macro_rules! on_releases {
    ($($module:ident $release:ident),+: $tests:tt) => {
        $(mod $module {
            on_releases!(@tests $release $tests);
        })+
    };
    (@tests $release:ident ($($(#[$attribute:meta])* $test:ident),+ $(,)?)) => {
        $(
            #[test]
            $(#[$attribute])*
            fn $test() {
                super::$test(crate::daemon::Release::$release);
            }
        )+
    };
}

mod containerd;
mod daemon;
mod libcni;
#[expect(dead_code, reason = "shared with the cluster's tests")]
mod machine;
mod nri;
mod podman;
#[expect(dead_code, reason = "shared with the cluster's tests")]
mod recording;
#[path = "../stage/mod.rs"]
#[expect(dead_code, reason = "shared with the integration tests")]
mod stage;
