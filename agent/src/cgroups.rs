//! The cgroups of the node, by which the kernel tells whose a socket is.

#![expect(clippy::disallowed_methods, reason = "the kernel's tree of cgroups, which is only read")]

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirEntryExt as _;
use std::path::{Path, PathBuf};

/// Where the node has its cgroups: those of version 2 on a node that has only them, and on one that has both.
const PLACES: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// Only the tree of version 2 has this file.
const MARK: &str = "cgroup.controllers";

/// The tree of version 2 on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    pub root: PathBuf,
    /// Whether the node has no cgroups of version 1 beside it.
    pub is_only: bool,
}

impl Tree {
    /// Finds it; `None` where it is not mounted.
    pub fn find() -> Option<Self> {
        let root = PLACES.iter().map(Path::new).find(|place| place.join(MARK).exists())?;
        Some(Self { root: root.to_owned(), is_only: root == PLACES[0] })
    }

    /// Opens the directory of a cgroup below the root.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn open(&self, path: &Path) -> io::Result<File> {
        File::open(self.root.join(path))
    }
}

/// More than a node has.
const MOST: usize = 100_000;

/// All cgroups of version 2, each with its path, by the inode of its directory.
#[derive(Debug, Default)]
pub struct Cgroups(HashMap<u64, String>);

impl Cgroups {
    /// Reads the tree of this node; empty where there is none.
    pub fn read() -> Self {
        Tree::find().map_or_else(Self::default, |tree| Self::below(&tree.root))
    }

    fn below(root: &Path) -> Self {
        let mut found = HashMap::new();
        let mut left = vec![(root.to_owned(), String::new())];
        while let Some((dir, path)) = left.pop() {
            found.extend(inner(&dir, &path, &mut left));
            if found.len() > MOST {
                return Self::default();
            }
        }
        Self(found)
    }

    /// The path of a cgroup, below the root.
    pub fn path(&self, id: u64) -> Option<&str> {
        self.0.get(&id).map(String::as_str)
    }

    /// Whether a pod has a cgroup, as kubelet makes them.
    pub fn has(&self, uid: &str) -> bool {
        self.0.values().any(|path| is_of(path, uid))
    }
}

/// The cgroups in one directory, which are `left` to be looked into.
fn inner(dir: &Path, path: &str, left: &mut Vec<(PathBuf, String)>) -> Vec<(u64, String)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let found = dirs.map(|entry| {
        let path = format!("{path}/{}", entry.file_name().to_string_lossy());
        left.push((entry.path(), path.clone()));
        (entry.ino(), path)
    });
    found.collect()
}

/// Whether a cgroup is one of the pod: kubelet ends the name with `pod` and the UID, with systemd as a slice and
/// with underscores.
pub fn is_of(path: &str, uid: &str) -> bool {
    let slice = format!("pod{}.slice", uid.replace('-', "_"));
    let plain = format!("pod{uid}");
    let is_its =
        |part: &str| part == plain || part == slice || part.ends_with(&format!("-{slice}"));
    !uid.is_empty() && path.split('/').any(is_its)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "8a1f0f5e-0000-4000-8000-1234567890ab";

    #[test]
    fn a_pod_is_known_by_its_cgroup() {
        let slice = "kubepods-besteffort-pod8a1f0f5e_0000_4000_8000_1234567890ab.slice";
        for path in [
            format!("/kubepods/burstable/pod{UID}/c1"),
            format!("/kubepods/pod{UID}"),
            format!("/kubepods.slice/kubepods-besteffort.slice/{slice}/cri-containerd-c1.scope"),
        ] {
            assert!(is_of(&path, UID), "{path}");
            assert!(!is_of(&path, "8a1f0f5e") && !is_of(&path, ""), "{path}");
        }
        for path in ["", "/system.slice/nginx.service", "/kubepods/burstable/pod8a1f0f5e"] {
            assert!(!is_of(path, UID), "{path}");
        }
    }

    #[test]
    fn the_tree_is_read_by_inode() {
        let dir = tempfile::tempdir().expect("a directory");
        let inner = dir.path().join("kubepods/podu1/c1");
        fs::create_dir_all(&inner).expect("directories");
        fs::write(inner.join("cgroup.procs"), "").expect("a file");
        let cgroups = Cgroups::below(dir.path());
        let id = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&inner).expect("it is there"));
        assert_eq!(cgroups.path(id), Some("/kubepods/podu1/c1"));
        assert_eq!((cgroups.0.len(), cgroups.has("u1"), cgroups.has("u2")), (3, true, false));
    }
}
