//! Who holds a port: the index, then the records that it leads to.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use super::error::{Error, Unreadable};
use super::key::{Key, Kind};
use super::reservation::{self, Reservation};
use super::{Shared, index, record};
use crate::model::{HostPort, Protocol, Record};

/// Ports that were asked about and are held, and what holds them.
#[derive(Debug)]
pub struct Held {
    /// The holder.
    pub who: Who,
    /// Those of its ports that overlap what was asked for, sorted.
    pub hosts: Vec<HostPort>,
}

/// A holder of ports.
#[derive(Debug)]
pub enum Who {
    /// An attachment, which may have been superseded, or a host-network pod.
    Record(Box<Record>),
    /// A reservation, which nothing but its release ends.
    Reservation(Reservation),
    /// A holder whose record cannot be read: only [`Unreadable::key`] is known.
    Unreadable(Unreadable),
}

impl Who {
    /// Whether an entry for `host` that leads here counts: the record lists it, or might.
    pub fn counts_at(&self, host: &HostPort) -> bool {
        match self {
            Self::Record(record) => record.mapping_at(host).is_some(),
            Self::Reservation(reservation) => reservation.hosts.binary_search(host).is_ok(),
            Self::Unreadable(_) => true,
        }
    }
}

impl Shared {
    /// Everyone who holds a port that overlaps one of `wanted`, once each, sorted by key. The
    /// claimant itself is among them if it holds one.
    ///
    /// Reads the index of just these ports and the records that it leads to, each once.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn holders(&self, wanted: &[HostPort]) -> Result<Vec<Held>, Error> {
        let mut by_port: BTreeMap<_, Vec<&HostPort>> = BTreeMap::new();
        for host in wanted {
            by_port.entry((host.protocol, host.port)).or_default().push(host);
        }
        let mut entered: BTreeMap<Key, Vec<HostPort>> = BTreeMap::new();
        for ((protocol, port), wanted) in by_port {
            for (host, key) in index::at(&self.disk, protocol, port)? {
                if wanted.iter().any(|wanted| wanted.overlaps(&host)) {
                    entered.entry(key).or_default().push(host);
                }
            }
        }
        let held = entered.into_iter().filter_map(|(key, mut hosts)| {
            let who = self.who(&key)?;
            hosts.retain(|host| who.counts_at(host));
            hosts.sort_unstable();
            (!hosts.is_empty()).then_some(Held { who, hosts })
        });
        Ok(held.collect())
    }

    /// Every holder that is entered for a port, on any address. For callers that ask about many ports of
    /// few holders, and read each of them once ([`Shared::who`]).
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn entries_at(
        &self,
        protocol: Protocol,
        port: NonZeroU16,
    ) -> Result<Vec<(HostPort, Key)>, Error> {
        index::at(&self.disk, protocol, port)
    }

    /// Reads what an entry leads to; `None` when that is nothing.
    pub fn who(&self, key: &Key) -> Option<Who> {
        let read = match key.kind {
            Kind::Attachment | Kind::HostPod => {
                self.record(key).map(|read| read.map(|record| Who::Record(Box::new(record))))
            }
            Kind::Reservation => {
                reservation::read(&self.disk, key).map(|read| read.map(Who::Reservation))
            }
            Kind::Unknown => Err(record::of_unknown_kind(&self.disk, key)),
        };
        read.unwrap_or_else(|unreadable| Some(Who::Unreadable(unreadable)))
    }

    /// Every port of a protocol that may be held, by [`Shared::entered_at`], sorted: for a choice that has
    /// to look at very many of them.
    ///
    /// # Errors
    /// When the index cannot be listed.
    pub fn entered_ports(&self, protocol: Protocol) -> Result<Vec<NonZeroU16>, Error> {
        let names = self.disk.some_names(&index::of_protocol(protocol), usize::MAX)?;
        let mut ports: Vec<_> = names.iter().filter_map(|name| index::port_in(name)).collect();
        ports.sort_unstable();
        Ok(ports)
    }

    /// Whether this port may be held, on any address: one look-up, however many ports are held. An entry
    /// without a record counts; [`Shared::holders`] does not count it.
    ///
    /// # Errors
    /// When the index cannot be examined.
    pub fn entered_at(&self, protocol: Protocol, port: NonZeroU16) -> Result<bool, Error> {
        Ok(self.disk.inode(&index::directory(protocol, port))?.is_some())
    }
}
