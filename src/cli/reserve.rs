//! `autoport reserve` and `autoport release`.

use std::io;

use autoport::app;
use autoport::model::{HostPort, Protocol};
use autoport::store::Reservation;
use serde::Serialize;

use super::allocation::Place;
use super::output::{Answer, Text};
use super::{Failure, Node, arguments, now};

/// A reservation that was made or ended.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Changed {
    name: String,
    host_ports: Vec<Place>,
}

impl Answer for Changed {
    /// Who reads this asked for just that.
    fn text(&self, _: &mut Text<'_>) -> io::Result<()> {
        Ok(())
    }
}

impl From<arguments::Protocol> for Protocol {
    fn from(protocol: arguments::Protocol) -> Self {
        match protocol {
            arguments::Protocol::Tcp => Self::Tcp,
            arguments::Protocol::Udp => Self::Udp,
            arguments::Protocol::Sctp => Self::Sctp,
        }
    }
}

pub(super) fn reserve(asked: &arguments::Reserve, node: &Node) -> Result<Changed, Failure> {
    let each =
        |port: &arguments::Port| HostPort::each(port.protocol.into(), port.address, port.number);
    let reservation = Reservation {
        name: asked.name.clone(),
        hosts: asked.ports.iter().flat_map(each).collect(),
        created: now(),
        persistent: asked.persist,
    };
    app::reserve(&node.store, &reservation, &mut crate::Stderr)?;
    Ok(Changed::of(&asked.name, &reservation.hosts))
}

pub(super) fn release(name: &str, node: &Node) -> Result<Changed, Failure> {
    let freed = app::unreserve(&node.store, name, &mut crate::Stderr)?;
    let freed = freed.ok_or_else(|| Failure::NoReservation(name.to_owned()))?;
    Ok(Changed::of(name, &freed))
}

impl Changed {
    fn of(name: &str, hosts: &[HostPort]) -> Self {
        Self { name: name.to_owned(), host_ports: hosts.iter().map(Place::from).collect() }
    }
}
