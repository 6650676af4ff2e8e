//! In which order the numbers of a range are tried.

use std::num::NonZeroU16;

use sha2::{Digest as _, Sha256};

use crate::model::{Allocation, ContainerPort, PortPolicy, PortRange, Request};
use crate::plan::Choice;

/// The numbers of the range that `request` names, in the order written, also those that may not be chosen.
pub(super) fn numbers(policy: &PortPolicy, request: &Request) -> impl Iterator<Item = NonZeroU16> {
    let parts = parts(policy, request).iter();
    parts.flat_map(|part| (part.first.get()..=part.last.get()).filter_map(NonZeroU16::new))
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
pub(super) struct Order {
    allocation: Allocation,
    /// Whether the range is filled from its start, without gaps.
    packed: bool,
    numbers: Vec<NonZeroU16>,
    next: usize,
    /// The last number that was taken, where the next choice goes on past it.
    pub(super) last: Option<NonZeroU16>,
}

impl Order {
    pub(super) fn new(choice: &Choice<'_>, request: &Request, packed: bool) -> Self {
        let mut numbers: Vec<_> = numbers(&choice.ask.ports, request).collect();
        let allocation = choice.ask.allocation;
        let cursor = choice.cursors.get(&request.range);
        let mut next = 0;
        match allocation {
            _ if packed => {}
            Allocation::Random => {
                fastrand::Rng::with_seed(choice.seed).shuffle(&mut numbers);
            }
            Allocation::Sequential => {
                let place = numbers.iter().position(|number| Some(number) == cursor);
                next = place.map_or(0, |place| place + 1);
            }
            Allocation::Stable => {}
        }
        Self { allocation, packed, numbers, next, last: None }
    }

    pub(super) fn is_stable(&self) -> bool {
        self.allocation == Allocation::Stable && !self.packed
    }

    /// Turns the ring to another place each time: not every holder on it can be examined.
    pub(super) fn turn(&mut self, seed: u64) {
        if self.allocation == Allocation::Sequential && !self.numbers.is_empty() {
            self.next = fastrand::Rng::with_seed(seed).usize(..self.len());
        }
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
        let unnamed = || format!("{first}/{}", request.protocol_list());
        let port = request.name.clone().unwrap_or_else(unnamed);
        let digest = Sha256::digest([namespace, name, &port].join("\0"));
        let hash = digest.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let home = hash.checked_rem(self.len() as u64).unwrap_or_default();
        self.next = usize::try_from(home).unwrap_or_default();
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
        if self.allocation == Allocation::Sequential {
            self.last = Some(self.at(step).saturating_add(count - 1));
        }
        // The others of a block are elsewhere in a random order.
        let is_random = self.allocation == Allocation::Random && !self.packed;
        let taken = if is_random { 1 } else { usize::from(count) };
        self.next = (self.next + step + taken) % self.numbers.len();
    }
}
