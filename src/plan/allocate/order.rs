//! In which order the numbers of a range are tried.

use std::num::NonZeroU16;

use sha2::{Digest as _, Sha256};

use crate::model::{Allocation, ContainerPort, PortPolicy, PortRange, Request};
use crate::plan::Choice;

/// The numbers of the range that `request` names which may be chosen, in the order written.
pub(super) fn numbers(policy: &PortPolicy, request: &Request) -> impl Iterator<Item = NonZeroU16> {
    parts(policy, request)
        .iter()
        .flat_map(|part| (part.first.get()..=part.last.get()).filter_map(NonZeroU16::new))
        .filter(|port| policy.permits(*port))
}

/// How many numbers follow in a row from `first` on, itself included, inside its part of the range.
pub(super) fn room(policy: &PortPolicy, request: &Request, first: NonZeroU16) -> u16 {
    let part = parts(policy, request).iter().find(|part| part.contains(first));
    part.map_or(0, |part| (part.last.get() - first.get()).saturating_add(1))
}

fn parts<'a>(policy: &'a PortPolicy, request: &Request) -> &'a [PortRange] {
    policy.range(request.range_name()).unwrap_or_default()
}

/// The numbers of one range around a ring, and where it goes on.
pub(super) struct Order<'a> {
    allocation: Allocation,
    packed: bool,
    parts: &'a [PortRange],
    numbers: Vec<NonZeroU16>,
    next: usize,
    /// The last number that was taken, where the next choice goes on past it.
    pub(super) last: Option<NonZeroU16>,
}

impl<'a> Order<'a> {
    /// The order of the choice; a packed one goes on from the start of the range, without gaps.
    pub(super) fn new(choice: &Choice<'a>, request: &Request, packed: bool) -> Self {
        let mut order = Self {
            allocation: choice.ask.allocation,
            packed,
            parts: parts(&choice.ask.ports, request),
            numbers: numbers(&choice.ask.ports, request).collect(),
            next: 0,
            last: None,
        };
        match choice.cursors.get(request.range_name()) {
            _ if packed => {}
            _ if order.allocation == Allocation::Random => {
                fastrand::Rng::with_seed(choice.seed).shuffle(&mut order.numbers);
            }
            Some(cursor) if order.allocation == Allocation::Sequential => {
                order.next = cursor.checked_add(1).map_or(0, |next| order.place_of(next, *cursor));
            }
            Some(_) | None => {}
        }
        order
    }

    pub(super) fn is_stable(&self) -> bool {
        self.allocation == Allocation::Stable && !self.packed
    }

    /// Turns a ring that is too long for every holder to be examined to another place each time.
    pub(super) fn turn(&mut self, seed: u64, examined: usize) {
        if self.allocation == Allocation::Sequential && self.len() > examined {
            self.next = fastrand::Rng::with_seed(seed).usize(..self.len());
        }
    }

    /// Where the first number is that is not before `port`, in the part of the range that has
    /// `within`, or in a later one; the start if there is none.
    fn place_of(&self, port: NonZeroU16, within: NonZeroU16) -> usize {
        let index_of = |number| self.parts.iter().position(|part| part.contains(number));
        let (Some(own), false) = (index_of(within), self.numbers.is_empty()) else { return 0 };
        let place = self.numbers.partition_point(|number| {
            let other = index_of(*number).unwrap_or_default();
            other < own || (other == own && *number < port)
        });
        place % self.numbers.len()
    }

    /// Begins where a stable number of this pod's port is at home: at a place of the whole range, be
    /// it excluded or not, so that what one node excludes moves no numbers but those.
    pub(super) fn start(&mut self, choice: &Choice<'_>, request: &Request) {
        if !self.is_stable() {
            return;
        }
        let (namespace, name) =
            choice.ask.pod.as_ref().map_or(("", ""), |pod| (&*pod.namespace, &*pod.name));
        let first = match request.container_port {
            ContainerPort::From(first) => first.get(),
            ContainerPort::Same => 0,
        };
        let protocols: Vec<_> = request.protocols.iter().map(ToString::to_string).collect();
        let port =
            request.name.clone().unwrap_or_else(|| format!("{first}/{}", protocols.join("+")));
        let digest = Sha256::digest([namespace, name, &port].join("\0"));
        let hash = digest.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let size: usize = self.parts.iter().map(PortRange::size).sum();
        let mut left = hash.checked_rem(size as u64).unwrap_or_default();
        for part in self.parts {
            let (size, first) = (part.size() as u64, u64::from(part.first.get()));
            if left < size {
                let home = u16::try_from(first + left).ok().and_then(NonZeroU16::new);
                self.next = home.map_or(0, |home| self.place_of(home, home));
                return;
            }
            left -= size;
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.numbers.len()
    }

    /// The number to try after `step` others.
    pub(super) fn at(&self, step: usize) -> NonZeroU16 {
        self.numbers[(self.next + step) % self.numbers.len()]
    }

    /// Goes on past the `count` numbers that were taken at `step`.
    pub(super) fn move_past(&mut self, step: usize, count: u16) {
        let (first, mut taken) = (self.at(step), 1);
        if self.packed || self.allocation != Allocation::Random {
            taken = usize::from(count);
        }
        if self.allocation == Allocation::Sequential {
            self.last = Some(first.saturating_add(count - 1));
        }
        self.next = (self.next + step + taken) % self.numbers.len();
    }
}
