//! `autoport install` and `uninstall` in temporary directories: output, rejected configurations, remains.

#![expect(clippy::disallowed_methods, reason = "a test has files and children")]

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;
use tempfile::TempDir;

const LIST: &str = r#"{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    { "type": "bridge" },
    { "type": "portmap", "backend": "iptables", "capabilities": { "portMappings": true } }
  ]
}
"#;

struct Folders {
    all: TempDir,
}

struct Said {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Folders {
    fn new(files: &[(&str, &str)]) -> Self {
        let all = tempfile::tempdir().expect("a directory");
        for folder in ["bin", "net.d"] {
            fs::create_dir(all.path().join(folder)).expect("a folder");
        }
        let folders = Self { all };
        fs::write(folders.path("bin/bridge"), "").expect("a file");
        for (name, text) in files {
            fs::write(folders.path("net.d").join(name), text).expect("a file");
        }
        folders
    }

    fn path(&self, name: &str) -> PathBuf {
        self.all.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path("net.d").join(name)).expect("a file")
    }

    fn run(&self, words: &[&str]) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_autoport"));
        command.env_remove("CNI_COMMAND").args(words).stdin(Stdio::null());
        command.arg("--bin-dir").arg(self.path("bin"));
        command.arg("--conf-dir").arg(self.path("net.d"));
        if words[0] != "doctor" {
            command.arg("--link").arg(self.path("sbin/autoport"));
        }
        command.arg("--state-dir").arg(self.path("state"));
        let started = Instant::now();
        let output = command.output().expect("it is built");
        assert!(started.elapsed() < Duration::from_secs(30), "{words:?}: {:?}", started.elapsed());
        let text = |bytes: &[u8]| {
            let text = String::from_utf8(bytes.to_vec()).expect("text");
            text.replace(self.all.path().to_str().expect("a path"), "")
        };
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        Said { status: output.status.code(), stdout, stderr }
    }

    /// Everything below, with modes and contents.
    fn state(&self) -> Vec<(PathBuf, u32, Vec<u8>)> {
        let mut state = Vec::new();
        for folder in ["bin", "net.d"] {
            for entry in fs::read_dir(self.path(folder)).expect("a folder") {
                let path = entry.expect("a folder").path();
                let mode = fs::symlink_metadata(&path).expect("a file").permissions().mode();
                state.push((path.clone(), mode, fs::read(path).expect("a file")));
            }
        }
        state.sort();
        state
    }
}

#[test]
fn what_is_done_is_said() {
    let folders =
        Folders::new(&[("10-a.conflist", LIST), ("20-b.conflist", "{}"), ("00-notes", "")]);
    fs::set_permissions(folders.path("net.d/10-a.conflist"), fs::Permissions::from_mode(0o640))
        .expect("our file");
    let before = folders.state();

    let said = folders.run(&["install", "--dry-run"]);
    assert_eq!(
        (said.status, &*said.stdout, &*said.stderr),
        (
            Some(3),
            "/bin/autoport would be copied\n\
             /net.d/10-a.conflist would be changed: autoport replaces portmap\n\
             \x20 original would be saved as /net.d/10-a.conflist.before-autoport\n\
             \x20 backend \"iptables\" is left out: autoport writes nftables itself and needs no program for it\n\
             --- /net.d/10-a.conflist\n\
             +++ /net.d/10-a.conflist\n\
             @@ -3,6 +3,6 @@\n\
             \x20  \"name\": \"pods\",\n\
             \x20  \"plugins\": [\n\
             \x20    { \"type\": \"bridge\" },\n\
             -    { \"type\": \"portmap\", \"backend\": \"iptables\", \"capabilities\": { \"portMappings\": true } }\n\
             +    { \"type\": \"autoport\", \"capabilities\": { \"portMappings\": true, \
             \"io.kubernetes.cri.pod-annotations\": true } }\n\
             \x20  ]\n\
             \x20}\n",
            ""
        )
    );
    assert!(folders.state() == before, "a dry run changes nothing");

    assert_eq!(folders.run(&["install"]).status, Some(0));
    assert_eq!(folders.read("10-a.conflist.before-autoport"), LIST);
    for name in ["10-a.conflist", "10-a.conflist.before-autoport"] {
        let mode = fs::metadata(folders.path("net.d").join(name)).expect("it").permissions().mode();
        assert_eq!(mode & 0o777, 0o640, "{name}");
    }
    let mode = fs::metadata(folders.path("bin/autoport")).expect("it").permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    let after = folders.state();

    let said = folders.run(&["install"]);
    let nothing = "/bin/autoport: nothing to do\n/net.d/10-a.conflist: nothing to do\n";
    assert_eq!(said.stdout, nothing);
    let said = folders.run(&["install", "--dry-run"]);
    assert_eq!((said.status, &*said.stdout), (Some(0), nothing));
    assert!(folders.state() == after, "done twice is done once");

    let said = folders.run(&["uninstall", "--output", "json"]);
    let answer: Value = serde_json::from_str(&said.stdout).expect("JSON");
    assert_eq!(answer["changed"], true);
    assert_eq!(answer["files"][0]["done"], "changed");
    assert_eq!(answer["files"][0]["how"], "restored to its content before the installation");
    assert_eq!(answer["files"][1]["done"], "removed");
    assert_eq!(answer["node"]["holders"], serde_json::json!([]));
    assert!(folders.state() == before, "everything is as it was");
    let said = folders.run(&["uninstall"]);
    assert_eq!((said.status, &*said.stdout), (Some(0), "/bin/autoport: nothing to do\n"));
}

#[test]
fn what_is_not_understood_is_refused_and_nothing_is_changed() {
    for (files, says) in [
        (&[][..], "there is no network configuration in /net.d"),
        (
            &[("00-a.conf", "{}"), ("10-a.conflist", LIST)],
            "/net.d/00-a.conf comes first and is not a list",
        ),
        (&[("00-a.json", "{}")], "/net.d/00-a.json comes first"),
        (&[(".conf", "{}"), ("10-a.conflist", LIST)], "/net.d/.conf comes first"),
        (&[("10-a.conflist", "{")], "not valid JSON"),
        (&[("10-a.conflist", "{}")], "\"plugins\" is not there"),
    ] {
        let folders = Folders::new(files);
        let before = folders.state();
        let said = folders.run(&["install"]);
        assert_eq!(said.status, Some(1), "{files:?}");
        assert!(said.stderr.contains(says), "{files:?}: {}", said.stderr);
        assert!(folders.state() == before, "{files:?}");
    }
    let folders = Folders::new(&[]);
    for (named, says) in [
        ("10-a.conf", "/net.d/10-a.conf is not a list of plugins: nothing can be chained to it"),
        ("10-a.conflist", "cannot read /net.d/10-a.conflist: entity not found"),
    ] {
        let named = folders.path("net.d").join(named);
        let said = folders.run(&["install", "--conflist", named.to_str().expect("a path")]);
        assert!(said.status == Some(1) && said.stderr.contains(says), "{}", said.stderr);
    }
    fs::remove_dir(folders.path("net.d")).expect("our folder");
    let said = folders.run(&["install"]);
    assert!(said.stderr.contains("there is no network configuration in /net.d"), "{}", said.stderr);
    let said = folders.run(&["uninstall"]);
    assert_eq!((said.status, &*said.stdout), (Some(0), "/bin/autoport: nothing to do\n"));

    // As main plugins write it; the error is one line all the same.
    let condition = "\"conditionsV4\": [\n        \"-i\",\n        \"eth0\"\n      ]";
    let restricted = LIST.replace("\"backend\": \"iptables\"", condition);
    let folders = Folders::new(&[("10-a.conflist", &restricted)]);
    let said = folders.run(&["install"]);
    assert_eq!(said.stderr.lines().count(), 1, "{}", said.stderr);
    assert!(said.stderr.contains(r#"conditionsV4 is ["-i","eth0"], which"#), "{}", said.stderr);
    let folders = Folders::new(&[("real", LIST)]);
    symlink(folders.path("net.d/real"), folders.path("net.d/10-a.conflist")).expect("a link");
    let said = folders.run(&["install"]);
    assert!(said.stderr.contains("a symbolic link"), "{}", said.stderr);
    assert_eq!(folders.read("real"), LIST);
}

#[test]
fn a_file_can_be_named() {
    let folders = Folders::new(&[("10-a.conflist", LIST), ("20-b.conflist", LIST)]);
    let named = folders.path("net.d/20-b.conflist");
    let named = named.to_str().expect("a path");
    assert_eq!(folders.run(&["install", "--conflist", named]).status, Some(0));
    assert_eq!(folders.read("10-a.conflist"), LIST);
    assert!(folders.read("20-b.conflist").contains("autoport"));
    // The first is installed too, and then both are taken back.
    folders.run(&["install"]);
    let said = folders.run(&["uninstall", "--conflist", named]);
    assert!(said.stdout.contains("10-a.conflist names it"), "{}", said.stdout);
    assert!(folders.path("bin/autoport").exists());
    folders.run(&["uninstall"]);
    assert_eq!(
        (folders.read("10-a.conflist"), folders.read("20-b.conflist")),
        (LIST.into(), LIST.into())
    );
    assert!(!folders.path("bin/autoport").exists());
}

/// Operators run it by its name.
#[test]
fn a_link_is_made_and_taken_back() {
    let folders = Folders::new(&[("10-a.conflist", LIST)]);
    let link = folders.path("sbin/autoport");
    assert!(
        !folders.run(&["install", "--dry-run"]).stdout.contains("sbin"),
        "there is no folder for it"
    );
    fs::create_dir(folders.path("sbin")).expect("a folder");
    assert_eq!(folders.run(&["install", "--no-link"]).status, Some(2), "both are given");

    let would = "/sbin/autoport would be made: a link to /bin/autoport\n";
    let said = folders.run(&["install", "--dry-run"]);
    assert!(said.stdout.contains(would) && said.status == Some(3), "{}", said.stdout);
    assert!(!link.is_symlink());
    let said = folders.run(&["install"]);
    assert!(
        said.stdout.contains("/sbin/autoport made: a link to /bin/autoport\n"),
        "{}",
        said.stdout
    );
    assert_eq!(fs::read_link(&link).expect("a link"), folders.path("bin/autoport"));
    let said = Command::new(&link).args(["help"]).output().expect("it can be run by the link");
    assert!(said.status.success());
    assert!(folders.run(&["install"]).stdout.contains("/sbin/autoport: nothing to do\n"));
    assert_eq!(folders.run(&["install", "--dry-run"]).status, Some(0));

    assert!(folders.run(&["uninstall"]).stdout.contains("/sbin/autoport removed\n"));
    assert!(!link.is_symlink());
    assert!(!folders.run(&["uninstall"]).stdout.contains("sbin"));
}

#[test]
fn what_is_in_the_place_of_the_link_stays() {
    let folders = Folders::new(&[("10-a.conflist", LIST)]);
    let link = folders.path("sbin/autoport");
    fs::create_dir(folders.path("sbin")).expect("a folder");
    let other: [(Made<'_>, &str); 3] = [
        (&|path| fs::write(path, "other"), "it is not a link, so it belongs to another program"),
        (&|path| symlink("/opt/other/autoport", path), "it is a link to /opt/other/autoport"),
        (&|path| fs::create_dir(path), "it is not a link"),
    ];
    for (make, says) in other {
        make(link.clone()).expect("our folder");
        let before = fs::read_link(&link).ok();
        for command in ["install", "uninstall"] {
            let said = folders.run(&[command]);
            assert_eq!(said.status, Some(0), "{}", said.stderr);
            let told = said.stdout.contains(&format!("/sbin/autoport kept: {says}"));
            assert_eq!(told, command == "install", "{}", said.stdout);
            assert!(fs::symlink_metadata(&link).is_ok() && fs::read_link(&link).ok() == before);
        }
        let _ = fs::remove_file(&link).or_else(|_| fs::remove_dir(&link));
    }
    // Where it cannot be made, the rest is done.
    let mut command = Command::new(env!("CARGO_BIN_EXE_autoport"));
    command.env_remove("CNI_COMMAND").arg("install").args(["--link", "/proc/autoport"]);
    command.arg("--bin-dir").arg(folders.path("bin")).arg("--conf-dir").arg(folders.path("net.d"));
    let output = command.output().expect("it is built");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("cannot make /proc/autoport a link to it: "),
        "{said}"
    );
    assert!(folders.path("bin/autoport").exists());
}

#[test]
fn an_older_executable_and_what_a_kill_left_are_replaced() {
    let folders = Folders::new(&[("10-a.conflist", LIST)]);
    fs::write(folders.path("bin/autoport"), "older").expect("a file");
    fs::write(folders.path("bin/.autoport.autoport-new"), "half").expect("a file");
    fs::write(folders.path("net.d/.10-a.conflist.autoport-new"), "half").expect("a file");
    folders.run(&["install"]);
    let own = fs::read(env!("CARGO_BIN_EXE_autoport")).expect("it is built");
    assert!(fs::read(folders.path("bin/autoport")).expect("a file") == own);
    assert_eq!(folders.state().len(), 5, "bridge, autoport, the list, what it was, its keys");
}

/// A warning shows that a directory is not the one of the runtime.
#[test]
fn a_main_plugin_that_is_not_there_is_named() {
    let folders = Folders::new(&[("10-a.conflist", LIST)]);
    fs::remove_file(folders.path("bin/bridge")).expect("our file");
    let said = folders.run(&["install"]);
    assert!(said.stdout.contains("bridge is not in /bin"), "{}", said.stdout);
    symlink("/somewhere/on/the/node/cni", folders.path("bin/bridge")).expect("our folder");
    let said = folders.run(&["install"]);
    assert!(!said.stdout.contains("bridge"), "a container need not see that: {}", said.stdout);
    fs::remove_dir_all(folders.path("bin")).expect("our folder");
    let said = folders.run(&["install"]);
    assert_eq!(said.status, Some(1));
    assert!(said.stderr.contains("/bin"), "{}", said.stderr);
}

/// A main plugin that is started rewrites its configuration.
#[test]
fn who_stays_installs_again() {
    let folders = Folders::new(&[]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_autoport"));
    command.env_remove("CNI_COMMAND").args(["install", "--stay", "--no-link"]).stdin(Stdio::null());
    command.arg("--bin-dir").arg(folders.path("bin"));
    command.arg("--conf-dir").arg(folders.path("net.d"));
    let mut child =
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it is built");
    let list = folders.path("net.d/10-a.conflist");
    for _ in 0..2 {
        fs::write(folders.path("net.d/new"), LIST).expect("a file");
        fs::rename(folders.path("net.d/new"), &list).expect("our files");
        // It looks every ten seconds; on a busy machine it may take its time.
        let is_back = || fs::read_to_string(&list).is_ok_and(|text| text.contains("\"autoport\""));
        let found = (0..1200).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            is_back()
        });
        assert!(found && child.try_wait().expect("our child").is_none());
    }
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("our child");
    assert!(child.wait().expect("our child").success());
}

/// Every user can lock a folder that everyone can read.
#[test]
fn a_lock_on_the_folders_stops_nobody() {
    let folders = Folders::new(&[("10-a.conflist", LIST)]);
    let locked = ["bin", "net.d"].map(|name| {
        let folder = fs::File::open(folders.path(name)).expect("a folder");
        Flock::lock(folder, FlockArg::LockExclusiveNonblock).expect("nobody else has it")
    });
    assert_eq!(folders.run(&["install"]).status, Some(0));
    assert_eq!(folders.run(&["uninstall"]).status, Some(0));
    drop(locked);
    let left = folders.state().into_iter().map(|(path, ..)| path);
    assert!(left.eq([folders.path("bin/bridge"), folders.path("net.d/10-a.conflist")]));
}

#[test]
fn who_installs_and_does_not_end_is_named() {
    let folders = Folders::new(&[("10-a.conflist", LIST)]);
    let lock = fs::File::create(folders.path("net.d/.autoport-lock")).expect("a file");
    let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).expect("nobody else has it");
    let said = folders.run(&["install"]);
    let own = format!("within 10 s: process {} (", std::process::id());
    assert!(said.status == Some(1) && said.stderr.contains(&own), "{}", said.stderr);
    drop(lock);
    assert_eq!(folders.run(&["install"]).status, Some(0));
    assert!(
        !folders.path("net.d/.autoport-lock").exists(),
        "nothing is left of one who was killed"
    );
}

type Made<'a> = &'a dyn Fn(PathBuf) -> io::Result<()>;

/// What is at a path may never answer, or never end.
#[test]
fn nothing_in_the_folders_makes_a_command_wait() {
    let big = |path: PathBuf| fs::File::create(path).and_then(|file| file.set_len(8 << 30));
    let script = |path: PathBuf, text: &str| {
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
    };
    let fifo = |path: PathBuf| mkfifo(&path, Mode::S_IRWXU).map_err(io::Error::from);
    let cases: [(&str, Made<'_>, &str); 8] = [
        (
            "net.d/00.conflist",
            &fifo,
            "00.conflist, which runtimes take first, is not understood: it is not a regular",
        ),
        (
            "net.d/00.conf",
            &|path| symlink("/dev/zero", path),
            "00.conf, which runtimes take first, is not understood: it is not a regular",
        ),
        ("net.d/20.conf", &|path| symlink("/proc/kmsg", path), "20.conf"),
        ("net.d/20.conflist", &big, "20.conflist is not understood: it is larger than"),
        ("bin/autoport", &fifo, "/bin/autoport: it is not a regular file"),
        ("bin/autoport", &big, "/bin/autoport cannot be run as autoport"),
        (
            "bin/autoport",
            &|path| script(path, "#!/bin/sh\nexec sleep 60"),
            "cannot be run as autoport",
        ),
        (
            "bin/autoport",
            &|path| script(path, "#!/bin/sh\nexec cat /dev/zero"),
            "cannot be run as autoport",
        ),
    ];
    for (at, make, says) in cases {
        let folders = Folders::new(&[("10-a.conflist", LIST)]);
        make(folders.path(at)).expect("our folder");
        let said = folders.run(&["doctor"]);
        assert!(said.stdout.contains(says) || at.ends_with("20.conf"), "{at}: {}", said.stdout);
        for words in [
            &["install", "--dry-run"][..],
            &["install"],
            &["uninstall", "--dry-run"],
            &["uninstall"],
        ] {
            folders.run(words);
        }
    }
    let folders = Folders::new(&[("10-a.conflist", LIST)]);
    for number in 0..1000 {
        fs::write(folders.path(&format!("net.d/9{number}.conf")), "").expect("a file");
    }
    let said = folders.run(&["doctor"]);
    assert!(said.stdout.contains("has 745 files more"), "{}", said.stdout);
}
