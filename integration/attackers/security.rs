//! Unusual surroundings of a command: descriptors, environment, limits, privileges, excessive
//! input. docs/security.md lists the attack that each test belongs to.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::stat::{Mode, mkdirat};
use serde_json::json;

use crate::stage::bare::{add, attachment, network, run, tcp};
use crate::stage::chain::{Attachment, Main, Network, PortMapping};
use crate::stage::netns::{nft, settle};
use crate::stage::node::{Node, POD_PORT};
use crate::stage::operator::under;
use crate::stage::plugin::{Call, Outcome, Plugin};
use crate::stage::probe::Probe;
use crate::stage::view::{STATE, assert_nothing_held, elements, records, snapshot, tree};

fn web(node: &Node) -> Attachment {
    attachment(node, &network("blue"), "web", 5).mapping([tcp(8080)])
}

/// Has bash run `script` in the place of the plugin, which is `$0`.
fn in_shell(call: Call, script: &str) -> Call {
    call.under(&["bash", "-c", script])
}

/// The first file of the store that is opened gets the number of a closed descriptor, unless the
/// plugin sees to it: the reply, or a warning, would be written into a record.
#[test]
fn closed_descriptors_are_not_taken_for_streams() {
    let node = Node::new();
    // Something to say on stderr as well.
    let odd = Network::with(network("blue"), "unheardOfKey", 1);
    let web = attachment(&node, &odd, "web", 5).mapping([tcp(8080)]);
    for closed in [">&-", "2>&-", ">&- 2>&-"] {
        for command in ["ADD", "CHECK", "STATUS", "DEL"] {
            let call = in_shell(web.plugin_call(command), &format!("exec \"$0\" {closed}"));
            let outcome = call.run();
            node.note(format!("{command} with {closed}: {outcome}"));
            assert!(outcome.status.success(), "{command} {closed}: {outcome}");
            let store = tree(Path::new(STATE));
            for foreign in ["sandbox\":", "unheardOfKey", "autoport: "] {
                assert!(!store.contains(foreign), "{command} {closed}: {store}");
            }
            if command == "ADD" {
                web.check().success();
            }
        }
        assert_nothing_held();
    }
    let all = in_shell(web.plugin_call("ADD"), "exec \"$0\" <&- >&- 2>&-").run();
    assert!(!all.status.success(), "there is no configuration: {all}");
    assert_nothing_held();
}

#[test]
fn inherited_descriptors_do_not_matter() {
    let node = Node::new();
    let web = web(&node);
    let many = "for fd in {10..700}; do eval \"exec $fd</dev/null\"; done; exec \"$0\"";
    for command in ["ADD", "CHECK", "DEL"] {
        in_shell(web.plugin_call(command), many).run().success();
    }
    assert_nothing_held();
    // Nothing that the plugin starts could inherit one of ours; it starts nothing.
    for command in ["ADD", "DEL"] {
        let trace = crate::stage::strace::trace(&web, command);
        let makes = ["openat(", "open(", "socket(", "accept4(", "epoll_create1(", "eventfd2("];
        let made = trace.iter().filter(|line| makes.iter().any(|call| line.contains(call)));
        let open: Vec<_> = made.filter(|line| !line.contains("CLOEXEC")).collect();
        // Rust's start fills closed standard descriptors that way, and only those.
        assert!(open.is_empty(), "{open:?}");
    }
}

#[test]
fn the_environment_does_not_matter() {
    let node = Node::new();
    let web = web(&node);
    fs::create_dir("/run/hostile").expect("/run is ours");
    fs::write("/run/hostile/lib.so", "no library").expect("/run is ours");
    let hostile = |call: Call| {
        let folder = "/run/hostile";
        let paths = ["LD_LIBRARY_PATH", "TMPDIR", "HOME", "GCONV_PATH", "LOCPATH", "NLSPATH"];
        let more = ["PATH", "HOSTALIASES", "TZDIR", "MALLOC_TRACE", "XDG_RUNTIME_DIR", "CNI_PATH"];
        let call = paths.iter().chain(&more).fold(call, |call, name| call.env(name, folder));
        let call = ["LD_PRELOAD", "LD_AUDIT"]
            .iter()
            .fold(call, |call, name| call.env(name, "/run/hostile/lib.so"));
        let odd = ["LANG", "LC_ALL", "LANGUAGE", "TZ", "RUST_BACKTRACE", "RUST_LOG", "IFS", "ENV"];
        let garbage = "../../\u{1b}[31m%n%s';\"$(reboot)\n";
        let call = odd.iter().fold(call, |call, name| call.env(name, garbage));
        // The longest that execve(2) takes.
        let long = "x".repeat((128 << 10) - 16);
        (0..8).fold(call, |call, number| call.env(&format!("LONG{number}"), &long))
    };
    for command in ["ADD", "CHECK", "DEL"] {
        let call = hostile(web.plugin_call(command));
        let strace = ["/usr/bin/strace", "-f", "-E", "LD_PRELOAD", "-o", "/run/strace"];
        call.clone().run().success();
        // strace is dynamic and would take the library itself.
        let traced = ["LD_PRELOAD", "LD_AUDIT"].iter().fold(call, |call, name| call.without(name));
        traced.under(&strace).run().success();
        let trace = fs::read_to_string("/run/strace").expect("strace wrote it");
        let looked = trace.lines().filter(|line| line.contains("/run/hostile"));
        let looked: Vec<_> = looked.filter(|line| !line.contains("execve(")).collect();
        assert!(looked.is_empty(), "{command}: {looked:?}");
    }
    // What is not UTF-8 is refused where it is a name, and passed over where it is not.
    let bytes = |name: &str| {
        let script = format!("export {name}=\"$(printf 'K8S_POD_NAME=\\377;x')\"; exec \"$0\"");
        in_shell(web.plugin_call("ADD"), &script).run()
    };
    for name in ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"] {
        assert!(bytes(name).failure(4).message().contains(name), "{name}");
    }
    bytes("CNI_ARGS").success();
    bytes("CNI_PATH").success();
    run(&web, "DEL").success();
    assert_nothing_held();
}

#[test]
fn the_working_directory_does_not_matter() {
    let node = Node::new();
    let web = web(&node);
    let gone = "mkdir /run/gone && cd /run/gone && rmdir /run/gone && exec \"$0\"";
    for script in [gone, "cd /proc/self/fd && exec \"$0\"", "cd /sys && exec \"$0\""] {
        for command in ["ADD", "CHECK", "DEL"] {
            in_shell(web.plugin_call(command), script).run().success();
        }
        assert_nothing_held();
    }
}

/// A limit can stop a command anywhere, in some cases by a signal. Otherwise the command reports it. A DEL
/// without limits cleans up.
#[test]
fn limits_stop_a_command_and_lose_nothing() {
    let node = Node::new();
    let (web, next) = (web(&node), attachment(&node, &network("blue"), "next", 6));
    let next = next.mapping([tcp(8080)]);
    let limits = (3..10)
        .map(|files| format!("--nofile={files}"))
        .chain([0, 1, 64, 200, 400].map(|bytes| format!("--fsize={bytes}")))
        .chain([1 << 19, 1 << 20, 3 << 20, 6 << 20].map(|bytes| format!("--as={bytes}")));
    let mut stopped = 0;
    for limit in limits {
        let core = "--core=0";
        let outcome = web.plugin_call("ADD").under(&["prlimit", core, &limit]).run();
        node.note(format!("ADD with {limit}: {outcome}"));
        if !outcome.status.success() {
            stopped += 1;
            let killed = outcome.status.code().is_none();
            assert!(killed || outcome.code().is_some() || limit.contains("--as"), "{outcome}");
        }
        run(&web, "DEL").success();
        assert_eq!((records(), elements()), (vec![], vec![]), "{limit}");
        // Index entries that lead nowhere hold nothing.
        add(&node, &next);
        next.check().success();
        run(&next, "DEL").success();
        assert_nothing_held();
    }
    assert!(stopped >= 8, "only {stopped} limits were too low");
}

/// Of equal keys the last counts, as in Go; nothing else of JSON's odd corners asks for a port.
#[test]
fn odd_json_means_one_thing() {
    let node = Node::new();
    let web = web(&node);
    let twice = web.config().to_string().replacen(
        "\"runtimeConfig\":",
        "\"runtimeConfig\":{\"portMappings\":[{\"hostPort\":22,\"containerPort\":22}]},\
         \"runtimeConfig\":",
        1,
    );
    web.plugin_call("ADD").stdin(twice).run().success();
    assert!(crate::stage::view::index().iter().all(|entry| entry.contains("/tcp/8080/")));
    let nest = ["[".repeat(200_000), "]".repeat(200_000)].concat();
    let config = web.config().to_string();
    let nested = |at: &str| {
        let deep = config.replacen(at, &format!("{at}\"x\":{nest},"), 1);
        assert_ne!(deep, config);
        web.plugin_call("ADD").stdin(deep).run()
    };
    // Nobody descends into what nobody asks for, be it echoed.
    for at in ["{", "\"prevResult\":{"] {
        let outcome = nested(at);
        assert!(outcome.status.success(), "{at}: {}", outcome.stderr);
    }
    run(&web, "DEL").success();
    assert_nothing_held();
}

#[test]
fn a_fifo_for_a_configuration_is_not_waited_for() {
    let node = Node::new();
    let web = web(&node);
    let file = Path::new("/etc/cni/autoport.json");
    nix::unistd::mkfifo(file, nix::sys::stat::Mode::S_IRUSR).expect("/etc/cni is ours");
    let outcome = run(&web, "ADD");
    outcome.failure(5);
    assert!(outcome.message().contains("/etc/cni/autoport.json"), "{outcome}");
    run(&web, "DEL").success();
    fs::remove_file(file).expect("ours");
    add(&node, &web);
}

/// Something in a pod's directory that not even root can delete: a mount.
#[test]
fn what_cannot_be_deleted_fails_neither_del_nor_gc() {
    let node = Node::new();
    let web = web(&node).of_pod("shop", "web", "uid");
    let other = attachment(&node, &network("blue"), "other", 6).mapping([tcp(8081)]);
    let mut config = web.config();
    config["runtimeConfig"] = json!({"portMappings": [tcp(0)]});
    web.plugin_call("ADD").stdin(config.to_string()).run().success();
    add(&node, &other);
    let busy = format!("{STATE}/pods/uid/a");
    fs::create_dir(&busy).expect("ours");
    let options: Option<&str> = None;
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("tmpfs"), &*busy, Some("tmpfs"), flags, options).expect("a mount");
    let outcome = run(&web, "DEL");
    assert!(outcome.status.success(), "{outcome}");
    assert!(outcome.stderr.contains("could not remove the published files"), "{outcome}");
    nft("delete element inet autoport ports4 { tcp . 8081 }");
    let outcome = Call::operator(&["gc"]).run();
    assert!(!outcome.status.success() && outcome.stderr.contains("cannot delete"), "{outcome}");
    other.check().success();
    let mut gc = other.config();
    gc["cni.dev/valid-attachments"] = json!([]);
    crate::stage::view::an_hour_passes();
    let outcome = other.plugin_call("GC").stdin(gc.to_string()).run();
    assert!(outcome.status.success(), "{outcome}");
    assert!(outcome.stderr.contains("could not remove everything"), "{outcome}");
    settle();
    assert_nothing_held();
    nix::mount::umount(&*busy).expect("ours");
    other.plugin_call("GC").stdin(gc.to_string()).run().success();
    assert!(!Path::new(&busy).exists());
}

/// Processes of the container that go on nesting directories while they are deleted.
#[test]
fn who_never_stops_writing_keeps_nobody_waiting() {
    const NEVER: Duration = Duration::from_secs(20);
    let node = Node::new();
    let web = web(&node).of_pod("shop", "web", "uid").mapping([tcp(0)]);
    let other = attachment(&node, &network("blue"), "other", 6).mapping([tcp(8081)]);
    add(&node, &web);
    let mounted = fs::File::open(format!("{STATE}/pods/uid")).expect("ours");
    let stopped = AtomicBool::new(false);
    let begun = Instant::now();
    // A deletion without a bound ends with this, and too late, instead of hanging the test.
    let write = |writer: usize| {
        let goes_on = || !stopped.load(Ordering::Relaxed) && begun.elapsed() < NEVER;
        for number in (0_u64..).take_while(|_| goes_on()) {
            let outer = format!("{writer}-{number}");
            for name in [&outer, &format!("{outer}/1"), &format!("{outer}/1/2")] {
                let _ = mkdirat(&mounted, name.as_str(), Mode::S_IRWXU);
            }
        }
    };
    thread::scope(|scope| {
        (0..2).for_each(|writer| drop(scope.spawn(move || write(writer))));
        let deleting = scope.spawn(|| run(&web, "DEL"));
        let added = run(&other, "ADD");
        let waited = begun.elapsed();
        let deleted = deleting.join().expect("the call was made");
        let took = begun.elapsed();
        stopped.store(true, Ordering::Relaxed);
        node.note(format!("{deleted}{added}"));
        let given_up = "entries are still being added";
        assert!(deleted.stderr.contains(given_up), "DEL was faster than the writers: {deleted}");
        deleted.success();
        added.success();
        // The deletion is given a second, without the lock.
        assert!(waited < Duration::from_secs(5), "ADD took {waited:?}");
        assert!(took < NEVER / 2, "DEL took {took:?}");
    });
    run(&other, "DEL").success();
    assert_nothing_held();
}

/// The runtime must not take half a reply for a success; its DEL undoes the rest.
#[test]
fn a_reply_that_cannot_be_written_is_a_failure() {
    let node = Node::new();
    let web = web(&node);
    let full = "mount -t tmpfs -o size=4096 full /mnt && head -c 4096 /dev/zero >/mnt/fill; \
                exec \"$0\" >/mnt/reply";
    for script in
        ["exec \"$0\" >/dev/full", &format!("exec unshare --mount bash -c '{full}' \"$0\"")]
    {
        let outcome = in_shell(web.plugin_call("ADD"), script).run();
        node.note(outcome.to_string());
        assert_eq!(outcome.status.code(), Some(1), "{script}: {outcome}");
        assert!(outcome.stderr.contains("cannot write the reply to stdout"), "{outcome}");
        assert!(outcome.stderr.contains("No space left"), "{outcome}");
        run(&web, "DEL").success();
        assert_nothing_held();
    }
}

/// Runs `call` with these capabilities and no others, whatever the executable would bring.
fn with_only(call: Call, capabilities: &str) -> Outcome {
    let set = format!("--bounding-set=-all{capabilities}");
    call.under(&["setpriv", "--no-new-privs", "--inh-caps=-all", &set]).run()
}

#[test]
fn one_capability_is_enough() {
    const NEEDED: &str = ",+net_admin";
    let node = Node::new();
    let blue = Network::new("blue", Main::Bridge, 1, Plugin::Autoport).speaking("1.1.0");
    let pod = node.pod("web");
    let mut web = pod.in_network(&blue).mapping(PortMapping::both(8080, POD_PORT, ""));
    web.attach_main();
    let with = |command: &str| with_only(web.plugin_call(command), NEEDED);
    with("STATUS").success();
    with("ADD").success();
    assert_eq!(Probe::tcp("127.0.0.1", 8080).ask().by(), Some("web"));
    assert_eq!(Probe::udp("127.0.0.1", 8080).ask().by(), Some("web"));
    with("CHECK").success();
    nft("delete table inet autoport");
    let cli = |command: &str| {
        let call =
            Call::new(Plugin::Autoport.path(), "").without("CNI_COMMAND").without("CNI_PATH");
        let set = format!("--bounding-set=-all{NEEDED}");
        let script = format!("exec setpriv --no-new-privs --inh-caps=-all {set} \"$0\" {command}");
        let outcome = in_shell(call, &script).run();
        assert!(outcome.status.success(), "{command}: {outcome}");
        outcome.stdout
    };
    cli("repair");
    assert_eq!(Probe::tcp("127.0.0.1", 8080).ask().by(), Some("web"));
    assert!(cli("list").contains("8080"));
    let mut config = web.config();
    config["cni.dev/valid-attachments"] = json!([{"containerID": "web", "ifname": "eth0"}]);
    with_only(web.plugin_call("GC").stdin(config.to_string()), NEEDED).success();
    with("CHECK").success();
    with("DEL").success();
    assert_nothing_held();
}

/// With all capabilities except that one, each command names it and changes nothing.
#[test]
fn without_the_capability_it_says_which() {
    const OTHERS: &str = ",+all,-net_admin";
    let node = Node::new();
    let holder = attachment(&node, &network("blue"), "holder", 6).mapping([tcp(8081)]);
    add(&node, &holder);
    let (web, before) = (web(&node), snapshot());
    for (call, code) in [
        (web.plugin_call("ADD"), 110),
        (web.plugin_call("STATUS"), 50),
        (holder.plugin_call("CHECK"), 110),
        (holder.plugin_call("DEL"), 110),
    ] {
        let outcome = with_only(call, OTHERS);
        node.note(outcome.to_string());
        outcome.failure(code);
        let details = outcome.reply.clone().unwrap_or_default()["details"].to_string();
        assert!(details.contains("CAP_NET_ADMIN"), "{outcome}");
        assert_eq!(snapshot(), before);
    }
    // A command line that changes the table says it as well; one that does not needs none.
    let mut gc = holder.config();
    gc["cni.dev/valid-attachments"] = json!([]);
    let outcome = with_only(holder.plugin_call("GC").stdin(gc.to_string()), OTHERS);
    node.note(outcome.to_string());
    outcome.failure(110);
    let details = outcome.reply.clone().unwrap_or_default()["details"].to_string();
    assert!(details.contains("CAP_NET_ADMIN"), "{outcome}");
    let set = format!("--bounding-set=-all{OTHERS}");
    let cli =
        |words: &[&str]| under(&["setpriv", "--no-new-privs", "--inh-caps=-all", &set], words);
    for words in [&["repair"][..], &["repair", "--adopt"], &["gc"]] {
        let (status, stdout, stderr) = cli(words);
        node.note(format!("{words:?}: {status} {stdout}{stderr}"));
        assert!(!status.success() && stderr.contains("CAP_NET_ADMIN"), "{words:?}: {stderr}");
    }
    assert_eq!(snapshot(), before);
    for words in [&["reserve", "daemon", "9100"][..], &["list"], &["release", "daemon"]] {
        let (status, stdout, stderr) = cli(words);
        assert!(status.success() && stderr.is_empty(), "{words:?}: {stdout}{stderr}");
    }
    assert_eq!(records(), ["blue:holder:eth0.json"]);
    // What asks for nothing needs nothing.
    let idle = attachment(&node, &network("blue"), "idle", 7);
    for command in ["VERSION", "ADD", "CHECK", "DEL"] {
        with_only(idle.plugin_call(command), "").success();
    }
    run(&holder, "DEL").success();
    assert_nothing_held();
}

/// A listening process can be identified only by a process that is permitted to trace it. This test's process
/// has every capability, so a plugin with only one of them is not.
#[test]
fn one_more_capability_names_the_process_that_listens() {
    let node = Node::new();
    let _listener = std::net::TcpListener::bind("0.0.0.0:8080").expect("a port of this node");
    let own = format!("process {} ", std::process::id());
    for (capabilities, named) in [(",+net_admin", false), (",+net_admin,+sys_ptrace", true)] {
        let outcome = with_only(web(&node).plugin_call("ADD"), capabilities);
        node.note(outcome.to_string());
        assert_eq!(outcome.failure(103).message().contains(&own), named, "{outcome}");
    }
}

/// A namespace that is given by a process in it can be examined only by a process that is permitted to
/// trace that one.
#[test]
fn one_more_capability_examines_the_namespace_of_a_process() {
    let node = Node::new();
    let mut process = std::process::Command::new("sleep").arg("60").spawn().expect("a process");
    let mut web = web(&node);
    web.netns = format!("/proc/{}/ns/net", process.id());
    add(&node, &web);
    for (capabilities, state) in [(",+net_admin", "unknown"), (",+net_admin,+sys_ptrace", "alive")]
    {
        let set = format!("--bounding-set=-all{capabilities}");
        let words = ["setpriv", "--no-new-privs", "--inh-caps=-all", &set];
        let (status, listed, stderr) = under(&words, &["list"]);
        assert!(status.success() && listed.contains(state), "{capabilities}: {listed}{stderr}");
    }
    process.kill().expect("ours");
    process.wait().expect("ours");
}
