//! The thread that restores the table of nftables when another program has damaged it, as `autoport repair
//! --watch` does. It writes nothing to the store, so an agent that is not connected to a runtime has it too, and
//! one beside that program finds nothing to do. A standby behind a leader rests.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use autoport::app;
use autoport::store::Store;

use super::traced::Traced;
use crate::metrics::Metrics;

/// The pause after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// How much later than the other agent a standby looks that knows of no leader. By then a table of 5,000 mappings is
/// restored.
const STANDBY: Duration = Duration::from_millis(250);

/// Starts the thread, which ends with the process.
pub(super) fn start(
    store: Store,
    preferred: bool,
    metrics: Metrics,
    follows: Arc<AtomicBool>,
) -> io::Result<()> {
    // Nothing is ever written to it.
    let (stop, writer) = io::pipe()?;
    let run = move || {
        loop {
            let turn = || {
                if preferred || metrics.leads() {
                    Some(Duration::ZERO)
                } else {
                    Some(STANDBY).filter(|_| !follows.load(Ordering::Relaxed))
                }
            };
            let log = &mut Traced(&metrics);
            if let Err(error) = app::watch(&store, stop.as_fd(), &turn, log) {
                tracing::warn!("cannot watch the table: {}", error.in_one_line());
            }
            thread::sleep(PAUSE);
            let _ = &writer;
        }
    };
    thread::Builder::new().name("table".to_owned()).spawn(run).map(drop)
}
