//! Looks whether the programs of Pods with the readiness gate listen.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use autoport::error::in_one_line;
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::desk::{Desk, Due};
use crate::hostnet::{Expected, silent};
use crate::metrics::Metrics;
use crate::status::{Target, Verdict};

/// How often it is looked which Pods are due.
const STEP: Duration = Duration::from_secs(1);

/// How long a connection may take, as for kubelet's probes.
const LIMIT: Duration = Duration::from_secs(1);

/// So many Pods are connected to at the same time.
const AT_ONCE: usize = 16;

/// Looks for ever, while this agent leads.
pub(super) async fn watch(desk: Rc<Desk>, metrics: Metrics) {
    loop {
        sleep(STEP).await;
        if !metrics.leads() {
            continue;
        }
        let (on_host, others): (Vec<Due>, Vec<Due>) =
            desk.due(Instant::now()).into_iter().partition(|due| due.is_on_host);
        look_at_sockets(&desk, on_host).await;
        let connected = stream::iter(others).map(|due| async move {
            let refused = first_refused(due.address, &due.targets).await;
            (due.uid, refused)
        });
        let mut connected = connected.buffer_unordered(AT_ONCE);
        while let Some((uid, refused)) = connected.next().await {
            desk.look(&uid, verdict(refused.as_ref(), "takes no connection"), Instant::now());
        }
    }
}

/// The kernel's lists can be long, so the thread does not wait for them.
async fn look_at_sockets(desk: &Desk, due: Vec<Due>) {
    if due.is_empty() {
        return;
    }
    let expected = |due: &Due| {
        let ports = due.targets.iter().map(|target| (target.protocol, target.port)).collect();
        (due.uid.clone(), ports)
    };
    let expected: Vec<Expected> = due.iter().map(expected).collect();
    let found = spawn_blocking(move || silent(&expected)).await;
    match found {
        Ok(Ok(silent)) => {
            for (due, silent) in due.iter().zip(silent) {
                let silent = silent.map(|(protocol, port)| Target { protocol, port });
                desk.look(&due.uid, verdict(silent.as_ref(), "has no listener"), Instant::now());
            }
        }
        Ok(Err(error)) => {
            tracing::warn!("cannot look for listening processes: {}", in_one_line(&error));
        }
        Err(error) => tracing::warn!("cannot look for listening processes: {error}"),
    }
}

/// The first port that takes no connection.
async fn first_refused(address: Option<IpAddr>, targets: &[Target]) -> Option<Target> {
    for target in targets {
        let Some(address) = address else { return Some(target.clone()) };
        let connection = TcpStream::connect(SocketAddr::new(address, target.port.get()));
        if !matches!(timeout(LIMIT, connection).await, Ok(Ok(_))) {
            return Some(target.clone());
        }
    }
    None
}

fn verdict(lacking: Option<&Target>, what: &str) -> Verdict {
    let message = lacking.map(|Target { protocol, port }| format!("port {port}/{protocol} {what}"));
    Verdict { listens: lacking.is_none(), message: message.unwrap_or_default() }
}
