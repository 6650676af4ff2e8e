use std::path::Path;

use autoport::event::Silent;
use tokio::sync::oneshot;

use super::*;
use crate::collect::SECOND_LOOK;
use crate::keeper::Keeper;

fn worker(dir: &Path) -> Worker {
    let clock = Clock::of_node();
    Worker {
        store: Store::at(dir),
        plugin: Plugin::new(dir.join("net.d")).with_node_dir(dir.to_owned()),
        pulse: Keeper::new(dir, true, clock.clone()).pulse(),
        clock,
        own: None,
        sandboxes: Sandboxes::default(),
        suspects: Suspects::default(),
        injected: Injected::default(),
        led: None,
        needs_list: Arc::default(),
        metrics: Metrics::default(),
        warnings: crate::cluster::warnings().0,
        binder: Binder::new(crate::cluster::warnings().0),
        guarding: Guarding::new(Err("it is not under test".into())),
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

#[test]
fn the_record_of_a_sandbox_that_the_runtime_does_not_have_goes() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut worker = worker(dir.path());
    let uids = |store: &Store| {
        let listing = app::list(store, &mut Silent).expect("it can be read").unwrap_or_default();
        let uid = |record: &Record| record.owner.uid().unwrap_or_default().to_owned();
        listing.attachments.iter().map(uid).collect::<Vec<_>>()
    };
    let locked = worker.store.lock(&mut Silent).expect("nobody else has it");
    let mut records = ["u1", "u2"].map(crate::collect::tests::attached);
    for record in &mut records {
        record.boot_id.clone_from(&locked.instance().boot_id);
        locked.save(record).expect("saving");
    }
    drop(locked);
    worker.note(&Event::RunPodSandbox(Pod { uid: "u2".into(), id: "of-u2".into(), ..pod() }));
    let earlier = Instant::now().checked_sub(SECOND_LOOK).expect("the machine has run longer");
    worker.suspects.look(&records, &worker.sandboxes, earlier, now());
    worker.look(worker.pulse.role(), None);
    assert_eq!(uids(&worker.store), ["u2"]);
    worker.look(worker.pulse.role(), None);
    assert_eq!(uids(&worker.store), ["u2"]);
}
