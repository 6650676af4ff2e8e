//! `autoport install --stay`: how soon it puts autoport back, and with whom it does not fight.

use std::fs::File;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::*;

const LOG: &str = "/run/staying.log";

/// A running `autoport install --stay`, which is ended with it.
pub(super) struct Staying(Child);

impl Staying {
    pub(super) fn with(words: &[&str]) -> Self {
        let mut command = Command::new(Plugin::Autoport.path());
        command.args(["install", "--stay"]).args(FOLDERS).args(words);
        let log = File::create(LOG).expect("/run is ours");
        command.stdout(log.try_clone().expect("a file")).stderr(log);
        Self(command.env_clear().stdin(Stdio::null()).spawn().expect("it is built"))
    }
}

impl Drop for Staying {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn write(path: &str, text: &str) {
    let new = format!("{path}.new");
    fs::write(&new, text).expect("the folder is ours");
    fs::rename(new, path).expect("the folder is ours");
}

/// Waits, and gives how long it took.
pub(super) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !is_so() {
        let log = || fs::read_to_string(LOG).unwrap_or_default();
        assert!(begun.elapsed() < Duration::from_mins(1), "not within a minute: {what}: {}", log());
        std::thread::sleep(Duration::from_millis(1));
    }
    begun.elapsed()
}

/// Whether the list is there and has autoport.
fn is_back() -> bool {
    fs::read_to_string(CONFLIST).is_ok_and(|text| text.contains("\"autoport\""))
}

fn log() -> String {
    fs::read_to_string(LOG).expect("the log")
}

/// Every way in which a main plugin writes its file. Without the notice of the kernel it would take ten seconds.
#[test]
fn autoport_is_back_at_once_however_the_list_is_written() {
    let scene = Scene::new(Plugin::PortmapNftables);
    let _staying = Staying::with(&[]);
    wait_until("the installation", is_back);
    let rename = || write(CONFLIST, &scene.before);
    let in_place = || fs::write(CONFLIST, &scene.before).expect("/run is ours");
    let deleted = || {
        fs::remove_file(CONFLIST).expect("it is there");
        rename();
    };
    let folder = || {
        fs::remove_dir_all(NETWORKS).expect("it is there");
        fs::create_dir_all(NETWORKS).expect("/run is ours");
        rename();
    };
    let mut times = Vec::new();
    for change in [&rename as &dyn Fn(), &in_place, &deleted, &folder] {
        // Else it would be a contest.
        std::thread::sleep(Duration::from_secs(6));
        change();
        times.push(wait_until("autoport in the list", is_back));
    }
    assert!(times.iter().all(|time| *time < Duration::from_secs(5)), "{times:?}");
    let told = log().matches("another program had written it without autoport").count();
    // The notes were in the folder.
    assert_eq!(told, 3, "{}", log());
}

#[test]
fn a_program_that_takes_autoport_out_all_the_time_is_named_and_not_fought() {
    let scene = Scene::new(Plugin::PortmapNftables);
    let before = scene.before.replace("\"type\": \"bridge\"", "\"type\": \"cilium-cni\"");
    write(CONFLIST, &before);
    let staying = Staying::with(&[]);
    wait_until("the installation", is_back);
    let begun = Instant::now();
    let mut written = 0;
    while begun.elapsed() < Duration::from_secs(20) {
        if is_back() {
            write(CONFLIST, &before);
            written += 1;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!((3..=6).contains(&written), "autoport was put back {written} times in 20 s");
    let told = log();
    assert!(told.contains("again and again: set cni.exclusive=false"), "{told}");
    // Once each time that autoport is put back.
    assert!(told.matches("again and again").count() <= written, "{told}");
    // Not where it has just been put back.
    wait_until("autoport in the list", is_back);
    write(CONFLIST, &before);
    let (status, _, stderr) = autoport(&[&["install", "--dry-run"], &FOLDERS[..]].concat());
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("cni.exclusive"), "{stderr}");
    // It is put back all the same when the other program has ended.
    wait_until("autoport in the list", is_back);
    drop(staying);
}

/// GKE's folder of plugins cannot be written, and k3s has folders of its own.
#[test]
fn a_folder_that_cannot_be_used_is_told_with_those_of_the_platform() {
    let scene = Scene::new(Plugin::PortmapNftables);
    let cannot = |folders: &[&str], reason: &str, named: &str| {
        let (status, _, stderr) = autoport(&[&["install"], folders].concat());
        assert_eq!(status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(reason) && stderr.contains(named), "{stderr}");
    };
    let (none, none_of, flags) = (None::<&str>, "none", MsFlags::empty());
    mount(Some(none_of), PLUGINS, Some("tmpfs"), flags, none).expect("a mount of the test");
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(none, PLUGINS, none, read_only, none).expect("a mount of the test");
    // Where the machine has no such folder yet.
    mount(Some(none_of), "/home", Some("tmpfs"), flags, none).expect("a mount of the test");
    fs::create_dir_all("/home/kubernetes/bin").expect("ours");
    fs::create_dir_all("/etc/cni/net.d").expect("ours");
    cannot(&FOLDERS, "Read-only file system", "with GKE, use --bin-dir /home/kubernetes/bin");
    umount("/home").expect("mounted above");
    umount(PLUGINS).expect("mounted above");

    mount(Some(none_of), "/var/lib", Some("tmpfs"), flags, none).expect("a mount of the test");
    let k3s = "/var/lib/rancher/k3s/agent/etc/cni/net.d";
    for folder in [k3s, "/var/lib/rancher/k3s/data/cni"] {
        fs::create_dir_all(folder).expect("ours");
    }
    let missing = ["--no-link", "--bin-dir", PLUGINS, "--conf-dir", "/run/nowhere"];
    cannot(&missing, "no network configuration in /run/nowhere", &format!("--conf-dir {k3s}"));
    umount("/var/lib").expect("mounted above");
    drop(scene);
}
