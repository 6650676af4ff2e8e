//! Where the cgroup of a pod is.

#![expect(clippy::disallowed_methods, reason = "the kernel's tree of cgroups")]

use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::cgroups::{Tree, is_of};

/// The cgroup of a pod, as the runtime gives it: a path of kubelet's, or a slice of systemd's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Below the root of the tree.
    pub(super) path: PathBuf,
}

/// Why there is no cgroup to attach to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nowhere {
    #[error(
        "the runtime gives {given:?} as the cgroup of the Pod, which is not one of this Pod alone: the hook \
         would change the ports of others"
    )]
    NotIts { given: String },
    #[error(
        "the Pod has no cgroup of version 2: {} {why}. Nodes with cgroups of version 1 do not have the bind \
         hook", path.display()
    )]
    NotThere { path: PathBuf, why: String },
}

impl Place {
    /// Reads what the runtime gives for the pod with this UID.
    ///
    /// # Errors
    /// [`Nowhere::NotIts`].
    pub(super) fn of(given: &str, uid: &str) -> Result<Self, Nowhere> {
        let not_its = || Nowhere::NotIts { given: given.to_owned() };
        let path = if given.contains('/') { PathBuf::from(given) } else { slice(given) };
        let mut parts = PathBuf::new();
        for part in path.components() {
            match part {
                Component::RootDir => {}
                Component::Normal(part) => parts.push(part),
                Component::Prefix(_) | Component::CurDir | Component::ParentDir => {
                    return Err(not_its());
                }
            }
        }
        let last = parts.file_name().and_then(|name| name.to_str());
        if last.is_some_and(|last| is_of(last, uid)) {
            Ok(Self { path: parts })
        } else {
            Err(not_its())
        }
    }

    /// Opens it, if processes of the pod are in it.
    ///
    /// # Errors
    /// [`Nowhere::NotThere`].
    pub(super) fn open(&self, tree: &Tree) -> Result<File, Nowhere> {
        let path = tree.root.join(&self.path);
        let not_there = |why: String| Nowhere::NotThere { path: path.clone(), why };
        let cgroup =
            File::open(&path).map_err(|error| not_there(format!("cannot be opened ({error})")))?;
        // On a node with both versions the runtime decides whether it uses this tree too. Where there is only
        // this one, a runtime may not have put a process into it yet.
        if !tree.is_only && !is_populated(&path).map_err(|error| not_there(error.to_string()))? {
            return Err(not_there("has no process".to_owned()));
        }
        Ok(cgroup)
    }
}

fn is_populated(path: &Path) -> io::Result<bool> {
    let events = fs::read_to_string(path.join("cgroup.events"))?;
    Ok(events.lines().any(|line| line == "populated 1"))
}

/// The path of a slice: systemd.slice(5) has its parents in its name.
fn slice(name: &str) -> PathBuf {
    let mut path = PathBuf::new();
    if let Some(stem) = name.strip_suffix(".slice") {
        let ends = stem.match_indices('-').map(|(at, _)| at);
        path.extend(ends.map(|end| format!("{}.slice", &stem[..end])));
    }
    path.join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "8a1f0f5e-0000-4000-8000-1234567890ab";
    const SLICE: &str = "kubepods-burstable-pod8a1f0f5e_0000_4000_8000_1234567890ab.slice";

    #[test]
    fn the_cgroup_of_a_pod_is_found_for_both_drivers_of_kubelet() {
        let folders = format!("kubepods.slice/kubepods-burstable.slice/{SLICE}");
        for (given, path) in [
            (format!("/kubepods/burstable/pod{UID}"), format!("kubepods/burstable/pod{UID}")),
            (format!("kubepods/pod{UID}/"), format!("kubepods/pod{UID}")),
            (SLICE.to_owned(), folders.clone()),
            (format!("/{folders}"), folders),
        ] {
            assert_eq!(Place::of(&given, UID), Ok(Place { path: path.into() }), "{given}");
        }
    }

    #[test]
    fn a_cgroup_that_is_not_the_pods_alone_is_refused() {
        let inner = format!("/kubepods/pod{UID}/other");
        let above = format!("/kubepods/../pod{UID}");
        for given in ["", "/", ".", "/kubepods", "kubepods.slice", "-.slice", &inner, &above] {
            assert!(Place::of(given, UID).is_err(), "{given}");
        }
        assert!(Place::of("/kubepods/burstable/pod", "").is_err());
        assert!(Place::of(SLICE, "another").is_err());
    }
}
