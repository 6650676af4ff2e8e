//! The scene of interrupted commands: a node with a bystander, a pod, and another pod that asks for
//! the same ports afterwards.

mod command;
mod state;

use std::env;
use std::fs;
use std::io::{self, Write as _};
use std::net::UdpSocket;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use nix::libc::c_long;
use serde_json::json;
use tempfile::TempDir;

pub(crate) use self::command::{Case, Command, Follow};
pub(crate) use self::state::State;
use self::state::elements;
use crate::stage::bare::{attachment, network, result, tcp, udp};
use crate::stage::chain::{Attachment, Network, PortMapping};
use crate::stage::netns::{full_ruleset, ip, nft, sysctl};
use crate::stage::node::{CLIENT, FIRST, Node, address};
use crate::stage::plugin::{Call, Outcome, Plugin};
use crate::stage::tracer::{Strike, Traced, trace};
use crate::stage::view::{self, STATE, tree};

/// The interface towards the pods. No pod is connected to it.
const TOWARDS: &str = "pods";
/// Of the pod and of an earlier sandbox of it.
const POD: u16 = 6;
const OLD: u16 = 9;

pub(crate) struct Scene {
    pub(crate) node: Node,
    case: Case,
    stay: Attachment,
    old: Attachment,
    /// The pod as it is before a repeated ADD, and what it asks for then.
    before: [Attachment; 5],
    after: [Attachment; 5],
    pod: Attachment,
    next: Attachment,
    state: PathBuf,
    _disk: Option<TempDir>,
}

/// Every sort of mapping, from this host port on.
fn mappings(first: u16, count: u16) -> Vec<PortMapping> {
    let one = |number: u16| match number % 3 {
        1 => udp(first + number),
        // The last alone on one address.
        2 if number + 1 == count => tcp(first + number).on(FIRST[0]),
        _ => tcp(first + number),
    };
    (0..count).map(|number| if count == 1 { udp(first) } else { one(number) }).collect()
}

impl Scene {
    pub(crate) fn new(case: Case) -> Self {
        let node = Node::new();
        ip(&format!(
            "link add {TOWARDS} type bridge
             addr add 10.1.0.1/16 dev {TOWARDS}
             link set {TOWARDS} up"
        ));
        let disk = case.synced.then(|| {
            tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on a disk")
        });
        let state = disk.as_ref().map_or(STATE.into(), |disk| disk.path().join("autoport"));
        let last = 19_999 + case.mappings;
        let blue = network("blue")
            .with("stateDir", state.to_string_lossy().into_owned())
            .with("portRange", format!("20000-{last}"));
        let make = |network: &Network, id: &str, number: u16, uid: &str| {
            let mut made = attachment(&node, network, id, number).of_pod("shop", id, uid);
            if !case.dual {
                made.result = Some(result("1.1.0", &[format!("10.1.0.{number}/16")]));
            }
            made
        };
        let count = case.mappings;
        let pod = make(&blue, "pod", POD, "uid");
        let next = make(&blue, "next", 7, "uid-next");
        let all = mappings(8000, count);
        let mut changed = all.clone();
        changed[0].container_port += 1;
        changed[usize::from(count) - 1].host_port = 8500;
        let with =
            |of: &Attachment, mappings: &[PortMapping]| of.clone().mapping(mappings.to_vec());
        let unmarked = make(&blue.clone().with("snat", false), "pod", POD, "uid");
        let (all_of, changed_of) = (with(&pod, &all), with(&pod, &changed));
        let few = with(&pod, &all[..1]);
        let before = [few.clone(), all_of.clone(), all_of.clone(), all_of.clone(), pod.clone()];
        let after = [all_of.clone(), few, changed_of, with(&unmarked, &all), all_of.clone()];
        let asked = |of: &Attachment| {
            if case.chosen {
                of.clone().mapping((0..count).map(|_| tcp(0)))
            } else {
                // The one that a changed ADD has or had.
                let moved = changed.last().filter(|_| count > 1).cloned();
                of.clone().mapping(all.iter().cloned().chain(moved))
            }
        };
        let scene = Self {
            stay: make(&blue, "stay", 5, "uid-stay").mapping([tcp(7000), udp(7000)]),
            old: with(&make(&blue, "old", OLD, "uid"), &all),
            before,
            after,
            pod: if case.chosen { asked(&pod) } else { all_of },
            next: asked(&next),
            case,
            node,
            state,
            _disk: disk,
        };
        scene.run(&scene.stay, "ADD").success();
        scene
    }

    fn run(&self, attachment: &Attachment, command: &str) -> Outcome {
        let outcome = attachment.plugin_call(command).run();
        self.node.note(format!("{command} {}: {outcome}", attachment.container_id));
        outcome
    }

    fn repeated(command: Command) -> Option<usize> {
        Command::REPEATED.iter().position(|one| *one == command)
    }

    /// The pod as the command has it.
    pub(crate) fn claimant(&self, command: Command) -> &Attachment {
        Self::repeated(command).map_or(&self.pod, |which| &self.after[which])
    }

    fn call(&self, command: Command) -> Call {
        match command {
            Command::Del => self.pod.plugin_call("DEL"),
            Command::Gc => self.gc(),
            Command::Repair => self.repair(),
            Command::Add
            | Command::FirstAdd
            | Command::GrowingAdd
            | Command::ShrinkingAdd
            | Command::ChangingAdd
            | Command::ReconfiguredAdd
            | Command::TakingOverAdd => self.claimant(command).plugin_call("ADD"),
        }
    }

    fn gc(&self) -> Call {
        let mut config = self.stay.network.entry();
        config["name"] = json!("blue");
        config["cniVersion"] = json!("1.1.0");
        config["cni.dev/valid-attachments"] = json!([{"containerID": "stay", "ifname": "eth0"}]);
        Call::new(Plugin::Autoport.path(), "GC").stdin(config.to_string())
    }

    fn repair(&self) -> Call {
        Call::operator(&["--state-dir", &self.state.to_string_lossy(), "repair"])
    }

    /// Brings about what the command meets, with a flow on its way through the pod's UDP port.
    fn prepare(&self, command: Command) {
        sysctl(&format!("net/ipv4/conf/{TOWARDS}/route_localnet"), "0");
        match command {
            Command::Add => {}
            Command::FirstAdd => {
                if self.state.exists() {
                    fs::remove_dir_all(&self.state).expect("the directory is ours");
                }
                nft("table inet autoport\ndelete table inet autoport");
            }
            Command::TakingOverAdd => {
                self.run(&self.old, "ADD").success();
            }
            Command::Del | Command::Gc | Command::Repair => {
                self.run(&self.pod, "ADD").success();
            }
            Command::GrowingAdd
            | Command::ShrinkingAdd
            | Command::ChangingAdd
            | Command::ReconfiguredAdd => {
                let which = Self::repeated(command).expect("it is one of them");
                self.run(&self.before[which], "ADD").success();
            }
        }
        if command == Command::Gc {
            self.pod_is_old();
        }
        if command == Command::Repair {
            let stray = self.state.join("ports/tcp/9999");
            fs::create_dir_all(&stray).expect("the directory is ours");
            let nobody = "../../../attachments/blue:nobody:eth0.json";
            symlink(nobody, stray.join("0.0.0.0")).expect("nothing is there");
            fs::write(self.state.join(".new"), "{").expect("the directory is ours");
        }
        if !self.case.chosen {
            let udp = |one: &&PortMapping| one.protocol == "udp";
            let port = self.pod.mappings.iter().rfind(udp).map(|one| one.host_port);
            self.node.client.run(|| {
                let from = UdpSocket::bind((address(CLIENT[0]), 40000)).expect("a free port");
                for port in port.into_iter().chain([8500]) {
                    let _ = from.send_to(b"x", (address(FIRST[0]), port));
                }
            });
        }
    }

    /// Brings about what the command meets, and runs it with the strike.
    pub(crate) fn strike(&self, command: Command, strike: Option<Strike>) -> Traced {
        self.node.forget_notes();
        self.prepare(command);
        let traced = trace(&self.call(command), strike);
        let text = traced.struck.as_ref().map_or("nothing", |struck| &struck.text);
        self.node.note(format!(
            "=== {} with {strike:?} at {text}: {}",
            command.name(),
            traced.outcome
        ));
        traced
    }

    /// The visible state of all ports.
    pub(crate) fn look(&self) -> State {
        const LASTING: [&str; 6] =
            ["attachments", "ports", "pods", "reservations", "unreadable", ".new"];
        let mut store = String::new();
        for name in LASTING {
            let path = self.state.join(name);
            store.push_str(
                &[name, ": ", if path.exists() { "there" } else { "absent" }, "\n"].concat(),
            );
            store.push_str(&tree(&path));
        }
        State { elements: elements(&full_ruleset()), store }
    }

    /// Insists that the bystander is served as before.
    pub(crate) fn bystander_is_served(&self, command: Command) {
        if command != Command::FirstAdd {
            self.run(&self.stay, "CHECK").success();
        }
    }

    /// Does what a runtime does next, and insists that it works and that nothing is left of the pod.
    pub(crate) fn recover(&self, command: Command, follow: Follow) {
        let pod = self.claimant(command);
        match follow {
            Follow::Delete => {}
            Follow::Again => {
                self.run(pod, "ADD").success();
                self.run(pod, "CHECK").success();
            }
            Follow::Sweep => {
                self.pod_is_old();
                let outcome = self.gc().run();
                self.node.note(format!("GC: {outcome}"));
                outcome.success();
                assert!(!self.is_recorded("pod"), "GC left the record");
            }
        }
        self.run(pod, "DEL").success();
        if command == Command::TakingOverAdd {
            self.run(&self.old, "DEL").success();
        }
        assert!(!self.is_recorded("pod"), "DEL left the record");
    }

    /// Insists that a command that claims to have succeeded has.
    pub(crate) fn is_in_force(&self, command: Command) {
        let recorded = !matches!(command, Command::Del | Command::Gc);
        assert_eq!(self.is_recorded("pod"), recorded, "{} said it succeeded", command.name());
        if recorded {
            self.run(self.claimant(command), "CHECK").success();
        }
    }

    /// Insists that the command succeeds now.
    pub(crate) fn succeeds(&self, command: Command) {
        let outcome = self.call(command).run();
        assert!(outcome.status.success(), "{}: {outcome}", command.name());
        self.is_in_force(command);
    }

    /// GC leaves alone what was recorded just now.
    fn pod_is_old(&self) {
        view::an_hour_passes_for(&["pod", "old"].map(|id| self.record(id)));
    }

    fn record(&self, id: &str) -> PathBuf {
        self.state.join(format!("attachments/blue:{id}:eth0.json"))
    }

    fn is_recorded(&self, id: &str) -> bool {
        self.record(id).exists()
    }

    /// Insists that no UDP flow leads to the pod.
    pub(crate) fn no_flow_is_left() {
        assert_eq!(flows(), [""; 0], "flows to the pod are left");
    }

    /// Insists that the next claimant gets the ports at once, that record and kernel are equal, and
    /// gives what there is to see when it has gone.
    pub(crate) fn next_claimant(&self) -> State {
        self.run(&self.next, "ADD").success();
        self.run(&self.next, "CHECK").success();
        let before = elements(&full_ruleset());
        let outcome = self.repair().run();
        assert!(outcome.status.success(), "repair: {outcome}");
        assert_eq!(elements(&full_ruleset()), before, "the record was another than the kernel");
        self.run(&self.next, "DEL").success();
        self.look()
    }

    /// The command as it is when nothing strikes, and what is left of it.
    pub(crate) fn undisturbed(&self, command: Command) -> (Vec<c_long>, State) {
        let traced = self.strike(command, None);
        assert!(traced.outcome.status.success(), "{}", traced.outcome);
        if command == Command::Repair && !self.case.chosen {
            assert_ne!(flows(), [""; 0], "a flow leads to the pod");
        }
        self.recover(command, Follow::Delete);
        Self::no_flow_is_left();
        let left = self.next_claimant();
        for gone in [":pod:", ":next:", ":old:"] {
            assert!(!left.store.contains(gone), "{left:?}");
        }
        for gone in ["10.1.0.6 ", "10.1.0.7 ", "10.1.0.9 "] {
            assert!(!left.elements.contains(gone), "{left:?}");
        }
        (traced.changes, left)
    }
}

/// The tracked flows that the pod, or its earlier sandbox, would answer.
fn flows() -> Vec<String> {
    let answered =
        |flow: &String| [POD, OLD].iter().any(|n| flow.contains(&format!("src=10.1.0.{n} ")));
    view::flows().into_iter().filter(answered).collect()
}

/// Whether every point is tried, however alike: `make torture`.
pub(crate) fn is_thorough() -> bool {
    env::var_os("AUTOPORT_TORTURE").is_some()
}

/// The points to try: all of them, unless there are many of a kind: then the first, the last, and
/// some of those between.
pub(crate) fn points(changes: &[c_long]) -> Vec<usize> {
    const FEW: usize = 16;
    const STEP: usize = 64;
    let alike = |number: c_long| changes.iter().filter(move |one| **one == number).count();
    let ordinal = |at: usize| changes[..at].iter().filter(|one| **one == changes[at]).count();
    let wanted = |at: &usize| {
        let (all, own) = (alike(changes[*at]), ordinal(*at));
        is_thorough() || all <= FEW || own % STEP == 0 || own + 1 == all
    };
    (0..changes.len()).filter(wanted).collect()
}

/// Prints a figure past libtest, which keeps what a test prints to itself.
pub(crate) fn tell(figure: &str) {
    let _ = writeln!(io::stderr(), "{figure}");
}
