//! systemd of Debian 13 makes the slices of a pod, and has programs of its own at them (`SocketBindDeny=`).

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::programs::tool;
use super::*;

/// What it is to run. A slice is made with the first unit in it.
const UNITS: [(&str, &str); 4] = [
    ("pods.target", "Requires=hold.service"),
    (
        "hold.service",
        "[Service]\nExecStart=/busybox sleep 1000\nSlice=kubepods-burstable-podone.slice",
    ),
    ("kubepods.slice", "[Slice]\nSocketBindDeny=ipv4:tcp:7001\nSocketBindDeny=ipv6:tcp:7001"),
    ("kubepods-burstable-podone.slice", "[Slice]\nSocketBindDeny=ipv4:tcp:7000"),
];

const SLICE: &str = "kubepods-burstable-podone.slice";
const INNER: &str = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podone.slice";

/// Runs it as the first process of a PID namespace, with the test's cgroup for the root. It takes itself for a container,
/// so it leaves the settings of the machine alone, which it could not write either.
const START: &str = "
set -e
mount -t tmpfs tmpfs \"$1\"
cp -a \"$0/.\" \"$1/\"
cd \"$1\"
cp -a \"$2\" etc/systemd/
cp \"$(command -v busybox)\" busybox
mkdir -p proc sys dev run tmp
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t tmpfs tmpfs run
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
for device in null zero random urandom; do touch dev/$device; mount --bind /dev/$device dev/$device; done
touch dev/console
exec env -i container=autoport PATH=/usr/sbin:/usr/bin chroot . /usr/lib/systemd/systemd --system --unit=pods.target
";

struct Systemd {
    child: Child,
    /// Its files, which are gone with it.
    _dir: tempfile::TempDir,
}

impl Systemd {
    fn starts(cgroup: &Cgroup) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let units = dir.path().join("system");
        fs::create_dir(&units).expect("the directory is ours");
        for (name, text) in UNITS {
            let text = format!("[Unit]\nDefaultDependencies=no\n{text}\n");
            fs::write(units.join(name), text).expect("the directory is ours");
        }
        let root = dir.path().join("root");
        fs::create_dir(&root).expect("the directory is ours");
        let mut command = cgroup.command("", "unshare");
        command
            .args(["--cgroup", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"])
            .args(["--propagation", "private", "sh", "-c", START])
            .args([PathBuf::from(tool("systemd")), root, units])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        Self { child: command.spawn().expect("it can be started"), _dir: dir }
    }

    /// Its number, outside of its PID namespace.
    fn pid(&self) -> Option<Pid> {
        let unshare = self.child.id();
        let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"));
        children.ok()?.trim().parse().ok().map(Pid::from_raw)
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        let _ = self.pid().map(|pid| kill(pid, Signal::SIGKILL));
        let _ = self.child.wait();
    }
}

fn waits(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn hook_and_guard_work_in_slices_that_systemd_guards_too() {
    let cgroup = Cgroup::of_node();
    let systemd = Systemd::starts(&cgroup);
    waits("systemd makes the slices", || cgroup.path(INNER).join("hold.service").exists());
    let mut scene = Scene::at(cgroup, "\"portRange\": \"20000-20099\", \"guardRange\": true");
    // It ends before its cgroups are removed.
    let _systemd = systemd;
    let pod = host_pod("one", "sandbox", &[(PORTS, "http=8080"), (BIND, "redirect")]);
    let cgroup_parent = SLICE.to_owned();
    let pod = Pod { linux: pod.linux.map(|linux| LinuxPod { cgroup_parent, ..linux }), ..pod };
    let start = |scene: &Scene| {
        let container = format!("{INNER}/cri-containerd-one.scope");
        Actor::start(scene.cgroup.command(&container, this()), "one")
    };
    let mut actor = start(&scene);
    waits("systemd attaches its programs", || {
        actor.does("binds 0.0.0.0:7000") == "permission denied"
    });
    drop(actor);
    let [http] = scene.runs(&pod, ["HTTP"]);
    scene.pods.push(pod);
    for round in 0..2 {
        let mut actor = start(&scene);
        assert_eq!(actor.does("listens 0.0.0.0:8080"), format!("0.0.0.0:{http}"), "{round}");
        assert_eq!(actor.does("connects 127.0.0.1:8080"), "one to 127.0.0.1");
        // By the slice of the Pod, and by that of all Pods.
        for denied in ["0.0.0.0:7000", "0.0.0.0:7001", "[::]:7001"] {
            assert_eq!(actor.does(&format!("listens {denied}")), "permission denied", "{denied}");
        }
        assert_eq!(actor.does("listens 0.0.0.0:20050"), "address in use", "it is guarded");
        assert_eq!(actor.does("listens 0.0.0.0:7002"), "0.0.0.0:7002");
        drop(actor);
        scene.replace_agent();
    }
}
