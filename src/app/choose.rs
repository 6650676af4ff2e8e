//! Which host ports an attachment gets: those it names, if they may be had, and those it wishes for.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::num::NonZeroU16;

use super::past::Past;
use super::survey::Survey;
use crate::error::Error;
use crate::kernel::{Listeners, Portmap};
use crate::model::{Ask, Grant, Holder, HostListeners, HostPort, Owner, Record};
use crate::plan::{
    Availability, Choice, Chosen, Cursors, Earlier, Granted, Spot, allocate, earlier, permit,
};
use crate::store::{Key, Locked, Released, Releaser};

/// A claimant, with what is known of its past.
pub(super) struct Chooser<'a> {
    past: Past<'a>,
    ask: &'a Ask,
    owner: &'a Owner,
    before: Option<&'a Record>,
    releaser: Releaser,
    released: Option<Released>,
    listeners: Listeners,
    portmap: &'a Portmap,
    now: u64,
}

impl<'a> Chooser<'a> {
    /// Looks at what every choice depends on. Nothing of it is read where nobody asks for a choice
    /// and host listeners do not matter.
    pub(super) fn new(
        past: Past<'a>,
        ask: &'a Ask,
        owner: &'a Owner,
        before: Option<&'a Record>,
        portmap: &'a Portmap,
        now: u64,
    ) -> Result<Self, Error> {
        let releaser = Releaser::of(owner);
        let mut chooser = Self {
            past,
            ask,
            owner,
            before,
            released: past.released_to(&releaser, now),
            releaser,
            listeners: Listeners::default(),
            portmap,
            now,
        };
        if ask.ports.host_listeners == HostListeners::Reject {
            chooser.listeners = chooser.listeners()?;
        }
        Ok(chooser)
    }

    fn listeners(&self) -> Result<Listeners, Error> {
        if self.ask.requested.is_empty() {
            let hosts = self.ask.fixed.iter().map(|mapping| mapping.host);
            let unknown: Vec<HostPort> = hosts.filter(|host| !self.is_its_own(host)).collect();
            return Ok(Listeners::near(&unknown)?);
        }
        let wishes = self.ask.requested.iter().flat_map(|wish| wish.protocols.iter().copied());
        let mappings = self.ask.fixed.iter().map(|mapping| mapping.host.protocol);
        let protocols: BTreeSet<_> = wishes.chain(mappings).collect();
        Ok(Listeners::of(&protocols.into_iter().collect::<Vec<_>>())?)
    }

    /// Whether the attachment holds the port, or held it a short while ago: then who listens on it
    /// is its own runtime's (podman's conmon, while the network is being reloaded).
    fn is_its_own(&self, host: &HostPort) -> bool {
        self.holds(host)
            || self.released.as_ref().is_some_and(|released| released.hosts.contains(host))
    }

    /// Whether the container held the port a short while ago in another of its networks: they are
    /// reloaded one after the other, in any order.
    fn was_its_siblings(&self, host: &HostPort) -> Result<bool, Error> {
        let mark = self.past.released_at(host.protocol, host.port, self.now)?;
        let sibling = mark.map(|mark| mark.by).filter(|by| by.is_beside(&self.releaser));
        let released = sibling.and_then(|by| self.past.released_to(&by, self.now));
        Ok(released.is_some_and(|released| released.hosts.contains(host)))
    }

    fn holds(&self, host: &HostPort) -> bool {
        super::holds(self.before, host)
    }

    /// Refuses ports that the operator forbids.
    ///
    /// # Errors
    /// [`Error::Forbidden`].
    pub(super) fn permit(&self) -> Result<(), Error> {
        Ok(permit(self.ask, Chosen::default())?)
    }

    /// Refuses named ports that a process of the host listens on.
    ///
    /// # Errors
    /// [`Error::Listening`].
    pub(super) fn find_listeners(&self) -> Result<(), Error> {
        let hosts = self.ask.fixed.iter().map(|mapping| mapping.host);
        for host in hosts.filter(|host| !self.is_its_own(host)) {
            if let Some(listener) = self.listeners.find(&host) {
                if self.was_its_siblings(&host)? {
                    continue;
                }
                let listener = Box::new(listener.clone());
                return Err(Error::Listening { wanted: host, listener, process: None });
            }
        }
        Ok(())
    }

    /// Grants every wish, or none.
    ///
    /// # Errors
    /// [`Error::Exhausted`], or what the store says.
    pub(super) fn choose(&self) -> Result<Granted, Error> {
        let wishes = &self.ask.requested;
        if wishes.is_empty() {
            return Ok(Granted { grants: Vec::new(), cursors: Cursors::new() });
        }
        let former = self.former();
        let own = self.before.map_or(&[][..], |before| &before.grants);
        let kept = earlier(wishes, own, Earlier::Own);
        let had = earlier(wishes, &former, Earlier::Former);
        let earlier: Vec<_> = kept.into_iter().zip(had).map(|(own, had)| own.or(had)).collect();
        let choice = Choice {
            ask: self.ask,
            earlier: &earlier,
            cursors: &cursors(self.past, self.ask)?,
            seed: fastrand::u64(..),
        };
        let numbers = |grant: &Grant| {
            let first = grant.port;
            (0..grant.wish.count.get()).filter_map(move |offset| first.checked_add(offset))
        };
        let formerly: BTreeSet<NonZeroU16> = former.iter().flat_map(numbers).collect();
        let survey = RefCell::new(Survey::new(self.past, self.owner, &self.releaser, self.now));
        let look = |spot: Spot| {
            let survey = &mut survey.borrow_mut();
            // The sandbox before this one may still be entered for them.
            let is_former = formerly.contains(&spot.port);
            if is_former { self.examine(spot, survey) } else { self.look(spot, survey) }
        };
        let examine = |spot: Spot| self.examine(spot, &mut survey.borrow_mut());
        Ok(allocate(&choice, look, examine)??)
    }

    /// What the pod had been granted before: what it released a short while ago, and what an earlier
    /// sandbox holds whose DEL has not come.
    fn former(&self) -> Vec<Grant> {
        let mut grants = self.released.as_ref().map_or(Vec::new(), |it| it.grants.clone());
        let uid = self.owner.pod.as_ref().map_or("", |pod| &pod.uid);
        let published = (!uid.is_empty()).then(|| self.past.published(uid)).flatten();
        let entries = published.map_or(Vec::new(), |publication| publication.entries);
        let Holder::Attachment(own) = &self.ask.holder else { return grants };
        let others: BTreeSet<_> = entries
            .into_iter()
            .filter_map(|entry| entry.attachment)
            .filter(|other| other.network() == own.network() && other.ifname() == own.ifname())
            .filter(|other| other.container_id() != own.container_id())
            .collect();
        for other in others {
            if let Ok(record) = self.past.record(&Key::of_attachment(&other)) {
                grants.extend(record.into_iter().flat_map(|record| record.grants));
            }
        }
        grants
    }

    fn look(&self, spot: Spot, survey: &mut Survey<'_>) -> Result<Availability, Error> {
        if spot.hosts().all(|host| self.holds(&host)) {
            return Ok(Availability::Free);
        }
        if self.is_in_use(spot) {
            return Ok(Availability::Busy);
        }
        survey.look(spot)
    }

    /// Looks behind the entries: who is no more holds nothing.
    fn examine(&self, spot: Spot, survey: &mut Survey<'_>) -> Result<Availability, Error> {
        if self.is_in_use(spot) {
            return Ok(Availability::Busy);
        }
        survey.examine(spot)
    }

    /// Whether packets would go to a process of the host, or to a pod of portmap.
    fn is_in_use(&self, spot: Spot) -> bool {
        let is_listened_on =
            |host: &HostPort| self.listeners.find(host).is_some() && !self.is_its_own(host);
        spot.hosts().any(|host| is_listened_on(&host) || self.portmap.chain_of(&host).is_some())
    }
}

fn cursors(past: Past<'_>, ask: &Ask) -> Result<Cursors, Error> {
    let mut cursors = Cursors::new();
    for wish in &ask.requested {
        if let Some(port) = past.cursor(wish.range.as_deref())? {
            cursors.insert(wish.range_name().to_owned(), port);
        }
    }
    Ok(cursors)
}

/// Records where the next choice begins.
pub(super) fn move_cursors(locked: &Locked, ask: &Ask, moved: &Cursors) -> Result<(), Error> {
    let ranges: BTreeSet<_> = ask.requested.iter().map(|wish| wish.range.as_deref()).collect();
    for range in ranges {
        let name = range.unwrap_or(crate::model::Wish::DEFAULT_RANGE);
        if let Some(port) = moved.get(name) {
            locked.set_cursor(range, *port)?;
        }
    }
    Ok(())
}
