//! Deleting elements by whose they are, where the records do not tell.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::elements::{self, Seen};
use super::socket::Transaction;
use super::{Error, Extent, Nft};
use crate::model::{HostPort, Mapping};
use crate::ruleset::{Data, Place, container_of, covers, hairpin_of, host_at};

type Places = Vec<Place>;

impl Nft {
    /// Deletes every element that names the container and its interface, whatever the network's name is
    /// and whichever store built the table; returns what was mapped.
    ///
    /// It needs no lock: an element that names another container is never touched.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Unanswered`]; as for [`Self::look`].
    pub fn withdraw_container(
        &mut self,
        container_id: &str,
        ifname: &str,
    ) -> Result<Vec<Mapping>, Error> {
        let is_meant = |seen: &Seen| container_of(&seen.holder) == Some((container_id, ifname));
        self.attempt(Extent::Everything, |_, look, _| {
            let (places, mappings) = held(&look.elements, is_meant);
            let mut transaction = Transaction::begin();
            elements::delete(&mut transaction, &places);
            Ok(Some((transaction, mappings)))
        })
    }
}

/// The elements that lead to a pod and are meant, with those that serve only them: membership in the
/// sets of a network, and hairpins.
fn held(
    elements: &BTreeMap<Place, Seen>,
    is_meant: impl Fn(&Seen) -> bool,
) -> (Places, Vec<Mapping>) {
    let targets = elements.iter().filter_map(|(place, seen)| match seen.data {
        Some(Data::Target(target)) => Some((*place, host_at(place)?, target, is_meant(seen))),
        Some(Data::None) | None => None,
    });
    let (meant, others): (Vec<_>, Vec<_>) = targets.partition(|(.., is_meant)| *is_meant);
    let hairpins = |targets: &[(Place, HostPort, SocketAddr, bool)]| -> Places {
        targets.iter().map(|(_, host, target, _)| hairpin_of(host, *target)).collect()
    };
    let (own, needed) = (hairpins(&meant), hairpins(&others));
    let has = |place: &Place| meant.iter().any(|(own, ..)| own == place);
    // In the other map, the same claim is another's.
    let serves = |place: &Place| if place.0.is_map() { has(place) } else { covers(has, place) };
    let goes = |place: &&Place| serves(place) || own.contains(place) && !needed.contains(place);
    let places = elements.keys().filter(goes).copied().collect();
    let mappings = meant.iter().filter_map(|(_, host, target, _)| {
        let container_port = target.port().try_into().ok()?;
        Some(Mapping { host: *host, container_port, target: Some(*target) })
    });
    (places, mappings.collect())
}
