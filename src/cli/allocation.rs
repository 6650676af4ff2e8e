//! A host port and who holds it, as several commands print it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use autoport::model::{HostPort, Owner, Protocol, Record};
use autoport::netns::Fate;
use autoport::plan;
use serde::Serialize;

use super::now;
use super::output::{Cell, Tone, age, timestamp};

/// A port of the node.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Place {
    #[serde(skip)]
    pub(super) host: HostPort,
    protocol: Protocol,
    host_address: IpAddr,
    host_port: NonZeroU16,
}

impl From<HostPort> for Place {
    fn from(host: HostPort) -> Self {
        Self { host, protocol: host.protocol, host_address: host.address, host_port: host.port }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.host.fmt(out)
    }
}

/// A port of the node, and where its packets go.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Mapped {
    #[serde(flatten)]
    pub(super) place: Place,
    /// `null` where nothing is translated.
    pod_address: Option<IpAddr>,
    pod_port: Option<NonZeroU16>,
    /// Who chose the number: `static`, `chosen`, `reserved` or `unknown`.
    choice: &'static str,
}

impl Mapped {
    /// Those of `record`, in its order.
    pub(super) fn of(record: &Record) -> impl Iterator<Item = Self> {
        let chosen = plan::expand(&record.grants, &record.pod_addresses);
        record.mappings.iter().map(move |mapping| {
            // Sorted, and the host port counts first.
            let is_chosen = chosen.binary_search_by(|one| one.host.cmp(&mapping.host)).is_ok();
            Self {
                pod_address: mapping.target.map(|target| target.ip()),
                pod_port: Some(mapping.container_port),
                ..Self::bare(mapping.host, if is_chosen { "chosen" } else { "static" })
            }
        })
    }

    /// A port that leads to no pod, or of a record that cannot be read.
    pub(super) fn bare(host: HostPort, choice: &'static str) -> Self {
        Self { place: host.into(), pod_address: None, pod_port: None, choice }
    }

    /// Port, target, and who chose.
    pub(super) fn cells(&self) -> [Cell; 3] {
        let target = self.pod_address.zip(self.pod_port);
        let target = target.map(|(ip, port)| SocketAddr::new(ip, port.get()));
        let choice = Cell::or_dash(self.pod_port.map(|_| self.choice));
        [self.place.into(), Cell::or_dash(target), choice]
    }
}

/// When something was recorded.
#[derive(Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Age {
    /// Seconds since the epoch; `null` where it is not known.
    created: Option<u64>,
    pub(super) age_seconds: Option<u64>,
}

impl Age {
    pub(super) fn since(created: u64) -> Self {
        // Of a record made again from the table the time is not known.
        let created = (created > 0).then_some(created);
        Self { created, age_seconds: created.map(|created| now().saturating_sub(created)) }
    }
}

impl fmt::Display for Age {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.created.zip(self.age_seconds) {
            Some((created, seconds)) => {
                write!(out, "{}, {} ago", timestamp(created), age(seconds))
            }
            None => out.write_str("time unknown"),
        }
    }
}

/// What is known of a holder.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Alive,
    Stale,
    Unknown,
    Reserved,
    Unreadable,
}

impl State {
    pub(super) fn of(owner: &Owner) -> (Self, Fate) {
        let evidence = Fate::of(owner);
        let state = match evidence {
            Fate::Alive => Self::Alive,
            Fate::Gone => Self::Stale,
            Fate::Unknown(_) => Self::Unknown,
        };
        (state, evidence)
    }

    /// The word that stands for it, and its colour.
    pub(super) const fn word(self) -> (&'static str, Tone) {
        match self {
            Self::Alive => ("alive", Tone::Good),
            Self::Stale => ("stale", Tone::Bad),
            Self::Unknown => ("unknown", Tone::Doubtful),
            Self::Reserved => ("-", Tone::Plain),
            Self::Unreadable => ("unreadable", Tone::Bad),
        }
    }

    pub(super) fn cell(self) -> Cell {
        let (word, tone) = self.word();
        Cell::toned(word, tone)
    }
}

/// Who holds something. Just those fields that it has are not `null`.
#[derive(Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Holder {
    namespace: Option<String>,
    pod: Option<String>,
    uid: Option<String>,
    network: Option<String>,
    container_id: Option<String>,
    ifname: Option<String>,
    reservation: Option<String>,
    /// The name of a record that cannot be read.
    unreadable: Option<String>,
}

/// So much of an ID of 64 digits is enough for a person, and for `autoport show`.
const SHORT: usize = 12;

impl Holder {
    pub(super) fn of(owner: &Owner) -> Self {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let (pod, attachment) = (owner.pod.as_ref(), owner.attachment());
        Self {
            namespace: pod.and_then(|pod| given(&pod.namespace)),
            pod: pod.map(|pod| pod.name.clone()),
            uid: owner.uid().map(str::to_owned),
            network: attachment.map(|one| one.network().to_owned()),
            container_id: attachment.map(|one| one.container_id().to_owned()),
            ifname: attachment.map(|one| one.ifname().to_owned()),
            ..Self::default()
        }
    }

    pub(super) fn reservation(name: &str) -> Self {
        Self { reservation: Some(name.to_owned()), ..Self::default() }
    }

    pub(super) fn unreadable(key: &impl ToString) -> Self {
        Self { unreadable: Some(key.to_string()), ..Self::default() }
    }

    pub(super) fn is_in_namespace(&self, namespace: &str) -> bool {
        self.namespace.as_deref() == Some(namespace)
    }

    /// Network, container ID and interface name.
    pub(super) fn attachment(&self) -> String {
        let parts = [&self.network, &self.container_id, &self.ifname];
        // The name of an interface may have a control character in it.
        parts.map(|part| part.as_deref().unwrap_or("-").escape_debug().to_string()).join("/")
    }

    /// A pod by its name, a container by its ID.
    pub(super) fn name(&self) -> String {
        if let Some(pod) = &self.pod {
            let namespace = self.namespace.as_ref().map(|namespace| format!("{namespace}/"));
            let name = format!("{}{pod}", namespace.unwrap_or_default());
            return name.escape_debug().to_string();
        }
        if let Some(id) = &self.container_id {
            let is_hash = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
            let short = if is_hash { &id[..SHORT] } else { id };
            return format!("container {short}");
        }
        let host_pod = self.uid.as_ref().map(|uid| format!("host-network pod {uid}"));
        let reservation = self.reservation.as_ref().map(|name| format!("reservation {name}"));
        host_pod.or(reservation).or_else(|| self.unreadable.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use autoport::model::{Attachment, HostPod};

    use super::*;

    #[test]
    fn every_holder_has_a_name() {
        let host_pod = Owner::bare(HostPod::new("uid-1").expect("a UID"));
        let hash = "0123456789abcdef".repeat(4);
        let container = Owner::bare(Attachment::new("blue", &hash, "eth0").expect("a name"));
        let names = [
            Holder::of(&host_pod),
            Holder::of(&container),
            Holder::reservation("dns"),
            Holder::unreadable(&"blue:damaged:eth0"),
        ]
        .map(|holder| holder.name());
        let expected = [
            "host-network pod uid-1",
            "container 0123456789ab",
            "reservation dns",
            "blue:damaged:eth0",
        ];
        assert_eq!(names, expected);
    }
}
