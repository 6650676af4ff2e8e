//! Whether another process listens on the port of a pod on the host network. No process holds a port between
//! its assignment and the `bind` of the pod's own program.

use std::cell::OnceCell;
use std::collections::BTreeSet;

use autoport::kernel::{self, Listener, Listeners};
use autoport::model::{Holder, Protocol, Record};

use crate::cgroups::{Cgroups, is_of};

/// A listener on a port of a pod: the pod's UID, and the socket.
type Seen = (String, Protocol, u16, u32);

/// A listener that is not the pod's.
#[derive(Clone, Debug)]
pub struct Taken<'a> {
    pub record: &'a Record,
    pub listener: Listener,
    /// The cgroup of the process.
    pub cgroup: String,
}

/// The listeners that are known, so that each is examined and reported once.
#[derive(Debug, Default)]
pub struct Takers(BTreeSet<Seen>);

impl Takers {
    /// Looks for listeners on the ports of all pods on the host network.
    ///
    /// # Errors
    /// When the kernel does not list them.
    pub fn look<'a>(&mut self, all: &'a [Record]) -> Result<Vec<Taken<'a>>, kernel::Error> {
        let on = on_ports_of(all)?;
        let still: BTreeSet<Seen> =
            on.iter().map(|(uid, _, listener)| seen(uid, listener)).collect();
        self.0.retain(|seen| still.contains(seen));
        Ok(self.judge(on))
    }

    /// The same for one of them.
    ///
    /// # Errors
    /// When the kernel does not list them.
    pub fn look_at<'a>(&mut self, record: &'a Record) -> Result<Vec<Taken<'a>>, kernel::Error> {
        let on = on_ports_of(std::slice::from_ref(record))?;
        Ok(self.judge(on))
    }

    /// A node whose pods have no cgroups of version 2 does not tell whose a socket is.
    fn judge<'a>(&mut self, on: Vec<(&'a str, &'a Record, Listener)>) -> Vec<Taken<'a>> {
        let tree = OnceCell::new();
        let mut taken = Vec::new();
        for (uid, record, listener) in on {
            let seen = seen(uid, &listener);
            let Some(id) = listener.cgroup.filter(|_| !self.0.contains(&seen)) else { continue };
            let tree = tree.get_or_init(Cgroups::read);
            let Some(cgroup) = tree.path(id).map(str::to_owned) else { continue };
            if !is_of(&cgroup, uid) {
                if !tree.has(uid) {
                    continue;
                }
                taken.push(Taken { record, listener, cgroup });
            }
            self.0.insert(seen);
        }
        taken
    }
}

fn seen(uid: &str, listener: &Listener) -> Seen {
    (uid.to_owned(), listener.protocol, listener.port.get(), listener.inode)
}

/// The listeners on the ports of these pods. One on any address is in the way of a program that listens on all.
fn on_ports_of(records: &[Record]) -> Result<Vec<(&str, &Record, Listener)>, kernel::Error> {
    let hosts: Vec<_> =
        records.iter().flat_map(|record| &record.mappings).map(|mapping| mapping.host).collect();
    let listeners = Listeners::near(&hosts)?;
    let mut found = Vec::new();
    for record in records {
        let Holder::HostPod { pod } = &record.owner.holder else { continue };
        let ports: BTreeSet<_> =
            record.mappings.iter().map(|it| (it.host.protocol, it.host.port)).collect();
        let on = listeners.all().filter(|one| ports.contains(&(one.protocol, one.port)));
        found.extend(on.map(|listener| (pod.uid(), record, listener.clone())));
    }
    Ok(found)
}
