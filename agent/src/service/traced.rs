//! What the library has to tell goes to the log.

use autoport::event::{Event, Log};

pub(super) struct Traced;

impl Log for Traced {
    fn note(&mut self, event: Event) {
        if matches!(event, Event::Failed { .. } | Event::Unreadable { .. }) {
            tracing::warn!("{event}");
        } else {
            tracing::info!("{event}");
        }
    }
}
