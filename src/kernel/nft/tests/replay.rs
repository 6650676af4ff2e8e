//! The readers and the writer of the commands, without a socket: recorded answers of the kernel, or any bytes,
//! are read, and the messages for a change are written. For tests, the fuzzer and the benchmarks only (feature
//! `replay`).

use super::super::flows::Flow;
use super::super::listeners::Listener;
use super::encode::Encoder;
use super::look::Look;
use super::message::{Attributes, Body, answers, attributes_of};
use super::{Change, Error, Table, elements, look, make};
use crate::kernel::uapi;
use crate::model::{Family, Protocol};
use crate::ruleset::TABLE;
use crate::ruleset::{Chain, Set, base_chains};

/// What a recorded datagram is an answer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Whether there is our table, and whose it is.
    Table,
    /// The chains of our table.
    Chains,
    /// The rules of our table.
    Rules,
    /// One element.
    Element(Set),
    /// All elements.
    Elements(Set),
    /// The UDP flows that connection tracking knows.
    Flows(Family),
    /// The sockets that listen.
    Listeners(Protocol, Family),
}

/// Reads a datagram of netlink messages as a command would; returns how many refusals, and objects that
/// are understood, are in it: of chains and rules, those that are as autoport makes the base chains.
pub fn read(asked: Asked, datagram: &[u8]) -> usize {
    let understood = answers(datagram).map(|answer| match answer.body {
        Body::Done => 0,
        Body::Refused(_) => 1,
        Body::Object(attributes) => object(asked, attributes, answer.message),
    });
    understood.sum()
}

fn object(asked: Asked, attributes: Attributes<'_>, message: &[u8]) -> usize {
    let mut encoder = Encoder::new();
    let is_like = |ours: &[u8]| attributes.contains(attributes_of(ours));
    let chain = |name| {
        let name = look::chain_in(TABLE, attributes, name)?;
        base_chains().into_iter().find(|chain| chain.name == name)
    };
    match asked {
        Asked::Table => usize::from(look::read_table(attributes).table != Table::Absent),
        Asked::Chains => {
            let own = chain(uapi::NFTA_CHAIN_NAME);
            usize::from(own.is_some_and(|chain| is_like(encoder.chain(&chain))))
        }
        Asked::Rules => {
            let own = chain(uapi::NFTA_RULE_CHAIN);
            usize::from(own.is_some_and(|Chain { name, rules, .. }| {
                rules.iter().any(|rule| is_like(encoder.rule(&name, rule)))
            }))
        }
        Asked::Element(set) => {
            let read = elements::read_all(set, attributes).flatten();
            read.filter(|(_, seen)| !seen.expiring).count()
        }
        Asked::Elements(set) => elements::read_all(set, attributes).count(),
        Asked::Flows(family) => Flow::read(family, attributes).iter().count(),
        Asked::Listeners(protocol, family) => Listener::read(protocol, family, message).len(),
    }
}

impl Change {
    /// What the kernel is sent for it where the table has nothing: for
    /// benchmarks of the encoding alone.
    ///
    /// # Errors
    /// None, as no element is in the way.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let look = Look::default();
        let transaction = make(&self.difference(&look)?, &look, self.is_new);
        Ok(transaction.finish().map_or(Vec::new(), |(messages, _)| messages.numbered_from(0).0))
    }
}
