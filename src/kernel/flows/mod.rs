//! Ending the flows that began under another mapping.
//!
//! The kernel decides once per flow where it goes. A UDP or SCTP client that keeps sending, and a client
//! that connects again from the same port, keep its entry in connection tracking alive: they would never
//! reach the new pod, and would keep sending to the address of the old one, which the next pod may have.
//!
//! A question costs what the kernel walks for it. With the default hash table of 262,144 buckets a listing
//! takes 8 ms and a deletion by a filter (kernels from 6.11 on) 0.2 ms, both 0.3 µs more for each entry of
//! the machine. So a removal is a deletion where a filter can tell what is meant, and where a namespace
//! tracks nothing nothing is asked.

mod conntrack;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnetwork::IpNetwork;

use super::route::{ADDRESSES, Local};
use super::{Error, Nft, is_among};
use crate::model::{Family, HostPort, Protocol};
use crate::ruleset::{Data, Offload, Traffic, places_of};

use conntrack::Filter;
pub(in crate::kernel) use conntrack::Flow;

/// What a command changed about what is translated, which matters to the flows that began before.
#[derive(Clone, Debug, Default)]
pub struct Redirected {
    /// What is no longer translated. Its flows are those that were.
    pub gone: Vec<Traffic>,
    /// What is translated only now. Its flows are those that met the node itself so far.
    pub new: Vec<Traffic>,
    /// Whether the pods of `gone` stay, with connections that others translate.
    pub pods_stay: bool,
}

/// A mapping of [`Redirected`].
#[derive(Clone, Copy, Debug)]
struct Turn<'a> {
    host: HostPort,
    target: SocketAddr,
    by: &'a Traffic,
    is_new: bool,
    pod_stays: bool,
}

impl Redirected {
    /// The mappings whose flows matter. New ones of TCP do not: the node has refused their clients until
    /// now, and after a refusal the kernel decides again.
    fn turns(&self) -> Vec<Turn<'_>> {
        let gone = self.gone.iter().map(|by| (by, false));
        let all = gone.chain(self.new.iter().map(|by| (by, true)));
        let turns = all.flat_map(|(by, is_new)| {
            by.mappings.iter().filter_map(move |mapping| {
                let matters = !is_new || mapping.host.protocol != Protocol::Tcp;
                let target = mapping.target.filter(|_| matters)?;
                Some(Turn { host: mapping.host, target, by, is_new, pod_stays: self.pods_stay })
            })
        });
        let mut turns: Vec<_> = turns.collect();
        turns.sort_by_key(|turn| (Family::of(&turn.host.address), turn.is_new));
        turns
    }
}

/// Whether a client gets through.
fn admits(by: &Traffic, client: IpAddr) -> bool {
    match client {
        IpAddr::V4(v4) if v4.is_loopback() => !by.leaves_loopback,
        // Left to the node, which refuses it.
        IpAddr::V6(v6) if v6.is_loopback() => false,
        IpAddr::V4(_) | IpAddr::V6(_) => is_among(&by.source_ranges, client),
    }
}

impl Turn<'_> {
    /// Whether the flow has to end. `local` says whether an address is this node's, and is asked only if
    /// that decides.
    fn ends(&self, flow: &Flow, local: &dyn Fn(IpAddr) -> bool) -> bool {
        let Self { host, target, by, is_new, .. } = self;
        let to = flow.to.ip();
        let is_of_family = to.is_ipv4() == host.address.is_ipv4();
        let is_open = is_of_family && is_among(&by.host_addresses, to);
        let is_open = if host.is_wildcard() { is_open } else { to == host.address };
        let is_meant = flow.protocol == host.protocol && flow.to.port() == host.port.get();
        if !is_meant || !is_open {
            return false;
        }
        let is_translated = flow.answered_by != flow.to;
        if *is_new {
            return !is_translated && admits(by, flow.from) && local(to);
        }
        is_translated && flow.answered_by == *target && (!host.is_wildcard() || local(to))
    }

    /// The filters that tell its flows from all others. `None` where only a look at each flow does. Where the
    /// node's addresses would have to be known, a pod that leaves also loses what others translated alike, as
    /// for a Service with the same numbers.
    fn exact_filters(&self) -> Option<Vec<Filter>> {
        let filter = |to| Filter {
            protocol: Some(self.host.protocol),
            to: (to, Some(self.host.port.get())),
            answered_by: (v4(self.target.ip()), Some(self.target.port())),
            ..self.filter()
        };
        let hosts = &self.by.host_addresses;
        let one = |host: &IpNetwork| (host.prefix() == 32).then(|| filter(v4(host.ip())));
        match self.host.address {
            IpAddr::V4(_) if self.is_new => None,
            IpAddr::V4(any) if any.is_unspecified() && hosts.is_empty() => {
                (!self.pod_stays).then(|| vec![filter(None)])
            }
            IpAddr::V4(any) if any.is_unspecified() => {
                hosts.iter().filter(|host| host.is_ipv4()).map(one).collect()
            }
            IpAddr::V4(address) => Some(vec![filter(Some(address))]),
            IpAddr::V6(_) => None,
        }
    }

    /// A filter that lets more pass, so that few of them do for many mappings.
    fn filter(&self) -> Filter {
        let family = Family::of(&self.host.address);
        let filter = Filter::all(family, !self.is_new);
        if let (false, Some(pod)) = (self.is_new, v4(self.target.ip())) {
            return Filter { answered_by: (Some(pod), None), ..filter };
        }
        let port = Some(self.host.port.get());
        Filter { protocol: Some(self.host.protocol), to: (None, port), ..filter }
    }
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    if let IpAddr::V4(v4) = address { Some(v4) } else { None }
}

/// The filters to list by. With many of them it takes less time to list everything.
fn listings(turns: &[Turn<'_>]) -> BTreeSet<Filter> {
    const MANY: usize = 4;
    let filters: BTreeSet<_> = turns.iter().map(Turn::filter).collect();
    if filters.len() <= MANY {
        return filters;
    }
    filters.into_iter().map(|filter| Filter::all(filter.family, filter.translated)).collect()
}

/// The filters to delete by, those of each of `turns`, where that takes less time than listing. Measured in
/// entries, a walk through the empty hash table costs as much as 600 of them, and to list it as 27,000.
fn deletions(turns: &[Turn<'_>], entries: u32) -> Option<Vec<Vec<Filter>>> {
    let filters: Vec<_> = turns.iter().map(Turn::exact_filters).collect::<Option<_>>()?;
    let deletions = filters.iter().map(Vec::len).sum::<usize>() as u64;
    let listings = listings(turns).len() as u64;
    let entries = u64::from(entries);
    (deletions * (600 + entries) <= listings * (27_000 + entries)).then_some(filters)
}

impl Nft {
    /// Ends the flows that `change` makes stale, unless another command has changed the mappings since. What it
    /// costs is up to the clients of this node, so nobody holds the lock meanwhile.
    ///
    /// # Errors
    /// [`Error::Socket`], [`Error::Question`]: then the flows may go on until they expire.
    pub fn end_flows(&mut self, change: &Redirected) -> Result<(), Error> {
        let turns = change.turns();
        let gone: Vec<_> = turns.iter().filter(|turn| !turn.is_new).copied().collect();
        let places = || gone.iter().flat_map(|turn| places_of(&turn.host)).collect();
        // A released element goes on translating until it has expired. What begins meanwhile would go on for as
        // long as a UDP client sends; with TCP it takes a client that connects just then.
        let waits = gone.iter().any(|turn| turn.host.protocol != Protocol::Tcp);
        if waits {
            self.await_expiry(places())?;
        }
        if self.end(&turns)? && !waits && self.await_expiry(places())? {
            self.end(&gone)?;
        }
        Ok(())
    }

    /// Says whether there may have been flows to end.
    fn end(&mut self, turns: &[Turn<'_>]) -> Result<bool, Error> {
        let mut ended = false;
        for of_family in
            turns.chunk_by(|one, other| one.host.address.is_ipv4() == other.host.address.is_ipv4())
        {
            let entries = conntrack::count(&mut self.socket)?;
            if entries > 0 {
                let by_filter = match deletions(of_family, entries) {
                    Some(filters) => self.delete_by(of_family, &filters)?,
                    None => false,
                };
                ended |= by_filter && conntrack::count(&mut self.socket)? != entries;
                ended |= !by_filter && self.delete_listed(of_family)?;
            }
        }
        Ok(ended)
    }

    /// Lists the flows and deletes those that have to end; says whether there were any.
    fn delete_listed(&mut self, turns: &[Turn<'_>]) -> Result<bool, Error> {
        let (concerned, flows): (Vec<_>, Vec<_>) = self.matching(turns)?.into_iter().unzip();
        let holds = self.still_hold(&concerned)?;
        let flows = flows.into_iter().zip(holds).filter_map(|(flow, holds)| holds.then_some(flow));
        let flows: Vec<_> = flows.collect();
        conntrack::delete(&mut self.socket, &flows)?;
        Ok(!flows.is_empty())
    }

    /// Has the kernel delete by `filters`, those of each turn; says whether it can.
    fn delete_by(&mut self, turns: &[Turn<'_>], filters: &[Vec<Filter>]) -> Result<bool, Error> {
        let holds = self.still_hold(turns)?;
        for (filter, _) in filters.iter().zip(holds).filter(|(_, holds)| *holds) {
            for filter in filter {
                if !conntrack::delete_all(&mut self.socket, filter)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Whether the table still has each of `turns` as it was made.
    fn still_hold(&mut self, turns: &[Turn<'_>]) -> Result<Vec<bool>, Error> {
        let places: BTreeSet<_> = turns.iter().flat_map(|turn| places_of(&turn.host)).collect();
        let seen = self.seen_at(&places.into_iter().collect::<Vec<_>>())?;
        let leads = |turn: &Turn<'_>| {
            let mut seen = places_of(&turn.host).filter_map(|place| seen.get(&place));
            seen.any(|it| !it.expiring && it.data == Some(Data::Target(turn.target)))
        };
        Ok(turns.iter().map(|turn| leads(turn) == turn.is_new).collect())
    }

    /// The flows that [`Turn::ends`] is true of, each with a turn of which it is.
    fn matching<'a>(&mut self, turns: &[Turn<'a>]) -> Result<Vec<(Turn<'a>, Flow)>, Error> {
        let mut found = Vec::new();
        let mut by_port: BTreeMap<_, Vec<&Turn<'a>>> = BTreeMap::new();
        for turn in turns {
            by_port.entry((turn.host.protocol, turn.host.port.get())).or_default().push(turn);
        }
        for filter in listings(turns) {
            let concerned_by = |flow: &Flow, local: &dyn Fn(IpAddr) -> bool| {
                let at_port = by_port.get(&(flow.protocol, flow.to.port()))?;
                at_port.iter().find(|turn| turn.ends(flow, local)).map(|turn| **turn)
            };
            let mut flows = conntrack::list(&mut self.socket, &filter)?;
            // What is there without asking what the node's addresses are: mostly nothing.
            flows.retain(|flow| concerned_by(flow, &|_| true).is_some());
            if flows.is_empty() {
                continue;
            }
            let own = Local::of(filter.family)
                .map_err(|source| Error::Question { what: ADDRESSES, source })?;
            let concerned = |flow| Some((concerned_by(&flow, &|it| own.contains(it))?, flow));
            found.extend(flows.into_iter().filter_map(concerned));
        }
        Ok(found)
    }

    /// Counts the connections to pods of `offload` that a flowtable forwards, ours or that of another program.
    ///
    /// # Errors
    /// [`Error::Socket`], [`Error::Question`].
    pub fn count_offloaded(&mut self, offload: &Offload) -> Result<usize, Error> {
        let mut count = 0;
        for family in Family::ALL {
            let flows = conntrack::offloaded(&mut self.socket, family)?;
            count +=
                flows.iter().filter(|it| offload.leads_to(it.protocol, it.answered_by)).count();
        }
        Ok(count)
    }

    /// Counts the flows through each mapping of `by` that has any.
    ///
    /// # Errors
    /// [`Error::Socket`], [`Error::Question`].
    pub fn count_flows(&mut self, by: Traffic) -> Result<BTreeMap<HostPort, usize>, Error> {
        let all = Redirected { gone: vec![by], ..Redirected::default() };
        let mut counts = BTreeMap::new();
        for (turn, _) in self.matching(&all.turns())? {
            *counts.entry(turn.host).or_default() += 1;
        }
        Ok(counts)
    }
}

#[cfg(test)]
mod tests;
