//! Which host ports a claim gets: those it names, if they may be had, and those the node chooses.

use std::collections::BTreeSet;

use super::gather::Scene;
use super::survey::Survey;
use crate::error::Error;
use crate::kernel::Listener;
use crate::model::{Ask, Grant, HostPort, Owner, Record};
use crate::plan::{
    self, Availability, Choice, Chosen, Cursors, Earlier, Granted, Spot, Standing, allocate,
    earlier,
};
use crate::store::{Key, Memory, Shared};

/// A claimant, with what is known of its past.
pub(super) struct Chooser<'a> {
    scene: &'a Scene<'a>,
    ask: &'a Ask,
    owner: &'a Owner,
    before: Option<&'a Record>,
    /// The other records of the same pod, or of the container where no pod is known; read where
    /// something is to be chosen.
    kin: Vec<Record>,
    memory: Memory,
}

impl<'a> Chooser<'a> {
    /// Reads what the pod has, and what it released a short while ago.
    pub(super) fn new(
        scene: &'a Scene<'a>,
        ask: &'a Ask,
        owner: &'a Owner,
        before: Option<&'a Record>,
    ) -> Result<Self, Error> {
        let memory = scene.shared.map_or(Memory::default(), |it| it.memory(owner, scene.now));
        let kin = match scene.shared {
            Some(shared) if !ask.requested.is_empty() => kin(shared, owner)?,
            Some(_) | None => Vec::new(),
        };
        Ok(Self { scene, ask, owner, before, kin, memory })
    }

    fn holds(&self, host: &HostPort) -> bool {
        self.before.is_some_and(|before| before.mapping_at(host).is_some())
    }

    /// Whether the attachment holds the port, or its container released it just now: then its own
    /// runtime listens on it (podman's conmon, while the network is being reloaded).
    fn is_its_own(&self, host: &HostPort) -> bool {
        self.holds(host) || self.memory.is_reloading(&self.ask.holder, host, self.scene.now)
    }

    /// Whether a record is of an earlier sandbox of the pod, whose DEL has not come.
    fn is_earlier(&self, record: &Record) -> bool {
        let standing = plan::standing(self.owner, &record.owner, |_| false);
        matches!(standing, Standing::Superseded(_))
    }

    /// How many numbers are chosen besides this claim, for the limits. What it held before, and what
    /// it takes over from an earlier sandbox, is part of it.
    pub(super) fn chosen_already(&self) -> Result<Chosen, Error> {
        let mut chosen = Chosen::default();
        let mut part_of_it = BTreeSet::from([Key::of(&self.ask.holder)]);
        for record in &self.kin {
            if self.is_earlier(record) {
                part_of_it.insert(Key::of(&record.owner.holder));
            } else {
                chosen.pod += record.chosen_numbers().len();
            }
        }
        let namespace = self.ask.pod.as_ref().map(|pod| &*pod.namespace);
        let limited = namespace.filter(|_| self.ask.ports.max_per_namespace.is_some());
        if let (Some(shared), Some(namespace), false) =
            (self.scene.shared, limited, self.ask.requested.is_empty())
        {
            let granted = shared.granted_in_namespace(namespace)?.into_iter();
            let others = granted.filter(|(key, _)| !part_of_it.contains(key));
            chosen.namespace = others.map(|(_, count)| count).sum();
        }
        Ok(chosen)
    }

    /// Refuses named ports that a process of the host listens on.
    ///
    /// # Errors
    /// [`Error::Listening`].
    pub(super) fn find_listeners(&self) -> Result<(), Error> {
        let hosts = self.ask.fixed.iter().map(|mapping| mapping.host);
        for host in hosts.filter(|host| !self.is_its_own(host)) {
            if let Some(listener) = self.listener_at(&host) {
                let listener = Box::new(listener.clone());
                return Err(Error::Listening { wanted: host, listener, process: None });
            }
        }
        Ok(())
    }

    /// Grants every request, or none.
    ///
    /// # Errors
    /// [`Error::Exhausted`], or what the store says.
    pub(super) fn choose(&self) -> Result<Granted, Error> {
        let requests = &self.ask.requested;
        if requests.is_empty() {
            return Ok(Granted::default());
        }
        let own = self.before.map_or(&[][..], |before| &before.grants);
        let (kept, had) = (earlier(requests, own), earlier(requests, &self.former()));
        let either =
            |(own, had): (Option<_>, Option<_>)| own.map(Earlier::Own).or(had.map(Earlier::Former));
        let earlier: Vec<_> = kept.into_iter().zip(had).map(either).collect();
        let choice = Choice {
            ask: self.ask,
            earlier: &earlier,
            cursors: &cursors(self.scene.shared, self.ask)?,
            seed: fastrand::u64(..),
        };
        let mut survey = Survey::new(self.scene.shared, self.owner, &self.memory, self.scene.now);
        Ok(allocate(&choice, |spot, examined| self.look(spot, examined, &mut survey))??)
    }

    /// What the pod had been granted before: what it released a short while ago, and what an earlier
    /// sandbox holds whose DEL has not come.
    fn former(&self) -> Vec<Grant> {
        let is_former = |record: &&Record| {
            self.is_earlier(record) && record.owner.holder.is_same_place(&self.ask.holder)
        };
        let held = self.kin.iter().filter(is_former).flat_map(|record| record.grants.clone());
        self.memory.grants(&self.ask.holder).into_iter().chain(held).collect()
    }

    fn look(
        &self,
        spot: Spot,
        examined: bool,
        survey: &mut Survey<'_>,
    ) -> Result<Availability, Error> {
        if spot.hosts().all(|host| self.holds(&host)) {
            return Ok(Availability::Free);
        }
        let found = survey.look(spot, examined)?;
        // Of a full range, nothing else is asked.
        let is_busy = found != Availability::Held && self.is_in_use(spot);
        Ok(if is_busy { Availability::Busy } else { found })
    }

    fn listener_at(&self, host: &HostPort) -> Option<&Listener> {
        self.scene.gathered.listeners.find(host, &self.ask.policy.host_addresses)
    }

    /// Whether packets would go to a process of the host, or to a pod of portmap.
    fn is_in_use(&self, spot: Spot) -> bool {
        spot.hosts().any(|host| {
            self.listener_at(&host).is_some() && !self.is_its_own(&host)
                || self.scene.gathered.portmap.chain_of(&host).is_some()
        })
    }
}

/// The other records of the pod, or of the container where no pod is known. One that cannot be read
/// is none.
fn kin(shared: &Shared, owner: &Owner) -> Result<Vec<Record>, Error> {
    let all = match (owner.uid(), owner.container_id()) {
        (Some(uid), _) => shared.records_of_pod(uid)?,
        (None, Some(container_id)) => shared.records_of_container(container_id)?,
        (None, None) => Vec::new(),
    };
    Ok(all.into_iter().flatten().filter(|record| record.owner.holder != owner.holder).collect())
}

/// Where the last choice from each range that is asked for has ended.
fn cursors(shared: Option<&Shared>, ask: &Ask) -> Result<Cursors, Error> {
    let mut cursors = Cursors::new();
    let ranges: BTreeSet<_> = ask.requested.iter().map(|request| &request.range).collect();
    for range in ranges {
        let Some(shared) = shared else { break };
        if let Some(port) = shared.cursor(range.as_deref())? {
            cursors.insert(range.clone(), port);
        }
    }
    Ok(cursors)
}
