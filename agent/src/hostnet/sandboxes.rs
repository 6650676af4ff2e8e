//! The sandboxes of the node, as the runtime lists them and as its events change that. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// What the runtime lists.
#[derive(Debug)]
pub struct Listed {
    /// UID and sandbox.
    pub list: Vec<(String, String)>,
    /// When it was asked.
    pub asked: Instant,
}

/// The sandboxes of each pod, by UID. A pod can have several: those that have ended are removed later.
#[derive(Debug, Default)]
pub struct Sandboxes {
    pods: BTreeMap<String, Sandboxed>,
}

#[derive(Debug, Default)]
struct Sandboxed {
    /// Those that may run, each with the time of its last event, if there was one.
    running: BTreeMap<String, Option<Instant>>,
    /// Those that have stopped and are not removed.
    stopped: BTreeSet<String>,
}

impl Sandboxes {
    /// Takes the runtime's list in place of what was known: UID and sandbox. Each may run: CRI-O lists none
    /// with a PID.
    pub fn synchronize<'a>(&mut self, list: impl Iterator<Item = (&'a str, &'a str)>) {
        self.pods.clear();
        list.for_each(|(uid, sandbox)| self.add(uid, sandbox));
    }

    /// Takes a later list of the runtime: what was known when it was asked for and is not on it does not exist.
    pub fn reconcile(&mut self, Listed { list, asked }: &Listed) {
        let listed: BTreeSet<&str> = list.iter().map(|(_, sandbox)| &**sandbox).collect();
        self.pods.retain(|_, pod| {
            pod.running.retain(|id, seen| listed.contains(&**id) || *seen >= Some(*asked));
            pod.stopped.retain(|id| listed.contains(&**id));
            !pod.running.is_empty() || !pod.stopped.is_empty()
        });
        for (uid, sandbox) in list {
            self.add(uid, sandbox);
        }
    }

    /// Adds a sandbox of a list. One that has stopped is listed until it is removed.
    fn add(&mut self, uid: &str, sandbox: &str) {
        let pod = self.pods.entry(uid.to_owned()).or_default();
        if !pod.stopped.contains(sandbox) {
            pod.running.entry(sandbox.to_owned()).or_default();
        }
    }

    /// A sandbox runs; an earlier one of its pod does not, whatever was reported of it.
    pub fn run(&mut self, uid: &str, sandbox: &str, now: Instant) {
        let pod = self.pods.entry(uid.to_owned()).or_default();
        let earlier = std::mem::take(&mut pod.running);
        pod.stopped.extend(earlier.into_keys());
        pod.stopped.remove(sandbox);
        pod.running.insert(sandbox.to_owned(), Some(now));
    }

    /// A sandbox has stopped. Gives whether the pod has ended by that: an event about an earlier sandbox must
    /// not take the ports from the pod that runs.
    pub fn stop(&mut self, uid: &str, sandbox: &str) -> bool {
        let Some(pod) = self.pods.get_mut(uid) else { return true };
        if pod.running.remove(sandbox).is_some() {
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

    /// Whether the runtime has none at all.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// Whether the runtime has this sandbox of the pod, running or stopped.
    pub fn has(&self, uid: &str, sandbox: &str) -> bool {
        let has =
            |pod: &Sandboxed| pod.running.contains_key(sandbox) || pod.stopped.contains(sandbox);
        self.pods.get(uid).is_some_and(has)
    }

    /// Whether a sandbox of the pod is known from a list alone. containerd 2.1 sends no event when a sandbox
    /// ends that is older than itself.
    pub fn may_end_unseen(&self, uid: &str) -> bool {
        let pod = self.pods.get(uid);
        pod.is_some_and(|pod| pod.running.values().any(Option::is_none))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_ended_when_its_last_sandbox_has() {
        let mut sandboxes = Sandboxes::default();
        sandboxes.run("u1", "s1", Instant::now());
        assert!(sandboxes.stop("u1", "s1"));
        assert!(sandboxes.lists("u1"), "it is not removed yet");
        assert!(sandboxes.remove("u1", "s1"));
        assert!(!sandboxes.lists("u1"));
        assert!(sandboxes.stop("u2", "s9"), "nothing is known of it");
    }

    #[test]
    fn events_about_an_earlier_sandbox_do_not_end_the_pod() {
        let mut sandboxes = Sandboxes::default();
        sandboxes.run("u1", "s1", Instant::now());
        sandboxes.run("u1", "s2", Instant::now());
        assert!(!sandboxes.stop("u1", "s1"));
        assert!(!sandboxes.remove("u1", "s1"));
        assert!(!sandboxes.remove("u1", "s1"), "runtimes repeat it");
        assert!(sandboxes.stop("u1", "s2"));
    }

    #[test]
    fn the_runtimes_list_counts() {
        let mut sandboxes = Sandboxes::default();
        sandboxes.run("gone", "s0", Instant::now());
        sandboxes.synchronize([("u1", "s1"), ("u1", "s2"), ("u2", "s3")].into_iter());
        assert!(!sandboxes.lists("gone") && sandboxes.lists("u1") && sandboxes.lists("u2"));
        assert!(!sandboxes.remove("u1", "s1"));
        assert!(sandboxes.stop("u1", "s2"));
        assert!(sandboxes.remove("u2", "s3"));
    }

    #[test]
    fn a_later_list_counts_for_what_was_known_when_it_was_asked_for() {
        let mut sandboxes = Sandboxes::default();
        let listed = |uid: &str, id: &str| (uid.to_owned(), id.to_owned());
        sandboxes.synchronize([("gone", "s0"), ("u1", "s1")].into_iter());
        sandboxes.run("u2", "s2", Instant::now());
        sandboxes.run("ended", "s3", Instant::now());
        assert!(sandboxes.stop("ended", "s3"));
        assert!(sandboxes.may_end_unseen("u1") && !sandboxes.may_end_unseen("u2"));
        let asked = Instant::now();
        sandboxes.run("late", "s4", Instant::now());
        let list = vec![listed("u1", "s1"), listed("ended", "s3"), listed("new", "s5")];
        sandboxes.reconcile(&Listed { list, asked });
        let is_listed = |uid| sandboxes.lists(uid);
        assert_eq!(
            ["gone", "u1", "u2", "late", "new"].map(is_listed),
            [false, true, false, true, true]
        );
        assert!(
            sandboxes.stop("ended", "s9"),
            "a stopped sandbox is on the list until it is removed"
        );
    }
}
