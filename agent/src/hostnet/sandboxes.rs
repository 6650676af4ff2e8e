//! The sandboxes of the node, as the runtime lists them and as its events change that. No I/O.

use std::collections::{BTreeMap, BTreeSet};

/// The sandboxes of each pod, by UID. A pod can have several: those that have ended are removed later.
#[derive(Debug, Default)]
pub struct Sandboxes {
    pods: BTreeMap<String, Sandboxed>,
}

#[derive(Debug, Default)]
struct Sandboxed {
    /// Those that may run.
    running: BTreeSet<String>,
    /// Those that have stopped and are not removed.
    stopped: BTreeSet<String>,
}

impl Sandboxes {
    /// Takes the runtime's list in place of what was known: UID and sandbox. Each may run: CRI-O lists none
    /// with a PID.
    pub fn synchronize<'a>(&mut self, list: impl Iterator<Item = (&'a str, &'a str)>) {
        self.pods.clear();
        for (uid, sandbox) in list {
            let pod = self.pods.entry(uid.to_owned()).or_default();
            pod.running.insert(sandbox.to_owned());
        }
    }

    /// A sandbox runs; an earlier one of its pod does not, whatever was reported of it.
    pub fn run(&mut self, uid: &str, sandbox: &str) {
        let pod = self.pods.entry(uid.to_owned()).or_default();
        let earlier = std::mem::take(&mut pod.running);
        pod.stopped.extend(earlier);
        pod.stopped.remove(sandbox);
        pod.running.insert(sandbox.to_owned());
    }

    /// A sandbox has stopped. Gives whether the pod has ended by that: an event about an earlier sandbox must
    /// not take the ports from the pod that runs.
    pub fn stop(&mut self, uid: &str, sandbox: &str) -> bool {
        let Some(pod) = self.pods.get_mut(uid) else { return true };
        if pod.running.remove(sandbox) {
            pod.stopped.insert(sandbox.to_owned());
        }
        pod.running.is_empty()
    }

    /// The same of a sandbox that is removed.
    pub fn remove(&mut self, uid: &str, sandbox: &str) -> bool {
        let ended = self.stop(uid, sandbox);
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.stopped.remove(sandbox);
            if pod.running.is_empty() && pod.stopped.is_empty() {
                self.pods.remove(uid);
            }
        }
        ended
    }

    /// Whether the runtime has any sandbox of the pod.
    pub fn lists(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_ended_when_its_last_sandbox_has() {
        let mut sandboxes = Sandboxes::default();
        sandboxes.run("u1", "s1");
        assert!(sandboxes.stop("u1", "s1"));
        assert!(sandboxes.lists("u1"), "it is not removed yet");
        assert!(sandboxes.remove("u1", "s1"));
        assert!(!sandboxes.lists("u1"));
        assert!(sandboxes.stop("u2", "s9"), "nothing is known of it");
    }

    #[test]
    fn events_about_an_earlier_sandbox_do_not_end_the_pod() {
        let mut sandboxes = Sandboxes::default();
        sandboxes.run("u1", "s1");
        sandboxes.run("u1", "s2");
        assert!(!sandboxes.stop("u1", "s1"));
        assert!(!sandboxes.remove("u1", "s1"));
        assert!(!sandboxes.remove("u1", "s1"), "runtimes repeat it");
        assert!(sandboxes.stop("u1", "s2"));
    }

    #[test]
    fn the_runtimes_list_counts() {
        let mut sandboxes = Sandboxes::default();
        sandboxes.run("gone", "s0");
        sandboxes.synchronize([("u1", "s1"), ("u1", "s2"), ("u2", "s3")].into_iter());
        assert!(!sandboxes.lists("gone") && sandboxes.lists("u1") && sandboxes.lists("u2"));
        assert!(!sandboxes.remove("u1", "s1"));
        assert!(sandboxes.stop("u1", "s2"));
        assert!(sandboxes.remove("u2", "s3"));
    }
}
