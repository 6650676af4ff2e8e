//! The thread that follows the journal of the plugin. Every agent follows it, so that the one that takes the lead
//! knows what was counted before; the leader counts.

use std::io;
use std::thread;
use std::time::Duration;

use autoport::store::{Reader, Store};

use crate::metrics::Metrics;

/// How often the journal is read: it keeps some hundred lines.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts the thread, which ends with the process.
pub(super) fn start(store: Store, metrics: Metrics) -> io::Result<()> {
    let run = move || {
        let mut reader = Reader::default();
        loop {
            for entry in reader.read(&store) {
                metrics.plugin(entry.kind, entry.code);
            }
            thread::sleep(PAUSE);
        }
    };
    thread::Builder::new().name("journal".to_owned()).spawn(run).map(drop)
}
