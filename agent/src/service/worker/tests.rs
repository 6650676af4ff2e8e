use std::path::Path;

use super::*;
use crate::keeper::Keeper;

fn worker(dir: &Path) -> Worker {
    let clock = Clock::of_node();
    Worker {
        store: Store::at(dir),
        plugin: Plugin::new(dir.join("net.d")).with_node_file(dir.join("node-file")),
        pulse: Keeper::new(dir, true, clock.clone()).pulse(),
        clock,
        own: None,
        sandboxes: Sandboxes::default(),
        suspects: Suspects::default(),
        unreported: None,
        needs_list: Arc::default(),
        metrics: Metrics::default(),
        checks: mpsc::channel().0,
    }
}

fn pod() -> Pod {
    let annotations = [("autoport.cni/ports".to_owned(), "http=auto".to_owned())].into();
    Pod { id: "s1".into(), uid: "u1".into(), annotations, ..Pod::default() }
}

#[test]
fn a_sandbox_whose_setup_was_not_seen_is_known_by_its_container() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut worker = worker(dir.path());
    worker.note(&Event::CreateContainer { pod: pod(), container: Container::default() });
    assert!(worker.sandboxes.lists("u1"), "or its ports would be released after a minute");
}

#[test]
fn an_event_that_was_answered_meanwhile_is_noted_and_dropped() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut worker = worker(dir.path());
    let role = worker.pulse.role();
    for (event, asks, is_listed) in
        [(Event::RunPodSandbox(pod()), false, true), (Event::RunPodSandbox(pod()), true, false)]
    {
        let (reply, _) = oneshot::channel();
        let job = Job { event, asks, until: Instant::now(), reply };
        worker.serve(job, &Duty::Answer, role);
        assert_eq!(worker.sandboxes.lists("u1"), is_listed);
    }
    assert!(!dir.path().join("lock").exists(), "the store is not used for it");
}
