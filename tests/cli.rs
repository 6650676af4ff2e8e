//! The operator's command line: reserved ports, and output that is not read.

#![expect(clippy::disallowed_methods, reason = "a test has files and children")]

use std::fs::OpenOptions;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use autoport::event::Silent;
use autoport::model::{Attachment, HostPort, Mapping, Masquerade, Owner, Policy, Protocol, Record};
use autoport::store::Store;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// A state directory with 1,000 held ports: more output than fits into a pipe or a buffer.
fn busy() -> (TempDir, PathBuf) {
    let parent = tempfile::tempdir().expect("a directory");
    let dir = parent.path().join("state");
    let locked = Store::at(&dir).lock(&mut Silent).expect("nobody has it");
    let mapping = |port: u16| Mapping {
        host: HostPort {
            protocol: Protocol::Udp,
            address: "0.0.0.0".parse().expect("an address"),
            port: port.try_into().expect("a port"),
        },
        container_port: port.try_into().expect("a port"),
        target: Some(([10, 1, 0, 5], port).into()),
    };
    let record = Record {
        owner: Owner::bare(Attachment::new("blue", "holder", "eth0").expect("a valid attachment")),
        pod_addresses: vec!["10.1.0.5/24".parse().expect("an address")],
        policy: Policy {
            masquerade: Masquerade::Local,
            mark_bit: 13,
            source_ranges: Vec::new(),
            host_addresses: Vec::new(),
        },
        mappings: (10_000..11_000).map(mapping).collect(),
        grants: Vec::new(),
        dialects: [].into(),
        advertised: Vec::new(),
        offload: None,
        created: 1_700_000_000,
        boot_id: locked.instance().boot_id.clone(),
    };
    locked.save(&record).expect("saving");
    (parent, dir)
}

/// Runs `autoport list`.
fn list(dir: &Path, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_autoport"));
    command.args(["list", "-o", "wide", "--state-dir"]).arg(dir);
    command.env_remove("CNI_COMMAND").stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    command.spawn().and_then(std::process::Child::wait_with_output).expect("it is built")
}

/// The writing end of a pipe that is not read.
fn unread() -> io::PipeWriter {
    io::pipe().expect("a pipe").1
}

/// One test, not several side by side: a child that is being started has, for a moment, the lock of
/// whoever makes a store in another thread.
#[test]
fn the_operator_is_served() {
    let (_parent, dir) = busy();
    let whole = list(&dir, Stdio::piped(), Stdio::piped());
    assert!(whole.status.success() && whole.stderr.is_empty(), "{whole:?}");
    assert_eq!(String::from_utf8_lossy(&whole.stdout).lines().count(), 1_001);
    let (_, lines, _) = run(&dir, &["list"]);
    let row = "0.0.0.0:10000-10999/udp  10.1.0.5:10000-10999  -     static";
    assert!(lines.lines().count() == 2 && lines.contains(row), "{lines}");

    // Who reads no further has seen enough.
    let cut = list(&dir, unread(), Stdio::piped());
    assert!(cut.status.success() && cut.stderr.is_empty(), "{cut:?}");

    // What cannot be written is a failure.
    let full = OpenOptions::new().write(true).open("/dev/full").expect("every Linux has it");
    let outcome = list(&dir, full, Stdio::piped());
    let told = String::from_utf8_lossy(&outcome.stderr);
    assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
    assert!(told.starts_with("autoport: cannot write to standard output: "), "{told}");

    // Where the streams are closed, no file of the store takes their place.
    let closed = "exec \"$0\" list --state-dir \"$1\" <&- >&- 2>&-";
    let mut shell = Command::new("sh");
    shell.args(["-c", closed, env!("CARGO_BIN_EXE_autoport")]).arg(&dir);
    let status = shell.env_remove("CNI_COMMAND").status().expect("there is a shell");
    assert!(status.success(), "{status:?}");
    let lock = std::fs::metadata(dir.join("lock")).expect("the store has a lock");
    assert_eq!(lock.len(), 0, "what was printed is in the lock");

    reserving(&dir);
    watching(&dir);

    // Nobody has to read what is wrong.
    let nothing = list(Path::new("/nonexistent/state"), Stdio::piped(), unread());
    assert_eq!(nothing.status.code(), Some(1), "{nothing:?}");
    let nothing = list(Path::new("/nonexistent/state"), Stdio::piped(), Stdio::piped());
    let told = String::from_utf8_lossy(&nothing.stderr);
    assert!(told.starts_with("autoport: /nonexistent/state is not a state directory"), "{told}");
    let refused = list(Path::new("/dev/null"), Stdio::piped(), unread());
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
}

/// Runs a command on `dir` and says whether it worked and what it printed on either stream.
fn run(dir: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_autoport"));
    command.args(arguments).arg("--state-dir").arg(dir).env_remove("CNI_COMMAND");
    let Output { status, stdout, stderr } = command.output().expect("it is built");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (status.code(), text(&stdout), text(&stderr))
}

fn reserving(dir: &Path) {
    let worked = |told: &str| (Some(0), format!("{told}\n"), String::new());
    assert_eq!(
        run(dir, &["reserve", "dns", "53/udp", "53", "443@192.0.2.1"]),
        worked("reserved for dns: 53/tcp 53/udp 443/tcp@192.0.2.1, until the next reboot")
    );
    let (_, listed, _) = run(dir, &["list"]);
    let of_dns = |listed: &str| -> Vec<String> {
        let lines = listed.lines().filter(|line| line.ends_with("  reservation dns"));
        lines.map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")).collect()
    };
    assert_eq!(of_dns(&listed), ["0.0.0.0:53/tcp -", "0.0.0.0:53/udp -", "192.0.2.1:443/tcp -"]);

    // The same name again replaces what it had.
    assert_eq!(
        run(dir, &["reserve", "dns", "53-55"]),
        worked(
            "reserved for dns: 53-55/tcp, until the next reboot\n\
             no longer reserved for dns: 53/udp 443/tcp@192.0.2.1"
        )
    );
    assert_eq!(of_dns(&run(dir, &["list"]).1), ["0.0.0.0:53-55/tcp -"]);
    assert_eq!(
        run(dir, &["reserve", "dns", "54/sctp@2001:db8::1"]),
        worked(
            "reserved for dns: 54/sctp@2001:db8::1, until the next reboot\n\
             no longer reserved for dns: 53-55/tcp"
        )
    );
    assert_eq!(of_dns(&run(dir, &["list"]).1), ["[2001:db8::1]:54/sctp -"]);

    for (arguments, told) in [
        (
            &["reserve", "other", "54/sctp"][..],
            "host port [::]:54/sctp is held by reservation dns as [2001:db8::1]:54/sctp",
        ),
        (
            &["reserve", "dns", "10000/udp"],
            "host port 0.0.0.0:10000/udp is held by container blue/holder/eth0",
        ),
        (&["reserve", "kept", "80", "--persist"], "reservation kept cannot be kept over reboots"),
        (&["release", "other"], "there is no reservation other"),
    ] {
        let (code, _, stderr) = run(dir, arguments);
        assert_eq!(code, Some(1), "{arguments:?}: {stderr}");
        assert!(stderr.contains(told), "{arguments:?}: {stderr}");
    }
    // A refusal changes nothing.
    assert_eq!(of_dns(&run(dir, &["list"]).1), ["[2001:db8::1]:54/sctp -"]);

    let (code, _, stderr) = run(dir, &["reserve", "a/b", "80"]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("reservation \"a/b\" is not valid"), "{stderr}");
    let (code, _, stderr) = run(dir, &["list", "--port", "1"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("no host port in use matches these options"), "{stderr}");

    for (port, told) in [
        ("0", "port \"0\" is not a number from 1 to 65535"),
        ("+80", "port \"+80\" is not a number"),
        ("", "port \"\" is not a number"),
        ("80/icmp", "protocol \"icmp\" is not one of tcp, udp, sctp"),
        ("80@[::1]", "address \"[::1]\" is not an IP address"),
        ("80@224.0.0.1", "is a multicast address"),
    ] {
        let (code, _, stderr) = run(dir, &["reserve", "bad", port]);
        assert_eq!(code, Some(2), "{port}: {stderr}");
        assert!(stderr.contains(told), "{port}: {stderr}");
    }

    assert_eq!(run(dir, &["release", "dns"]), worked("released from dns: 54/sctp@2001:db8::1"));
    assert!(of_dns(&run(dir, &["list"]).1).is_empty());
}

/// The list is printed again when it has changed, and not before.
fn watching(dir: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_autoport"));
    command.args(["list", "--watch", "--no-headers", "--port", "9100", "--state-dir"]).arg(dir);
    command.env_remove("CNI_COMMAND").stdout(Stdio::piped());
    let mut watch = command.spawn().expect("it is built");
    let mut lines = BufReader::new(watch.stdout.take().expect("a pipe")).lines();
    assert_eq!(run(dir, &["reserve", "other", "9200"]).0, Some(0));
    assert_eq!(run(dir, &["reserve", "exporter", "9100"]).0, Some(0));
    let mut next = || lines.next().expect("it goes on").expect("text");
    let first = next();
    let first = if first.is_empty() { next() } else { first };
    assert!(first.starts_with("0.0.0.0:9100/tcp  -  -  -  -  "), "{first}");
    assert_eq!(run(dir, &["release", "exporter"]).0, Some(0));
    assert_eq!(next(), "", "the next list is empty");
    let process = Pid::from_raw(watch.id().try_into().expect("a number"));
    kill(process, Signal::SIGTERM).expect("it is ours");
    assert!(watch.wait().expect("it ends").success());
    assert_eq!(run(dir, &["release", "other"]).0, Some(0));
}
