//! Commands in which one system call fails, or to which netlink replies with an error or not at
//! all. After a failure the runtime gets an error that says what was attempted, a first ADD has
//! left nothing behind, and any other command succeeds when it is repeated. After a success
//! everything is in place.

use std::thread;

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};

use super::ordeal::{Case, Command, Follow, Scene, State, is_thorough, points, tell};
use crate::stage::bare::{add, attachment, network, run, tcp};
use crate::stage::chain::Attachment;
use crate::stage::node::Node;
use crate::stage::tracer::{Among, Blow, Strike, Traced, Which, trace};
use crate::stage::view::{elements, snapshot};

const FAILURES: [Errno; 6] =
    [Errno::EIO, Errno::ENOSPC, Errno::EINTR, Errno::ENOMEM, Errno::EAGAIN, Errno::EACCES];

/// `ERESTART` is the kernel's own: libc does not know it.
const ERESTART: i32 = 85;
const ANSWERS: [Blow; 4] =
    [Blow::Answer(libc::ENOBUFS), Blow::Answer(libc::EBUSY), Blow::Answer(ERESTART), Blow::Silence];

/// The calls that a signal may interrupt: they are simply made again.
const INTERRUPTIBLE: [libc::c_long; 7] = [
    libc::SYS_openat,
    libc::SYS_write,
    libc::SYS_fsync,
    libc::SYS_syncfs,
    libc::SYS_flock,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
];

/// What is tried at a point: interruption, and two of the others in turn; `make torture` tries all.
fn failures(nth: usize) -> Vec<Errno> {
    if is_thorough() {
        return FAILURES.to_vec();
    }
    let turn = |at: usize| FAILURES[at % FAILURES.len()];
    let mut turns = vec![Errno::EINTR, turn(nth), turn(nth + 3)];
    turns.dedup();
    turns
}

struct Ordeal {
    scene: Scene,
    case: Case,
    command: Command,
    /// What is left when nothing strikes.
    left: State,
    tried: u32,
    failed: u32,
}

impl Ordeal {
    /// Strikes, and does what the runtime does then; `None` when there was nothing to strike at.
    fn strike(&mut self, strike: Strike) -> Option<()> {
        let (scene, command) = (&self.scene, self.command);
        let before = scene.look();
        let traced = scene.strike(command, Some(strike));
        let struck = traced.struck.as_ref();
        let text = struck.map_or("nothing", |struck| &struck.text);
        let what = format!("{} {}, {strike:?} ({text})", command.name(), self.case);
        scene.node.note(what.clone());
        let Traced { outcome, .. } = &traced;
        // Nobody knows whether the change is in force; only the runtime's DEL helps then.
        let unknown = command != Command::Repair && outcome.code() == Some(111);
        if outcome.status.success() {
            scene.is_in_force(command);
        } else {
            self.failed += u32::from(struck.is_some());
            names_what_was_attempted(command, &traced, &what);
            // What fails from here on fails for taking back too.
            let lasting = matches!(strike.which, Which::From(1..));
            if matches!(command, Command::Add) && !unknown && !lasting {
                // The runtime has called no DEL yet.
                scene.look().must_be(&before, &what);
            }
        }
        if let Some(struck) = struck
            && strike.blow == Blow::Fail(Errno::EINTR)
            && INTERRUPTIBLE.contains(&struck.number)
        {
            assert!(outcome.status.success(), "{what}: {outcome}");
        }
        scene.bystander_is_served(command);
        let repeats = matches!(command, Command::Del | Command::Gc | Command::Repair);
        if repeats && !outcome.status.success() {
            scene.succeeds(command);
        }
        scene.recover(command, Follow::Delete);
        let told = outcome.stderr.contains("could not delete stale");
        if !told {
            Scene::no_flow_is_left();
        }
        scene.next_claimant().must_be(&self.left, &what);
        self.tried += u32::from(struck.is_some());
        struck.map(drop)
    }
}

/// Insists on a code, and on a text from which it is plain what did not work.
fn names_what_was_attempted(command: Command, traced: &Traced, what: &str) {
    let outcome = &traced.outcome;
    let text = if command == Command::Repair {
        outcome.stderr.clone()
    } else {
        assert!([5, 11, 102, 110, 111].contains(&outcome.code().unwrap_or(0)), "{what}: {outcome}");
        outcome.message().to_owned()
    };
    let named = ["/autoport/", "/proc/", "netlink", "kernel", "table inet autoport", "interface"];
    assert!(named.iter().any(|name| text.contains(name)), "{what}: {outcome}");
}

fn ordeal(case: Case, command: Command) {
    let scene = Scene::new(case);
    let (changes, left) = scene.undisturbed(command);
    let mut ordeal = Ordeal { scene, case, command, left, tried: 0, failed: 0 };
    for nth in points(&changes) {
        for errno in failures(nth) {
            let strike =
                Strike { among: Among::Changes, which: Which::Only(nth), blow: Blow::Fail(errno) };
            ordeal.strike(strike);
        }
    }
    let calls = (ordeal.tried, ordeal.failed);
    for blow in ANSWERS {
        let strike = |which| Strike { among: Among::Questions, which, blow };
        let mut nth = 0;
        while ordeal.strike(strike(Which::Only(nth))).is_some() {
            nth += 1;
        }
        ordeal.strike(strike(Which::From(0)));
    }
    for which in [Which::Only, Which::From] {
        let blow = Blow::Lose(Errno::ENOBUFS);
        let lost = |nth| Strike { among: Among::Answers, which: which(nth), blow };
        let mut nth = 0;
        while ordeal.strike(lost(nth)).is_some() {
            nth += 1;
        }
    }
    let answers = (ordeal.tried - calls.0, ordeal.failed - calls.1);
    tell(&format!(
        "fault: {} {case}: {} calls failed ({} commands did), {} answers forged or lost ({} \
         commands failed)",
        command.name(),
        calls.0,
        calls.1,
        answers.0,
        answers.1
    ));
    assert!(ordeal.failed > 0, "no command failed");
}

fn all(case: Case, commands: &[Command]) {
    thread::scope(|scope| {
        let one = |command: &Command| {
            let command = *command;
            scope.spawn(move || ordeal(case, command))
        };
        let running: Vec<_> = commands.iter().map(one).collect();
        for one in running {
            if let Err(panicked) = one.join() {
                std::panic::resume_unwind(panicked);
            }
        }
    });
}

#[test]
fn three_mappings_dual_stack() {
    all(Case::of(3, true), &[Command::Add, Command::Del, Command::Gc, Command::Repair]);
}

#[test]
fn a_chosen_port() {
    all(Case { chosen: true, ..Case::of(1, false) }, &[Command::Add, Command::Del]);
}

#[test]
fn on_a_disk() {
    all(Case { synced: true, ..Case::of(1, false) }, &[Command::Add, Command::Del]);
}

#[test]
fn repeated_adds() {
    all(Case::of(3, false), &[Command::ChangingAdd, Command::TakingOverAdd]);
}

/// The kernel refuses with `EBUSY` while a set's hash table is being enlarged, and with `ERESTART` when
/// somebody else was faster: another look and another transaction make it good. Nothing else is tried
/// again, since each refusal waits for a grace period.
#[test]
fn a_refusal_that_passes_is_met_by_another_transaction() {
    let scene = Scene::new(Case::of(1, false));
    let sent = |changes: &[libc::c_long]| {
        changes.iter().filter(|number| **number == libc::SYS_sendto).count()
    };
    let (changes, _) = scene.undisturbed(Command::Add);
    let all = sent(&changes);
    let is_tried_again = |errno: i32| {
        let tried = (0..all).filter(|nth| {
            let which = Which::Only(*nth);
            let strike = Strike { among: Among::Questions, which, blow: Blow::Answer(errno) };
            let Traced { outcome, changes, .. } = scene.strike(Command::Add, Some(strike));
            let tried = outcome.status.success() && sent(&changes) > all;
            scene.recover(Command::Add, Follow::Delete);
            tried
        });
        tried.count()
    };
    assert_eq!(is_tried_again(libc::EBUSY), 1, "the transaction");
    assert_eq!(is_tried_again(ERESTART), 1, "the transaction");
    assert_eq!(is_tried_again(libc::ENOMEM), 0);
}

/// Where ADD fails at the last and cannot take back what it did, it says what failed first.
#[test]
fn the_first_failure_is_the_one_that_is_told() {
    let scene = Scene::new(Case::of(1, false));
    let (changes, _) = scene.undisturbed(Command::Add);
    let strike = |which| {
        let blow = Blow::Fail(Errno::EACCES);
        let strike = Strike { among: Among::Changes, which, blow };
        let traced = scene.strike(Command::Add, Some(strike));
        scene.recover(Command::Add, Follow::Delete);
        traced
    };
    let sets_the_sysctl = |nth: &usize| {
        let struck = strike(Which::Only(*nth)).struck;
        struck.is_some_and(|struck| struck.text.contains("route_localnet"))
    };
    let at = (0..changes.len()).rev().find(sets_the_sysctl).expect("it is not set yet");
    let outcome = strike(Which::From(at)).outcome;
    assert!(outcome.message().contains("route_localnet"), "{outcome}");
    assert!(outcome.stderr.contains("could not undo the mapping"), "{outcome}");
}

/// The standard library panics where the machine has no random numbers: the only panic that is known,
/// and one that needs a broken machine. The runtime is told all the same, and nothing is left.
#[test]
fn a_panic_is_an_error_reply() {
    let node = Node::new();
    let held = attachment(&node, &network("blue"), "held", 5).mapping([tcp(8080)]);
    // This begins the store, which takes a random number.
    add(&node, &held);
    let random = network("blue").with("allocation", "random");
    let lucky = attachment(&node, &random, "lucky", 6).mapping([tcp(0)]);
    let before = snapshot();
    let nothing = Some("/dev/null");
    mount(nothing, "/dev/urandom", None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .expect("the mount namespace is the test's own");
    let strace = ["strace", "-f", "-e", "inject=getrandom:error=ENOSYS", "-o", "/run/strace"];
    let outcome = lucky.plugin_call("ADD").under(&strace).run();
    outcome.failure(999);
    assert!(outcome.message().contains("please report it"), "{outcome}");
    let details = outcome.reply.as_ref().and_then(|reply| reply["details"].as_str());
    assert!(details.is_some_and(|details| details.contains("panicked at")), "{outcome}");
    assert!(outcome.stderr.contains("panicked at"), "{outcome}");
    assert_eq!(snapshot(), before);
    run(&lucky, "DEL").success();
    held.check().success();
}

/// Kernels before 6.12 take a time to live for an element that has none, and change nothing. DEL looks
/// again, sees that, and deletes.
#[test]
fn where_nothing_expires_it_is_deleted() {
    let node = Node::new();
    let pods = ["kept", "first", "second"];
    let [kept, first, second] = pods.map(|name| {
        let port = 8000 + name.len() as u16;
        attachment(&node, &network("blue"), name, name.len() as u16).mapping([tcp(port)])
    });
    for pod in [&kept, &first, &second] {
        add(&node, pod);
    }
    let questions = |pod: &Attachment, strike| {
        let Traced { outcome, changes, .. } = trace(&pod.plugin_call("DEL"), strike);
        outcome.success();
        changes.iter().filter(|number| **number == libc::SYS_sendto).count()
    };
    let older = Strike { among: Among::Questions, which: Which::From(0), blow: Blow::Immortal };
    let asked = questions(&first, None);
    assert!(questions(&second, Some(older)) > asked, "nothing was deleted");
    let held: Vec<String> = elements();
    assert!(held.iter().all(|element| element.contains("8004")), "{held:?}");
    kept.check().success();
}
