//! Choosing host ports: pure but for the questions it asks about the node.
//!
//! What a claim asks for is granted together or not at all. A free number is best; then one that
//! another pod released a short while ago; then one whose holder turns out to be gone. The numbers of
//! a range are tried in one order, every search goes on where the one before has ended, and what
//! could not be found for one request is not searched for again for another like it: so the cost is
//! that of looking a few times at each number, however many are asked for.

mod order;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::num::NonZeroU16;

use self::order::Order;
use super::choice::{Availability, Choice, Cursors, Granted, Spot};
use super::exhausted::Exhausted;
use super::grant::Earlier;
use crate::model::{Grant, HostPort, Mapping, Protocol, Request};

/// Grants all requests, or none.
///
/// `look` says how a spot stands. Where it is told to examine, which it is once nothing better is left, it
/// answers without the holders that are gone.
///
/// # Errors
/// What `look` says. [`Exhausted`] inside when some request has no number.
pub fn allocate<E>(
    choice: &Choice<'_>,
    mut look: impl FnMut(Spot, bool) -> Result<Availability, E>,
) -> Result<Result<Granted, Exhausted>, E> {
    let stuck = match serve(choice, &mut look)? {
        Ok(granted) => return Ok(Ok(granted)),
        Err(stuck) => stuck,
    };
    let cursors = Cursors::new();
    let mut free = |_, _| Ok::<_, Infallible>(Availability::Free);
    let Ok(outcome) = serve(&Choice { cursors: &cursors, ..*choice }, &mut free);
    let never = outcome.is_err();
    stuck.account(choice, never, &mut look).map(Err)
}

/// An answer about one spot, examined or not.
type Look<'a, E> = &'a mut dyn FnMut(Spot, bool) -> Result<Availability, E>;

/// Serves the requests in the order asked. Where that fails, the longest are placed first; where that fails
/// too, ranges are filled from their start so that blocks fit best, and what a request had before does not
/// count.
fn serve<'a, E>(choice: &Choice<'a>, look: Look<'_, E>) -> Result<Result<Granted, Stuck<'a>>, E> {
    let requests = &choice.ask.requested;
    let asked: Vec<usize> = (0..requests.len()).collect();
    let mut longest = asked.clone();
    longest.sort_by_key(|at| Reverse((requests[*at].count, requests[*at].protocols.len())));
    // The one to report is the one that fails in the order asked.
    let stuck = match Attempt::new(*choice, false, look).run(&asked)? {
        Ok(granted) => return Ok(Ok(granted)),
        Err(stuck) => stuck,
    };
    let differs = longest != asked;
    let had = choice.earlier.iter().any(Option::is_some);
    // Another attempt at equal requests for single numbers would fail like the first.
    let packs = requests.len() > 1 && (differs || had || requests[0].count.get() > 1);
    for (packed, is_worth_it) in [(false, differs), (true, packs)] {
        if is_worth_it && let Ok(granted) = Attempt::new(*choice, packed, look).run(&longest)? {
            return Ok(Ok(granted));
        }
    }
    Ok(Err(stuck))
}

/// The host ports that a claim has, by number.
type Taken = BTreeMap<NonZeroU16, Vec<HostPort>>;

fn overlaps(taken: &Taken, spot: Spot) -> bool {
    let Some(taken) = taken.get(&spot.port) else { return false };
    spot.hosts().any(|host| taken.iter().any(|other| other.overlaps(&host)))
}

/// What matters of a request when a number is looked for.
type Kind<'a> = (Option<&'a str>, NonZeroU16, &'a [Protocol], Option<IpAddr>);

/// How far one attempt has come.
struct Attempt<'a, 'n, E> {
    choice: Choice<'a>,
    packed: bool,
    look: Look<'n, E>,
    taken: Taken,
    chosen: BTreeMap<usize, NonZeroU16>,
    orders: BTreeMap<Option<&'a str>, Order>,
    /// What numbers have to be for requests of a kind, since no better ones were found before.
    left: BTreeMap<Kind<'a>, Availability>,
}

impl<'a, 'n, E> Attempt<'a, 'n, E> {
    fn new(choice: Choice<'a>, packed: bool, look: Look<'n, E>) -> Self {
        let mut taken = Taken::new();
        for Mapping { host, .. } in &choice.ask.fixed {
            taken.entry(host.port).or_default().push(*host);
        }
        let (chosen, orders, left) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { choice, packed, look, taken, chosen, orders, left }
    }

    /// Serves the requests: first with what they had before, then with what is left.
    fn run(mut self, sequence: &[usize]) -> Result<Result<Granted, Stuck<'a>>, E> {
        let requested = &self.choice.ask.requested;
        for at in sequence {
            if let Some(first) = self.earlier(*at)? {
                self.take(*at, first);
            }
        }
        for at in sequence {
            if self.chosen.contains_key(at) {
                continue;
            }
            let Some(first) = self.find(&requested[*at])? else {
                return Ok(Err(Stuck { request: &requested[*at], taken: self.taken }));
            };
            self.take(*at, first);
        }
        let grants = self.chosen.iter();
        let grants =
            grants.map(|(at, port)| Grant { request: requested[*at].clone(), port: *port });
        let moved = self.orders.iter();
        let moved = moved.filter_map(|(name, order)| Some((name.map(str::to_owned), order.last?)));
        Ok(Ok(Granted { grants: grants.collect(), cursors: moved.collect() }))
    }

    fn take(&mut self, at: usize, first: NonZeroU16) {
        for spot in spots(&self.choice.ask.requested[at], first) {
            self.taken.entry(spot.port).or_default().extend(spot.hosts());
        }
        self.chosen.insert(at, first);
    }

    /// What a request had before, if that can be had.
    fn earlier(&mut self, at: usize) -> Result<Option<NonZeroU16>, E> {
        let Choice { ask, earlier, .. } = self.choice;
        let request = &ask.requested[at];
        match earlier.get(at).copied().flatten() {
            Some(Earlier::Own(first)) => {
                let fits = first.checked_add(request.count.get() - 1).is_some();
                let free = !spots(request, first).any(|spot| overlaps(&self.taken, spot));
                Ok((fits && free).then_some(first))
            }
            Some(Earlier::Former(first)) if !self.packed => {
                let fits = order::room(&ask.ports, request, first) >= request.count.get();
                let free = fits && self.blocked(request, first, Availability::Held)?.is_none();
                Ok(free.then_some(first))
            }
            Some(Earlier::Former(_)) | None => Ok(None),
        }
    }

    /// The first number of a request, of the best that can be had.
    fn find(&mut self, request: &'a Request) -> Result<Option<NonZeroU16>, E> {
        let kind = (request.range.as_deref(), request.count, &*request.protocols, request.address);
        let mut order = match self.orders.remove(&kind.0) {
            Some(order) => order,
            None => Order::new(&self.choice, request, self.packed),
        };
        order.start(&self.choice, request);
        // The predecessor of a replica has only just released the number that is to stay.
        let best = if order.is_stable() { Availability::Recent } else { Availability::Free };
        let mut worst = self.left.get(&kind).copied().unwrap_or(best);
        let mut found = self.search(&mut order, request, worst)?;
        while found.is_none() && worst < Availability::Held {
            let was_free = worst == Availability::Free;
            worst = if was_free { Availability::Recent } else { Availability::Held };
            self.left.insert(kind, worst);
            if worst == Availability::Held {
                order.turn(self.choice.seed);
            }
            found = self.search(&mut order, request, worst)?;
        }
        self.orders.insert(kind.0, order);
        Ok(found)
    }

    /// The first number, in this order, from which on a request can be granted.
    fn search(
        &mut self,
        order: &mut Order,
        request: &Request,
        worst: Availability,
    ) -> Result<Option<NonZeroU16>, E> {
        let count = request.count.get();
        // Where a block cannot begin, since it would have a number that is not to be had.
        let mut dead = vec![false; if count > 1 { 1 << u16::BITS } else { 0 }];
        for step in 0..order.len() {
            let first = order.at(step);
            let is_dead = dead.get(usize::from(first.get())) == Some(&true);
            if is_dead || order::room(&self.choice.ask.ports, request, first) < count {
                continue;
            }
            // The home of a stable number is worth a look behind its holder.
            let at_home = step == 0 && order.is_stable();
            let worst = if at_home { Availability::Held } else { worst };
            match self.blocked(request, first, worst)? {
                None => {
                    order.move_past(step, count);
                    return Ok(Some(first));
                }
                Some(_) if count == 1 => {}
                Some(offset) => {
                    let last = usize::from(first.get() + offset);
                    dead[(last + 1).saturating_sub(usize::from(count))..=last].fill(true);
                }
            }
        }
        Ok(None)
    }

    /// How far into the block the last number stands that a request cannot have.
    fn blocked(
        &mut self,
        request: &Request,
        first: NonZeroU16,
        worst: Availability,
    ) -> Result<Option<u16>, E> {
        for offset in (0..request.count.get()).rev() {
            let port = first.saturating_add(offset);
            if !self.choice.ask.ports.permits(port) {
                return Ok(Some(offset));
            }
            for protocol in &request.protocols {
                let spot = Spot { protocol: *protocol, address: request.address, port };
                if overlaps(&self.taken, spot) {
                    return Ok(Some(offset));
                }
                // Whoever holds it has to be gone.
                let seen = (self.look)(spot, worst == Availability::Held)?;
                if seen > worst || seen == Availability::Held {
                    return Ok(Some(offset));
                }
            }
        }
        Ok(None)
    }
}

/// A request that found no number, and what the claim had by then.
struct Stuck<'a> {
    request: &'a Request,
    taken: Taken,
}

impl Stuck<'_> {
    /// Counts what became of the range.
    fn account<E>(
        self,
        choice: &Choice<'_>,
        never: bool,
        look: Look<'_, E>,
    ) -> Result<Exhausted, E> {
        let Self { request, taken } = self;
        let Choice { ask, .. } = choice;
        let mut exhausted = Exhausted {
            request: request.clone(),
            asked: ask.requested.iter().map(|request| usize::from(request.count.get())).sum(),
            ranges: ask.ports.range(request.range_name()).unwrap_or_default().to_vec(),
            never,
            size: 0,
            stand: BTreeMap::new(),
            own: 0,
        };
        for port in order::numbers(&ask.ports, request).filter(|port| ask.ports.permits(*port)) {
            let (mut worst, mut own) = (Availability::Free, false);
            for protocol in &request.protocols {
                let spot = Spot { protocol: *protocol, address: request.address, port };
                own |= overlaps(&taken, spot);
                worst = worst.max(look(spot, false)?);
            }
            exhausted.size += 1;
            let counted = exhausted.stand.entry(worst).or_default();
            *if own { &mut exhausted.own } else { counted } += 1;
        }
        Ok(exhausted)
    }
}

/// Everything that a request would hold from `first` on.
fn spots(request: &Request, first: NonZeroU16) -> impl Iterator<Item = Spot> {
    (0..request.count.get()).flat_map(move |offset| {
        let port = first.saturating_add(offset);
        let spot =
            move |protocol: &Protocol| Spot { protocol: *protocol, address: request.address, port };
        request.protocols.iter().map(spot)
    })
}

#[cfg(test)]
mod tests;
