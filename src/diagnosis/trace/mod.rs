//! Which way a packet to a host port takes, and where it stops.
//!
//! [`way::Way`] is what was asked of the kernel, the store and the pod; [`Trace`] is what follows.

mod hops;
mod inside;
mod judge;
mod onward;
mod probe;
mod way;

use std::net::IpAddr;

use serde::Serialize;

use super::Finding;
use crate::error::Error;
use crate::model::HostPort;
use crate::store::Store;

pub use probe::{Probe, probe};
pub(super) use way::Node;

/// The packet in question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_more::Display)]
#[display("a packet from {} to {host}", match from {
    Some(from) => from.to_string(),
    None if host.address.is_loopback() => "this node".to_owned(),
    None => "outside".to_owned(),
})]
pub struct Query {
    /// The client, if it is a certain one.
    pub from: Option<IpAddr>,
    /// What the client asks for, at one address of the node.
    pub host: HostPort,
}

/// How a packet fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It goes on; in the end, it arrives.
    Passes,
    /// That depends on what is not seen or not understood.
    Unsure,
    /// It goes no further.
    Stops,
}

/// The whole way, as far as the packet gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trace {
    /// The stretches of the way.
    pub steps: Vec<Finding<Fate>>,
    /// The stretches that this process may not see.
    #[serde(skip)]
    pub hidden: Vec<&'static str>,
    /// Of the whole way: that of its worst stretch.
    pub state: Fate,
    pub verdict: String,
}

impl Trace {
    /// Follows the packet.
    ///
    /// # Errors
    /// When the table cannot be read, which takes `CAP_NET_ADMIN`.
    pub fn of(query: Query, store: &Store) -> Result<Self, Error> {
        Ok(Self::on(&Node::look()?, query, store))
    }

    /// Follows the packet on a node that was looked at.
    pub(super) fn on(node: &Node, query: Query, store: &Store) -> Self {
        judge::judge(&way::Way::ask(query, store, node))
    }
}
