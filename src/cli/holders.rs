//! Everyone who holds host ports, as several commands print them.

use std::path::PathBuf;

use autoport::app::{InKernel, Listing, Unread};
use autoport::model::{Holder, Mapping, Owner, Record};
use autoport::netns::Fate;
use autoport::{plan, store};
use serde::Serialize;

use super::now;
use super::output::{BAD, Cell, DOUBTFUL, GOOD, Style, age, timestamp};

/// Who holds host ports, and since when.
#[derive(Serialize)]
pub(super) struct Holders {
    pub(super) attachments: Vec<Attachment>,
    pub(super) reservations: Vec<Reservation>,
    pub(super) unreadable: Vec<Unread>,
}

/// A record, and what is known besides of who holds it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Attachment {
    #[serde(flatten)]
    pub(super) record: Record,
    /// What the evidence means, in a word.
    pub(super) state: &'static str,
    #[serde(skip)]
    pub(super) style: Style,
    pub(super) evidence: String,
    pub(super) age_seconds: Option<u64>,
    #[serde(flatten)]
    pub(super) details: Option<Details>,
}

/// What `autoport show` has to tell besides.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Details {
    pub(super) record_file: PathBuf,
    /// Where its pod's containers read about it.
    pub(super) published: Option<PathBuf>,
    pub(super) kernel: Option<InKernel>,
    /// Why the kernel was not seen.
    pub(super) kernel_error: Option<String>,
    /// Its pod's containers, as far as an agent has written of them; and of what time that is, for people.
    pub(super) containers: Vec<store::Container>,
    #[serde(skip)]
    pub(super) as_of: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Reservation {
    #[serde(flatten)]
    pub(super) of: store::Reservation,
    pub(super) age_seconds: Option<u64>,
}

impl From<Listing> for Holders {
    fn from(listing: Listing) -> Self {
        let reserved = |of: store::Reservation| Reservation { age_seconds: since(of.created), of };
        Self {
            attachments: listing.attachments.into_iter().map(Attachment::from).collect(),
            reservations: listing.reservations.into_iter().map(reserved).collect(),
            unreadable: listing.unreadable,
        }
    }
}

impl From<Record> for Attachment {
    fn from(record: Record) -> Self {
        let evidence = Fate::of(&record.owner);
        let (state, style) = match evidence {
            Fate::Alive => ("alive", GOOD),
            Fate::Gone => ("stale", BAD),
            Fate::Unknown(_) => ("unknown", DOUBTFUL),
        };
        Self {
            state,
            style,
            evidence: evidence.to_string(),
            age_seconds: since(record.created),
            record,
            details: None,
        }
    }
}

/// How many seconds ago something was recorded; nothing of a record that was made again from the table.
fn since(created: u64) -> Option<u64> {
    (created > 0).then(|| now().saturating_sub(created))
}

/// When something was recorded, and how long ago.
pub(super) fn recorded(created: u64, age_seconds: Option<u64>) -> String {
    age_seconds.map_or("time unknown".to_owned(), |seconds| {
        format!("{}, {} ago", timestamp(created), age(seconds))
    })
}

/// Of each mapping of `record`: host port, target, and who chose.
pub(super) fn cells(record: &Record) -> impl Iterator<Item = (&Mapping, [Cell; 3])> {
    let chosen = plan::expand(&record.grants, &record.pod_addresses);
    record.mappings.iter().map(move |mapping| {
        // Sorted, and the host port counts first.
        let is_chosen = chosen.binary_search_by(|one| one.host.cmp(&mapping.host)).is_ok();
        let choice = if is_chosen { "chosen" } else { "static" };
        (mapping, [mapping.host.into(), Cell::or_dash(mapping.target), choice.into()])
    })
}

/// So much of an ID of 64 digits is enough for a person, and for `autoport show`.
const SHORT: usize = 12;

/// A pod by its name, a container by its ID.
pub(super) fn name_of(owner: &Owner) -> String {
    match (&owner.pod, &owner.holder) {
        (Some(pod), _) => pod.to_string(),
        (None, Holder::Attachment(attachment)) => {
            let id = attachment.container_id();
            let is_hash = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
            format!("container {}", if is_hash { &id[..SHORT] } else { id })
        }
        (None, Holder::HostPod { .. }) => owner.to_string(),
    }
}

#[cfg(test)]
mod tests;
