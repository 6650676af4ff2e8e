//! What the library has to tell goes to the log, and is counted.

use autoport::event::{Event, Log, Undone};

use crate::metrics::{Metrics, Repair};

pub(super) struct Traced<'a>(pub(super) &'a Metrics);

impl Log for Traced<'_> {
    fn note(&mut self, event: Event) {
        if matches!(event, Event::Waiting { .. }) {
            self.0.waits_for_lock();
        } else if let Some(repair) = repair(&event) {
            self.0.repair(repair);
        }
        if matches!(event, Event::Failed { .. } | Event::Unreadable { .. }) {
            tracing::warn!("{event}");
        } else {
            tracing::info!("{event}");
        }
    }
}

const fn repair(event: &Event) -> Option<Repair> {
    if matches!(event, Event::Built { .. }) {
        Some(Repair::Built)
    } else if matches!(event, Event::Mended { .. }) {
        Some(Repair::Mended)
    } else if matches!(event, Event::Failed { what: Undone::NotRestored, .. }) {
        Some(Repair::Failed)
    } else {
        None
    }
}
