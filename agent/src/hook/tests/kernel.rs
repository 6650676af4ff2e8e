//! What the kernel does with the programs. What they do to system calls is in tests/node/hook.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

use super::super::instruction::{Instruction, Register};
use super::*;
use crate::cgroups::Tree;
use crate::hook::assembler::{Assembler, Point};
use crate::hook::refusal::{FAMILIES, Guarded, Held, refusal};

const ROOT: &str = "/sys/fs/cgroup";
const ROOT_ALONE: &str = "root alone makes cgroups: run by make test-clients";

/// A cgroup of this test's own, with one of a pod in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        for words in ["--make-rprivate /", "-t cgroup2 none /sys/fs/cgroup"] {
            let mounted = Command::new("mount").args(words.split(' ')).status();
            assert!(mounted.is_ok_and(|done| done.success()), "mount {words}");
        }
        let own = Path::new(ROOT).join(format!("autoport-test-{name}-{}", std::process::id()));
        fs::create_dir_all(own.join("podone")).expect("a cgroup");
        Self(own)
    }

    fn parent(&self) -> String {
        let pod = self.0.join("podone");
        pod.to_str().and_then(|pod| pod.strip_prefix(ROOT)).expect("below the root").to_owned()
    }

    fn ids(&self, path: &str, call: impl Into<Point>) -> Vec<u32> {
        let cgroup = File::open(self.0.join(path)).expect("it is there");
        door::attached(cgroup.as_fd(), call).expect("root may ask").ids
    }

    /// Attaches a program of another owner, which does nothing.
    fn attach_another(&self, path: &str, call: impl Into<Point> + Copy, flags: u32) {
        let mut code = Assembler::default();
        code.push(Instruction::Set(Register::R0, 1));
        code.push(Instruction::Exit);
        let program = door::load(call, &code.finish().expect("it is short"));
        let program = program.expect("root may load programs");
        let cgroup = File::open(self.0.join(path)).expect("it is there");
        door::attach(cgroup.as_fd(), call, &program, flags).expect("root may attach it");
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for path in ["podone", "kubepods/podone", "kubepods", ""] {
            let _ = fs::remove_dir(self.0.join(path));
        }
    }
}

fn both() -> Vec<Redirect> {
    vec![redirect(Protocol::Tcp, 8080, 20417, 1), redirect(Protocol::Udp, 53, 20418, 1)]
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn programs_of_others_stay_and_the_hook_is_attached_once() {
    let scratch = Scratch::new("beside");
    for path in ["", "podone"] {
        scratch.attach_another(path, Call::Bind4, door::ALLOW_MULTI);
    }
    let others = scratch.ids("podone", Call::Bind4);
    let hook = Hook::find().expect(ROOT_ALONE);
    let calls = Call::needed(&plan(&both()));
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        hook.attach(&scratch.parent(), "one", both(), true).expect("it is attached");
        let all: Vec<_> = calls.iter().map(|call| scratch.ids("podone", *call)).collect();
        assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
        assert!(all[0].starts_with(&others));
        seen.insert(all);
    }
    assert_eq!(seen.len(), 1, "the programs are the same");
    assert_eq!(scratch.ids("", Call::Bind4).len(), 1);
}

/// What the agent of 0.1.0 notes. Agents of other versions know by it what is attached, whose instructions may be
/// others than theirs.
const NOTED: &str = r#"{"version":1,"redirects":[{"protocol":"tcp","named":8080,"given":20417,"count":1}],
    "getsockname":false,"earlier":[],"programs":PROGRAMS}"#;

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn programs_of_an_agent_of_another_version_stay_and_are_followed() {
    let scratch = Scratch::new("version");
    let hook = Hook::find().expect(ROOT_ALONE);
    let tcp = |given| vec![redirect(Protocol::Tcp, 8080, given, 1)];
    let calls = Call::needed(&plan(&tcp(20417))).into_iter().take(4);
    let calls: Vec<_> = calls.collect();
    for call in &calls {
        scratch.attach_another("podone", *call, door::ALLOW_MULTI);
    }
    let ids = || calls.iter().map(|call| scratch.ids("podone", *call)).collect::<Vec<_>>();
    let theirs = ids();
    let one =
        |(call, ids): (&Call, &Vec<u32>)| serde_json::json!({"call": *call as u32, "id": ids[0]});
    let programs: Vec<_> = calls.iter().zip(&theirs).map(one).collect();
    let programs = serde_json::to_string(&programs).expect("JSON");
    let cgroup = File::open(scratch.0.join("podone")).expect("it is there");
    let noted = NOTED.replace("PROGRAMS", &programs);
    door::set_note(cgroup.as_fd(), noted.as_bytes()).expect("root may write it");
    let attach = |given| hook.attach(&scratch.parent(), "one", tcp(given), false);
    assert!(attach(20417).expect("they are in force").is_empty());
    assert_eq!(ids(), theirs, "nothing is attached twice, and nothing was detached in between");
    // Other numbers: further programs, which know what the first ones give.
    let ours = attach(20500).expect("they are followed");
    assert_eq!(ours.len(), 4);
    let listing = ours[0].program.to_string();
    assert!(listing.contains("if r2 != 0x4fc1") && listing.contains("20500"), "{listing}");
    assert!(ids().iter().zip(&theirs).all(|(all, first)| all.len() == 2 && all[0] == first[0]));
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn a_cgroup_above_that_permits_no_others_is_named() {
    let scratch = Scratch::new("forbids");
    // The fourth that is attached: those before are detached again.
    scratch.attach_another("", Call::Connect6, 0);
    let hook = Hook::find().expect(ROOT_ALONE);
    let error = hook.attach(&scratch.parent(), "one", both(), false).expect_err("it is forbidden");
    let name = scratch.0.strip_prefix(ROOT).expect("it is below the root");
    let text = error.to_string();
    assert!(text.contains(&format!("cgroup /{} that permits no others", name.display())), "{text}");
    for call in Call::needed(&plan(&both())) {
        assert_eq!(scratch.ids("podone", call), [0; 0], "{call:?}");
    }
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn the_verifier_takes_the_longest_programs() {
    let scratch = Scratch::new("longest");
    let hook = Hook::find().expect(ROOT_ALONE);
    let most = MOST as u16 / 2;
    let all = |first: u16| -> Vec<Redirect> {
        let of = |protocol| {
            (0..most).map(move |at| redirect(protocol, 10 * at + 1, first + 4 * at, 2 + at % 2))
        };
        of(Protocol::Tcp).chain(of(Protocol::Udp)).collect()
    };
    for first in [30000, 31000, 32000] {
        hook.attach(&scratch.parent(), "one", all(first), true).expect("it is attached");
    }
}

/// A node with a pod in a cgroup as kubelet makes it.
fn guard_of(scratch: &Scratch) -> Guard {
    fs::create_dir_all(scratch.0.join("kubepods/podone")).expect("a cgroup");
    let mut guard = Guard::new(Tree { root: scratch.0.clone(), is_only: true }, NETNS);
    guard.learn("/kubepods/podone", "one");
    guard
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn the_guard_is_attached_once_and_never_in_place_of_others() {
    let scratch = Scratch::new("guard");
    let mut guard = guard_of(&scratch);
    let run = || vec![Run { first: 20000, count: 100 }];
    let ids = || FAMILIES.map(|family| scratch.ids("kubepods", family));
    assert_eq!(guard.set(run(), &[]).expect("it is attached"), [PathBuf::from("/kubepods")]);
    let first = ids();
    assert!(first.iter().all(|ids| ids.len() == 1), "{first:?}");
    guard.set(run(), &[]).expect("it is attached");
    assert_eq!(ids(), first, "nothing has changed");
    // By another process, with other ports, and a note as earlier agents have written it: one program in place of
    // the other.
    let cgroup = File::open(scratch.0.join("kubepods")).expect("it is there");
    let noted = serde_json::json!({"netns": NETNS, "guard": first.concat()}).to_string();
    door::set_note(cgroup.as_fd(), noted.as_bytes()).expect("root may write it");
    guard_of(&scratch).set(vec![Run { first: 1, count: 2 }], &[]).expect("it is attached");
    let second = ids();
    assert!(second.iter().all(|ids| ids.len() == 1) && second != first, "{second:?}");
    guard.set(run(), &[]).expect("it is attached");
    assert_ne!(ids(), second, "what the other has attached is not what is wanted");
    assert!(guard_of(&scratch).remove().expect("it is removed"));
    assert!(!guard.remove().expect("it is gone"));
    assert!(ids().concat().is_empty());
    for flags in [door::ALLOW_MULTI, door::ALLOW_OVERRIDE] {
        scratch.attach_another("kubepods", FAMILIES[0], flags);
        let others = ids();
        let error = guard.set(run(), &[]).expect_err("it is another's");
        assert!(error.to_string().contains("another owner"), "{error}");
        assert!(!guard.remove().expect("nothing is ours"));
        assert_eq!(ids(), others);
        fs::remove_dir(scratch.0.join("kubepods/podone")).expect("it is empty");
        fs::remove_dir(scratch.0.join("kubepods")).expect("it is empty");
        guard = guard_of(&scratch);
    }
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn the_verifier_takes_the_longest_guard() {
    let of = |at: u16| Held {
        protocol: if at.is_multiple_of(2) { Protocol::Tcp } else { Protocol::Udp },
        cgroup: 0x1_0000_0000 + u64::from(at),
        run: Run { first: 20000 + at, count: 1 },
    };
    let mut held: Vec<_> = (0..8000).map(of).collect();
    held.sort_unstable();
    let runs = (0..100).map(|at| Run { first: 20000 + at * 100, count: 99 }).collect();
    let guarded = Guarded { runs, held };
    let program = refusal(&guarded, NETNS, true).expect("it is within reach");
    assert!(program.slots() > 32_000, "{}", program.slots());
    for family in FAMILIES {
        door::load(family, &program).expect("the verifier takes it");
    }
}
