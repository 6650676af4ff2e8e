//! What is in a set or map of another program, and what a key finds there.

use std::cmp::Ordering;

use super::does::{Does, verdict};
use super::packet::Byte;
use crate::kernel::netlink::message::Attributes;
use crate::kernel::uapi;

/// An element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Element {
    key: Vec<u8>,
    key_end: Option<Vec<u8>>,
    pub(super) data: Vec<u8>,
    pub(super) verdict: Option<Does>,
    /// Whether a run of keys ends before it.
    ends: bool,
    is_for_all_others: bool,
    /// Whether it has a condition of its own: a limit or a quota.
    pub(super) is_conditional: bool,
}

/// A set, or a map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    pub(super) key_len: usize,
    /// The lengths of the parts of a key, in registers.
    parts: Vec<usize>,
    is_interval: bool,
    elements: Vec<Element>,
}

/// What a key finds.
#[derive(Default)]
pub(super) struct Found<'a> {
    /// The elements that it may find.
    pub(super) elements: Vec<&'a Element>,
    /// Whether it may find none.
    pub(super) may_miss: bool,
}

/// Compares as far as the bytes are known.
pub(super) fn compare(known: &[Byte], with: &[u8]) -> Option<Ordering> {
    for (byte, with) in known.iter().zip(with) {
        match (*byte, with) {
            (Byte::Known(byte), with) if byte == *with => {}
            (Byte::Known(byte), with) => return Some(byte.cmp(with)),
            (Byte::AtLeast(least), with) if *with < least => return Some(Ordering::Greater),
            (Byte::AtLeast(_) | Byte::Unknown, _) => return None,
        }
    }
    Some(Ordering::Equal)
}

/// Whether the bytes are these; known ones that differ suffice for a no.
pub(super) fn equals(known: &[Byte], with: &[u8]) -> Option<bool> {
    let differs = |(byte, with): (&Byte, &u8)| match byte {
        Byte::Known(byte) => byte != with,
        Byte::AtLeast(least) => with < least,
        Byte::Unknown => false,
    };
    if known.iter().zip(with).any(differs) {
        return Some(false);
    }
    known.iter().all(|byte| byte.known().is_some()).then_some(true)
}

/// Whether the bytes are from `first` to `last`.
pub(super) fn within(known: &[Byte], first: &[u8], last: &[u8]) -> Option<bool> {
    match (compare(known, first), compare(known, last)) {
        (Some(Ordering::Less), _) | (_, Some(Ordering::Greater)) => Some(false),
        (Some(_), Some(_)) => Some(true),
        _ if first == last => equals(known, first),
        _ => None,
    }
}

impl Set {
    /// Reads what a listing of sets tells of it.
    pub(super) fn read(set: Attributes<'_>) -> Self {
        let key_len = set.u32(uapi::NFTA_SET_KEY_LEN).unwrap_or_default() as usize;
        let parts = set.nested(uapi::NFTA_SET_DESC);
        let parts = parts.and_then(|desc| desc.nested(uapi::NFTA_SET_DESC_CONCAT));
        let parts = parts.unwrap_or_default().iter().filter_map(|part| {
            let len = Attributes(part.payload).u32(uapi::NFTA_SET_FIELD_LEN)? as usize;
            Some(len.next_multiple_of(4))
        });
        let parts: Vec<usize> = parts.collect();
        let flags = set.u32(uapi::NFTA_SET_FLAGS).unwrap_or_default();
        Self {
            key_len,
            is_interval: flags & uapi::NFT_SET_INTERVAL != 0 && parts.len() < 2,
            parts: if parts.len() < 2 { vec![key_len] } else { parts },
            elements: Vec::new(),
        }
    }

    /// Puts in its elements.
    pub(super) fn fill(&mut self, elements: Vec<Element>) {
        self.elements = elements;
        // Where one run ends and the next begins, the beginning counts.
        self.elements.sort_by(|one, other| one.key.cmp(&other.key).then(other.ends.cmp(&one.ends)));
    }

    /// What a key finds; some of its bytes may be unknown.
    pub(super) fn find(&self, key: &[Byte]) -> Found<'_> {
        let mut found = Found { elements: Vec::new(), may_miss: true };
        let mut elements = self.elements.iter().filter(|element| !element.is_for_all_others);
        if self.is_interval && key.iter().all(|byte| byte.known().is_some()) {
            let is_up_to = |element: &&Element| {
                compare(key, &element.key).is_some_and(|order| order != Ordering::Less)
            };
            let last = elements.rfind(is_up_to).filter(|element| !element.ends);
            found.elements.extend(last);
            found.may_miss = last.is_none_or(|element| element.is_conditional);
        } else {
            for element in elements.filter(|element| !element.ends) {
                match self.meets(key, element) {
                    Some(false) => {}
                    Some(true) if !element.is_conditional => {
                        found = Found { elements: vec![element], may_miss: false };
                        break;
                    }
                    Some(true) | None => found.elements.push(element),
                }
            }
        }
        if found.may_miss
            && let Some(others) = self.elements.iter().find(|element| element.is_for_all_others)
        {
            found.elements.push(others);
            found.may_miss = others.is_conditional;
        }
        found
    }

    fn meets(&self, key: &[Byte], element: &Element) -> Option<bool> {
        if self.is_interval {
            // Where it ends is in another element.
            return None;
        }
        let Some(end) = &element.key_end else { return equals(key, &element.key) };
        let (mut at, mut certain) = (0, true);
        for len in &self.parts {
            let part = at..(at + len).min(key.len());
            match within(key.get(part.clone())?, element.key.get(part.clone())?, end.get(part)?) {
                Some(false) => return Some(false),
                Some(true) => {}
                None => certain = false,
            }
            at += len;
        }
        certain.then_some(true)
    }
}

/// Reads the elements in a part of a listing.
pub(super) fn elements(answer: Attributes<'_>) -> Vec<Element> {
    let list = answer.nested(uapi::NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or_default();
    let read = |element: Attributes<'_>| {
        let of = |kind| element.nested(kind).and_then(|data| data.get(uapi::NFTA_DATA_VALUE));
        let flags = element.u32(uapi::NFTA_SET_ELEM_FLAGS).unwrap_or(0);
        let one = element.nested(uapi::NFTA_SET_ELEM_EXPR);
        let more = element.nested(uapi::NFTA_SET_ELEM_EXPRESSIONS).unwrap_or_default();
        let mut expressions = one.into_iter().chain(more.iter().map(|it| Attributes(it.payload)));
        let counts = |expression: Attributes<'_>| {
            matches!(expression.text(uapi::NFTA_EXPR_NAME), Some("counter" | "last"))
        };
        Element {
            key: of(uapi::NFTA_SET_ELEM_KEY).unwrap_or_default().to_vec(),
            key_end: of(uapi::NFTA_SET_ELEM_KEY_END).map(<[u8]>::to_vec),
            data: of(uapi::NFTA_SET_ELEM_DATA).unwrap_or_default().to_vec(),
            verdict: element.nested(uapi::NFTA_SET_ELEM_DATA).and_then(verdict),
            ends: flags & uapi::NFT_SET_ELEM_INTERVAL_END != 0,
            is_for_all_others: flags & uapi::NFT_SET_ELEM_CATCHALL != 0,
            is_conditional: !expressions.all(counts),
        }
    };
    list.iter().map(|element| read(Attributes(element.payload))).collect()
}
