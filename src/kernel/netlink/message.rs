//! Netlink messages as bytes: writing attributes, and reading whatever comes back.
//!
//! Layout: netlink(7), `linux/netlink.h`, `linux/netfilter/nfnetlink.h`. Lengths and types of the
//! headers are host-endian, the numbers inside `nf_tables` and conntrack attributes big-endian.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rtnetlink::packet_core::{
    NLA_F_NESTED, NLA_TYPE_MASK, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR,
};

use crate::kernel::uapi;
use crate::model::Family;

/// `struct nlmsghdr` and `struct nfgenmsg`.
const NLMSG_HEADER: usize = 16;
const NFGEN_HEADER: usize = 4;
const ATTR_HEADER: usize = 4;

const fn align(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// A run of messages, ready to be sent at once.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    bytes: Vec<u8>,
    last: usize,
}

impl Messages {
    /// Begins a message; `header` is what precedes its attributes, `struct nfgenmsg` of netfilter.
    pub(crate) fn begin(&mut self, kind: u16, flags: u16, header: &[u8]) {
        self.last = self.bytes.len();
        let len = (NLMSG_HEADER + header.len()) as u32;
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(header);
    }

    /// Appends a message that somebody else encoded, with our flags.
    pub(crate) fn append(&mut self, message: &[u8], flags: u16) {
        self.last = self.bytes.len();
        self.bytes.extend_from_slice(message);
        self.set_flags(flags);
    }

    /// The same with a number in each message, which comes back in the answers to it, from `base` on; and
    /// the first number after them.
    pub(crate) fn numbered_from(&self, base: u32) -> (Vec<u8>, u32) {
        let (mut bytes, mut next, mut at) = (self.bytes.clone(), base, 0);
        while let Some(len) = u32_ne(&bytes, at).filter(|len| *len > 0) {
            bytes[at + 8..at + 12].copy_from_slice(&next.to_ne_bytes());
            next = next.wrapping_add(1);
            at += align(len as usize);
        }
        (bytes, next)
    }

    /// Replaces the flags of the last message.
    pub(crate) fn set_flags(&mut self, flags: u16) {
        self.bytes[self.last + 6..self.last + 8].copy_from_slice(&flags.to_ne_bytes());
    }

    /// The flags of the last message.
    pub(crate) fn flags(&self) -> u16 {
        u16::from_ne_bytes([self.bytes[self.last + 6], self.bytes[self.last + 7]])
    }

    /// Adds an attribute to the last message.
    pub(crate) fn put(&mut self, kind: u16, payload: &[&[u8]]) {
        let start = self.open(kind);
        for part in payload {
            self.bytes.extend_from_slice(part);
        }
        self.close(start);
    }

    /// Adds a text with its terminator.
    pub(crate) fn put_text(&mut self, kind: u16, text: &str) {
        self.put(kind, &[text.as_bytes(), &[0]]);
    }

    /// Adds user data: a run of `type, length, value` with one byte each for the first two (libnftnl
    /// `udata.c`). A value has at most 255 bytes.
    pub(crate) fn put_userdata(&mut self, kind: u16, parts: &[(u8, &[u8])]) {
        let start = self.open(kind);
        for (kind, value) in parts {
            self.bytes.extend_from_slice(&[*kind, value.len() as u8]);
            self.bytes.extend_from_slice(value);
        }
        self.close(start);
    }

    /// Adds an attribute that consists of attributes.
    pub(crate) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.open(kind | NLA_F_NESTED);
        body(self);
        self.close(start);
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize) {
        let len = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self.bytes.resize(align(self.bytes.len()), 0);
        let message = (self.bytes.len() - self.last) as u32;
        self.bytes[self.last..self.last + 4].copy_from_slice(&message.to_ne_bytes());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// One message of an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer<'a> {
    /// What it is: the subsystem in the upper byte, the message type in the lower.
    pub(crate) kind: u16,
    /// The number of the request it answers.
    pub(crate) number: u32,
    /// The port of the socket whose request it answers, or tells others of.
    pub(crate) port: u32,
    pub(crate) body: Body<'a>,
    /// Everything after the netlink header, for what begins with another one than `struct nfgenmsg`.
    pub(crate) message: &'a [u8],
    /// Whether what is listed changed meanwhile, and has to be asked for again.
    pub(crate) interrupted: bool,
}

/// What an answer says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Body<'a> {
    /// An acknowledgement, or the end of a listing.
    Done,
    /// A refusal, as an errno.
    Refused(i32),
    /// An object.
    Object(Attributes<'a>),
}

/// The messages of one datagram. Stops at the first that is not whole.
pub(crate) fn answers(mut datagram: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let header = datagram.first_chunk::<NLMSG_HEADER>()?;
        let len = u32_ne(header, 0)? as usize;
        let message = datagram.get(NLMSG_HEADER..len)?;
        datagram = datagram.get(align(len)..).unwrap_or_default();
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let flags = u16::from_ne_bytes([header[6], header[7]]);
        let body = match kind {
            NLMSG_ERROR | NLMSG_DONE => match u32_ne(message, 0).map(u32::cast_signed) {
                None | Some(0) => Body::Done,
                Some(negative) => Body::Refused(negative.saturating_neg()),
            },
            _ => Body::Object(Attributes(message.get(NFGEN_HEADER..).unwrap_or_default())),
        };
        let interrupted = flags & NLM_F_DUMP_INTR != 0;
        let (number, port) = (u32_ne(header, 8)?, u32_ne(header, 12)?);
        Some(Answer { kind, number, port, body, message, interrupted })
    })
}

fn u32_ne(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_ne_bytes(*chunk))
}

/// A run of attributes, not yet looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

/// One attribute.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attribute<'a> {
    pub(crate) kind: u16,
    pub(crate) nested: bool,
    pub(crate) payload: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// The attributes, up to the first that is not whole.
    pub(crate) fn iter(self) -> impl Iterator<Item = Attribute<'a>> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let header = rest.first_chunk::<ATTR_HEADER>()?;
            let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
            let kind = u16::from_ne_bytes([header[2], header[3]]);
            let payload = rest.get(ATTR_HEADER..len)?;
            rest = rest.get(align(len)..).unwrap_or_default();
            let nested = kind & NLA_F_NESTED != 0;
            Some(Attribute { kind: kind & NLA_TYPE_MASK, nested, payload })
        })
    }

    /// The payload of the first attribute of this type.
    pub(crate) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.iter().find(|attribute| attribute.kind == kind).map(|attribute| attribute.payload)
    }

    /// The attributes inside the first attribute of this type.
    pub(crate) fn nested(self, kind: u16) -> Option<Self> {
        self.get(kind).map(Self)
    }

    /// A big-endian number.
    pub(crate) fn u32(self, kind: u16) -> Option<u32> {
        self.get(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// A text, with or without its terminator.
    pub(crate) fn text(self, kind: u16) -> Option<&'a str> {
        let bytes = self.get(kind)?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        std::str::from_utf8(&bytes[..end]).ok()
    }

    /// A part of user data, as [`Messages::put_userdata`] writes it.
    pub(crate) fn userdata(self, kind: u16, part: u8) -> Option<&'a [u8]> {
        let mut userdata = self.get(kind)?;
        while let [kind, len, rest @ ..] = userdata {
            let (value, others) = rest.split_at_checked(usize::from(*len))?;
            if *kind == part {
                return Some(value);
            }
            userdata = others;
        }
        None
    }

    /// Likewise a text, with or without its terminator.
    pub(crate) fn usertext(self, kind: u16, part: u8) -> Option<&'a str> {
        let value = self.userdata(kind, part)?;
        std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
    }

    /// Whether every attribute of `expected` is here with the same payload: the nth of its type
    /// against the nth of that type, and as many of that type on either side. The kernel adds
    /// attributes of its own to what it was sent (handles, defaults), which do not matter.
    pub(crate) fn contains(self, expected: Attributes<'_>) -> bool {
        let kinds: BTreeSet<u16> = expected.iter().map(|wanted| wanted.kind).collect();
        kinds.into_iter().all(|kind| {
            let found = self.iter().filter(|found| found.kind == kind);
            let wanted = expected.iter().filter(|wanted| wanted.kind == kind);
            self.count(kind) == expected.count(kind)
                && found.zip(wanted).all(|(found, wanted)| {
                    found.payload == wanted.payload
                        || wanted.nested
                            && Attributes(found.payload).contains(Attributes(wanted.payload))
                })
        })
    }

    fn count(self, kind: u16) -> usize {
        self.iter().filter(|attribute| attribute.kind == kind).count()
    }
}

/// The attributes of the only message in `bytes`.
pub(crate) fn attributes_of(bytes: &[u8]) -> Attributes<'_> {
    Attributes(bytes.get(NLMSG_HEADER + NFGEN_HEADER..).unwrap_or_default())
}

/// `AF_INET` or `AF_INET6`, which are also `NFPROTO_IPV4` and `NFPROTO_IPV6`.
pub(crate) const fn number_of(family: Family) -> u8 {
    match family {
        Family::V4 => uapi::NFPROTO_IPV4,
        Family::V6 => uapi::NFPROTO_IPV6,
    }
}

/// The bytes of an address, in the order of the packet.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The IP address that these bytes are.
pub(crate) fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4.or_else(|| Some(<[u8; 16]>::try_from(bytes).ok()?.into()))
}

#[cfg(test)]
mod tests;
