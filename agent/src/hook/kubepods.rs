//! The pods that the runtime has told of: where their cgroups are, and the one that kubelet makes for all of them.
//!
//! The tree is not searched for it: a node that is a container sees the cgroups of other nodes too.

#![expect(clippy::disallowed_methods, reason = "the kernel's tree of cgroups, which is only read")]

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::place::Place;
use crate::cgroups::Tree;

/// The pods of this node, with paths below the root of the tree.
#[derive(Debug)]
pub(super) struct Pods {
    tree: Tree,
    /// By UID.
    paths: HashMap<String, PathBuf>,
    /// The cgroups of all pods. There are two after the driver of kubelet's cgroups was changed, until the node is
    /// booted.
    all: BTreeSet<PathBuf>,
    /// Whether the runtime has told of a pod, wherever its cgroup is.
    any: bool,
}

impl Pods {
    pub(super) fn new(tree: Tree) -> Self {
        Self { tree, paths: HashMap::new(), all: BTreeSet::new(), any: false }
    }

    /// Learns of a pod, with the cgroup that the runtime gives for it; gives whether it was not known.
    pub(super) fn learn(&mut self, cgroup: &str, uid: &str) -> bool {
        self.any = true;
        let Ok(Place { path }) = Place::of(cgroup, uid) else { return false };
        self.all.extend(path.ancestors().find(|path| is_of_all_pods(path)).map(Path::to_owned));
        self.paths.insert(uid.to_owned(), path).is_none()
    }

    /// Forgets what is no longer there.
    pub(super) fn forget(&mut self) {
        let Self { tree, paths, all, .. } = self;
        all.retain(|path| tree.root.join(path).exists());
        paths.retain(|_, path| tree.root.join(path).exists());
    }

    /// Where the cgroups of all pods are.
    pub(super) fn all(&self) -> impl Iterator<Item = &PathBuf> {
        self.all.iter()
    }

    /// Whether there are none although there are pods.
    pub(super) fn are_elsewhere(&self) -> bool {
        self.any && self.all.is_empty()
    }

    /// The number of the pod's cgroup.
    pub(super) fn cgroup(&self, uid: &str) -> Option<u64> {
        let path = self.tree.root.join(self.paths.get(uid)?);
        fs::metadata(path).ok().map(|found| found.ino())
    }
}

/// The name is kubelet's, with systemd as a slice, which has its parents in its name.
fn is_of_all_pods(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
        name == "kubepods" || name == "kubepods.slice" || name.ends_with("-kubepods.slice")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "8a1f0f5e-0000-4000-8000-1234567890ab";

    fn pods(root: &Path) -> Pods {
        Pods::new(Tree { root: root.to_owned(), is_only: true })
    }

    fn all(pods: &Pods) -> Vec<&str> {
        pods.all().map(|path| path.to_str().expect("UTF-8")).collect()
    }

    #[test]
    fn the_cgroup_of_all_pods_is_found_for_both_drivers() {
        let slice = "8a1f0f5e_0000_4000_8000_1234567890ab.slice";
        let nested = format!(
            "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/\
             kubelet-kubepods-burstable-pod{slice}"
        );
        for (given, expected, path) in [
            (format!("/kubepods/pod{UID}"), "kubepods", format!("kubepods/pod{UID}")),
            (
                format!("/node/a/kubepods/besteffort/pod{UID}"),
                "node/a/kubepods",
                format!("node/a/kubepods/besteffort/pod{UID}"),
            ),
            (
                format!("kubepods-pod{slice}"),
                "kubepods.slice",
                format!("kubepods.slice/kubepods-pod{slice}"),
            ),
            (
                format!("kubelet-kubepods-burstable-pod{slice}"),
                "kubelet.slice/kubelet-kubepods.slice",
                nested,
            ),
        ] {
            let dir = tempfile::tempdir().expect("a directory");
            let mut pods = pods(dir.path());
            assert!(!pods.are_elsewhere(), "there is no pod yet");
            fs::create_dir_all(dir.path().join(&path).join("c1")).expect("directories");
            pods.learn(&given, UID);
            assert_eq!(all(&pods), [expected], "{given}");
            let found = fs::metadata(dir.path().join(&path)).expect("it is there");
            assert_eq!(pods.cgroup(UID), Some(found.ino()), "{given}");
            assert_eq!(pods.cgroup("8a1f0f5e"), None);
            pods.forget();
            assert_eq!(all(&pods), [expected], "it is still there");
            fs::remove_dir_all(dir.path().join(path)).expect("it is ours");
            pods.forget();
            assert_eq!((all(&pods), pods.paths.len()), (vec![expected], 0));
        }
    }

    #[test]
    fn both_are_found_after_the_driver_was_changed_and_those_of_other_nodes_are_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut pods = pods(dir.path());
        for name in ["kubepods/podone", "kubepods.slice/kubepods-podtwo.slice", "node/kubepods"] {
            fs::create_dir_all(dir.path().join(name)).expect("directories");
        }
        pods.learn("/other/podthree", "three");
        assert!(pods.are_elsewhere() && all(&pods).is_empty());
        pods.learn("/kubepods/podone", "one");
        pods.learn("kubepods-podtwo.slice", "two");
        pods.learn("/../kubepods/podfour", "four");
        assert_eq!(all(&pods), ["kubepods", "kubepods.slice"]);
        assert!(pods.cgroup("one").is_some() && pods.cgroup("two").is_some());
        assert!(pods.cgroup("four").is_none() && !pods.are_elsewhere());
    }
}
