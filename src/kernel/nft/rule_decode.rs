//! Rules read back from the expressions that [`super::rule_encode`] made of them.
//!
//! Only what the chains of a network consist of is understood. Whoever asks compares the result with
//! what the name of the chain stands for, so nothing depends on an expression that is passed over.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::message::Attributes;
use crate::model::Family;
use crate::ruleset::{Rule, Set, Side, Term};

/// `linux/netfilter/nf_tables.h`.
mod uapi {
    pub(super) const NFTA_RULE_EXPRESSIONS: u16 = 4;
    pub(super) const NFTA_EXPR_NAME: u16 = 1;
    pub(super) const NFTA_EXPR_DATA: u16 = 2;
    pub(super) const NFTA_DATA_VALUE: u16 = 1;
    pub(super) const NFTA_DATA_VERDICT: u16 = 2;
    pub(super) const NFTA_VERDICT_CODE: u16 = 1;
    pub(super) const NFTA_VERDICT_CHAIN: u16 = 2;
    pub(super) const NFTA_META_KEY: u16 = 2;
    pub(super) const NFTA_META_SREG: u16 = 3;
    pub(super) const NFTA_PAYLOAD_BASE: u16 = 2;
    pub(super) const NFTA_PAYLOAD_OFFSET: u16 = 3;
    pub(super) const NFTA_BITWISE_MASK: u16 = 4;
    pub(super) const NFTA_BITWISE_XOR: u16 = 5;
    pub(super) const NFTA_CMP_DATA: u16 = 3;
    pub(super) const NFTA_LOOKUP_SET: u16 = 1;
    pub(super) const NFTA_IMMEDIATE_DATA: u16 = 2;
    pub(super) const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
    pub(super) const NFT_META_MARK: u32 = 3;
    pub(super) const NFT_META_NFPROTO: u32 = 15;
    pub(super) const NFPROTO_IPV4: u8 = 2;
    pub(super) const NFPROTO_IPV6: u8 = 10;
    pub(super) const NFT_GOTO: i32 = -4;
    pub(super) const NFT_RETURN: i32 = -5;
}

/// The rule that a listing shows; `None` when a chain of a network cannot have it.
pub(super) fn raise(rule: Attributes<'_>) -> Option<Rule> {
    let mut raising = Raising { terms: Vec::new(), loaded: Loaded::Other, mask: None };
    for element in rule.nested(uapi::NFTA_RULE_EXPRESSIONS)?.iter() {
        let expression = Attributes(element.payload);
        let data = expression.nested(uapi::NFTA_EXPR_DATA).unwrap_or_default();
        raising.expression(expression.text(uapi::NFTA_EXPR_NAME)?, data)?;
    }
    Some(Rule(raising.terms))
}

/// What was read from the packet last.
#[derive(Clone, Copy)]
enum Loaded {
    Family,
    Address(Side, Family),
    Mark,
    Other,
}

struct Raising {
    terms: Vec<Term>,
    loaded: Loaded,
    /// The mask and the bits to flip that what was loaded went through.
    mask: Option<(Vec<u8>, Vec<u8>)>,
}

impl Raising {
    fn expression(&mut self, name: &str, data: Attributes<'_>) -> Option<()> {
        match name {
            "meta" if data.get(uapi::NFTA_META_SREG).is_some() => self.set_mark()?,
            "meta" => self.load(match data.u32(uapi::NFTA_META_KEY)? {
                uapi::NFT_META_NFPROTO => Loaded::Family,
                uapi::NFT_META_MARK => Loaded::Mark,
                _ => Loaded::Other,
            }),
            "payload" => self.load(payload(data)?),
            "bitwise" => {
                let value = |kind| Some(data.nested(kind)?.get(uapi::NFTA_DATA_VALUE)?.to_vec());
                self.mask = Some((value(uapi::NFTA_BITWISE_MASK)?, value(uapi::NFTA_BITWISE_XOR)?));
            }
            "cmp" => self.compare(data.nested(uapi::NFTA_CMP_DATA)?.get(uapi::NFTA_DATA_VALUE)?)?,
            "lookup" => {
                let name = data.text(uapi::NFTA_LOOKUP_SET)?;
                let set = Set::named(name)?;
                self.conclude(set.family, Term::In(set));
            }
            "nat" => {
                let Term::In(set) = self.terms.pop()? else { return None };
                self.terms.push(Term::Dnat(set));
            }
            "immediate" => {
                let verdict = data.nested(uapi::NFTA_IMMEDIATE_DATA)?;
                let verdict = verdict.nested(uapi::NFTA_DATA_VERDICT)?;
                self.terms.push(match verdict.u32(uapi::NFTA_VERDICT_CODE)?.cast_signed() {
                    uapi::NFT_GOTO => {
                        Term::Goto(verdict.text(uapi::NFTA_VERDICT_CHAIN)?.to_owned())
                    }
                    uapi::NFT_RETURN => Term::Return,
                    _ => return None,
                });
            }
            _ => return None,
        }
        Some(())
    }

    fn load(&mut self, loaded: Loaded) {
        (self.loaded, self.mask) = (loaded, None);
    }

    /// The family is checked before what belongs to it, and printed only where it stands alone.
    fn conclude(&mut self, family: Family, term: Term) {
        self.terms.pop_if(|last| *last == Term::Family(family));
        self.terms.push(term);
    }

    fn compare(&mut self, value: &[u8]) -> Option<()> {
        match self.loaded {
            Loaded::Family => self.terms.push(Term::Family(match value {
                [uapi::NFPROTO_IPV4] => Family::V4,
                [uapi::NFPROTO_IPV6] => Family::V6,
                _ => return None,
            })),
            Loaded::Address(side, family) => {
                let ones = |mask: &[u8]| mask.iter().map(|byte| byte.count_ones()).sum::<u32>();
                let prefix =
                    self.mask.as_ref().map_or(8 * value.len() as u32, |(mask, _)| ones(mask));
                let network =
                    IpNetwork::new(padded(family, value)?, prefix.try_into().ok()?).ok()?;
                self.conclude(family, Term::Within(side, network));
            }
            Loaded::Mark | Loaded::Other => return None,
        }
        Some(())
    }

    fn set_mark(&mut self) -> Option<()> {
        let (Loaded::Mark, Some((mask, xor))) = (self.loaded, self.mask.take()) else {
            return None;
        };
        let number = |bytes: &[u8]| Some(u32::from_ne_bytes(*bytes.first_chunk()?));
        let (mask, xor) = (number(&mask)?, number(&xor)?);
        let bit = xor.trailing_zeros() as u8;
        (xor.is_power_of_two() && mask == !xor).then(|| self.terms.push(Term::MarkSet(bit)))
    }
}

fn payload(data: Attributes<'_>) -> Option<Loaded> {
    if data.u32(uapi::NFTA_PAYLOAD_BASE)? != uapi::NFT_PAYLOAD_NETWORK_HEADER {
        return Some(Loaded::Other);
    }
    Some(match data.u32(uapi::NFTA_PAYLOAD_OFFSET)? {
        12 => Loaded::Address(Side::Source, Family::V4),
        16 => Loaded::Address(Side::Destination, Family::V4),
        8 => Loaded::Address(Side::Source, Family::V6),
        24 => Loaded::Address(Side::Destination, Family::V6),
        _ => return None,
    })
}

/// An address of which only the first bytes were compared.
fn padded(family: Family, bytes: &[u8]) -> Option<IpAddr> {
    let mut octets = [0; 16];
    octets.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(*octets.first_chunk::<4>()?)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(octets)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netlink::message::attributes_of;
    use crate::kernel::nft::encode::Encoder;
    use crate::model::{Attachment, Masquerade, Owner, Policy, Record};
    use crate::ruleset::Treatment;
    use std::collections::BTreeMap;

    fn networks(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().expect("a network")).collect()
    }

    fn record(policy: Policy, addresses: &[&str]) -> Record {
        let attachment = Attachment::new("net", "c", "eth0").expect("valid");
        Record {
            owner: Owner::bare(attachment),
            pod_addresses: networks(addresses),
            policy,
            mappings: Vec::new(),
            grants: Vec::new(),
            dialects: [].into(),
            created: 0,
            boot_id: String::new(),
        }
    }

    /// Every treatment that a configuration can lead to, through libnftnl's encoding and back.
    #[test]
    fn every_treatment_reads_back() {
        let lists: [&[&str]; 4] = [
            &[],
            &["192.0.2.0/24"],
            &["10.0.0.0/9", "2001:db8::/33", "::/0"],
            &["198.51.100.7/32"],
        ];
        let addresses: [&[&str]; 5] = [
            &["10.1.2.3/24", "fd00::5/64"],
            &["10.1.2.3/20"],
            &["fd00::5/61", "10.1.2.3/32"],
            &["10.1.2.3/32", "fd00::5/128"],
            &[],
        ];
        let mut count = 0;
        for (sources, hosts) in lists.iter().flat_map(|one| lists.map(|other| (one, other))) {
            for addresses in addresses {
                for (masquerade, counters) in [
                    (Masquerade::Nobody, false),
                    (Masquerade::Local, true),
                    (Masquerade::Everybody, false),
                ] {
                    let policy = Policy {
                        masquerade,
                        mark_bit: 31,
                        source_ranges: networks(sources),
                        host_addresses: networks(hosts),
                        counters,
                    };
                    let record = record(policy, addresses);
                    let treatment = Treatment::of(&record);
                    let mut encoder = Encoder::new();
                    let mut chains = BTreeMap::new();
                    for chain in treatment.chains() {
                        let mut raised =
                            |rule| raise(attributes_of(encoder.rule(&chain.name, rule)));
                        let rules: Option<Vec<_>> = chain.rules.iter().map(&mut raised).collect();
                        chains.insert(chain.name.clone(), rules.expect("what was lowered"));
                    }
                    let read = Treatment::read(treatment.digest(), &chains);
                    assert_eq!(read, Some(treatment.clone()), "{record:?}");
                    let pods: Vec<_> = record.pod_addresses.iter().map(IpNetwork::ip).collect();
                    let again = Record {
                        policy: treatment.policy(31),
                        pod_addresses: treatment.pod_addresses(&pods),
                        ..record.clone()
                    };
                    assert_eq!(again.policy, record.policy);
                    assert_eq!(Treatment::of(&again), treatment, "{record:?}");
                    // One rule less, and the name says something else.
                    for rules in chains.values_mut() {
                        rules.pop();
                    }
                    assert_eq!(Treatment::read(treatment.digest(), &chains), None);
                    count += 1;
                }
            }
        }
        assert_eq!(count, 240);
    }
}
