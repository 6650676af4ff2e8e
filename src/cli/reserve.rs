//! `autoport reserve` and `autoport release`.

use std::io;

use autoport::app;
use autoport::model::{HostPort, Protocol};
use autoport::store::Reservation;
use serde::Serialize;

use super::allocation::Place;
use super::output::{Answer, Screen, Text};
use super::{Failure, Node, Verdict, arguments, now};

/// A reservation that was made or ended.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Changed<'a> {
    name: &'a str,
    host_ports: Vec<Place>,
}

impl Answer for Changed<'_> {
    /// Who reads this asked for just that.
    fn text(&self, _: &mut Text<'_>) -> io::Result<()> {
        Ok(())
    }
}

fn hosts_of(hosts: &[HostPort]) -> Vec<Place> {
    hosts.iter().map(Place::from).collect()
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

pub(super) fn reserve(
    asked: &arguments::Reserve,
    node: &Node,
    screen: &mut Screen<'_>,
) -> Result<Verdict, Failure> {
    let each =
        |port: &arguments::Port| HostPort::each(port.protocol.into(), port.address, port.number);
    let reservation = Reservation {
        name: asked.name.clone(),
        hosts: asked.ports.iter().flat_map(each).collect(),
        created: now(),
        persistent: asked.persist,
    };
    app::reserve(&node.store, node.patience, &reservation, &mut crate::Stderr)?;
    screen.show(&Changed { name: &asked.name, host_ports: hosts_of(&reservation.hosts) })?;
    Ok(Verdict::Well)
}

pub(super) fn release(
    asked: &arguments::Release,
    node: &Node,
    screen: &mut Screen<'_>,
) -> Result<Verdict, Failure> {
    let freed = app::unreserve(&node.store, node.patience, &asked.name, &mut crate::Stderr)?;
    let freed = freed.ok_or_else(|| Failure::NoReservation(asked.name.clone()))?;
    screen.show(&Changed { name: &asked.name, host_ports: hosts_of(&freed) })?;
    Ok(Verdict::Well)
}
