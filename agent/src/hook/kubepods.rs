//! The cgroup that kubelet makes for all pods, and those of the pods in it.

#![expect(clippy::disallowed_methods, reason = "the kernel's tree of cgroups, which is only read")]

use std::collections::HashMap;
use std::fs::{self, DirEntry};
use std::os::unix::fs::DirEntryExt as _;
use std::path::{Path, PathBuf};

use crate::cgroups::Tree;

/// How deep below the root it is looked for: kubelet has it in the root, or in the cgroup of `--cgroup-root`.
const DEPTH: usize = 2;

/// Finds it, below the root. There are two after the driver of kubelet's cgroups was changed, until the node is
/// booted.
pub(super) fn find(tree: &Tree) -> Vec<PathBuf> {
    let (mut found, mut left) = (Vec::new(), vec![PathBuf::new()]);
    for _ in 0..DEPTH {
        for path in std::mem::take(&mut left) {
            for entry in directories(&tree.root.join(&path)) {
                let name = entry.file_name();
                let path = path.join(&name);
                if is_of_all_pods(&name.to_string_lossy()) {
                    found.push(path);
                } else {
                    left.push(path);
                }
            }
        }
    }
    found.sort_unstable();
    found
}

/// The name is kubelet's, with systemd as a slice, which has its parents in its name.
fn is_of_all_pods(name: &str) -> bool {
    name == "kubepods" || name == "kubepods.slice" || name.ends_with("-kubepods.slice")
}

/// The pods that have a cgroup in one of these.
#[derive(Debug, Default)]
pub(super) struct Pods(HashMap<String, u64>);

impl Pods {
    /// Reads which there are: the cgroup of a pod is below that of all, or below one for its class of service.
    pub(super) fn read(tree: &Tree, all: &[&Path]) -> Self {
        let mut found = HashMap::new();
        for entry in all.iter().flat_map(|path| directories(&tree.root.join(path))) {
            if let Some(pod) = pod(&entry) {
                found.extend([pod]);
            } else {
                found.extend(directories(&entry.path()).filter_map(|entry| pod(&entry)));
            }
        }
        Self(found)
    }

    /// The number of the pod's cgroup.
    pub(super) fn cgroup(&self, uid: &str) -> Option<u64> {
        self.0.get(&key(uid)).copied()
    }
}

/// Its UID, and the number of the cgroup.
fn pod(entry: &DirEntry) -> Option<(String, u64)> {
    let name = entry.file_name();
    let name = name.to_str()?;
    let uid = match name.strip_suffix(".slice") {
        None => name.strip_prefix("pod"),
        Some(stem) => stem.rsplit_once("-pod").map(|(_, uid)| uid),
    };
    uid.filter(|uid| !uid.is_empty()).map(|uid| (key(uid), entry.ino()))
}

/// A slice has `_` for `-`.
fn key(uid: &str) -> String {
    uid.replace('_', "-")
}

fn directories(path: &Path) -> impl Iterator<Item = DirEntry> + use<> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "8a1f0f5e-0000-4000-8000-1234567890ab";

    #[test]
    fn the_pods_of_both_drivers_are_found() {
        let slice = "8a1f0f5e_0000_4000_8000_1234567890ab.slice";
        for (all, pod) in [
            ("kubepods", format!("kubepods/pod{UID}")),
            ("kubepods", format!("kubepods/burstable/pod{UID}")),
            ("kubelet/kubepods", format!("kubelet/kubepods/besteffort/pod{UID}")),
            ("kubepods.slice", format!("kubepods.slice/kubepods-pod{slice}")),
            (
                "kubelet.slice/kubelet-kubepods.slice",
                format!(
                    "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/\
                     kubelet-kubepods-burstable-pod{slice}"
                ),
            ),
        ] {
            let dir = tempfile::tempdir().expect("a directory");
            let tree = Tree { root: dir.path().to_owned(), is_only: true };
            assert!(find(&tree).is_empty());
            fs::create_dir_all(dir.path().join(&pod).join("c1")).expect("directories");
            fs::create_dir_all(dir.path().join("system.slice/x.service")).expect("directories");
            assert_eq!(find(&tree), [PathBuf::from(all)]);
            let pods = Pods::read(&tree, &[Path::new(all)]);
            let id = fs::metadata(dir.path().join(&pod)).expect("it is there");
            assert_eq!(pods.cgroup(UID), Some(std::os::unix::fs::MetadataExt::ino(&id)), "{pod}");
            assert_eq!(pods.cgroup("8a1f0f5e"), None);
        }
    }

    #[test]
    fn both_are_found_after_the_driver_was_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        let tree = Tree { root: dir.path().to_owned(), is_only: true };
        for name in ["kubepods/podone", "kubepods.slice/kubepods-podtwo.slice", "kubepods2"] {
            fs::create_dir_all(dir.path().join(name)).expect("directories");
        }
        let all = ["kubepods", "kubepods.slice"].map(Path::new);
        assert_eq!(find(&tree), all);
        let pods = Pods::read(&tree, &all);
        assert!(pods.cgroup("one").is_some() && pods.cgroup("two").is_some());
    }
}
