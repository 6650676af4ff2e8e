//! Where platforms have the folders of their container runtime, if it is not where it usually is.

#![expect(clippy::disallowed_methods, reason = "looks which folders there are")]

use std::fs;
use std::io;
use std::path::Path;

/// A platform, and the folders that its documentation names for plugins and for network configurations.
const PLATFORMS: [(&str, &str, &str); 6] = [
    ("GKE", "/home/kubernetes/bin", "/etc/cni/net.d"),
    ("k3s", "/var/lib/rancher/k3s/data/cni", "/var/lib/rancher/k3s/agent/etc/cni/net.d"),
    ("k3s", "/var/lib/rancher/k3s/data/current/bin", "/var/lib/rancher/k3s/agent/etc/cni/net.d"),
    (
        "MicroK8s",
        "/var/snap/microk8s/current/opt/cni/bin",
        "/var/snap/microk8s/current/args/cni-network",
    ),
    ("OpenShift", "/var/lib/cni/bin", "/etc/kubernetes/cni/net.d"),
    ("Debian's packages", "/usr/lib/cni", "/etc/cni/net.d"),
];

/// The options for the platform that this node looks like, to be appended to a message; for a folder that is missing
/// or cannot be written.
pub(super) fn hint(folder: &Path) -> String {
    let is_folder = |path| fs::metadata(path).is_ok_and(|found| found.is_dir());
    let found = PLATFORMS.iter().find(|(_, bin, conf)| {
        let [bin, conf] = [bin, conf].map(Path::new);
        is_folder(bin) && is_folder(conf) && !folder.starts_with(bin) && !folder.starts_with(conf)
    });
    found.map_or_else(String::new, |(name, bin, conf)| {
        format!("; with {name}, use --bin-dir {bin} --conf-dir {conf}")
    })
}

/// The error with the hint, if it comes from a folder that is missing or cannot be written.
pub(super) fn hinting(error: io::Error, path: &Path) -> io::Error {
    let kind = error.kind();
    if matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::ReadOnlyFilesystem) {
        io::Error::new(kind, format!("{error}{}", hint(path)))
    } else {
        error
    }
}
