//! Events that cannot be answered in time: pods that ask wait, and no others do.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use autoport::event::Silent;
use autoport::store::Store;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::agent::Node;
use super::runtime::{Connection, Runtime};
use super::{asking, create, host_pod, run, stop};

/// Longer than an answer may take, and shorter than runtimes wait.
const LIMIT: Duration = Duration::from_millis(1900);

fn in_time<T>(work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = work();
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    done
}

/// A pod that asks is rejected for this reason; one that asks for nothing is not.
fn expect_only_the_other(runtime: &mut Connection, reason: &str) {
    let (two, other) = (asking("two"), host_pod("other", "s3", &[("autoport.cni/mount", "false")]));
    for status in [
        in_time(|| run(runtime, &two)).expect_err("its port cannot be claimed"),
        in_time(|| create(runtime, &two)).expect_err("no container without its variables"),
    ] {
        assert!(status.message.contains(reason), "{status:?}");
    }
    in_time(|| run(runtime, &other)).expect("it asks for nothing");
    assert_eq!(in_time(|| create(runtime, &other)), Ok(BTreeMap::new()));
    in_time(|| stop(runtime, &other));
}

#[test]
fn a_busy_store_keeps_no_event_and_no_pod_that_asks_for_nothing() {
    let (node, runtime) = (Node::new(""), Runtime::new());
    let _agent = node.start(&runtime.socket(), &[]);
    let mut runtime = runtime.connect(Vec::new(), Vec::new());
    run(&mut runtime, &asking("one")).expect("it is assigned a port");
    let store = Store::at(&node.state());
    let busy = store.lock(&mut Silent).expect("the test locks the store");
    expect_only_the_other(&mut runtime, "lock");
    in_time(|| stop(&mut runtime, &asking("one")));
    expect_only_the_other(&mut runtime, "lock");
    drop(busy);
    in_time(|| run(&mut runtime, &asking("three"))).expect("nothing is left to wait for");
    let listing = autoport::app::list(&store, &mut Silent).expect("it can be read");
    let listing = listing.expect("there are records").attachments;
    let held: Vec<_> = listing.iter().filter_map(|it| it.owner.uid()).collect();
    assert_eq!(held, ["one", "three"], "what was too late is not claimed after all");
}

/// A FIFO in place of the heartbeat: opening it waits for ever, as on a disk that hangs.
#[test]
fn a_disk_that_hangs_keeps_no_event_and_no_pod_that_asks_for_nothing() {
    let (node, runtime) = (Node::new(""), Runtime::new());
    let _agent = node.start(&runtime.socket(), &[]);
    let mut runtime = runtime.connect(Vec::new(), Vec::new());
    run(&mut runtime, &asking("one")).expect("it is assigned a port");
    let fifo = node.state().join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).expect("a FIFO");
    std::fs::rename(fifo, node.state().join("agent.json")).expect("it can be put there");
    std::thread::sleep(Duration::from_secs(1));
    expect_only_the_other(&mut runtime, "did not finish in 1000 ms");
}
