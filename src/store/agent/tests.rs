//! Whether an agent is there, by its lock and its heart.

use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

use super::*;

fn beat(dir: &Path, connected: bool, age: Duration) {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).expect("a time"));
    let heartbeat = now.saturating_sub(age).as_nanos();
    let text = format!(r#"{{"version":1,"connected":{connected},"heartbeat":{heartbeat}}}  "#);
    fs::write(dir.join(AGENT_HEARTBEAT), text).expect("a file");
}

#[test]
fn an_agent_is_connected_while_it_holds_its_lock_and_its_heart_beats() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::at(dir.path());
    let is_there = || store.require_agent().is_ok();
    assert!(!is_there() && store.agent().is_none(), "there is no file");
    let lock = File::create(dir.path().join(AGENT_LOCK)).expect("a file");
    let started = Agent { connected: false, heartbeat_age: None, bind_hook: None };
    assert_eq!(store.agent(), Some(started), "one was started");
    beat(dir.path(), true, Duration::ZERO);
    assert!(!is_there(), "the lock is free");
    let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).expect("it is free");
    assert!(is_there());
    for (connected, age) in [(false, 0), (true, 6)] {
        beat(dir.path(), connected, Duration::from_secs(age));
        assert!(!is_there(), "{connected} {age}");
    }
    drop(lock);
}

#[test]
fn an_agent_tells_whether_it_can_attach_the_bind_hook() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::at(dir.path());
    let lock = File::create(dir.path().join(AGENT_LOCK)).expect("a file");
    let _lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).expect("it is free");
    beat(dir.path(), true, Duration::ZERO);
    let told = || store.agent().expect("it is there").bind_hook;
    assert_eq!(told(), None, "an earlier version does not tell");
    let text = fs::read_to_string(dir.path().join(AGENT_HEARTBEAT)).expect("a file");
    for (word, hook) in [
        ("usable", BindHook::Usable),
        ("cgroups", BindHook::Cgroups),
        ("capability", BindHook::Capability),
        ("kernel", BindHook::Kernel),
        ("of a later version", BindHook::Unknown),
    ] {
        let text = text.replace("\"heartbeat\"", &format!("\"bindHook\":\"{word}\",\"heartbeat\""));
        fs::write(dir.path().join(AGENT_HEARTBEAT), text).expect("a file");
        assert_eq!(told(), Some(hook));
    }
}
