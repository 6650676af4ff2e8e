//! Choosing host ports: pure but for the questions it asks about the node.
//!
//! A number is taken from the best tier that has one: free and not used by the claim itself; then
//! free, though the claim uses it in another protocol; then what somebody gave back a short while
//! ago; then what somebody holds who turns out to be no more. Each number is asked about once, and
//! holders are examined only when nothing else is left.

mod attempt;
mod node;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;

use self::attempt::{Attempt, Barren};
use self::node::Node;
use super::exhausted::Exhausted;
use super::grant::Earlier;
use super::pool::Pool;
use crate::model::{Allocation, Grant, HostPort, Mapping, PortPolicy, Protocol, Wish};

/// The last number chosen in each range, by [`Wish::range_name`].
pub type Cursors = BTreeMap<String, NonZeroU16>;

/// What is to be chosen, and within which bounds.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// What is wished for.
    pub wishes: &'a [Wish],
    /// What the claim asks for by number; nothing that overlaps it is chosen.
    pub fixed: &'a [Mapping],
    /// What each wish had before, in the order of the wishes; may be shorter.
    pub earlier: &'a [Option<Earlier>],
    /// Where numbers come from.
    pub policy: &'a PortPolicy,
    /// How they are chosen; counts instead of the policy's.
    pub allocation: Allocation,
    /// The cursors as the last choice left them.
    pub cursors: &'a Cursors,
    /// Any number; the same one gives the same choice.
    pub seed: u64,
}

/// One number in one protocol, on one address or on all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spot {
    /// The protocol.
    pub protocol: Protocol,
    /// The host IP of the wish; none means every local address of both families.
    pub address: Option<IpAddr>,
    /// The number.
    pub port: NonZeroU16,
}

impl Spot {
    /// The host ports it stands for.
    pub fn hosts(&self) -> impl Iterator<Item = HostPort> {
        HostPort::each(self.protocol, self.address, self.port)
    }
}

/// How a spot stands to the claimant; the worst of what is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Availability {
    /// Nobody has it, or only those who give way without question: the claimant itself, and the
    /// earlier sandbox of its pod.
    Free,
    /// Somebody else had it until a short while ago.
    Recent,
    /// Somebody is entered for it.
    Held,
    /// A process of the host listens on it, or it cannot be had for another reason.
    Busy,
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// One grant for each wish, in their order.
    pub grants: Vec<Grant>,
    /// The cursors that moved.
    pub cursors: Cursors,
}

/// Grants every wish, or none.
///
/// `look` says how a spot stands; `examine` is asked about those that are [`Availability::Held`],
/// once nothing better is left, and answers what is true without the holders who are no more.
/// Wishes are served in their order; if they do not fit so, the longest blocks go first, and if
/// they do not fit so either, without regard to what the pod had before.
///
/// # Errors
/// What `look` and `examine` say. [`Exhausted`] inside when some wish has no number.
pub fn allocate<E>(
    ask: &Ask<'_>,
    look: impl FnMut(Spot) -> Result<Availability, E>,
    examine: impl FnMut(Spot) -> Result<Availability, E>,
) -> Result<Result<Granted, Exhausted>, E> {
    let node = Node::new(look, examine);
    let mut search = Search { ranges: ranges(ask), node, ask, barren: Barren::default() };
    let orders = orders(ask);
    let mut failed = None;
    for last in 1..=TIERS.len() {
        for (order, former) in &orders {
            match search.attempt(order, *former, &TIERS[..last])? {
                Ok(granted) => return Ok(Ok(granted)),
                // The one to report is the one that fails in the order asked.
                Err(stuck) if *former && order.is_sorted() => failed = Some(stuck),
                Err(_) => {}
            }
        }
    }
    match failed {
        Some(stuck) => search.account_for(&stuck).map(Err),
        None => Ok(Ok(Granted { grants: Vec::new(), cursors: Cursors::new() })),
    }
}

/// What a number may be for a wish to take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tier {
    worst: Availability,
    /// Whether the claim may use the number in another protocol or on another address.
    shared: bool,
}

const TIERS: [Tier; 6] = [
    Tier { worst: Availability::Free, shared: false },
    Tier { worst: Availability::Free, shared: true },
    Tier { worst: Availability::Recent, shared: false },
    Tier { worst: Availability::Recent, shared: true },
    Tier { worst: Availability::Held, shared: false },
    Tier { worst: Availability::Held, shared: true },
];

/// The orders in which to serve the wishes, and whether what they had before counts.
fn orders(ask: &Ask<'_>) -> Vec<(Vec<usize>, bool)> {
    let asked: Vec<usize> = (0..ask.wishes.len()).collect();
    let mut hardest = asked.clone();
    hardest.sort_by_key(|at| {
        let wish = &ask.wishes[*at];
        std::cmp::Reverse((wish.count, wish.protocols.len()))
    });
    let former = ask.earlier.iter().any(|earlier| matches!(earlier, Some(Earlier::Former(_))));
    let mut orders = vec![(asked.clone(), true)];
    if hardest != asked {
        orders.push((hardest.clone(), true));
    }
    if former {
        orders.push((hardest, false));
    }
    orders
}

/// A range that some wish names: its numbers, and the order in which they are tried.
struct Tried {
    pool: Pool,
    /// The places in the pool, shuffled; empty if they are tried around the ring.
    shuffled: Vec<usize>,
}

fn ranges<'a>(ask: &Ask<'a>) -> BTreeMap<&'a str, Tried> {
    let mut random = SplitMix(ask.seed);
    let mut ranges = BTreeMap::new();
    for wish in ask.wishes {
        let name = wish.range_name();
        ranges.entry(name).or_insert_with(|| {
            let parts = ask.policy.range(name).unwrap_or_default();
            let pool = Pool::new(parts, ask.policy, ask.cursors.get(name).copied());
            let shuffled = match ask.allocation {
                Allocation::Sequential | Allocation::Stable => Vec::new(),
                Allocation::Random => random.shuffled(pool.len()),
            };
            Tried { pool, shuffled }
        });
    }
    ranges
}

/// A wish that found no number, and what the claim had by then.
struct Stuck<'a> {
    at: usize,
    attempt: Attempt<'a>,
}

struct Search<'a, L, X> {
    ask: &'a Ask<'a>,
    ranges: BTreeMap<&'a str, Tried>,
    node: Node<L, X>,
    barren: Barren<'a>,
}

impl<'a, E, L, X> Search<'a, L, X>
where
    L: FnMut(Spot) -> Result<Availability, E>,
    X: FnMut(Spot) -> Result<Availability, E>,
{
    /// Serves the wishes in one order: first what they had before, then what is left.
    fn attempt(
        &mut self,
        order: &[usize],
        former: bool,
        tiers: &[Tier],
    ) -> Result<Result<Granted, Stuck<'a>>, E> {
        let mut attempt = Attempt::default();
        for mapping in self.ask.fixed {
            attempt.taken.entry(mapping.host.port).or_default().push(mapping.host);
        }
        for at in order {
            self.restore(&mut attempt, *at, former, tiers)?;
        }
        for at in order {
            let placed = attempt.chosen.contains_key(at) || self.place(&mut attempt, *at, tiers)?;
            if !placed {
                return Ok(Err(Stuck { at: *at, attempt }));
            }
        }
        let grant = |(at, port): (&usize, &NonZeroU16)| Grant {
            wish: self.ask.wishes[*at].clone(),
            port: *port,
        };
        let cursor = |(name, (_, last)): (&&str, &(usize, NonZeroU16))| ((*name).to_owned(), *last);
        Ok(Ok(Granted {
            grants: attempt.chosen.iter().map(grant).collect(),
            cursors: attempt.rings.iter().map(cursor).collect(),
        }))
    }

    /// Gives a wish what it had before, if that can be had.
    fn restore(
        &mut self,
        attempt: &mut Attempt<'a>,
        at: usize,
        former: bool,
        tiers: &[Tier],
    ) -> Result<(), E> {
        let ask = self.ask;
        let wish = &ask.wishes[at];
        let first = match ask.earlier.get(at).copied().flatten() {
            Some(Earlier::Own(first)) => {
                let fits = first.checked_add(wish.count.get() - 1).is_some();
                let free = !spots(wish, first).any(|spot| attempt.is_in_the_way(spot, true));
                (fits && free).then_some(first)
            }
            Some(Earlier::Former(first)) if former => {
                let pool = &self.ranges[wish.range_name()].pool;
                let row = pool.place_of(first).and_then(|place| pool.row(place, wish.count));
                let mut within = false;
                for tier in tiers {
                    within = within
                        || (row.is_some() && self.blocked(attempt, wish, first, *tier)?.is_none());
                }
                within.then_some(first)
            }
            Some(Earlier::Former(_)) | None => None,
        };
        if let Some(first) = first {
            attempt.take(wish, first);
            attempt.chosen.insert(at, first);
        }
        Ok(())
    }

    /// Finds a number for a wish, in the best tier that has one.
    fn place(&mut self, attempt: &mut Attempt<'a>, at: usize, tiers: &[Tier]) -> Result<bool, E> {
        let ask = self.ask;
        let wish = &ask.wishes[at];
        for tier in tiers {
            if self.barren.is_known(attempt, wish, *tier) {
                continue;
            }
            let Some(place) = self.find(attempt, wish, *tier)? else {
                self.barren.note(attempt, wish, *tier);
                continue;
            };
            let pool = &self.ranges[wish.range_name()].pool;
            let after = place + usize::from(wish.count.get());
            attempt.take(wish, pool.numbers()[place]);
            attempt.chosen.insert(at, pool.numbers()[place]);
            if ask.allocation != Allocation::Random {
                let ring = (after % pool.len(), pool.numbers()[after - 1]);
                attempt.rings.insert(wish.range_name(), ring);
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// The first place, in the order of the choice, from which on a wish can be granted.
    fn find(&mut self, attempt: &Attempt<'a>, wish: &Wish, tier: Tier) -> Result<Option<usize>, E> {
        let count = usize::from(wish.count.get());
        let name = wish.range_name();
        let len = self.ranges[name].pool.len();
        let ring = attempt.rings.get(name).map(|(next, _)| *next);
        // Where a block cannot begin, since it would have a number that is not to be had.
        let mut dead = vec![false; if count > 1 { len } else { 0 }];
        for step in 0..len {
            let Tried { pool, shuffled } = &self.ranges[name];
            let place = match shuffled.get(step) {
                Some(place) => *place,
                None => (ring.unwrap_or(pool.start()) + step) % len,
            };
            if pool.row(place, wish.count).is_none() || dead.get(place) == Some(&true) {
                continue;
            }
            let first = pool.numbers()[place];
            match self.blocked(attempt, wish, first, tier)? {
                None => return Ok(Some(place)),
                Some(_) if count == 1 => {}
                Some(offset) => {
                    let blocked = place + usize::from(offset);
                    dead[(blocked + 1).saturating_sub(count)..=blocked].fill(true);
                }
            }
        }
        Ok(None)
    }

    /// How far into the block the last number stands that a wish cannot have.
    fn blocked(
        &mut self,
        attempt: &Attempt<'a>,
        wish: &Wish,
        first: NonZeroU16,
        tier: Tier,
    ) -> Result<Option<u16>, E> {
        for offset in (0..wish.count.get()).rev() {
            let port = first.saturating_add(offset);
            for protocol in &wish.protocols {
                let spot = Spot { protocol: *protocol, address: wish.address, port };
                let own = attempt.is_in_the_way(spot, tier.shared);
                if own || !self.node.is_within(spot, tier.worst)? {
                    return Ok(Some(offset));
                }
            }
        }
        Ok(None)
    }

    /// Counts what became of the range for the wish that is stuck.
    fn account_for(&mut self, stuck: &Stuck<'a>) -> Result<Exhausted, E> {
        let wish = &self.ask.wishes[stuck.at];
        let Tried { pool, .. } = &self.ranges[wish.range_name()];
        let asked = self.ask.wishes.iter().map(|wish| usize::from(wish.count.get())).sum();
        let ranges = self.ask.policy.range(wish.range_name()).unwrap_or_default().to_vec();
        let (wish_of, size) = (wish.clone(), pool.len());
        let (mut held, mut recent, mut busy, mut own) = (0, 0, 0, 0);
        for port in pool.numbers() {
            let mut worst = Availability::Free;
            let mut in_the_way = false;
            for protocol in &wish.protocols {
                let spot = Spot { protocol: *protocol, address: wish.address, port: *port };
                in_the_way |= stuck.attempt.is_in_the_way(spot, true);
                worst = worst.max(self.node.look(spot)?);
            }
            match worst {
                _ if in_the_way => own += 1,
                Availability::Free => {}
                Availability::Recent => recent += 1,
                Availability::Held => held += 1,
                Availability::Busy => busy += 1,
            }
        }
        Ok(Exhausted { wish: wish_of, asked, ranges, size, held, recent, busy, own })
    }
}

/// Everything that a wish would hold from `first` on.
fn spots(wish: &Wish, first: NonZeroU16) -> impl Iterator<Item = Spot> {
    (0..wish.count.get()).flat_map(move |offset| {
        let port = first.saturating_add(offset);
        let spot =
            move |protocol: &Protocol| Spot { protocol: *protocol, address: wish.address, port };
        wish.protocols.iter().map(spot)
    })
}

/// The generator of Steele, Lea and Flood (2014): small, and even enough to choose ports by.
struct SplitMix(u64);

impl SplitMix {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The numbers below `len` in an order of which each is as likely as any other.
    fn shuffled(&mut self, len: usize) -> Vec<usize> {
        let mut places: Vec<usize> = (0..len).collect();
        for at in (1..len).rev() {
            let below = (u128::from(self.next()) * (at as u128 + 1)) >> u64::BITS;
            places.swap(at, below as usize);
        }
        places
    }
}

#[cfg(test)]
mod tests;
