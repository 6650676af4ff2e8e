//! `autoport repair --watch`: what other programs do to the table is undone without any command of
//! the runtime, and nothing is done otherwise.

#![expect(clippy::print_stdout, reason = "a run with --nocapture shows its figures")]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use autoport::event::Silent;
use autoport::kernel::{Events, Extent, Nft, Woken};
use autoport::model::{Protocol, Record};
use autoport::store::Store;
use fs2::FileExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::damage::{Scene, command, elements, nft_json};
use crate::stage::bare::{add, attachment, network, run, tcp};
use crate::stage::chain::{Attachment, PortMapping};
use crate::stage::netns::{
    PATH, elsewhere, full_ruleset, in_one_transaction, nft, ruleset, run as tool, settle,
};
use crate::stage::node::{CLIENT, FIRST, Node, Pod, address};
use crate::stage::plugin::Plugin;
use crate::stage::probe::{Answer, Probe};
use crate::stage::records::{map, policy, record, ruleset as table_of};
use crate::stage::talk::{self, Talk};
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
        let mut words = words.collect::<Vec<_>>().into_iter();
        let mut child = Command::new(words.next().expect("there is the executable"))
            .args(words)
            .args(["repair", "--watch"])
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

    /// Ends it as systemd does, and gives what it has said.
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

    /// How long it has had a processor.
    fn processor_time(&self) -> Duration {
        let text = fs::read_to_string(format!("/proc/{}/schedstat", self.child.id()));
        let text = text.expect("the watch is running");
        let nanoseconds = text.split(' ').next().and_then(|number| number.parse().ok());
        Duration::from_nanos(nanoseconds.expect("a number"))
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
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What others do to the table of [`Scene`], with `net` and `from` the chains of its network.
fn damages() -> Vec<(String, String)> {
    let listing = ruleset();
    let chain = |prefix: &str| {
        let rest = listing.split(&format!("chain {prefix}_")).nth(1).expect("the network's chain");
        format!("{prefix}_{}", &rest[..16])
    };
    let (net, from) = (chain("net"), chain("from"));
    let held = |set: &str| net.replace("net", set);
    let mut damages = vec![
        ("the ruleset is flushed".to_owned(), "flush ruleset".to_owned()),
        ("the table is deleted".into(), format!("delete table {TABLE}")),
        ("the table is flushed".into(), format!("flush table {TABLE}")),
        ("the table sleeps".into(), format!("add table {TABLE} {{ flags dormant; }}")),
        ("an empty table".into(), format!("delete table {TABLE}\ntable {TABLE} {{ }}")),
        (
            "a rule exchanged".into(),
            format!(
                "flush chain {TABLE} prerouting\n\
                 add rule {TABLE} prerouting fib saddr type local jump hostports"
            ),
        ),
        (
            "a rule of the network exchanged".into(),
            format!("flush chain {TABLE} {from}\nadd rule {TABLE} {from} drop\n").repeat(1)
                + &format!("add rule {TABLE} {from} drop\n").repeat(4),
        ),
        ("a foreign rule".into(), format!("insert rule {TABLE} {net} drop")),
        (
            "a foreign base chain".into(),
            format!(
                "add chain {TABLE} thief {{ type nat hook prerouting priority -150; }}\n\
                 add rule {TABLE} thief tcp dport 8080 redirect to :1"
            ),
        ),
        ("another policy".into(), format!("add chain {TABLE} prerouting {{ policy drop; }}")),
        ("a chain gone".into(), format!("flush chain {TABLE} output\ndelete chain {TABLE} output")),
        (
            "an element with another protocol".into(),
            format!("add element {TABLE} {} {{ udplite . 8080 }}", held("held4")),
        ),
        ("a catch-all".into(), format!("add element {TABLE} ports6 {{ * : fd00:1::9 . 80 }}")),
        (
            "an element that will expire".into(),
            format!(
                "delete element {TABLE} ports4 {{ tcp . 8080 : {target} }}\n\
                 add element {TABLE} ports4 {{ tcp . 8080 timeout 1h : {target} }}",
                target = "10.1.0.2 . 80"
            ),
        ),
        (
            "an element of another name".into(),
            format!(
                "delete element {TABLE} ports4 {{ tcp . 8080 : {target} }}\n\
                 add element {TABLE} ports4 {{ tcp . 8080 comment \"evil\" : {target} }}",
                target = "10.1.0.2 . 80"
            ),
        ),
    ];
    for (element, sets) in [
        ("tcp . 9999 : 10.1.0.9 . 80", &["ports4", "counted_ports4"][..]),
        ("udp . 9999 timeout 1h : fd00:1::9 . 80", &["ports6", "counted_ports6"]),
        ("192.0.2.1 . tcp . 8080 : 10.1.0.9 . 80", &["host_ports4", "counted_host_ports4"]),
        ("2001:db8::1 . sctp . 9 : fd00:1::9 . 80", &["host_ports6", "counted_host_ports6"]),
        ("tcp . 9999", &[&held("held4"), &held("held6")]),
        ("192.0.2.1 . tcp . 8080", &[&held("host_held4")]),
        ("2001:db8::1 . tcp . 8080", &[&held("host_held6")]),
        ("10.1.0.9 . tcp . 8080", &["hairpins4"]),
        ("fd00:1::9 . tcp . 8080", &["hairpins6"]),
    ] {
        for set in sets {
            let script = format!("add element {TABLE} {set} {{ {element} }}");
            damages.push((format!("a foreign element in {set}"), script));
        }
    }
    damages
}

/// The scene with one more pod, and a connection through its host port that has to outlive it all.
struct Talking {
    scene: Scene,
    _pod: Pod,
    talk: Talk,
}

impl Talking {
    fn new() -> Self {
        let mut scene = Scene::new();
        let pod = scene.node.pod("talker");
        let own = PortMapping { container_port: talk::POD_PORT, ..tcp(8085) };
        let mut own = pod.in_network(&scene.attachment.network).mapping([own]);
        scene.node.add(&mut own);
        let talk = Talk::begin(&scene.node, &pod, 8085);
        scene.intact = ruleset();
        Self { scene, _pod: pod, talk }
    }

    /// Insists that all is as it was: for new connections, for the one that is there, for CHECK.
    fn assert_works(&mut self, what: &str) {
        // What was removed goes on translating until the kernel's next timer tick.
        settle();
        for address in FIRST {
            let answer = self.scene.node.client_asks(&Probe::tcp(address, 8080));
            assert_eq!(answer.by(), Some("web"), "{what}: {address}");
        }
        self.talk.goes_on(what);
        let outcome = self.scene.attachment.check();
        assert!(outcome.status.success(), "{what}: {outcome}");
        assert_eq!(ruleset(), self.scene.intact, "{what}");
    }
}

/// The watch alone, each time a new one: it slows down when it is kept busy.
#[test]
fn the_watch_undoes_every_damage() {
    let mut talking = Talking::new();
    for (what, damage) in damages() {
        let watch = Watch::start();
        nft(&damage);
        watch.wait_for(&what, || {
            let said = watch.said();
            said.contains("built table") || said.contains("mended table")
        });
        talking.assert_works(&what);
        let said = watch.stop();
        assert_eq!(said.matches(" table inet autoport").count(), 2, "{what}: {said}");
        talking.scene.node.note(format!("{what}: {said}"));
    }
    for (set, key, data) in elements() {
        let watch = Watch::start();
        lose(&set, &key, data.as_ref());
        watch.wait_for("the element", || watch.said().contains("mended table"));
        let said = watch.stop();
        assert!(said.contains("is missing") && !said.contains("built"), "{set} {key}: {said}");
        assert_eq!(ruleset(), talking.scene.intact, "{set} {key}: {said}");
    }
}

/// Deletes one element.
fn lose(set: &Value, key: &Value, data: Option<&Value>) {
    let whole = data.map_or_else(|| key.clone(), |data| json!([key, data]));
    nft_json(&json!([command("delete", set, &whole)]));
}

/// GC and repair find the same, since they look at the same.
#[test]
fn gc_and_repair_undo_every_damage() {
    let mut talking = Talking::new();
    let attachment = talking.scene.attachment.clone();
    let gc = || {
        let mut config = attachment.config();
        config["cniVersion"] = json!("1.1.0");
        let valid = |id: &str| json!({"containerID": id, "ifname": "eth0"});
        config["cni.dev/valid-attachments"] = json!([valid("web"), valid("talker")]);
        attachment.plugin_call("GC").stdin(config.to_string()).run()
    };
    for (what, damage) in damages() {
        nft(&damage);
        let outcome = gc();
        assert!(outcome.status.success(), "GC after {what}: {outcome}");
        talking.assert_works(&format!("GC after {what}: {outcome}"));
        nft(&damage);
        let (ok, text) = repair();
        assert!(ok, "repair after {what}: {text}");
        talking.assert_works(&format!("repair after {what}: {text}"));
    }
    for (set, key, data) in elements() {
        lose(&set, &key, data.as_ref());
        let outcome = gc();
        assert!(outcome.stderr.contains("is missing"), "{set} {key}: {outcome}");
        assert!(!outcome.stderr.contains("built"), "one element is no reason: {outcome}");
        assert_eq!(ruleset(), talking.scene.intact, "{set} {key}: {outcome}");
        lose(&set, &key, data.as_ref());
        let (ok, text) = repair();
        let told = text.contains("1 elements added, 0 removed") && text.contains("is missing");
        assert!(ok && told, "{set} {key}: {text}");
        assert_eq!(ruleset(), talking.scene.intact, "{set} {key}: {text}");
    }
}

fn repair() -> (bool, String) {
    tool(Command::new(Plugin::Autoport.path()).arg("repair").env_clear(), "")
}

/// Where the node goes on translating, as it does beside kube-proxy, nothing that is on its way is
/// lost with the table, nor when it is put in its place.
#[test]
fn a_transfer_goes_on_while_the_table_is_lost_and_restored() {
    const LENGTH: usize = 64 << 20;
    let scene = Scene::new();
    nft("table ip kube-proxy {
           chain nat-postrouting {
             type nat hook postrouting priority srcnat
             meta mark & 0x4000 == 0x4000 masquerade
           }
         }");
    let pod = scene.node.pod("sink");
    let listener = pod.netns.run(|| TcpListener::bind("[::]:81").expect("a free port"));
    let sink = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let (mut buffer, mut total, mut right) = (vec![0; 1 << 16], 0_usize, true);
        loop {
            let read = stream.read(&mut buffer).expect("the connection works");
            if read == 0 {
                break;
            }
            right &= buffer[..read].iter().zip(total..).all(|(byte, at)| *byte == (at % 251) as u8);
            total += read;
        }
        stream.write_all(&[u8::from(right)]).expect("the connection works");
        total
    });
    let mut own = pod
        .in_network(&scene.attachment.network)
        .mapping([PortMapping { container_port: 81, ..tcp(8085) }]);
    scene.node.add(&mut own);
    let watch = Watch::start();
    let to = (address(FIRST[0]), 8085);
    let mut stream = scene.node.client.run(|| TcpStream::connect(to).expect("a connection"));
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    let damages = ["delete table", "flush table"].map(|verb| format!("{verb} {TABLE}"));
    let mut sent = 0;
    for (damage, part) in damages.iter().cycle().zip(1..=4) {
        nft(damage);
        let upto = LENGTH * part / 4;
        while sent < upto {
            let bytes: Vec<u8> =
                (sent..upto.min(sent + (1 << 16))).map(|at| (at % 251) as u8).collect();
            stream.write_all(&bytes).expect("the connection is open");
            sent += bytes.len();
        }
        watch.wait_for("the table", || watch.said().matches("built table").count() == part);
        own.check().success();
    }
    stream.shutdown(std::net::Shutdown::Write).expect("the connection is open");
    let mut right = [0];
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.read_exact(&mut right).expect("the connection works");
    assert_eq!((right, sink.join().expect("no panic")), ([1], LENGTH));
}

/// A UDP client that began, or went on, while there was no translation must not stay in that flow.
#[test]
fn a_flow_that_began_in_the_gap_does_not_outlive_it() {
    let scene = Scene::new();
    let other = attachment(&scene.node, &network("green"), "other", 200).mapping([tcp(9090)]);
    for (who, source) in ["watch", "ADD", "DEL", "repair"].into_iter().zip(5555..) {
        let probe = Probe::udp(FIRST[0], 8080).from(CLIENT[0], source);
        let ask = || scene.node.client_asks(&probe);
        if who == "DEL" {
            add(&scene.node, &other);
        }
        nft(&format!("flush chain {TABLE} hostports"));
        assert_eq!(ask(), Answer::Refused, "nobody translates");
        match who {
            "watch" => drop(Watch::start()),
            "repair" => assert!(repair().0),
            command => drop(run(&other, command).success()),
        }
        assert_eq!(ask().by(), Some("web"), "after {who}");
    }
}

#[test]
fn a_watch_that_waits_takes_no_time() {
    let node = Node::new();
    let web = attachment(&node, &network("blue"), "web", 5).mapping([tcp(8080)]);
    add(&node, &web);
    let watch = Watch::start();
    nft("flush ruleset");
    watch.wait_for("the table", || watch.said().contains("built table"));
    // The end of the burst, and of what its own transaction told it.
    thread::sleep(Duration::from_millis(500));
    let spent = || (watch.ticks(), watch.status("voluntary_ctxt_switches"));
    let before = spent();
    thread::sleep(Duration::from_secs(3));
    assert_eq!(spent(), before, "ticks and switches");
    assert_eq!(
        watch.status("nonvoluntary_ctxt_switches"),
        watch.status("nonvoluntary_ctxt_switches")
    );
    println!("an idle watch has {} in memory", watch.status("VmRSS"));
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
    nft(&format!("flush chain {TABLE} hostports"));
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
    // Now somebody flushes in the middle of it, again and again.
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
    let looks = || {
        let text = fs::read_to_string("/run/strace").unwrap_or_default();
        text.lines().filter(|line| line.contains("flock(")).count()
    };
    let strace = ["/usr/bin/strace", "-f", "-e", "trace=flock", "-o", "/run/strace"];
    let watch = Watch::start_under(&strace);
    fs::copy(Plugin::Autoport.path(), "/run/node-agent").expect("/run is ours");
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
    let newer = listing.replace("layout 2", "layout 3");
    let (_, instance) = listing.split_once("instance ").expect("the table has a comment");
    let other = listing.replace(&instance[..32], "ffffffffffffffffffffffffffffffff");
    for (table, complaint) in [(newer, "layout 3"), (other, "ffffffff")] {
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

/// A tool that undoes it again and again gets an answer, but ever more rarely.
#[test]
fn a_fight_is_bounded() {
    let node = Node::new();
    let web = attachment(&node, &network("blue"), "web", 5).mapping([tcp(8080)]);
    add(&node, &web);
    let watch = Watch::start();
    let begun = Instant::now();
    let mut flushes = 0;
    while begun.elapsed() < Duration::from_secs(4) {
        nft("flush ruleset");
        flushes += 1;
        thread::sleep(Duration::from_millis(5));
    }
    let built = watch.said().matches("built table").count();
    // Pauses of 25, 50, ... 400, 800, 800 ms: ten looks in 4 s, and what the first look was; with a
    // pause of a second there would be eight.
    assert!((8..=12).contains(&built), "{built} restored of {flushes}: {}", watch.said());
    watch.wait_for("the last word", || web.check().status.success());
    println!("{flushes} flushes in 4 s: {built} times restored");
}

/// What Debian's /etc/nftables.conf loads.
const DEBIANS: &str = "table inet filter {
\tchain input {
\t\ttype filter hook input priority filter; policy accept;
\t}

\tchain forward {
\t\ttype filter hook forward priority filter; policy accept;
\t}

\tchain output {
\t\ttype filter hook output priority filter; policy accept;
\t}
}
";

/// The lines of Debian's `nftables.service` for one key.
fn unit_lines(key: &str) -> Vec<String> {
    let unit = fs::read_to_string("/lib/systemd/system/nftables.service");
    let unit = unit.expect("Debian's package nftables has it");
    let lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let lines: Vec<String> = lines.map(str::to_owned).collect();
    assert!(!lines.is_empty(), "{key} in {unit}");
    lines
}

#[test]
fn debians_firewall_service_is_restarted_and_reloaded() {
    let mut talking = Talking::new();
    for keys in [&["ExecStop", "ExecStart"][..], &["ExecReload"], &["ExecStop"]] {
        let watch = Watch::start();
        for line in keys.iter().flat_map(|key| unit_lines(key)) {
            let (ok, text) = tool(Command::new("sh").args(["-c", &line]), "");
            assert!(ok, "{line}: {text}");
        }
        let ours = || ruleset().replace(DEBIANS, "");
        watch.wait_for("the table", || ours() == talking.scene.intact);
        assert_eq!(ruleset().contains(DEBIANS), keys != ["ExecStop"], "{}", ruleset());
        nft("add table inet filter\ndelete table inet filter");
        talking.assert_works(&format!("{keys:?}"));
        watch.stop();
    }
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

/// How much news of tables (group 7) was dropped because nobody read what was there.
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

/// How long it takes from the moment at which the kernel tells of the flush to that at which the
/// last element is there again: the median of several.
#[test]
fn the_time_to_restore() {
    for (records, each) in [(1, 1), (20, 50), (1_000, 1), (100, 50), (5_000, 1)] {
        let records = in_one_transaction(records).max(1);
        elsewhere(|| time_to_restore(records, each));
    }
}

fn time_to_restore(records: u16, each: u16) {
    // The store is of the namespace of the process that makes it, and this is only a thread.
    let begin = ["reserve", "anything", "1"];
    assert!(tool(Command::new(Plugin::Autoport.path()).args(begin).env_clear(), "").0);
    let locked = Store::at(STATE.as_ref()).lock(PATIENCE, &mut Silent).expect("a store");
    let instance = locked.instance().clone();
    let mut last = None;
    for number in 0..records {
        let [high, low] = number.to_be_bytes();
        let addresses = [format!("10.1.{high}.{low}/16"), format!("fd00:1::{number:x}/64")];
        let bare = record(&format!("pod{number}"), policy(), &addresses.each_ref().map(|a| &**a));
        let first = 10_000 + number * each;
        let ports = first..first + each;
        let full: Record = ports.fold(bare, |record, port| map(record, Protocol::Tcp, "*", port));
        let full = Record { boot_id: instance.boot_id.clone(), ..full };
        locked.save(&full).expect("a record");
        last = table_of(&[&full]).elements.into_keys().next_back();
    }
    drop(locked);
    let place = last.expect("there is a record");
    let mut nft = Nft::open(&instance.id).expect("netlink works");
    let never = TcpListener::bind((IpAddr::from([127, 0, 0, 1]), 0)).expect("a free port");
    let (mut times, mut spent, mut memory) = (Vec::new(), Vec::new(), String::new());
    for _ in 0..5 {
        // A new one each time: the pauses of one that is kept busy are another matter. As nice as
        // the unit makes it, where that is allowed.
        let watch = Watch::start_under(&["nice", "-n", "-10"]);
        // Until the pause after its first look is over.
        thread::sleep(Duration::from_millis(100));
        let mut events = Events::open().expect("netlink works");
        let before = watch.processor_time();
        let flushed = thread::scope(|scope| {
            scope.spawn(|| crate::stage::netns::nft("flush ruleset"));
            let woken = events.wait(never.as_fd(), Some(PATIENCE)).expect("netlink works");
            assert_eq!(woken, Woken::Changed);
            Instant::now()
        });
        watch.wait_for("the last element", || {
            let look = nft.look(Extent::Places(&[place])).expect("netlink works");
            look.elements.contains_key(&place)
        });
        times.push(flushed.elapsed());
        spent.push(watch.processor_time().saturating_sub(before));
        memory = watch.status("VmRSS");
    }
    times.sort_unstable();
    spent.sort_unstable();
    let (median, spent) = (times[times.len() / 2], spent[spent.len() / 2]);
    println!(
        "{} mappings in {records} records: restored {median:.1?} after the flush, with {spent:.1?} \
         of processor time (medians; {times:.1?}); the watch has {memory}",
        records * each,
    );
    // The time on the clock depends on what else this machine does; this does not, and a build
    // without optimisation takes ten times as long.
    assert!(spent < Duration::from_secs(1), "{spent:?}");
}
