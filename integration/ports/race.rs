//! Many commands at once, while other programs change the tables.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::stage::bare::{AMONG_MANY, add, attachment, network, run, tcp};
use crate::stage::chain::Attachment;
use crate::stage::netns::{PATH, nft};
use crate::stage::node::Node;
use crate::stage::plugin::Outcome;
use crate::stage::view::{self, STATE, table};

/// Runs a command for each attachment, all at once.
fn all_at_once(calls: &[(&Attachment, &str)]) -> Vec<Outcome> {
    thread::scope(|scope| {
        let start = |(attachment, command)| scope.spawn(move || run(attachment, command));
        let running: Vec<_> = calls.iter().copied().map(start).collect();
        running.into_iter().map(|one| one.join().expect("the call was made")).collect()
    })
}

fn pods(node: &Node, prefix: &str, count: u16, first_port: u16) -> Vec<Attachment> {
    let network = network("blue").with("lockTimeout", AMONG_MANY);
    let one = |number: u16| {
        let id = format!("{prefix}{number}");
        let pod = attachment(node, &network, &id, first_port % 1000 + number);
        pod.of_pod("default", &id, &format!("uid-{id}")).mapping([tcp(first_port + number)])
    };
    (0..count).map(one).collect()
}

/// Insists that the kernel has just what the records say.
fn assert_consistent(pods: &[Attachment]) {
    for pod in pods {
        let outcome = pod.check();
        assert!(outcome.status.success(), "{}: {outcome}", pod.container_id);
    }
    assert_eq!(view::records().len(), pods.len());
    let mappings: usize = pods.iter().map(|pod| pod.mappings.len()).sum();
    assert_eq!(view::index().len(), 2 * mappings, "each in both families");
    assert_eq!(view::elements().len(), 4 * mappings, "each with target and network policy");
}

/// The table has each chain and rule once, as after a single ADD.
#[test]
fn sixty_four_adds_on_an_empty_node() {
    let node = Node::new();
    let first = &pods(&node, "first", 1, 7000);
    add(&node, &first[0]);
    let count = |kind: &str| table().iter().filter(|part| part.get(kind).is_some()).count();
    let (rules, chains) = (count("rule"), count("chain"));
    nft("flush ruleset");
    std::fs::remove_dir_all(STATE).expect("the state directory is ours");
    let pods = pods(&node, "pod", 64, 8000);
    let calls: Vec<_> = pods.iter().map(|pod| (pod, "ADD")).collect();
    for outcome in all_at_once(&calls) {
        outcome.success();
    }
    assert_eq!((count("table"), count("rule"), count("chain")), (1, rules, chains));
    assert_consistent(&pods);
}

#[test]
fn fifty_adds_against_fifty_dels() {
    let node = Node::new();
    let (old, new) = (pods(&node, "old", 50, 8000), pods(&node, "new", 50, 9000));
    for pod in &old {
        add(&node, pod);
    }
    let adds = new.iter().map(|pod| (pod, "ADD"));
    let calls: Vec<_> =
        adds.zip(old.iter().map(|pod| (pod, "DEL"))).flat_map(<[_; 2]>::from).collect();
    for outcome in all_at_once(&calls) {
        outcome.success();
    }
    assert_consistent(&new);
}

#[test]
fn sixty_four_adds_for_one_port() {
    let node = Node::new();
    let mut pods = pods(&node, "pod", 64, 8000);
    for pod in &mut pods {
        pod.mappings = vec![tcp(8080)];
    }
    let calls: Vec<_> = pods.iter().map(|pod| (pod, "ADD")).collect();
    let outcomes = all_at_once(&calls);
    let winners: Vec<usize> = (0..64).filter(|one| outcomes[*one].status.success()).collect();
    let [winner] = winners[..] else { panic!("{} winners", winners.len()) };
    for (number, outcome) in outcomes.iter().enumerate().filter(|(number, _)| *number != winner) {
        assert_eq!(outcome.code(), Some(100), "{number}: {outcome}");
        assert!(outcome.message().contains(&format!("default/pod{winner} ")), "{outcome}");
    }
    assert_consistent(&pods[winner..=winner]);
    // The losers' DELs come as well.
    let calls: Vec<_> = pods.iter().map(|pod| (pod, "DEL")).collect();
    for outcome in all_at_once(&calls) {
        outcome.success();
    }
    view::assert_nothing_held();
}

/// Other programs can change the tables at any time, also while a plugin runs.
#[test]
fn adds_against_somebody_who_flushes_everything() {
    let node = Node::new();
    let pods = pods(&node, "pod", 24, 8000);
    let (done, flushes) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                nft("flush ruleset");
                flushes.fetch_add(1, Ordering::Relaxed);
            }
        });
        let calls: Vec<_> = pods.iter().map(|pod| (pod, "ADD")).collect();
        // On a busy machine all may be done before the next flush. Then they are done again.
        let is_raced = (0..50).any(|_| {
            let before = flushes.load(Ordering::Relaxed);
            for outcome in all_at_once(&calls) {
                outcome.success();
            }
            flushes.load(Ordering::Relaxed) > before + 1
        });
        done.store(true, Ordering::Relaxed);
        assert!(is_raced, "there was no race");
    });
    // The last word may have been the flush's.
    add(&node, &pods[0]);
    assert_consistent(&pods);
}

/// `flock` with a child that holds the lock, then stopped: it does not let go, nor does it end.
struct Stopped(Child);

impl Stopped {
    fn holding(path: &str) -> Self {
        let mut child = Command::new("flock")
            .args(["--no-fork", path, "sh", "-c", "echo; read forever"])
            .env("PATH", PATH)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("flock of util-linux");
        let mut line = [0];
        let mut stdout = child.stdout.take().expect("a pipe");
        std::io::Read::read_exact(&mut stdout, &mut line).expect("it says when it has the lock");
        let own = Self(child);
        own.signal("STOP");
        own
    }

    fn signal(&self, name: &str) {
        let id = self.0.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &id]).env("PATH", PATH).status();
        assert!(sent.expect("kill of procps").success());
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // Kills a stopped process too.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_stopped_holder_of_the_lock_is_named() {
    let node = Node::new();
    let impatient = network("blue").with("lockTimeout", 0.5);
    let web = attachment(&node, &impatient, "web", 5).mapping([tcp(8080)]);
    add(&node, &web);
    let lock = format!("{STATE}/lock");
    let stopped = Stopped::holding(&lock);
    let before = view::snapshot();
    let second = attachment(&node, &impatient, "second", 6).mapping([tcp(8081)]);
    for (claim, command) in [(&second, "ADD"), (&web, "CHECK")] {
        let begun = Instant::now();
        let outcome = run(claim, command);
        let waited = begun.elapsed();
        outcome.failure(11);
        let holder = format!("process {}", stopped.0.id());
        assert!(outcome.message().contains(&lock), "{outcome}");
        assert!(outcome.message().contains(&holder), "{outcome}");
        assert!(outcome.stderr.contains("waiting"), "{outcome}");
        let patience = Duration::from_millis(500)..Duration::from_secs(5);
        assert!(patience.contains(&waited), "{waited:?}");
        assert_eq!(view::snapshot(), before);
    }
    // Busy is not broken.
    run(&web, "STATUS").success();
    // A pod without ports has nothing to wait for.
    let idle = attachment(&node, &impatient, "idle", 7);
    for command in ["ADD", "CHECK", "DEL"] {
        run(&idle, command).success();
    }
    // DEL waits longer than an ADD, and gets it as soon as it is free.
    thread::scope(|scope| {
        let waiting = scope.spawn(|| run(&web, "DEL"));
        thread::sleep(Duration::from_millis(800));
        assert!(!waiting.is_finished(), "DEL gave up early");
        drop(stopped);
        waiting.join().expect("the call was made").success();
    });
    view::assert_nothing_held();
}
