//! The thread that looks for processes that listen on ports of pods on the host network. The kernel's lists
//! can be long, so no event waits for it.

use std::io;
use std::sync::mpsc::{self, Sender};
use std::thread;

use autoport::error::in_one_line;
use autoport::kernel::Named;
use autoport::model::Record;

use crate::cluster::{Reason, Warnings};
use crate::hostnet::{Taken, Takers};
use crate::metrics::Metrics;

/// What the thread is sent.
pub(super) enum Check {
    /// The records of all pods on the host network.
    All(Vec<Record>),
    /// That of one, whose container is created, perhaps because the former one found the port taken.
    One(Box<Record>),
}

/// Starts the thread, which ends when the other end of the channel does.
pub(super) fn start(metrics: Metrics, warnings: Warnings) -> io::Result<Sender<Check>> {
    let (checks, received) = mpsc::channel();
    let run = move || {
        let mut takers = Takers::default();
        for check in received {
            let taken = match &check {
                Check::All(records) => takers.look(records),
                Check::One(record) => takers.look_at(record),
            };
            match taken {
                Ok(taken) => taken.iter().for_each(|taken| report(taken, &metrics, &warnings)),
                Err(error) => {
                    tracing::warn!("cannot look for listening processes: {}", in_one_line(&error));
                }
            }
        }
    };
    thread::Builder::new().name("sockets".to_owned()).spawn(run)?;
    Ok(checks)
}

fn report(taken: &Taken<'_>, metrics: &Metrics, warnings: &Warnings) {
    let Taken { record, listener, cgroup } = taken;
    metrics.port_taken();
    let pod = record.owner.pod.as_ref();
    if let Some(pod) = pod {
        let note = format!(
            "a process that is not in the Pod listens on its host port: {}, of cgroup {cgroup}; end that \
             process, or delete the Pod to have it created again with another port",
            Named(listener)
        );
        warnings.warn(pod.clone(), Reason::PortTaken, note);
    }
    tracing::warn!(
        namespace = pod.map(|pod| &*pod.namespace),
        pod = pod.map(|pod| &*pod.name),
        cgroup,
        "PortTaken: a process that is not in the Pod listens on its host port: {}; end that process, exclude \
         the port with excludePorts, or delete the Pod to have it created again with another port",
        Named(listener)
    );
}
