//! Rules that look into sets and maps: each comes to one rule per element.

use std::ops::RangeInclusive;

use super::register::{Loaded, address, meet, number, target, verdict, words};
use super::{Conditions, Does, OtherRule, Space};
use crate::kernel::netlink::message::Attributes;
use crate::kernel::uapi;

/// A set of somebody else's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SetName {
    pub(super) space: Space,
    pub(super) table: String,
    pub(super) set: String,
}

/// An element of such a set.
#[derive(Clone, Debug, Default)]
pub(super) struct Element {
    key: Vec<u8>,
    key_end: Option<Vec<u8>>,
    data: Vec<u8>,
    verdict: Does,
    ends: bool,
}

/// A rule that looks into a set or map.
pub(super) struct Lookup {
    pub(super) set: String,
    /// What each part of the key is.
    pub(super) parts: Vec<Loaded>,
    pub(super) is_map: bool,
    pub(super) rule: OtherRule,
}

impl Lookup {
    /// What it comes to with this content of its set.
    pub(super) fn rules(self, elements: &[Element]) -> Vec<OtherRule> {
        let Self { parts, is_map, rule, .. } = self;
        let understood = !parts.is_empty() && parts.iter().all(|part| words(part).is_some());
        if !is_map {
            let is_port = |part: &Loaded| *part == Loaded::Port;
            if parts.iter().filter(|part| is_port(part)).count() != 1 || !understood {
                let conditions = Conditions { unknown: true, ..rule.conditions };
                return vec![OtherRule { conditions, ..rule }];
            }
        } else if !understood {
            // Of a map of unknown keys nothing can be said.
            return Vec::new();
        }
        let ends: Vec<u16> =
            elements.iter().filter(|one| one.ends).filter_map(|one| number(&one.key)).collect();
        let starts = elements.iter().filter(|element| !element.ends);
        starts
            .map(|element| {
                let mut one = rule.clone();
                let mut at = 0;
                for part in &parts {
                    let len = 4 * words(part).unwrap_or_default() as usize;
                    let Some(bytes) = element.key.get(at..(at + len).min(element.key.len())) else {
                        break;
                    };
                    if *part == Loaded::Port {
                        let Some(first) = number(bytes) else { break };
                        let last = element.key_end.as_ref().and_then(|end| number(end.get(at..)?));
                        let end = ends.iter().filter(|end| **end > first).min();
                        let last = last.or_else(|| end.map(|end| end - 1)).unwrap_or(first);
                        let before = one.conditions.ports.take();
                        let run = [first..=last];
                        let both = before.map_or(run.to_vec(), |before| intersect(&before, &run));
                        one.conditions.ports = Some(both);
                    } else {
                        meet(&mut one.conditions, part, bytes);
                    }
                    at += len;
                }
                if is_map {
                    one.does = match one.does {
                        Does::Translate(_) => Does::Translate(map_target(&element.data)),
                        Does::Nothing => element.verdict.clone(),
                        other @ (Does::Jump(_)
                        | Does::Goto(_)
                        | Does::Accept
                        | Does::Drop
                        | Does::Return) => other,
                    };
                }
                one
            })
            .collect()
    }
}

/// Reads the elements in a part of a listing.
pub(super) fn elements(answer: Attributes<'_>) -> Vec<Element> {
    let list = answer.nested(uapi::NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or_default();
    let read = |element: Attributes<'_>| {
        let of = |kind| element.nested(kind).and_then(|data| data.get(uapi::NFTA_DATA_VALUE));
        let flags = element.u32(uapi::NFTA_SET_ELEM_FLAGS).unwrap_or(0);
        Element {
            key: of(uapi::NFTA_SET_ELEM_KEY).unwrap_or_default().to_vec(),
            key_end: of(uapi::NFTA_SET_ELEM_KEY_END).map(<[u8]>::to_vec),
            data: of(uapi::NFTA_SET_ELEM_DATA).unwrap_or_default().to_vec(),
            verdict: element.nested(uapi::NFTA_SET_ELEM_DATA).and_then(verdict).unwrap_or_default(),
            ends: flags & uapi::NFT_SET_ELEM_INTERVAL_END != 0,
        }
    };
    list.iter().map(|element| read(Attributes(element.payload))).collect()
}

/// What a map leads to: an address, or an address and a port.
fn map_target(data: &[u8]) -> String {
    let whole = address(data);
    let (first, port) = data.split_at_checked(data.len().saturating_sub(4)).unwrap_or_default();
    if whole.is_some() { target(whole, None) } else { target(address(first), number(port)) }
}

/// What is in both lists of ports.
#[must_use]
pub fn intersect(
    one: &[RangeInclusive<u16>],
    other: &[RangeInclusive<u16>],
) -> Vec<RangeInclusive<u16>> {
    let pairs = one.iter().flat_map(|one| other.iter().map(move |other| (one, other)));
    pairs
        .map(|(one, other)| *one.start().max(other.start())..=*one.end().min(other.end()))
        .filter(|run| !run.is_empty())
        .collect()
}
