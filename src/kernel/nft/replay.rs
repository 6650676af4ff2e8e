//! Reading what the kernel said at another time, or what somebody says that it said: the readers that
//! the commands use, without a socket.

use super::super::flows::Flow;
use super::super::listeners::Listener;
use super::elements::Listed;
use super::encode::Encoder;
use super::message::{Attributes, Body, answers, attributes_of};
use super::{elements, look};
use crate::model::{Family, Protocol};
use crate::ruleset::{Set, base_chains};

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

/// Reads a datagram of netlink messages and describes, one by one, what a command would take from
/// it: refusals, and objects that are understood.
#[must_use]
pub fn read(asked: Asked, datagram: &[u8]) -> Vec<String> {
    let mut said = Vec::new();
    for answer in answers(datagram) {
        match answer.body {
            Body::Done => {}
            Body::Refused(errno) => said.push(format!("refused: {errno}")),
            Body::Object(attributes) => said.extend(object(asked, attributes, answer.message)),
        }
    }
    said
}

fn described(listed: Listed) -> String {
    match listed {
        Listed::Known(key, seen) => format!("{key}: {seen:?}"),
        Listed::Odd => "of an odd key".to_owned(),
    }
}

fn object(asked: Asked, attributes: Attributes<'_>, message: &[u8]) -> Vec<String> {
    let told = match asked {
        Asked::Table => {
            let (table, dormant, _) = look::read_table(attributes);
            Some(format!("{table:?}{}", if dormant { ", dormant" } else { "" }))
        }
        Asked::Chains => look::chain_name(attributes).map(|name| {
            let mut encoder = Encoder::new();
            let known = base_chains().into_iter().any(|chain| {
                chain.name == name && attributes.contains(attributes_of(encoder.chain(&chain)))
            });
            format!("chain {name}{}", if known { ", as it is built" } else { "" })
        }),
        Asked::Rules => look::rule_chain(attributes).map(|name| {
            let mut encoder = Encoder::new();
            let base = base_chains();
            let rules = base.iter().filter(|chain| chain.name == name);
            let mut rules =
                rules.flat_map(|chain| chain.rules.iter().map(move |rule| (chain, rule)));
            let known = rules.find(|(chain, rule)| {
                attributes.contains(attributes_of(encoder.rule(&chain.name, rule)))
            });
            let rule = known.map_or("of its own".to_owned(), |(_, rule)| rule.to_string());
            format!("chain {name}: {rule}")
        }),
        Asked::Element(set) => Some(format!("{:?}", elements::read(set, attributes))),
        Asked::Elements(set) => {
            let all = elements::read_all(set, attributes);
            return all.map(described).collect();
        }
        Asked::Flows(family) => Flow::read(family, attributes)
            .map(|flow| format!("{} answered by {}", flow.to, flow.answered_by)),
        Asked::Listeners(protocol, family) => {
            let all = Listener::read(protocol, family, message);
            return all.iter().map(Listener::to_string).collect();
        }
    };
    told.into_iter().collect()
}
