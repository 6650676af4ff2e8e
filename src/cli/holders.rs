//! Everyone who holds host ports, as several commands print them.

use std::fmt;
use std::path::PathBuf;

use autoport::app::{InKernel, Listing};
use autoport::model::{Holder, HostPort, Mapping, Owner, Record};
use autoport::netns::Fate;
use autoport::{plan, store};
use serde::Serialize;

use super::now;
use super::output::{Cell, Tone, age, timestamp};

/// Who holds host ports, and since when.
#[derive(Serialize)]
pub(super) struct Holders {
    pub(super) attachments: Vec<Attachment>,
    pub(super) reservations: Vec<Reservation>,
    pub(super) unreadable: Vec<Unreadable>,
}

/// A record, and what is known besides of who holds it.
#[derive(Serialize)]
pub(super) struct Attachment {
    #[serde(flatten)]
    pub(super) record: Record,
    pub(super) state: State,
    pub(super) evidence: String,
    #[serde(flatten)]
    pub(super) age: Age,
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
}

#[derive(Serialize)]
pub(super) struct Reservation {
    #[serde(flatten)]
    pub(super) of: store::Reservation,
    #[serde(flatten)]
    pub(super) age: Age,
}

/// A record that cannot be read.
#[derive(Serialize)]
pub(super) struct Unreadable {
    pub(super) name: String,
    pub(super) reason: String,
    pub(super) hosts: Vec<HostPort>,
}

impl From<Listing> for Holders {
    fn from(listing: Listing) -> Self {
        let reservations = listing.reservations.into_iter();
        let unreadable = listing.unreadable.into_iter();
        Self {
            attachments: listing.attachments.into_iter().map(Attachment::from).collect(),
            reservations: reservations
                .map(|of| Reservation { age: Age::since(of.created), of })
                .collect(),
            unreadable: unreadable
                .map(|(one, hosts)| Unreadable {
                    name: one.key.to_string(),
                    reason: one.to_string(),
                    hosts,
                })
                .collect(),
        }
    }
}

impl From<Record> for Attachment {
    fn from(record: Record) -> Self {
        let evidence = Fate::of(&record.owner);
        Self {
            state: State::of(&evidence),
            evidence: evidence.to_string(),
            age: Age::since(record.created),
            record,
            details: None,
        }
    }
}

/// When something was recorded.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Age {
    #[serde(skip)]
    created: u64,
    /// `null` of a record that was made again from the table.
    age_seconds: Option<u64>,
}

impl Age {
    fn since(created: u64) -> Self {
        let age_seconds = (created > 0).then(|| now().saturating_sub(created));
        Self { created, age_seconds }
    }

    pub(super) fn cell(self) -> Cell {
        Cell::or_dash(self.age_seconds.map(age))
    }
}

impl fmt::Display for Age {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.age_seconds {
            Some(seconds) => write!(out, "{}, {} ago", timestamp(self.created), age(seconds)),
            None => out.write_str("time unknown"),
        }
    }
}

/// What is known of an attachment's pod.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Alive,
    Stale,
    Unknown,
}

impl State {
    pub(super) const fn of(evidence: &Fate) -> Self {
        match evidence {
            Fate::Alive => Self::Alive,
            Fate::Gone => Self::Stale,
            Fate::Unknown(_) => Self::Unknown,
        }
    }

    /// The word that stands for it, and its colour.
    pub(super) const fn word(self) -> (&'static str, Tone) {
        match self {
            Self::Alive => ("alive", Tone::Good),
            Self::Stale => ("stale", Tone::Bad),
            Self::Unknown => ("unknown", Tone::Doubtful),
        }
    }
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
