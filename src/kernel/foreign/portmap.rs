//! The rules of `portmap`, which stand before ours: what they translate never gets here.
//!
//! Read in ADD, so first only whether the chains are there at all, in one volley. Both of portmap's
//! backends are known, the older one as far as iptables writes nftables; what it writes in the older
//! tables of the kernel is not seen.

use super::super::netlink::message::{Body, Messages};
use super::super::netlink::socket::{DUMP, REQUEST, question};
use super::super::{Error, Nft};
use super::{OtherRule, Packet, Space, Tuple, decode};
use crate::kernel::uapi;
use crate::model::{Family, HostPort};

/// A chain with a rule for each host port: its family, table and name.
type Chain = (Space, &'static str, &'static str);

/// The tables of its backends: that of iptables, and its own.
pub(super) const NAT: &str = "nat";
pub(super) const OWN: &str = "cni_hostport";
/// The chain in `nat` that leads to the chain of each container.
pub(super) const TOP: &str = "CNI-HOSTPORT-DNAT";

const CHAINS: [Chain; 4] = [
    (Space::Ip, NAT, TOP),
    (Space::Ip6, NAT, TOP),
    (Space::Ip, OWN, "hostports"),
    (Space::Ip6, OWN, "hostports"),
];

/// Whether a rule may be for packets to `host`.
fn takes(rule: &OtherRule, host: &HostPort) -> bool {
    let destination = Some(host.address).filter(|_| !host.is_wildcard());
    let destination_port = Some(host.port.get());
    let packet = Packet {
        protocol: Some(host.protocol.number()),
        tuple: Tuple { destination, destination_port, ..Tuple::default() },
        ..Packet::unknown(Family::of(&host.address))
    };
    !rule.meet(&packet).does.is_empty()
}

/// Everything that portmap translates on this node.
#[derive(Clone, Debug, Default)]
pub struct Portmap {
    rules: Vec<(Chain, OtherRule)>,
}

impl Portmap {
    /// Whether it translates nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The chain whose rule gets packets to `host` first, as nft(8) names it.
    pub(crate) fn chain_of(&self, host: &HostPort) -> Option<String> {
        let family = Family::of(&host.address);
        let mut rules = self.rules.iter();
        let ((space, table, name), _) =
            rules.find(|((space, ..), rule)| space.has(family) && takes(rule, host))?;
        Some(format!("{space} {table} {name}"))
    }
}

impl Nft {
    /// Reads what portmap translates.
    ///
    /// # Errors
    /// [`Error::Socket`], [`Error::Question`], [`Error::Restless`].
    pub fn portmap(&mut self) -> Result<Portmap, Error> {
        let mut questions = Messages::default();
        for (space, table, name) in CHAINS {
            questions.begin(uapi::NFT_MSG_GETCHAIN, REQUEST, &[space.number(), 0, 0, 0]);
            questions.put_text(uapi::NFTA_CHAIN_TABLE, table);
            questions.put_text(uapi::NFTA_CHAIN_NAME, name);
        }
        let mut there: Vec<&Chain> = Vec::new();
        self.socket.ask(&questions, |answer| {
            if matches!(answer.body, Body::Object(_)) {
                there.extend(CHAINS.get(answer.number as usize));
            }
        })?;
        let mut rules = Vec::new();
        for chain in there {
            let (space, table, name) = *chain;
            let mut question = question(uapi::NFT_MSG_GETRULE, DUMP, space.number());
            question.put_text(uapi::NFTA_RULE_TABLE, table);
            question.put_text(uapi::NFTA_RULE_CHAIN, name);
            rules.extend(self.socket.list(&question, "its table", |_, rule, found| {
                // Kernels before 4.17 list all chains of a table, whichever is asked for.
                if rule.text(uapi::NFTA_RULE_CHAIN) == Some(name) {
                    let rule = decode::rule(space, rule, &|_| None);
                    found.extend(Some((*chain, rule)).filter(|(_, rule)| rule.is_for_ports()));
                }
            })?);
        }
        Ok(Portmap { rules })
    }
}
