//! `autoport repair --watch`: changes of the table by other programs are undone without a command
//! of the runtime, and nothing else causes any work.

mod agent;
mod cost;
mod damage;

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::fd::AsFd as _;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use autoport::kernel::{Events, Woken};
use fs2::FileExt;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::stage::bare::{add, attachment, network, run, tcp};
use crate::stage::chain::Attachment;
use crate::stage::netns::{PATH, full_ruleset, nft, ruleset, run as tool};
use crate::stage::node::Node;
use crate::stage::plugin::Plugin;
use crate::stage::view::{self, STATE};

const TABLE: &str = "inet autoport";

/// Longer than anything here takes on a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(20);

/// A watch in the calling thread's namespaces.
struct Watch {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Watch {
    fn start() -> Self {
        Self::start_under(&[])
    }

    /// Starts it by `words`, a program that runs another, and waits until it has had its first look.
    fn start_under(words: &[&str]) -> Self {
        let executable = Plugin::Autoport.path();
        let words = words.iter().map(|word| (*word).into()).chain([executable.into_os_string()]);
        Self::run(&words.chain(["repair".into(), "--watch".into()]).collect::<Vec<_>>())
    }

    /// The node agent, for a runtime that does not run: the one that was built with the plugin, or another.
    fn of_agent() -> Self {
        Self::of_agent_with(&[])
    }

    fn of_standby() -> Self {
        Self::of_agent_with(&["--standby"])
    }

    fn of_agent_with(options: &[&str]) -> Self {
        let built = || Plugin::Autoport.path().with_file_name("autoport-agent");
        let agent = env::var_os("AUTOPORT_AGENT").map_or_else(built, PathBuf::from);
        assert!(agent.exists(), "{}: cargo build --package autoport-agent", agent.display());
        let words = [agent.into_os_string(), "--socket".into(), "/run/none.sock".into()];
        Self::run(&words.into_iter().chain(options.iter().map(Into::into)).collect::<Vec<_>>())
    }

    fn run(words: &[OsString]) -> Self {
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .env_clear()
            .env("PATH", PATH)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("it starts");
        let said = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().expect("stderr was asked to be a pipe"));
        let heard = Arc::clone(&said);
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut said = heard.lock().unwrap_or_else(PoisonError::into_inner);
                said.push_str(&(line + "\n"));
            }
        });
        let watch = Self { child, said };
        watch.wait_for("its first look", || watch.said().contains("watching table"));
        watch
    }

    fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn wait_for(&self, what: &str, mut reached: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !reached() {
            let said = self.said();
            assert!(begun.elapsed() < PATIENCE, "waited for {what}; the watch said:\n{said}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, signal).expect("the watch is running");
    }

    /// Ends it as systemd does, and returns its output.
    fn stop(mut self) -> String {
        self.signal(Signal::SIGTERM);
        let status = self.child.wait().expect("a child can be waited for");
        assert!(status.success(), "{status}: {}", self.said());
        self.said()
    }

    /// A line of `/proc/PID/status`.
    fn status(&self, field: &str) -> String {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let text = text.expect("the watch is running");
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("{field} in {text}")).trim().to_owned()
    }

    /// How long its threads have had a processor.
    fn processor_time(&self) -> Duration {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let threads = threads.expect("the watch is running").flatten();
        let times = threads.filter_map(|thread| {
            let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse().ok()
        });
        times.map(Duration::from_nanos).sum()
    }

    /// Ticks of the processor, in user mode and in the kernel's.
    fn ticks(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let text = text.expect("the watch is running");
        let fields: Vec<_> = text.rsplit(')').next().expect("it").split_whitespace().collect();
        [fields[11], fields[12]].iter().map(|field| field.parse::<u64>().expect("a number")).sum()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // With the program that it may run under: strace would leave it behind, and it would listen for ever.
        let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Runs a watch so that its looks are counted.
const LOOKS: [&str; 6] = ["/usr/bin/strace", "-f", "-e", "trace=flock", "-o", "/run/strace"];

fn looks() -> usize {
    let text = fs::read_to_string("/run/strace").unwrap_or_default();
    text.lines().filter(|line| line.contains("flock(")).count()
}

/// The lock shows whether it looks: it says so when it has to wait for it.
#[test]
fn what_does_not_concern_it_is_not_looked_at() {
    let node = Node::new();
    add(&node, &attachment(&node, &network("blue"), "web", 5).mapping([tcp(8080)]));
    let watch = Watch::start();
    let lock = File::open(format!("{STATE}/lock")).expect("the lock");
    lock.lock_exclusive().expect("nobody has it");
    nft("table inet filter { chain c { type filter hook input priority 0; drop; }; }");
    nft("delete table inet filter\nadd table ip autoport");
    // What `firewall-cmd --reload` of firewalld 1.3.3 does, as `nft monitor` saw it.
    let own = "chain nat_PREROUTING { type nat hook prerouting priority -90; }";
    for tables in [
        "add table inet firewalld_policy_drop\n",
        &format!("delete table inet firewalld\ntable inet firewalld {{ {own}; }}\n"),
        "delete table inet firewalld_policy_drop\n",
    ] {
        nft(&format!("add table inet firewalld\n{tables}"));
    }
    thread::sleep(Duration::from_millis(500));
    assert!(!watch.said().contains("waiting"), "{}", watch.said());
    nft(&format!("flush chain {TABLE} prerouting"));
    watch.wait_for("its look", || watch.said().contains("waiting"));
    FileExt::unlock(&lock).expect("it was locked");
    watch.wait_for("the chain", || watch.said().contains("built table"));
}

/// ADD and DEL change the table while they hold the lock; the watch must neither undo nor repeat it.
#[test]
fn the_watch_leaves_our_own_changes_alone() {
    let node = Node::new();
    let watch = Watch::start();
    let pods: Vec<_> = (0..24_u16)
        .map(|number| {
            let pod = attachment(&node, &network("blue"), &format!("pod{number}"), 5 + number);
            pod.mapping([tcp(8000 + number), tcp(9000 + number)])
        })
        .collect();
    for pod in &pods {
        add(&node, pod);
        pod.check().success();
    }
    for pod in &pods[..12] {
        run(pod, "DEL").success();
    }
    assert_eq!(view::elements().len(), 12 * 8);
    let said = watch.said();
    assert!(!said.contains("built") && !said.contains("mended"), "{said}");
    // Another program flushes the table again and again while the watch repairs it.
    for (number, pod) in pods[..12].iter().enumerate() {
        nft("flush ruleset");
        add(&node, pod);
        pod.check().success();
        if number % 2 == 0 {
            nft("flush ruleset");
        }
        run(pod, "DEL").success();
    }
    watch.wait_for("the others", || view::elements().len() == 12 * 8);
    for pod in &pods[12..] {
        pod.check().success();
    }
    let said = watch.stop();
    assert!(!said.contains("mended") && !said.contains("not restored"), "{said}");
}

/// The watch knows a writer that uses this library by its socket, not by its name: it has no look, and
/// its pause is no longer when something is really damaged.
#[test]
fn a_program_of_another_name_that_uses_the_library_does_not_wake_it() {
    let node = Node::new();
    let web = |number: u16| {
        let name = format!("web{number}");
        attachment(&node, &network("blue"), &name, 5 + number).mapping([tcp(8080 + number)])
    };
    add(&node, &web(0));
    let watch = Watch::start_under(&LOOKS);
    // A copy would be busy while a child of another test has its descriptor.
    symlink(Plugin::Autoport.path(), "/run/node-agent").expect("/run is ours");
    let as_agent = |attachment: &Attachment, command: &str| {
        let call = attachment.plugin_call(command);
        call.under(&["bash", "-c", "exec /run/node-agent"]).run().success();
    };
    let before = looks();
    for number in 1..=12 {
        as_agent(&web(number), "ADD");
        as_agent(&web(number), "DEL");
    }
    thread::sleep(Duration::from_millis(200));
    assert_eq!(looks(), before, "{}", watch.said());
    let begun = Instant::now();
    nft(&format!("delete table {TABLE}"));
    watch.wait_for("the table", || web(0).check().status.success());
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    assert!(looks() > before);
}

#[test]
fn it_ends_when_it_is_told_to() {
    let _node = Node::new();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut watch = Watch::start();
        watch.signal(signal);
        assert!(watch.child.wait().expect("a child can be waited for").success(), "{signal}");
    }
}

#[test]
fn it_starts_before_the_store_and_outlives_it() {
    let node = Node::new();
    let watch = Watch::start();
    let built = |times| watch.said().matches("built table").count() == times;
    let web = attachment(&node, &network("blue"), "web", 5).mapping([tcp(8080)]);
    for times in [1, 2] {
        nft("flush ruleset");
        add(&node, &web);
        nft("flush ruleset");
        watch.wait_for("the table", || built(times));
        web.check().success();
        fs::remove_dir_all(STATE).expect("the store is ours");
        nft("flush ruleset");
    }
    thread::sleep(Duration::from_millis(300));
    assert!(view::table().is_empty(), "nothing is known of it any more");
    assert!(fs::metadata(STATE).is_err(), "the watch makes no store");
    let said = watch.stop();
    assert!(!said.contains("not restored"), "{said}");
}

#[test]
fn what_it_must_not_touch_it_names_once() {
    let node = Node::new();
    let web = attachment(&node, &network("blue"), "web", 5).mapping([tcp(8080)]);
    add(&node, &web);
    let listing = full_ruleset();
    let newer = listing.replace("layout 4", "layout 5");
    let (_, instance) = listing.split_once("instance ").expect("the table has a comment");
    let other = listing.replace(&instance[..32], "ffffffffffffffffffffffffffffffff");
    for (table, complaint) in [(newer, "layout 5"), (other, "ffffffff")] {
        nft(&format!("flush ruleset\n{table}"));
        let watch = Watch::start();
        for number in 1..=3 {
            nft(&format!("add rule {TABLE} guard tcp dport {number}"));
            thread::sleep(Duration::from_millis(150));
        }
        assert_eq!(ruleset().matches("tcp dport").count(), 3, "{}", ruleset());
        let said = watch.stop();
        assert_eq!(said.matches("not restored").count(), 1, "{said}");
        assert!(said.contains(complaint), "{said}");
    }
}

/// One of its own network namespace's, left over on a node that fakes another.
#[test]
fn a_store_of_another_namespace_is_left_alone() {
    let node = Node::new();
    add(&node, &attachment(&node, &network("blue"), "web", 5).mapping([tcp(8080)]));
    node.client.run(|| {
        let watch = Watch::start();
        nft(&format!("table {TABLE} {{ }}"));
        thread::sleep(Duration::from_millis(300));
        assert!(watch.stop().contains("not restored"));
        assert!(!ruleset().contains("chain"));
    });
}

#[test]
fn a_busy_lock_is_tried_again() {
    let node = Node::new();
    fs::write("/etc/cni/autoport.json", r#"{"lockTimeout": 1}"#).expect("/etc/cni is ours");
    add(&node, &attachment(&node, &network("blue"), "web", 5).mapping([tcp(8080)]));
    let watch = Watch::start();
    let lock = File::open(format!("{STATE}/lock")).expect("the lock");
    lock.lock_exclusive().expect("nobody has it");
    nft("flush ruleset");
    watch.wait_for("giving up", || watch.said().contains("not restored"));
    assert!(view::table().is_empty());
    FileExt::unlock(&lock).expect("it was locked");
    watch.wait_for("the table", || watch.said().contains("built table"));
}

/// As the unit in `deploy/` runs it: no capability but one, and nothing it could write to.
#[test]
fn it_needs_one_capability_and_nothing_to_write_to() {
    let node = Node::new();
    let web = attachment(&node, &network("blue"), "web", 5).mapping([tcp(8080)]);
    add(&node, &web);
    let store = view::tree(STATE.as_ref());
    let script = "mount --bind / / && mount -o remount,bind,ro / && mount --bind /run /run && \
                  mount -o remount,bind,ro /run && exec setpriv --no-new-privs \
                  --inh-caps=-all,+net_admin --bounding-set=-all,+net_admin \"$0\" \"$@\"";
    let watch = Watch::start_under(&["unshare", "--mount", "sh", "-c", script]);
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(watch.status(set), "0000000000001000", "{set}: CAP_NET_ADMIN is bit 12");
    }
    nft("flush ruleset");
    watch.wait_for("the table", || watch.said().contains("built table"));
    web.check().success();
    assert_eq!(view::tree(STATE.as_ref()), store, "it writes nothing");
}

/// While it does not run, more happens on the node than it can be told: what was dropped is nothing
/// that it could miss.
#[test]
fn what_it_was_not_told_is_found_all_the_same() {
    let node = Node::new();
    let web = attachment(&node, &network("blue"), "web", 5).mapping([tcp(8080)]);
    add(&node, &web);
    let watch = Watch::start();
    watch.signal(Signal::SIGSTOP);
    watch.wait_for("its sleep", || watch.status("State").starts_with('T'));
    nft("add table inet other\nadd set inet other s { type ipv4_addr . inet_service; }");
    let mut rounds = 0;
    while dropped() == 0 {
        let ports: Vec<_> = (1..10_000).map(|port| format!("10.9.0.{rounds} . {port}")).collect();
        nft(&format!("add element inet other s {{ {} }}", ports.join(", ")));
        rounds += 1;
        assert!(rounds < 100, "a megabyte of news has room for less");
    }
    let before = dropped();
    nft(&format!("delete table {TABLE}"));
    assert!(dropped() > before, "this is news that it never gets");
    watch.signal(Signal::SIGCONT);
    watch.wait_for("the table", || watch.said().contains("built table"));
    web.check().success();
}

#[test]
fn what_changes_while_nothing_is_told_is_noticed() {
    let _node = Node::new();
    nft(&format!("add table {TABLE}"));
    let (never, _writer) = std::io::pipe().expect("a pipe");
    let mut events = Events::open().expect("netlink works");
    let woken = |events: &mut Events| {
        events.wait(never.as_fd(), Some(Duration::from_millis(50))).expect("netlink works")
    };
    nft(&format!("add chain {TABLE} before"));
    events.without(|| ((), None)).expect("netlink works");
    assert_eq!(woken(&mut events), Woken::Elapsed, "the look came after the change");
    events.without(|| (nft(&format!("add chain {TABLE} meanwhile")), None)).expect("netlink works");
    assert_eq!([woken(&mut events), woken(&mut events)], [Woken::Changed, Woken::Elapsed]);
    nft(&format!("add chain {TABLE} after"));
    assert_eq!([woken(&mut events), woken(&mut events)], [Woken::Changed, Woken::Elapsed]);
}

/// The number of table events (group 7) that were dropped because the socket was full.
fn dropped() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/netlink").expect("a list of sockets");
    let sockets = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let listeners = sockets.filter(|fields| fields[1] == "12" && fields[3] == "00000040");
    listeners.map(|fields| fields[8].parse::<u64>().expect("a number")).sum()
}

#[test]
fn without_its_capability_it_says_what_is_missing() {
    let node = Node::new();
    add(&node, &attachment(&node, &network("blue"), "web", 5).mapping([tcp(8080)]));
    let mut command = Command::new("setpriv");
    command.args(["--inh-caps=-all", "--bounding-set=-all"]).arg(Plugin::Autoport.path());
    let (ok, text) = tool(command.args(["repair", "--watch"]), "");
    assert!(!ok && text.contains("CAP_NET_ADMIN"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}
