use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use super::*;

/// A node on which time passes when a test says so.
struct Node {
    dir: TempDir,
    time: Arc<AtomicU64>,
}

const MS: u64 = 1_000_000;

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a state directory");
        Self { dir, time: Arc::new(AtomicU64::new(1000 * MS)) }
    }

    fn agent(&self, preferred: bool) -> Keeper {
        let time = Arc::clone(&self.time);
        // No two looks at the clock are at the same time.
        let clock = Clock::new(move || Instant(time.fetch_add(1, Ordering::SeqCst)));
        let mut agent = Keeper::new(self.dir.path(), preferred, clock);
        agent.set_connected(true);
        agent
    }

    fn wait(&self, ms: u64) {
        self.time.fetch_add(ms * MS, Ordering::SeqCst);
    }

    /// Lets time pass while these agents run.
    fn run(&self, ms: u64, agents: &mut [&mut Keeper]) {
        for _ in 0..ms / 100 {
            self.wait(100);
            for agent in &mut *agents {
                agent.beat().expect("the state directory can be used");
            }
        }
    }

    fn heartbeat(&self) -> Option<Heartbeat> {
        read(&self.dir.path().join(HEARTBEAT)).expect("it can be read")
    }
}

fn leads(agent: &mut Keeper) -> bool {
    matches!(agent.standing(), Standing::Leads)
}

#[test]
fn one_of_two_answers() {
    let node = Node::new();
    let (mut first, mut second) = (node.agent(true), node.agent(false));
    assert_eq!((leads(&mut first), leads(&mut second)), (true, false));
    node.run(3000, &mut [&mut first, &mut second]);
    assert_eq!((leads(&mut first), leads(&mut second)), (true, false));
    let seen = node.heartbeat().expect("it is written");
    assert_eq!((seen.version, seen.pid, seen.connected), (1, std::process::id(), true));
    assert!(
        Instant(node.time.load(Ordering::SeqCst)).since(seen.heartbeat) < Duration::from_secs(5)
    );
}

#[test]
fn an_agent_without_a_session_does_not_lead() {
    let node = Node::new();
    let (mut first, mut second) = (node.agent(true), node.agent(false));
    assert!(leads(&mut first));
    first.set_connected(false);
    assert_eq!((leads(&mut first), leads(&mut second)), (false, true));
}

#[test]
fn a_killed_leader_is_followed_at_the_next_event_or_beat() {
    for by_event in [true, false] {
        let node = Node::new();
        let (mut first, mut second) = (node.agent(true), node.agent(false));
        assert!(leads(&mut first));
        node.run(1000, &mut [&mut first, &mut second]);
        drop(first);
        if by_event {
            assert!(leads(&mut second));
        } else {
            second.beat().expect("the state directory can be used");
            assert!(second.leads());
        }
    }
}

#[test]
fn a_stopped_leader_is_followed_before_the_runtime_goes_on_without_any() {
    let node = Node::new();
    let (mut first, mut second) = (node.agent(true), node.agent(false));
    assert!(leads(&mut first));
    node.run(1000, &mut [&mut first, &mut second]);
    // The leader is stopped; the runtime waits 2 s for its answer and asks the next.
    node.run(2000, &mut [&mut second]);
    assert!(leads(&mut second));
    // A third one stands by.
    assert!(!leads(&mut node.agent(false)));
    // The leader goes on: what it began is void, and it does not answer.
    let (pulse, role) = (first.pulse(), first.pulse().role());
    assert!(!pulse.has_still(role, Instant(node.time.load(Ordering::SeqCst))));
    for _ in 0..3 {
        assert_eq!((leads(&mut first), leads(&mut second)), (false, true));
    }
    node.run(500, &mut [&mut first, &mut second]);
    assert!(!(first.leads() && second.leads()));
    // It leads again when the other has ended.
    drop(second);
    node.run(2000, &mut [&mut first]);
    assert!(leads(&mut first));
}

#[test]
fn a_leader_that_was_stopped_follows_at_once_when_its_successor_is_killed() {
    let node = Node::new();
    let (mut first, mut second) = (node.agent(true), node.agent(false));
    assert!(leads(&mut first));
    node.run(1700, &mut [&mut second]);
    assert_eq!((leads(&mut first), leads(&mut second)), (false, true));
    node.run(500, &mut [&mut second, &mut first]);
    drop(second);
    assert!(leads(&mut first));
}

#[test]
fn a_single_agent_that_was_stopped_answers_again() {
    let node = Node::new();
    let mut only = node.agent(true);
    assert!(leads(&mut only));
    let (pulse, role) = (only.pulse(), only.pulse().role());
    node.wait(4000);
    assert!(leads(&mut only), "a container without its variables would be worse");
    assert!(!pulse.has_still(role, Instant(node.time.load(Ordering::SeqCst))));
}

#[test]
fn the_preferred_agent_gets_the_lead_back() {
    let node = Node::new();
    let mut second = node.agent(false);
    assert!(leads(&mut second));
    let mut first = node.agent(true);
    // The runtime asks this one first: if it let the event pass, all would depend on the other.
    assert!(matches!(first.standing(), Standing::Waits));
    assert!(leads(&mut second), "until its next beat");
    node.run(100, &mut [&mut second, &mut first]);
    assert_eq!((leads(&mut first), leads(&mut second)), (true, false));
    node.run(1000, &mut [&mut second, &mut first]);
    assert!(leads(&mut first));
    // A second preferred agent does not wait for the first: that one does not hand over.
    assert!(matches!(node.agent(true).standing(), Standing::StandsBy));
}

#[test]
fn a_preferred_agent_that_is_stopped_is_not_waited_for() {
    let node = Node::new();
    let mut second = node.agent(false);
    assert!(leads(&mut second));
    let mut first = node.agent(true);
    assert!(!leads(&mut first));
    node.wait(1600);
    node.run(2000, &mut [&mut second]);
    assert!(second.leads());
    assert!(leads(&mut second));
}

#[test]
fn a_free_lead_is_taken_at_an_event_even_if_the_preferred_agent_waits() {
    let node = Node::new();
    let mut second = node.agent(false);
    assert!(leads(&mut second));
    let mut first = node.agent(true);
    assert!(!leads(&mut first));
    for _ in 0..2 {
        second.beat().expect("the state directory can be used");
        assert!(!second.leads(), "the preferred agent takes it with its next beat");
    }
    assert!(leads(&mut second), "unless an event comes first");
}

#[test]
fn a_deleted_lock_file_makes_no_second_leader() {
    let node = Node::new();
    let (mut first, mut second) = (node.agent(true), node.agent(false));
    assert!(leads(&mut first));
    std::fs::remove_file(node.dir.path().join(LOCK)).expect("it can be deleted");
    assert_eq!((leads(&mut first), leads(&mut second)), (true, false));
    std::fs::remove_file(node.dir.path().join(LOCK)).expect("it can be deleted");
    assert!(leads(&mut second), "it is called first this time");
    assert!(!leads(&mut first));
}

#[test]
fn what_cannot_be_decided_is_unknown() {
    let node = Node::new();
    let mut agent = node.agent(true);
    std::fs::create_dir(node.dir.path().join(LOCK)).expect("a directory in the way");
    let Standing::Unknown(error) = agent.standing() else { panic!("it cannot lead") };
    assert!(error.to_string().contains("agent.lock"), "{error}");
}

#[test]
fn the_heartbeat_is_overwritten_in_its_place() {
    let node = Node::new();
    let mut agent = node.agent(true);
    let path = node.dir.path().join(HEARTBEAT);
    assert!(leads(&mut agent));
    let length = || std::fs::metadata(&path).expect("it is there").len();
    let before = length();
    node.wait(u64::from(u32::MAX));
    agent.beat().expect("the state directory can be used");
    assert_eq!(length(), before);
    assert!(node.heartbeat().is_some());
    std::fs::write(&path, "{}").expect("it can be changed");
    assert_eq!(node.heartbeat(), None);
    assert!(BEAT < Duration::from_secs(1));
}

fn leave(agent: &mut Keeper) -> Departure {
    agent.leave().expect("the state directory can be used")
}

/// Whether the plugin counts on an agent.
fn is_counted_on(node: &Node) -> bool {
    let mut lock = Lock::at(node.dir.path().join(LOCK));
    let is_held = matches!(lock.attempt(), Ok(Attempt::HeldByOther));
    is_held && node.heartbeat().is_some_and(|beat| beat.connected)
}

#[test]
fn an_agent_that_ends_hands_the_lead_over_to_one_that_stays() {
    let node = Node::new();
    let (mut first, mut second) = (node.agent(true), node.agent(false));
    assert!(leads(&mut first));
    assert_eq!(leave(&mut first), Departure::HandsOver);
    assert!(!first.leads(), "its process may end at any time from now on");
    // The other may have let this event pass before.
    assert!(leads(&mut first));
    assert_eq!((leads(&mut second), leave(&mut first)), (false, Departure::HandsOver));
    node.run(100, &mut [&mut first, &mut second]);
    assert!(second.leads());
    assert_eq!((leave(&mut first), leads(&mut first)), (Departure::Free, false));
    drop(first);
    // The other way round: a preferred agent has come, and does not lead yet.
    let mut first = node.agent(true);
    assert_eq!(leave(&mut second), Departure::HandsOver);
    assert_eq!((leads(&mut first), leave(&mut second)), (true, Departure::Free));
    first.set_connected(false);
    assert_eq!(leave(&mut first), Departure::Free, "without a runtime there is nothing to answer");
}

#[test]
fn an_agent_goes_on_while_the_one_that_stays_is_stopped() {
    let node = Node::new();
    let (mut first, mut stopped) = (node.agent(true), node.agent(false));
    assert!(leads(&mut first));
    for _ in 0..3 {
        assert_eq!(leave(&mut first), Departure::HandsOver);
        node.run(1000, &mut [&mut first]);
        assert!(leads(&mut first));
    }
    drop(first);
    // The leader is the one that is stopped, and another answers for it.
    assert!(leads(&mut stopped));
    let mut deputy = node.agent(false);
    node.run(2000, &mut [&mut deputy]);
    assert!(leads(&mut deputy));
    assert_eq!((leave(&mut deputy), leads(&mut deputy)), (Departure::HandsOver, true));
}

#[test]
fn of_two_that_end_one_answers_and_the_plugin_counts_on_neither() {
    for order in [[0, 1], [1, 0]] {
        let node = Node::new();
        let mut both = [node.agent(true), node.agent(false)];
        assert!(leads(&mut both[0]));
        // The other has not been asked to end yet.
        assert_ne!(leave(&mut both[order[0]]), Departure::Last);
        for asked in order {
            let agent = &mut both[1 - asked];
            assert_eq!(leave(agent), Departure::Last);
        }
        for _ in 0..3 {
            let [first, second] = &mut both;
            node.run(1000, &mut [first, second]);
            assert!(!is_counted_on(&node));
            assert_eq!((leads(first), leads(second)), (true, false));
            assert!(!is_counted_on(&node));
        }
        let [first, mut second] = both;
        drop(first);
        node.run(1000, &mut [&mut second]);
        assert!(!second.leads(), "without an event it does not take the lead");
        assert!(leads(&mut second));
        assert!(!is_counted_on(&node));
        // An agent that comes gets the lead, preferred or not.
        let mut next = node.agent(false);
        assert!(!leads(&mut next));
        assert_eq!(leave(&mut second), Departure::HandsOver);
        assert!(leads(&mut next));
        assert_eq!((leave(&mut second), is_counted_on(&node)), (Departure::Free, true));
    }
}

#[test]
fn a_preferred_agent_that_ends_does_not_wait_for_the_lead() {
    let node = Node::new();
    let mut second = node.agent(false);
    assert!(leads(&mut second));
    let mut first = node.agent(true);
    assert!(matches!(first.standing(), Standing::Waits));
    assert_eq!(leave(&mut first), Departure::Free);
    assert_eq!((leave(&mut second), leave(&mut first)), (Departure::Last, Departure::Last));
    node.run(2000, &mut [&mut second, &mut first]);
    assert!(matches!(first.standing(), Standing::StandsBy));
    assert!(second.leads());
}

#[test]
fn an_agent_that_cannot_look_for_others_is_needed() {
    let node = Node::new();
    let mut agent = node.agent(true);
    assert!(leads(&mut agent));
    let present = node.dir.path().join(PRESENT);
    std::fs::remove_file(&present).expect("it can be deleted");
    std::fs::create_dir(&present).expect("a directory in the way");
    assert!(agent.leave().is_err());
    assert!(agent.beat().is_ok(), "and its heart beats");
}
