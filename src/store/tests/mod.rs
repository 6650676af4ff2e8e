//! The store on real directories.

mod choosing;
mod crash;
mod damage;
mod holding;
mod later;
mod layout;
mod locking;
mod looking_up;
mod protection;
mod publishing;
mod recalling;
mod reserving;

use std::fs;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use tempfile::TempDir;

use super::*;
use crate::event::Silent;
use crate::model::{Attachment, Dialect, Holder, HostPod, Owner, Protocol, test_record};

/// A state directory on a tmpfs, as on a node, and the store in it.
struct Node {
    _parent: TempDir,
    dir: PathBuf,
    store: Store,
}

impl Node {
    fn new() -> Self {
        Self::below(["/dev/shm", "/run", "/tmp"].map(PathBuf::from).into(), true)
    }

    /// The same where files outlive the boot: beside the test program, or wherever there is a disk.
    fn on_disk() -> Self {
        let program = std::env::current_exe().expect("the path of this program");
        let beside = program.parent().expect("a program is in a directory").to_owned();
        Self::below(vec![beside, "/var/tmp".into(), "/tmp".into()], false)
    }

    fn below(candidates: Vec<PathBuf>, tmpfs: bool) -> Self {
        let fits = |dir: &PathBuf| {
            let found = statfs(dir).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC);
            found == tmpfs
        };
        let parent = candidates
            .into_iter()
            .filter(fits)
            .find_map(|dir| tempfile::tempdir_in(dir).ok())
            .expect("the tests need one writable directory on a tmpfs and one that is not");
        let dir = parent.path().join("state");
        Self { store: Store::at(&dir), dir, _parent: parent }
    }

    /// Where reservations that outlive a boot are kept: beside the state directory.
    fn kept(&self) -> PathBuf {
        self.dir.with_file_name("kept")
    }

    /// Whether there is a record of this container, readable or not.
    fn holds(&self, container_id: &str) -> bool {
        fs::symlink_metadata(self.store.path_of(&attachment(container_id).into())).is_ok()
    }

    /// Waits, though the test has let every lock go: a process that another test starts has copies of
    /// this one's open files, and so of its locks, until it becomes another program.
    fn lock(&self) -> Locked {
        self.store.lock(&mut Silent).expect("locking")
    }

    fn read(&self) -> Option<Shared> {
        self.store.read(&mut Silent).expect("reading")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Every name below the state directory but `instance` and `lock`, sorted, with the targets of
    /// links.
    fn whole_tree(&self) -> Vec<String> {
        let mut found = Vec::new();
        walk(&self.dir, &self.dir, &mut found);
        found.retain(|name| !["instance", "lock"].contains(&name.as_str()));
        found.sort();
        found
    }

    /// The same without what [`Node::lookups`] has.
    fn tree(&self) -> Vec<String> {
        let mut found = self.whole_tree();
        found.retain(|name| !is_lookup(name));
        found
    }

    /// The entries that lead from pods, containers and namespaces to records.
    fn lookups(&self) -> Vec<String> {
        let mut found = self.whole_tree();
        found.retain(|name| is_lookup(name) && !name.ends_with('/'));
        found
    }
}

fn is_lookup(name: &str) -> bool {
    [lookup::OWNERS, lookup::CONTAINERS, lookup::NAMESPACES]
        .contains(&name.split('/').next().unwrap_or(name))
}

fn walk(root: &Path, dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).expect("listing") {
        let path = entry.expect("an entry").path();
        let name = path.strip_prefix(root).expect("below the root").display().to_string();
        let kind = fs::symlink_metadata(&path).expect("examining").file_type();
        if kind.is_symlink() {
            let target = fs::read_link(&path).expect("reading a link");
            found.push(format!("{name} -> {}", target.display()));
        } else if kind.is_dir() {
            found.push(format!("{name}/"));
            walk(root, &path, found);
        } else {
            found.push(name);
        }
    }
}

fn key_of(container_id: &str) -> Key {
    Key::of_attachment(&attachment(container_id))
}

fn attachment(container_id: &str) -> Attachment {
    Attachment::new("cbr0", container_id, "eth0").expect("a valid attachment")
}

fn host(address: &str, port: u16) -> HostPort {
    HostPort {
        protocol: Protocol::Tcp,
        address: address.parse().expect("an address"),
        port: port.try_into().expect("a port"),
    }
}

fn record(locked: &Shared, container_id: &str, hosts: &[HostPort]) -> Record {
    let pod = |host: &HostPort| match host.address {
        IpAddr::V4(_) => "10.0.0.2:80",
        IpAddr::V6(_) => "[fd00::2]:80",
    };
    let mapping = |host: &HostPort| Mapping {
        host: *host,
        container_port: host.port,
        target: Some(pod(host).parse().expect("an address")),
    };
    let mut mappings: Vec<Mapping> = hosts.iter().map(mapping).collect();
    mappings.sort();
    Record {
        pod_addresses: vec!["10.0.0.2/24".parse().expect("an address")],
        mappings,
        advertised: vec!["192.0.2.10".parse().expect("an address")],
        offload: None,
        created: 1_700_000_000,
        boot_id: locked.instance().boot_id.clone(),
        ..test_record(Owner::bare(attachment(container_id)))
    }
}

fn save(node: &Node, container_id: &str, hosts: &[HostPort]) -> Record {
    let locked = node.lock();
    let record = record(&locked, container_id, hosts);
    locked.save(&record).expect("saving");
    record
}

/// Who holds what of `wanted`: the container ID, or `?` for an unreadable record.
fn holders(shared: &Shared, wanted: &[HostPort]) -> Vec<(String, Vec<HostPort>)> {
    let name = |holder: Held| match holder.who {
        Who::Record(record) => {
            (record.owner.container_id().unwrap_or("-").to_owned(), holder.hosts)
        }
        Who::Reservation(reservation) => (reservation.to_string(), holder.hosts),
        Who::Unreadable(_) => ("?".to_owned(), holder.hosts),
    };
    shared.holders(wanted).expect("looking").into_iter().map(name).collect()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("examining").mode() & 0o7777
}
