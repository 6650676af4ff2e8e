//! The question that a choice of numbers answers, and its answer.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;

use super::grant::Earlier;
use crate::model::{Ask, Grant, HostPort, Protocol};

/// The last number chosen in each range, as [`crate::model::Request::range`] has it.
pub type Cursors = BTreeMap<Option<String>, NonZeroU16>;

/// What is to be chosen, and within which bounds.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// What is asked for, and by what rules.
    pub ask: &'a Ask,
    /// What each request had before, in their order; may be shorter.
    pub earlier: &'a [Option<Earlier>],
    /// The cursors as the last choice left them.
    pub cursors: &'a Cursors,
    /// Any number; the same one gives the same choice.
    pub seed: u64,
}

/// One number in one protocol, on one address or on all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spot {
    pub protocol: Protocol,
    /// The host IP of the request; none means every local address of both families.
    pub address: Option<IpAddr>,
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
    /// Held by no other pod, or only by the earlier sandbox of the claimant's.
    Free,
    /// Released by another pod a short while ago.
    Recent,
    /// Another holder is entered for it.
    Held,
    /// A process of the host listens on it, or it cannot be had for another reason.
    Busy,
}

/// What was chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// One grant for each request, in their order.
    pub grants: Vec<Grant>,
    pub cursors: Cursors,
}
