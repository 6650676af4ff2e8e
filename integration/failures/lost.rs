//! Damaged and deleted records, indexes and directories: the table of docs/store.md, row by row.

mod records;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::stage::bare::{add, attachment, gc, network, run, tcp};
use crate::stage::chain::{Attachment, Main, Network, PortMapping};
use crate::stage::netns::{nft, ruleset, settle};
use crate::stage::node::{FIRST, Node, POD_PORT, Pod};
use crate::stage::operator::{autoport, told};
use crate::stage::plugin::Plugin;
use crate::stage::probe::{Answer, Probe};
use crate::stage::view::{self, STATE, snapshot};

const TABLE: &str = "inet autoport";

fn record_of(id: &str) -> PathBuf {
    Path::new(STATE).join(format!("attachments/blue:{id}:eth0.json"))
}

/// A pod with traffic whose record is to be lost, and one that must not notice.
struct Scene {
    node: Node,
    _pods: [Pod; 2],
    web: Attachment,
    other: Attachment,
}

impl Scene {
    fn new() -> Self {
        let node = Node::new();
        let blue = Network::new("blue", Main::Bridge, 1, Plugin::Autoport).speaking("1.1.0");
        let (first, web) = node.attached("web", &blue, PortMapping::both(8080, POD_PORT, ""));
        let (second, other) = node.attached("other", &blue, PortMapping::both(8090, POD_PORT, ""));
        Self { node, _pods: [first, second], web, other }
    }

    fn answers(&self, port: u16) -> Answer {
        self.node.client_asks(&Probe::tcp(FIRST[0], port))
    }

    fn claim(&self, id: &str, port: u16) -> Attachment {
        attachment(&self.node, &self.web.network, id, 200).mapping([tcp(port)])
    }

    /// Insists that the ports of the damaged record are held, that its traffic goes on, that the file is
    /// named and, where it can be read, left as it is, and that the commands of other pods work.
    fn assert_held_and_nobody_else_blocked(&self, what: &str, bytes: Option<&[u8]>) {
        let refused = run(&self.claim("greedy", 8080), "ADD");
        refused.failure(102);
        self.node.note(format!("{what}: {refused}"));
        let path = Path::new(STATE).join("attachments/blue:web:eth0.json");
        assert!(refused.stdout.contains(&*path.to_string_lossy()), "{what}: {refused}");
        if let Some(bytes) = bytes {
            assert_eq!(fs::read(path).ok().as_deref(), Some(bytes), "{what}");
        }
        run(&self.web, "ADD").failure(102);
        self.web.check().failure(102);
        assert_eq!(self.answers(8080).by(), Some("web"), "{what}");
        // Somebody new comes, is checked, and goes; the other is checked and added again.
        let third = self.claim("third", 9090);
        add(&self.node, &third);
        third.check().success();
        self.other.check().success();
        add(&self.node, &self.other);
        run(&third, "DEL").success();
        gc(&self.web.network, &["web", "other"]).success();
        let (status, listed, stderr) = autoport(&["list"]);
        assert!(status.success() && listed.contains("8090/tcp"), "{what}: {listed}{stderr}");
        assert!(stderr.contains("blue:web:eth0.json cannot be read"), "{what}: {stderr}");
        let collected = told(&["gc", "-o", "wide"]);
        assert!(collected.contains("kept blue:web:eth0: record"), "{what}: {collected}");
        // Whoever has to build the table again keeps what is there of the record nobody can read.
        nft(&format!("flush chain {TABLE} prerouting"));
        let outcome = run(&self.other, "ADD");
        assert!(outcome.stderr.contains("built table"), "{what}: {outcome}");
        for port in [8080, 8090] {
            let by = if port == 8080 { "web" } else { "other" };
            assert_eq!(self.answers(port).by(), Some(by), "{what}: after a rebuild");
        }
    }

    /// Insists that any pod can get the ports.
    fn assert_free(&self, what: &str) {
        settle();
        assert_eq!(self.answers(8080), Answer::Refused, "{what}");
        let next = self.claim("next", 8080);
        add(&self.node, &next);
        next.check().success();
        run(&next, "DEL").success();
        assert_eq!(self.answers(8090).by(), Some("other"), "{what}");
        self.other.check().success();
        assert_eq!(view::elements().len(), 8, "{what}: only the other's are left");
        // The first clears away the network of those who came and went.
        told(&["repair"]);
        assert!(told(&["repair"]).starts_with("table inet autoport equals the records of 1 "));
        add(&self.node, &self.web);
    }

    /// Damages the record, and frees it in each of the three ways.
    fn loses(&self, what: &str, damage: impl Fn(&Path) -> Option<Vec<u8>>) {
        type Way = (&'static str, fn(&Scene));
        let ways: [Way; 3] = [
            ("DEL", |scene| drop(run(&scene.web, "DEL").success())),
            ("GC", |scene| drop(gc(&scene.web.network, &["other"]).success())),
            ("repair", |_| drop(told(&["repair"]))),
        ];
        for (way, free) in ways {
            let what = format!("{what}, freed by {way}");
            let bytes = damage(&record_of("web"));
            self.assert_held_and_nobody_else_blocked(&what, bytes.as_deref());
            free(self);
            self.assert_free(&what);
        }
    }
}

/// On a tmpfs a boot takes everything; on a disk the records say which boot they are of.
#[test]
fn a_record_of_an_earlier_boot() {
    let scene = Scene::new();
    for id in ["web", "other"] {
        let text = fs::read_to_string(record_of(id)).expect("the record");
        let (before, after) = text.split_once("\"bootId\": \"").expect("it says its boot");
        let earlier = format!("{before}\"bootId\": \"0{}", &after[1..]);
        let earlier = if earlier == text {
            text.replace("\"bootId\": \"0", "\"bootId\": \"1")
        } else {
            earlier
        };
        fs::write(record_of(id), earlier).expect("the record is ours");
    }
    nft("flush ruleset");
    let next = scene.claim("next", 8080);
    add(&scene.node, &next);
    next.check().success();
    assert_eq!(view::elements().len(), 4, "only the new one's");
    assert!(!told(&["list"]).contains("/web/"));
    run(&scene.web, "DEL").success();
    next.check().success();
    told(&["repair"]);
    assert_eq!(view::records(), ["blue:next:eth0.json"]);
}

/// The state directory on a file system without room.
#[test]
fn a_full_disk() {
    let node = Node::new();
    fs::create_dir("/run/autoport").expect("/run is ours");
    mount(
        Some("tmpfs"),
        STATE,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=700,size=64k,nr_inodes=200"),
    )
    .expect("a tmpfs of our own");
    let blue = network("blue");
    let web =
        attachment(&node, &blue, "web", 5).of_pod("shop", "web", "uid-1").mapping([tcp(8080)]);
    let broken = attachment(&node, &blue, "broken", 6).mapping([tcp(8081)]);
    add(&node, &web);
    add(&node, &broken);
    fs::write(record_of("broken"), "{").expect("the record is ours");
    let mut filler = fs::File::create("/run/autoport/filler").expect("ours");
    while filler.write_all(&[0; 4096]).is_ok() {}
    for number in 0.. {
        if fs::File::create(format!("/run/autoport/filler{number}")).is_err() {
            break;
        }
    }
    let before = ruleset();
    for claim in
        [attachment(&node, &blue, "new", 7).mapping([tcp(9090)]), web.clone().mapping([tcp(9091)])]
    {
        let refused = run(&claim, "ADD");
        refused.failure(5);
        let details = refused.reply.as_ref().and_then(|reply| reply["details"].as_str());
        assert!(details.is_some_and(|text| text.contains("No space left")), "{refused}");
        assert_eq!(ruleset(), before, "nothing changed in the kernel");
    }
    web.check().success();
    run(&attachment(&node, &blue, "greedy", 8).mapping([tcp(8081)]), "ADD").failure(102);
    assert!(told(&["list"]).contains("8080/tcp"));
    // What is given back needs no room.
    for gone in [&broken, &web] {
        let outcome = run(gone, "DEL");
        assert!(outcome.status.success(), "{outcome}");
    }
    view::assert_nothing_held();
    let again = gc(&blue, &[]);
    assert!(again.status.success(), "{again}");
    for entry in fs::read_dir(STATE).expect("the directory").flatten() {
        if entry.file_name().to_string_lossy().starts_with("filler") {
            fs::remove_file(entry.path()).expect("ours");
        }
    }
    add(&node, &attachment(&node, &blue, "new", 7).mapping([tcp(8080), tcp(8081)]));
}

/// Starts a command that is stopped when it first makes one of these system calls, and gives its process ID as
/// well.
fn stopped(attachment: &Attachment, cni_command: &str, calls: &str) -> (Child, Pid) {
    let config = attachment.config().to_string();
    fs::write("/run/stdin", config).expect("/run is ours");
    let inject = format!("inject={calls}:signal=SIGSTOP:when=1");
    let call = ["strace", "-o", "/run/strace", "-e", &inject];
    let mut command = Command::new(call[0]);
    command.args(&call[1..]).arg(Plugin::Autoport.path());
    command.env_clear().env("PATH", crate::stage::netns::PATH).env("CNI_COMMAND", cni_command);
    for (name, value) in [
        ("CNI_CONTAINERID", attachment.container_id.as_str()),
        ("CNI_NETNS", &attachment.netns),
        ("CNI_IFNAME", &attachment.ifname),
        ("CNI_PATH", "/usr/lib/cni"),
    ] {
        command.env(name, value);
    }
    command.stdin(fs::File::open("/run/stdin").expect("ours"));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("strace is there");
    let begun = Instant::now();
    // Generous: a loaded machine starts two programs.
    let pid = loop {
        match stopped_child(child.id()) {
            None if begun.elapsed() < Duration::from_secs(30) => {
                thread::sleep(Duration::from_millis(5));
            }
            found => break found,
        }
    };
    let Some(pid) = pid else {
        let _ = child.kill();
        panic!("nothing was stopped: {:?}", child.wait());
    };
    (child, pid)
}

/// The child of strace, once it was stopped by the signal and not by strace for a moment.
fn stopped_child(strace: u32) -> Option<Pid> {
    if !fs::read_to_string("/run/strace").ok()?.contains("SIGSTOP") {
        return None;
    }
    let children = fs::read_to_string(format!("/proc/{strace}/task/{strace}/children")).ok()?;
    let pid = children.split_whitespace().next()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, state) = stat.rsplit_once(") ")?;
    state.starts_with(['T', 't']).then(|| Pid::from_raw(pid.parse().expect("a number")))
}

#[test]
fn a_lock_that_a_stopped_process_has() {
    let node = Node::new();
    let patient = network("blue").with("lockTimeout", 1);
    let web = attachment(&node, &patient, "web", 5).mapping([tcp(8080)]);
    let other = attachment(&node, &patient, "other", 6).mapping([tcp(8090)]);
    add(&node, &other);
    // It has the lock then.
    let (mut child, pid) = stopped(&web, "ADD", "renameat,renameat2");
    let before = snapshot();
    let holder = format!("process {pid} (autoport, stopped)");
    for command in ["ADD", "CHECK"] {
        let begun = Instant::now();
        let outcome = run(&other, command);
        outcome.failure(11);
        assert!(outcome.message().contains(&holder), "{command}: {outcome}");
        assert!(outcome.stderr.contains(&format!("taken by {holder}")), "{command}: {outcome}");
        // One second is its own; the rest is for a loaded machine.
        assert!(begun.elapsed() < Duration::from_secs(20), "{command}: {:?}", begun.elapsed());
    }
    // STATUS does not call that broken, and a DEL of somebody without ports does not wait.
    run(&other, "STATUS").success();
    run(&attachment(&node, &patient, "without", 7), "DEL").success();
    let (status, _, stderr) = autoport(&["list"]);
    assert!(!status.success() && stderr.contains(&holder), "{stderr}");
    assert_eq!(snapshot(), before, "nothing changes while the lock is taken");
    kill(pid, Signal::SIGCONT).expect("a process of ours");
    assert!(child.wait().expect("a child of ours").success(), "it goes on where it was stopped");
    web.check().success();
    run(&web, "DEL").success();
    other.check().success();
}

/// The node's first ADD makes store and table while a STATUS that found neither is about to look for the table.
#[test]
fn a_status_that_the_first_add_overtakes() {
    let node = Node::new();
    let web = attachment(&node, &network("blue"), "web", 5).mapping([tcp(8080)]);
    let (mut child, pid) = stopped(&web, "STATUS", "socket");
    add(&node, &web);
    kill(pid, Signal::SIGCONT).expect("a process of ours");
    assert!(child.wait().expect("a child of ours").success(), "one store is in use, and no other");
}

#[test]
fn two_state_directories_on_one_node() {
    let scene = Scene::new();
    let mut astray = scene.claim("astray", 9090);
    astray.network = astray.network.with("stateDir", "/run/elsewhere");
    let before = snapshot();
    let refused = run(&astray, "ADD");
    refused.failure(7);
    for part in ["two state directories", "same stateDir", "repair --adopt"] {
        assert!(refused.message().contains(part), "{refused}");
    }
    assert_eq!(snapshot(), before, "the first is not touched");
    // A GC or DEL by mistake does no harm, and no failure either.
    let outcome = gc(&astray.network, &[]);
    assert!(outcome.status.success() && outcome.stderr.contains("left as it is"), "{outcome}");
    run(&astray, "DEL").success();
    let mut web = scene.web.clone();
    web.network = astray.network.clone();
    let (status, _, stderr) = autoport(&["repair", "--state-dir", "/run/elsewhere"]);
    assert!(!status.success() && stderr.contains("repair --adopt"), "{stderr}");
    assert_eq!(snapshot(), before);
    scene.web.check().success();
    // The operator decides for the second: it takes over what the table says.
    let adopted = told(&["repair", "--adopt", "--state-dir", "/run/elsewhere"]);
    assert!(adopted.contains("restored 2 records"), "{adopted}");
    assert_eq!(scene.answers(8080).by(), Some("web"));
    run(&web, "DEL").success();
    assert_eq!(scene.answers(8080), Answer::Refused);
    assert_eq!(scene.answers(8090).by(), Some("other"));
}

/// The instance file is lost, the records are not.
#[test]
fn a_lost_instance() {
    let scene = Scene::new();
    fs::remove_file(Path::new(STATE).join("instance")).expect("ours");
    run(&scene.claim("new", 9090), "ADD").failure(7);
    assert_eq!(scene.answers(8080).by(), Some("web"));
    let adopted = told(&["repair", "--adopt"]);
    assert!(
        !adopted.contains("restored") && adopted.contains("of 2 attachments: it belonged"),
        "{adopted}"
    );
    scene.web.check().success();
    scene.other.check().success();
    assert_eq!(scene.answers(8080).by(), Some("web"));
}
