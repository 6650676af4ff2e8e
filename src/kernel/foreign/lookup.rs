//! Rules that look into sets and maps: each comes to one rule per element.

use super::decode::{Loaded, Lookup, number, target, verdict};
use super::{Conditions, Does, OtherRule};
use crate::kernel::netlink::message::{Attributes, address};
use crate::kernel::uapi;

/// An element of somebody else's set.
#[derive(Clone, Debug, Default)]
pub(super) struct Element {
    key: Vec<u8>,
    key_end: Option<Vec<u8>>,
    data: Vec<u8>,
    verdict: Does,
    ends: bool,
}

impl Lookup {
    /// What `rule` comes to with this content of its set.
    pub(super) fn rules(&self, rule: &OtherRule, elements: &[Element]) -> Vec<OtherRule> {
        let understood = self.parts.iter().all(|part| part.words().is_some());
        let ports = self.parts.iter().filter(|part| **part == Loaded::Port).count();
        if !self.is_map && (ports != 1 || !understood) {
            let conditions = Conditions { unknown: true, ..rule.conditions.clone() };
            return vec![OtherRule { conditions, does: rule.does.clone() }];
        }
        // Of a map of unknown keys nothing can be said.
        if self.parts.is_empty() || !understood {
            return Vec::new();
        }
        let (ends, starts): (Vec<_>, Vec<_>) = elements.iter().partition(|element| element.ends);
        let ends: Vec<u16> = ends.iter().filter_map(|element| number(&element.key)).collect();
        starts.iter().map(|element| self.rule(rule, element, &ends)).collect()
    }

    /// What `rule` does with packets that find `element`; `ends` are where runs of numbers end.
    fn rule(&self, rule: &OtherRule, element: &Element, ends: &[u16]) -> OtherRule {
        let OtherRule { mut conditions, mut does } = rule.clone();
        let mut at = 0;
        for part in &self.parts {
            let len = 4 * part.words().unwrap_or_default() as usize;
            let Some(bytes) = element.key.get(at..(at + len).min(element.key.len())) else { break };
            if *part == Loaded::Port {
                let Some(first) = number(bytes) else { break };
                let last = element.key_end.as_ref().and_then(|end| number(end.get(at..)?));
                let end = ends.iter().filter(|end| **end > first).min();
                let last = last.or_else(|| end.map(|end| end - 1)).unwrap_or(first);
                conditions.narrow(vec![first..=last]);
            } else {
                let _ = conditions.meet(part, bytes);
            }
            at += len;
        }
        if self.is_map && does == Does::Nothing {
            does.clone_from(&element.verdict);
        } else if self.is_map && matches!(does, Does::Translate(_)) {
            does = Does::Translate(map_target(&element.data));
        }
        OtherRule { conditions, does }
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
