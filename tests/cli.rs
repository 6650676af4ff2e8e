//! The operator's command line, when nobody reads what it prints.

#![expect(clippy::disallowed_methods, reason = "a test has files and children")]

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use autoport::model::{Attachment, HostPort, Mapping, Masquerade, Owner, Policy, Protocol, Record};
use autoport::store::Store;
use tempfile::TempDir;

/// A state directory in which somebody holds 1,000 ports: more than a pipe or a buffer takes.
fn busy() -> (TempDir, PathBuf) {
    let parent = tempfile::tempdir().expect("a directory");
    let dir = parent.path().join("state");
    let locked = Store::at(&dir).lock(Duration::ZERO, &mut io::sink()).expect("nobody has it");
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
        owner: Owner {
            attachment: Attachment::new("blue", "holder", "eth0").expect("a valid attachment"),
            pod: None,
            netns: None,
        },
        pod_addresses: vec!["10.1.0.5/24".parse().expect("an address")],
        policy: Policy {
            masquerade: Masquerade::Local,
            mark_bit: 13,
            source_ranges: Vec::new(),
            host_addresses: Vec::new(),
            counters: false,
        },
        mappings: (10_000..11_000).map(mapping).collect(),
        grants: Vec::new(),
        created: 1_700_000_000,
        boot_id: locked.instance().boot_id.clone(),
    };
    locked.save(&record).expect("saving");
    (parent, dir)
}

/// Runs `autoport list`.
fn list(dir: &Path, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_autoport"));
    command.arg("list").arg("--state-dir").arg(dir);
    command.env_remove("CNI_COMMAND").stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    command.spawn().and_then(std::process::Child::wait_with_output).expect("it is built")
}

/// The writing end of a pipe that nobody reads.
fn unread() -> io::PipeWriter {
    io::pipe().expect("a pipe").1
}

/// One test, not several side by side: a child that is being started has, for a moment, the lock of
/// whoever makes a store in another thread.
#[test]
fn list_is_told_when_nobody_reads() {
    let (_parent, dir) = busy();
    let whole = list(&dir, Stdio::piped(), Stdio::piped());
    assert!(whole.status.success() && whole.stderr.is_empty(), "{whole:?}");
    assert_eq!(String::from_utf8_lossy(&whole.stdout).lines().count(), 1_001);

    // Who reads no further has seen enough.
    let cut = list(&dir, unread(), Stdio::piped());
    assert!(cut.status.success() && cut.stderr.is_empty(), "{cut:?}");

    // What cannot be written is a failure.
    let full = OpenOptions::new().write(true).open("/dev/full").expect("every Linux has it");
    let outcome = list(&dir, full, Stdio::piped());
    let told = String::from_utf8_lossy(&outcome.stderr);
    assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
    assert!(told.starts_with("autoport: cannot write to standard output: "), "{told}");

    // Nobody has to read what is wrong.
    let nothing = list(Path::new("/nonexistent/state"), Stdio::piped(), unread());
    assert_eq!(nothing.status.code(), Some(0), "{nothing:?}");
    let refused = list(Path::new("/dev/null"), Stdio::piped(), unread());
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
}
