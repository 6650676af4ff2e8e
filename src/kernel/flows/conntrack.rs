//! The entries of connection tracking, over netlink: listing, counting and deleting them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use nix::libc;

use super::super::Error;
use super::super::netlink::message::{Attributes, Messages, address, number_of};
use super::super::netlink::socket::{ACK, DUMP, Socket, question};
use crate::kernel::uapi;
use crate::model::{Family, Protocol};

/// An entry of connection tracking, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::kernel) struct Flow {
    pub(in crate::kernel) protocol: Protocol,
    pub(in crate::kernel) from: IpAddr,
    pub(in crate::kernel) to: SocketAddr,
    /// The endpoint that answers: another one than `to` where the destination was translated.
    pub(in crate::kernel) answered_by: SocketAddr,
    /// What deletes it and nothing else: its tuple, its ID and its zone, as they were listed.
    pub(super) handle: Vec<(u16, Vec<u8>)>,
}

/// One side of a tuple: the attributes of its address and port, and the flags that filter by them.
struct Side {
    address: [u16; 2],
    port: u16,
    flags: [u32; 2],
}

const SOURCE: Side = Side {
    address: [uapi::CTA_IP_V4_SRC, uapi::CTA_IP_V6_SRC],
    port: uapi::CTA_PROTO_SRC_PORT,
    flags: [uapi::CTA_FILTER_F_IP_SRC, uapi::CTA_FILTER_F_PROTO_SRC_PORT],
};

const DESTINATION: Side = Side {
    address: [uapi::CTA_IP_V4_DST, uapi::CTA_IP_V6_DST],
    port: uapi::CTA_PROTO_DST_PORT,
    flags: [uapi::CTA_FILTER_F_IP_DST, uapi::CTA_FILTER_F_PROTO_DST_PORT],
};

impl Side {
    fn read(&self, family: Family, tuple: Attributes<'_>) -> Option<SocketAddr> {
        let attribute = self.address[usize::from(family == Family::V6)];
        let host = address(tuple.nested(uapi::CTA_TUPLE_IP)?.get(attribute)?)?;
        let port = tuple.nested(uapi::CTA_TUPLE_PROTO)?.get(self.port)?;
        Some(SocketAddr::new(host, u16::from_be_bytes(port.try_into().ok()?)))
    }
}

impl Flow {
    /// Reads an entry; `None` for one of a protocol without ports.
    pub(in crate::kernel) fn read(family: Family, attributes: Attributes<'_>) -> Option<Self> {
        let original = attributes.nested(uapi::CTA_TUPLE_ORIG)?;
        let reply = attributes.nested(uapi::CTA_TUPLE_REPLY)?;
        let number = original.nested(uapi::CTA_TUPLE_PROTO)?.get(uapi::CTA_PROTO_NUM)?;
        let handle = [uapi::CTA_TUPLE_ORIG, uapi::CTA_ID, uapi::CTA_ZONE];
        Some(Self {
            protocol: Protocol::ALL.into_iter().find(|it| [it.number()] == *number)?,
            from: SOURCE.read(family, original)?.ip(),
            to: DESTINATION.read(family, original)?,
            answered_by: SOURCE.read(family, reply)?,
            handle: handle
                .into_iter()
                .filter_map(|kind| Some((kind, attributes.get(kind)?.to_vec())))
                .collect(),
        })
    }
}

/// What the kernel narrows to: flows of `protocol` to an address and port, answered by an address and
/// port. What is `None` may be anything.
///
/// There are no IPv6 addresses here: the kernel's comparison of those is inverted, it passes every other
/// address (`ctnetlink_filter_match_tuple`, as seen on 6.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Filter {
    pub(super) family: Family,
    pub(super) protocol: Option<Protocol>,
    pub(super) to: (Option<Ipv4Addr>, Option<u16>),
    pub(super) answered_by: (Option<Ipv4Addr>, Option<u16>),
    pub(super) translated: bool,
}

impl Filter {
    pub(super) const fn all(family: Family, translated: bool) -> Self {
        let anything = (None, None);
        Self { family, protocol: None, to: anything, answered_by: anything, translated }
    }

    fn begin(&self, kind: u16, flags: u16) -> Messages {
        let mut question = question(kind, flags, number_of(self.family));
        let original = self.tuple(&mut question, uapi::CTA_TUPLE_ORIG, &DESTINATION, self.to);
        let reply = self.tuple(&mut question, uapi::CTA_TUPLE_REPLY, &SOURCE, self.answered_by);
        question.nest(uapi::CTA_FILTER, |filter| {
            filter.put(uapi::CTA_FILTER_ORIG_FLAGS, &[&original.to_ne_bytes()]);
            filter.put(uapi::CTA_FILTER_REPLY_FLAGS, &[&reply.to_ne_bytes()]);
        });
        let status = if self.translated { uapi::IPS_DST_NAT } else { 0 };
        question.put(uapi::CTA_STATUS, &[&status.to_be_bytes()]);
        question.put(uapi::CTA_STATUS_MASK, &[&uapi::IPS_DST_NAT.to_be_bytes()]);
        question
    }

    /// Writes one of the two tuples, and returns the flags that tell the kernel what is in it.
    fn tuple(
        &self,
        question: &mut Messages,
        kind: u16,
        side: &Side,
        (address, port): (Option<Ipv4Addr>, Option<u16>),
    ) -> u32 {
        let mut flags = 0;
        question.nest(kind, |tuple| {
            if let Some(address) = address {
                flags |= side.flags[0];
                tuple.nest(uapi::CTA_TUPLE_IP, |ip| ip.put(side.address[0], &[&address.octets()]));
            }
            let Some(protocol) = self.protocol else { return };
            flags |= uapi::CTA_FILTER_F_PROTO_NUM;
            tuple.nest(uapi::CTA_TUPLE_PROTO, |ports| {
                ports.put(uapi::CTA_PROTO_NUM, &[&[protocol.number()]]);
                if let Some(port) = port {
                    flags |= side.flags[1];
                    ports.put(side.port, &[&port.to_be_bytes()]);
                }
            });
        });
        flags
    }
}

/// How many entries this network namespace has. The kernel keeps the number: this takes a microsecond.
pub(super) fn count(socket: &mut Socket) -> Result<u32, Error> {
    let question = question(uapi::IPCTNL_MSG_CT_GET_STATS, 0, uapi::NFPROTO_UNSPEC);
    let read = |stats: Attributes<'_>| stats.u32(uapi::CTA_STATS_GLOBAL_ENTRIES);
    let what = "how many connections it tracks";
    let count = socket.ask_one(&question, what, read)?.flatten();
    count.ok_or_else(|| Error::question(what, libc::ENODATA))
}

/// Lists the flows that pass `filter`; kernels that do not know a part of it list more.
pub(super) fn list(socket: &mut Socket, filter: &Filter) -> Result<Vec<Flow>, Error> {
    let question = filter.begin(uapi::IPCTNL_MSG_CT_GET, DUMP);
    let family = filter.family;
    socket.gather(&question, "the connections it tracks", |_, attributes, flows| {
        flows.extend(Flow::read(family, attributes));
    })
}

/// Lists the flows of a family that a flowtable forwards.
pub(super) fn offloaded(socket: &mut Socket, family: Family) -> Result<Vec<Flow>, Error> {
    let mut question = question(uapi::IPCTNL_MSG_CT_GET, DUMP, number_of(family));
    for attribute in [uapi::CTA_STATUS, uapi::CTA_STATUS_MASK] {
        question.put(attribute, &[&uapi::IPS_OFFLOAD.to_be_bytes()]);
    }
    socket.gather(&question, "the connections it tracks", |_, attributes, flows| {
        let status = attributes.u32(uapi::CTA_STATUS).unwrap_or(0);
        let is_offloaded = status & uapi::IPS_OFFLOAD != 0;
        flows.extend(Flow::read(family, attributes).filter(|_| is_offloaded));
    })
}

/// Has the kernel delete all flows that pass `filter`; says whether it can. Kernels before 6.11 take the
/// tuples for those of one flow, and refuse them because they are not whole.
pub(super) fn delete_all(socket: &mut Socket, filter: &Filter) -> Result<bool, Error> {
    let question = filter.begin(uapi::IPCTNL_MSG_CT_DELETE, ACK);
    let deleted = socket.ask_one(&question, "that connections are no longer tracked", |_| ());
    let cannot = [libc::EINVAL, libc::EOPNOTSUPP, libc::ENOENT].map(Some);
    match deleted {
        Err(error) if cannot.contains(&error.refusal()) => Ok(false),
        deleted => deleted.map(|_| true),
    }
}

/// Deletes flows one by one; one that has ended meanwhile is as good as deleted.
pub(super) fn delete(socket: &mut Socket, flows: &[Flow]) -> Result<(), Error> {
    for flow in flows {
        let family = number_of(Family::of(&flow.from));
        let mut message = question(uapi::IPCTNL_MSG_CT_DELETE, ACK, family);
        for (attribute, payload) in &flow.handle {
            let nested = if *attribute == uapi::CTA_TUPLE_ORIG { 1 << 15 } else { 0 };
            message.put(attribute | nested, &[payload]);
        }
        match socket.ask_one(&message, "that a connection is no longer tracked", |_| ()) {
            Err(error) if error.refusal() != Some(libc::ENOENT) => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}
