use crate::event::{Event, Silent};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use nix::libc::{SCHED_BATCH, SCHED_FIFO, SCHED_OTHER, SCHED_RR};

use super::looking_up::of_pod;
use super::*;

#[test]
fn a_taken_lock_is_waited_for_once_said_and_given_up() {
    let node = Node::new();
    let taken = node.lock();
    let (begun, mut log) = (Instant::now(), Vec::new());
    let patience = Duration::from_millis(60);
    let error = node.store.clone().waiting(patience).lock(&mut log).expect_err("it is taken");
    assert!(begun.elapsed() >= patience);
    let Error::LockTaken { path, waited, holder } = &error else { panic!("{error}") };
    assert_eq!(*path, node.path("lock"));
    assert!(*waited >= patience);
    assert_eq!(holder.as_ref().map(|holder| holder.pid), Some(std::process::id()));
    assert!(error.to_string().contains(&format!("by process {}", std::process::id())), "{error}");

    let [Event::Waiting { lock, holder, patience: left }] = &log[..] else { panic!("{log:?}") };
    assert_eq!(*lock, node.path("lock"));
    assert!(*left <= patience, "{log:?}");
    assert_eq!(holder.as_ref().map(|holder| holder.pid), Some(std::process::id()));

    // Who gave up may be handed the lock yet, and lets it go at once.
    drop(taken);
    node.store.lock(&mut Silent).expect("free again");
}

#[test]
fn no_lock_is_waited_for_after_the_deadline() {
    let node = Node::new();
    let begun = Instant::now();
    let by = |ms| node.store.clone().by(begun + Duration::from_millis(ms));
    let locked = by(0).lock(&mut Silent).expect("a free lock needs no time");
    assert!(matches!(by(60).lock(&mut Silent), Err(Error::LockTaken { .. })));
    assert!(matches!(by(90).read(&mut Silent), Err(Error::LockTaken { .. })));
    assert!(begun.elapsed() >= Duration::from_millis(90));
    // That of the pod's published files, too.
    locked.save(&of_pod(&locked, "4f2a", "u1", 1, 1)).expect("saving");
    let mut unlocked = locked.unlock();
    let taken = fs::File::open(node.path("owners/u1")).expect("the directory of the pod's entries");
    fs2::FileExt::lock_exclusive(&taken).expect("free");
    let published = unlocked.publish("u1", Duration::from_mins(1), &mut Silent);
    assert!(matches!(published, Err(Error::LockTaken { .. })));
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_free_lock_is_taken_without_a_word() {
    let node = Node::new();
    let mut log: Vec<Event> = Vec::new();
    node.store.clone().waiting(Duration::ZERO).lock(&mut log).expect("free");
    assert!(log.is_empty(), "{log:?}");
}

#[test]
fn waiters_are_served_in_the_order_they_came() {
    let node = Node::new();
    let taken = node.lock();
    let served = Mutex::new(Vec::new());
    let file = fs::metadata(node.path("lock")).expect("the lock");
    let (major, minor) = (nix::sys::stat::major(file.dev()), nix::sys::stat::minor(file.dev()));
    let inode = format!(" {major:02x}:{minor:02x}:{} ", file.ino());
    // The waiters have the number of their lock. It is in the list twice, with two numbers, when another
    // test locks something while the list is read, page by page.
    let waiting = || {
        let locks = fs::read_to_string("/proc/locks").expect("the kernel's list");
        let mut waiters = BTreeMap::new();
        for line in locks.lines().filter(|line| line.contains("->") && line.contains(&inode)) {
            *waiters.entry(line.split(':').next()).or_insert(0) += 1;
        }
        waiters.into_values().max().unwrap_or(0)
    };
    thread::scope(|scope| {
        for number in 0..8 {
            let (node, served) = (&node, &served);
            scope.spawn(move || {
                let locked = node.store.lock(&mut Silent);
                served.lock().expect("no panic").push(number);
                drop(locked.expect("locking"));
            });
            while waiting() <= number {
                thread::sleep(Duration::from_millis(1));
            }
        }
        drop(taken);
    });
    assert_eq!(served.into_inner().expect("no panic"), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn readers_share_and_shut_writers_out() {
    let node = Node::new();
    drop(node.lock());
    let readers = [node.read(), node.read()];
    let quiet = &mut Silent;
    let error =
        node.store.clone().waiting(Duration::ZERO).lock(quiet).expect_err("readers are at work");
    assert!(matches!(error, Error::LockTaken { .. }), "{error}");
    drop(readers);
    let writer = node.lock();
    let error =
        node.store.clone().waiting(Duration::ZERO).read(quiet).expect_err("a writer is at work");
    assert!(matches!(error, Error::LockTaken { .. }), "{error}");
    drop(writer);
}

#[test]
fn a_waiter_gets_the_lock_when_it_is_free() {
    let node = Node::new();
    let taken = node.lock();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| node.store.lock(&mut Silent).map(drop));
        thread::sleep(Duration::from_millis(30));
        drop(taken);
        waiter.join().expect("no panic").expect("locking");
    });
}

/// Whoever had opened the lock before the directory was deleted must not end up with a lock that
/// nobody else sees.
#[test]
fn a_lock_on_a_deleted_file_is_not_enough() {
    let node = Node::new();
    let taken = node.lock();
    thread::scope(|scope| {
        scope.spawn(|| {
            let got = node.store.lock(&mut Silent).expect("locking");
            let at_once = node.store.clone().waiting(Duration::ZERO);
            let error = at_once.lock(&mut Silent).expect_err("it is taken");
            assert!(matches!(error, Error::LockTaken { .. }), "{error}");
            got.save(&record(&got, "4f2a", &[host("0.0.0.0", 80)])).expect("saving");
        });
        thread::sleep(Duration::from_millis(30));
        fs::remove_dir_all(&node.dir).expect("removing the state directory");
        drop(taken);
    });
    assert!(node.holds("4f2a"));
}

/// A directory that was moved away is no store any more, whoever waited for its lock.
#[test]
fn a_lock_in_a_moved_directory_is_not_enough() {
    let node = Node::new();
    let taken = node.lock();
    let before = taken.instance().id.clone();
    thread::scope(|scope| {
        scope.spawn(|| {
            let got = node.store.lock(&mut Silent).expect("locking");
            assert_ne!(got.instance().id, before, "a store of its own");
            got.save(&record(&got, "4f2a", &[host("0.0.0.0", 80)])).expect("saving");
        });
        thread::sleep(Duration::from_millis(30));
        fs::rename(&node.dir, node.dir.with_file_name("moved")).expect("moving the directory");
        drop(taken);
    });
    assert!(node.path("attachments/cbr0:4f2a:eth0.json").exists());
    assert!(!node.dir.with_file_name("moved").join("attachments").exists());
}

/// An agent tries for as long as it runs.
#[test]
fn waiters_that_gave_up_do_not_pile_up() {
    let threads = || {
        let all = fs::read_dir("/proc/self/task").expect("the threads of this process");
        let name = |task: io::Result<fs::DirEntry>| {
            fs::read_to_string(task.ok()?.path().join("wchan")).ok()
        };
        all.filter_map(name).filter(|wchan| wchan.contains("flock")).count()
    };
    let node = Node::new();
    let taken = node.lock();
    let before = threads();
    for _ in 0..50 {
        let error = node
            .store
            .clone()
            .waiting(Duration::from_millis(2))
            .lock(&mut Silent)
            .expect_err("taken");
        assert!(matches!(error, Error::LockTaken { .. }), "{error}");
        let error = node
            .store
            .clone()
            .waiting(Duration::from_millis(2))
            .read(&mut Silent)
            .expect_err("taken");
        assert!(matches!(error, Error::LockTaken { .. }), "{error}");
    }
    // Other tests of this process wait as well.
    assert!(threads() <= before + 12, "{} and {before}", threads());
    drop(taken);
    for _ in 0..3 {
        node.lock();
        node.read().expect("a store");
    }
}

#[test]
fn one_writer_at_a_time_even_on_an_empty_node() {
    let node = Node::new();
    let (inside, wins) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for number in 0..16 {
            let (node, inside, wins) = (&node, &inside, &wins);
            scope.spawn(move || {
                let locked = node.store.lock(&mut Silent);
                let locked = locked.expect("locking");
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "alone");
                if locked.holders(&[host("0.0.0.0", 80)]).expect("looking").is_empty() {
                    wins.fetch_add(1, Ordering::SeqCst);
                    let id = format!("container-{number}");
                    locked.save(&record(&locked, &id, &[host("0.0.0.0", 80)])).expect("saving");
                }
                inside.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    assert_eq!(wins.into_inner(), 1);
    assert_eq!(node.lock().records().expect("listing").len(), 1);
}

/// The lock of a killed process is free: it goes with its last open descriptor.
#[test]
fn another_process_holds_the_lock_until_it_is_killed() {
    let node = Node::new();
    drop(node.lock());
    let mut child = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "store::tests::locking::hold_the_lock_until_killed", "--ignored"])
        .env("AUTOPORT_TEST_STATE_DIR", &node.dir)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("starting a process");
    let begun = Instant::now();
    let own = std::process::id();
    let holder = loop {
        match node.store.clone().waiting(Duration::ZERO).lock(&mut Silent) {
            Err(Error::LockTaken { holder: Some(holder), .. }) if holder.pid != own => {
                break holder;
            }
            // Ours, or it was let go between the try and the question who has it.
            Ok(_) | Err(Error::LockTaken { .. }) => {
                assert!(begun.elapsed() < Duration::from_mins(1), "it never locked");
            }
            Err(error) => panic!("{error}"),
        }
        thread::sleep(Duration::from_millis(5));
    };
    child.kill().expect("killing");
    child.wait().expect("waiting");
    assert_eq!(holder.pid, child.id());
    assert!(!holder.command.is_empty());
    node.lock();
}

#[test]
#[ignore = "the other process of the test above"]
fn hold_the_lock_until_killed() {
    let Some(dir) = std::env::var_os("AUTOPORT_TEST_STATE_DIR") else { return };
    let locked = Store::at(Path::new(&dir)).lock(&mut Silent);
    let _locked = locked.expect("locking");
    thread::sleep(Duration::from_mins(1));
}

/// Field 41 of proc(5)'s stat, for this thread.
fn policy() -> i32 {
    let stat = fs::read_to_string("/proc/thread-self/stat").expect("the state of this thread");
    let (_, fields) = stat.rsplit_once(") ").expect("a command in parentheses");
    fields.split(' ').nth(38).and_then(|policy| policy.parse().ok()).expect("a policy")
}

/// Whether the kernel lets this process schedule itself before others: `CAP_SYS_NICE`, among all users.
fn may_be_real_time() -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("the state of this process");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t"));
    let effective = effective.and_then(|all| u64::from_str_radix(all, 16).ok());
    let users = fs::read_to_string("/proc/self/uid_map").expect("the users of this process");
    effective.expect("capabilities") >> 23 & 1 == 1 && users.contains("4294967295")
}

#[test]
fn who_has_the_lock_runs_before_normal_threads_and_only_then() {
    let node = Node::new();
    let pid = nix::unistd::gettid().to_string();
    let policies = [
        ("--other", "0", SCHED_OTHER, SCHED_RR),
        ("--batch", "0", SCHED_BATCH, SCHED_RR),
        ("--fifo", "2", SCHED_FIFO, SCHED_FIFO),
    ];
    let may_be = may_be_real_time();
    for (option, priority, normal, with_lock) in
        policies.into_iter().take(if may_be { 3 } else { 2 })
    {
        let set =
            std::process::Command::new("chrt").args([option, "--pid", priority, &pid]).status();
        assert!(set.is_ok_and(|set| set.success()), "chrt {option}");
        let with_lock = if may_be { with_lock } else { normal };
        let locked = node.lock();
        assert_eq!(policy(), with_lock);
        let unlocked = locked.unlock();
        assert_eq!(policy(), normal);
        drop(unlocked);
        let shared = node.read();
        assert_eq!(policy(), with_lock);
        drop(shared);
        assert_eq!(policy(), normal);
    }
}
