//! Everyone who holds host ports, as several commands print them.

use std::path::PathBuf;

use autoport::app::{InKernel, Listing, Unread};
use autoport::model::{Holder, HostPort, Owner, Record, short_id};
use autoport::netns::Fate;
use autoport::store;
use serde::ser::Error as _;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::output::{BAD, DOUBTFUL, GOOD, Style, age, timestamp, value_of};
use super::{now, rows};

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
    #[serde(flatten, serialize_with = "with_names")]
    pub(super) record: Record,
    /// What the evidence means, in a word.
    pub(super) state: &'static str,
    #[serde(skip)]
    pub(super) style: Style,
    pub(super) evidence: String,
    pub(super) age_seconds: Option<u64>,
    /// Whether the containers of its pod have their variables; `None` where no agent has written of any.
    pub(super) variables: Option<Variables>,
    #[serde(flatten)]
    pub(super) details: Option<Details>,
}

/// How many containers of a pod have the variables of their host ports, and how many run without.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Variables {
    pub(super) injected: usize,
    pub(super) uninjected: usize,
}

/// The record, with the name of each port in its mapping.
fn with_names<S: Serializer>(record: &Record, serializer: S) -> Result<S::Ok, S::Error> {
    let mut value = value_of(record).map_err(S::Error::custom)?;
    let mappings = value["mappings"].as_array_mut().into_iter().flatten();
    for (shown, mapping) in mappings.zip(&record.mappings) {
        shown["name"] = rows::name_of(record, &mapping.host).map_or(Value::Null, Value::from);
    }
    with_times(&value, serializer)
}

/// A value, with each time in it as RFC 3339 writes it, or `null` if it is not known.
pub(super) fn with_times<T: Serialize, S: Serializer>(
    of: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    fn convert(value: &mut Value) {
        match value {
            Value::Object(members) => {
                for (key, value) in members {
                    match value.as_u64() {
                        Some(0) if key == "created" => *value = Value::Null,
                        Some(seconds) if key == "created" => *value = timestamp(seconds).into(),
                        Some(_) | None => convert(value),
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(convert),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut value = value_of(of).map_err(S::Error::custom)?;
    convert(&mut value);
    value.serialize(serializer)
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
    /// What the bind hook has attached for its pod.
    pub(super) programs: Vec<store::BindProgram>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Reservation {
    #[serde(flatten, serialize_with = "with_times")]
    pub(super) of: store::Reservation,
    pub(super) age_seconds: Option<u64>,
}

impl Holders {
    /// With what an agent has written of the pods' containers.
    pub(super) fn with(mut self, containers: &[store::Container]) -> Self {
        for one in &mut self.attachments {
            let uid = one.record.owner.uid();
            let its = containers.iter().filter(|it| uid == Some(&it.pod.uid));
            let (with, without): (Vec<_>, Vec<_>) = its.partition(|it| it.uninjected.is_none());
            let (injected, uninjected) = (with.len(), without.len());
            let is_known = injected + uninjected > 0;
            one.variables = is_known.then_some(Variables { injected, uninjected });
        }
        self
    }

    /// What each holds, and whether it still exists: what is of interest when it changes.
    pub(super) fn held(&self) -> Vec<(String, &'static str, Vec<HostPort>)> {
        let attachments = self.attachments.iter().map(|one| {
            let hosts = one.record.mappings.iter().map(|mapping| mapping.host).collect();
            (one.record.owner.to_string(), one.state, hosts)
        });
        let reservations = self.reservations.iter();
        let reservations = reservations.map(|one| (one.of.to_string(), "-", one.of.hosts.clone()));
        let unreadable = self.unreadable.iter();
        let unreadable = unreadable.map(|one| (one.name.clone(), "unreadable", one.hosts.clone()));
        attachments.chain(reservations).chain(unreadable).collect()
    }
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
            variables: None,
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

/// A pod by its name, a container by its ID.
pub(super) fn name_of(owner: &Owner) -> String {
    match (&owner.pod, &owner.holder) {
        (Some(pod), _) => pod.to_string(),
        (None, Holder::Attachment(attachment)) => {
            format!("container {}", short_id(attachment.container_id()))
        }
        (None, Holder::HostPod { .. }) => owner.to_string(),
    }
}

#[cfg(test)]
mod tests;
