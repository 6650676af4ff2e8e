//! The rules of `portmap`, which stand before ours: what they translate never gets here.
//!
//! Read in ADD, so first only whether the chains are there at all, in one volley. Both of portmap's
//! backends are known, the older one as far as iptables writes nftables; what it writes in the older
//! tables of the kernel is not seen.

use super::super::netlink::message::{Body, Kind, Messages};
use super::super::netlink::socket::{DUMP, NFTABLES, REQUEST};
use super::super::{Error, Nft};
use super::{Conditions, conditions_of};
use crate::kernel::uapi;
use crate::model::{Family, HostPort};

/// A chain with a rule for each host port.
#[derive(Clone, Copy, Debug)]
struct Chain {
    family: Family,
    table: &'static str,
    name: &'static str,
}

const CHAINS: [Chain; 4] = {
    const fn iptables(family: Family) -> Chain {
        Chain { family, table: "nat", name: "CNI-HOSTPORT-DNAT" }
    }
    const fn nftables(family: Family) -> Chain {
        Chain { family, table: "cni_hostport", name: "hostports" }
    }
    [iptables(Family::V4), iptables(Family::V6), nftables(Family::V4), nftables(Family::V6)]
};

impl Chain {
    const fn number(self) -> u8 {
        match self.family {
            Family::V4 => uapi::NFPROTO_IPV4,
            Family::V6 => uapi::NFPROTO_IPV6,
        }
    }

    /// As nft(8) names it.
    fn shown(self) -> String {
        let family = match self.family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        };
        format!("{family} {} {}", self.table, self.name)
    }
}

/// A rule of portmap.
#[derive(Clone, Debug)]
struct Rule {
    chain: Chain,
    conditions: Conditions,
}

impl Rule {
    /// Whether it translates packets to `host`.
    fn takes(&self, host: &HostPort) -> bool {
        let Conditions { protocol, ports, destination, .. } = &self.conditions;
        let ports = ports.as_deref().unwrap_or_default();
        Family::of(&host.address) == self.chain.family
            && *protocol == Some(host.protocol.number())
            && ports.iter().any(|run| run.contains(&host.port.get()))
            && destination.is_none_or(|to| host.is_wildcard() || to.contains(host.address))
    }
}

/// Everything that portmap translates on this node.
#[derive(Clone, Debug, Default)]
pub struct Portmap {
    rules: Vec<Rule>,
}

impl Portmap {
    /// Whether it translates nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The chain whose rule gets packets to `host` first, as nft(8) names it.
    #[must_use]
    pub fn chain_of(&self, host: &HostPort) -> Option<String> {
        self.rules.iter().find(|rule| rule.takes(host)).map(|rule| rule.chain.shown())
    }
}

impl Nft {
    /// Reads what portmap translates.
    ///
    /// # Errors
    /// [`Error::Socket`], [`Error::Question`], [`Error::Restless`].
    pub fn portmap(&mut self) -> Result<Portmap, Error> {
        let mut questions = Messages::default();
        for (chain, number) in CHAINS.iter().zip(0..) {
            let kind = Kind { subsystem: NFTABLES, message: uapi::NFT_MSG_GETCHAIN };
            questions.begin(kind, REQUEST, chain.number(), number);
            questions.put_text(uapi::NFTA_CHAIN_TABLE, chain.table);
            questions.put_text(uapi::NFTA_CHAIN_NAME, chain.name);
        }
        let mut there = Vec::new();
        self.socket.ask(&questions, |answer| {
            if let (Body::Object(_), Some(chain)) =
                (answer.body, CHAINS.get(answer.number as usize))
            {
                there.push(*chain);
            }
        })?;
        let mut rules = Vec::new();
        for chain in there {
            let mut question = Messages::default();
            let kind = Kind { subsystem: NFTABLES, message: uapi::NFT_MSG_GETRULE };
            question.begin(kind, REQUEST | DUMP, chain.number(), 0);
            question.put_text(uapi::NFTA_RULE_TABLE, chain.table);
            question.put_text(uapi::NFTA_RULE_CHAIN, chain.name);
            rules.extend(self.list_until_whole(&question, |rule, found| {
                // Kernels before 4.17 list all chains of a table, whichever is asked for.
                if rule.text(uapi::NFTA_RULE_CHAIN) == Some(chain.name)
                    && let Some(conditions) = conditions_of(rule)
                    && conditions.ports.is_some()
                {
                    found.push(Rule { chain, conditions });
                }
            })?);
        }
        Ok(Portmap { rules })
    }
}
