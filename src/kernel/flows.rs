//! Forgetting UDP flows that began under another mapping.
//!
//! The kernel decides once per flow where it goes, and a UDP flow lives as long as its client
//! keeps sending: without this, a client that had begun before an ADD would never reach the new
//! pod, and one that goes on after a DEL would keep sending to an address that may soon be
//! somebody else's. TCP and SCTP clients begin a new connection by themselves.

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use nix::libc;

use super::netlink::message::{Attributes, Body, Kind, Messages};
use super::netlink::socket::{ACK, DUMP, REQUEST};
use super::route::Local;
use super::{Error, Nft};
use crate::model::{Family, HostPort, Mapping, Protocol};
use crate::ruleset::{Data, Element, Ruleset};

/// `linux/netfilter/nfnetlink_conntrack.h`.
mod uapi {
    pub(super) const NFNL_SUBSYS_CTNETLINK: u8 = 1;
    pub(super) const IPCTNL_MSG_CT_GET: u8 = 1;
    pub(super) const IPCTNL_MSG_CT_DELETE: u8 = 2;
    pub(super) const CTA_TUPLE_ORIG: u16 = 1;
    pub(super) const CTA_TUPLE_REPLY: u16 = 2;
    pub(super) const CTA_ID: u16 = 12;
    pub(super) const CTA_ZONE: u16 = 18;
    pub(super) const CTA_FILTER: u16 = 25;
    pub(super) const CTA_FILTER_ORIG_FLAGS: u16 = 1;
    pub(super) const CTA_FILTER_F_PROTO_NUM: u32 = 1 << 3;
    pub(super) const CTA_FILTER_F_PROTO_DST_PORT: u32 = 1 << 5;
    pub(super) const CTA_TUPLE_IP: u16 = 1;
    pub(super) const CTA_TUPLE_PROTO: u16 = 2;
    pub(super) const CTA_IP_V4_SRC: u16 = 1;
    pub(super) const CTA_IP_V4_DST: u16 = 2;
    pub(super) const CTA_IP_V6_SRC: u16 = 3;
    pub(super) const CTA_IP_V6_DST: u16 = 4;
    pub(super) const CTA_PROTO_NUM: u16 = 1;
    pub(super) const CTA_PROTO_SRC_PORT: u16 = 2;
    pub(super) const CTA_PROTO_DST_PORT: u16 = 3;
    pub(super) const AF_INET: u8 = 2;
    pub(super) const AF_INET6: u8 = 10;
}

/// Which flows of a mapping are stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    /// Those that go elsewhere than to the mapping's target: it has just been added.
    Elsewhere,
    /// Those that go to the mapping's target: it has just been removed.
    Target,
}

/// A flow, as far as it matters here.
pub(super) struct Flow {
    /// Where its client sends to.
    pub(super) to: SocketAddr,
    /// Who answers.
    pub(super) answered_by: SocketAddr,
    /// What deletes it and nothing else: its tuple, its ID and its zone, as they were listed.
    handle: Vec<(u16, Vec<u8>)>,
}

const fn address_family(family: Family) -> u8 {
    match family {
        Family::V4 => uapi::AF_INET,
        Family::V6 => uapi::AF_INET6,
    }
}

impl Flow {
    pub(super) fn read(
        protocol: Protocol,
        family: Family,
        attributes: Attributes<'_>,
    ) -> Option<Self> {
        let original = attributes.nested(uapi::CTA_TUPLE_ORIG)?;
        let reply = attributes.nested(uapi::CTA_TUPLE_REPLY)?;
        let handle = [uapi::CTA_TUPLE_ORIG, uapi::CTA_ID, uapi::CTA_ZONE];
        let (source, destination) = match family {
            Family::V4 => (uapi::CTA_IP_V4_SRC, uapi::CTA_IP_V4_DST),
            Family::V6 => (uapi::CTA_IP_V6_SRC, uapi::CTA_IP_V6_DST),
        };
        Some(Self {
            to: endpoint(protocol, original, destination, uapi::CTA_PROTO_DST_PORT)?,
            answered_by: endpoint(protocol, reply, source, uapi::CTA_PROTO_SRC_PORT)?,
            handle: handle
                .into_iter()
                .filter_map(|kind| Some((kind, attributes.get(kind)?.to_vec())))
                .collect(),
        })
    }

    /// Whether the flow has to go because of a mapping of its port to `target`. `local` says
    /// whether an address is this node's, and is asked only if that decides.
    fn is_stale(
        &self,
        stale: Stale,
        host: &HostPort,
        target: SocketAddr,
        local: &impl Fn(IpAddr) -> bool,
    ) -> bool {
        let to_claimed = self.to.ip() == host.address;
        match stale {
            Stale::Target => self.answered_by == target && (host.is_wildcard() || to_claimed),
            Stale::Elsewhere if self.answered_by == target => false,
            // Flows that this node only forwards may have the same port: they go to addresses
            // that are not its own.
            Stale::Elsewhere if host.is_wildcard() => local(self.to.ip()),
            Stale::Elsewhere => to_claimed,
        }
    }
}

/// The mappings of one protocol and family that translate, by host port: of a node's flows, most have a port
/// that nobody asks about.
#[derive(Default)]
struct Ports(BTreeMap<u16, Vec<(HostPort, SocketAddr)>>);

impl Ports {
    fn of(mappings: &[Mapping], protocol: Protocol, family: Family) -> Self {
        let mut ports = Self::default();
        for Mapping { host, target, .. } in mappings {
            if host.protocol == protocol
                && Family::of(&host.address) == family
                && let Some(target) = target
            {
                ports.0.entry(host.port.get()).or_default().push((*host, *target));
            }
        }
        ports
    }

    /// The port, if there is only one.
    fn only(&self) -> Option<u16> {
        let mut ports = self.0.keys();
        ports.next().copied().filter(|_| ports.next().is_none())
    }

    /// Whether a flow has the port of a mapping.
    fn concern(&self, flow: &Flow) -> bool {
        self.0.contains_key(&flow.to.port())
    }

    /// Whether a flow has to go because of any mapping.
    fn end(&self, flow: &Flow, stale: Stale, local: &impl Fn(IpAddr) -> bool) -> bool {
        let mappings = self.0.get(&flow.to.port()).map_or(&[][..], Vec::as_slice);
        mappings.iter().any(|(host, target)| flow.is_stale(stale, host, *target, local))
    }
}

fn endpoint(
    protocol: Protocol,
    tuple: Attributes<'_>,
    address: u16,
    port: u16,
) -> Option<SocketAddr> {
    let ports = tuple.nested(uapi::CTA_TUPLE_PROTO)?;
    if ports.get(uapi::CTA_PROTO_NUM)? != [protocol.number()] {
        return None;
    }
    let address = tuple.nested(uapi::CTA_TUPLE_IP)?.get(address)?;
    let address = match address.len() {
        4 => IpAddr::from(*address.first_chunk::<4>()?),
        _ => IpAddr::from(*address.first_chunk::<16>()?),
    };
    let port = ports.get(port)?.try_into().ok().map(u16::from_be_bytes)?;
    Some(SocketAddr::new(address, port))
}

/// The mapping that an element carries out, if it is one that leads to a pod.
fn mapping(element: &Element) -> Option<Mapping> {
    let Data::Target(target) = element.data else { return None };
    let container_port = NonZeroU16::new(target.port())?;
    Some(Mapping { host: element.host, container_port, target: Some(target) })
}

impl Nft {
    /// Ends the UDP flows that began while `restored` was not in force: they would miss their pods
    /// for as long as their clients go on.
    pub(super) fn forget_gap(&mut self, restored: &Ruleset) -> Result<(), Error> {
        let mappings = restored.elements.values().filter_map(mapping);
        self.forget_flows(&mappings.collect::<Vec<_>>(), Stale::Elsewhere)
    }

    /// Deletes the UDP flows through `mappings` that are stale. Each family with UDP mappings is
    /// listed once, however many ports there are, and the node's addresses at most once, however
    /// many flows there are.
    ///
    /// # Errors
    /// [`Error::Socket`], [`Error::Question`].
    pub fn forget_flows(&mut self, mappings: &[Mapping], stale: Stale) -> Result<(), Error> {
        for family in Family::ALL {
            let ports = Ports::of(mappings, Protocol::Udp, family);
            if ports.0.is_empty() {
                continue;
            }
            let mut flows = self.flows(Protocol::Udp, family, &ports)?;
            // Where the node's addresses cannot be had the flow is left alone: it expires by itself.
            let own = LazyCell::new(|| Local::of(family).unwrap_or_default());
            flows.retain(|flow| ports.end(flow, stale, &|address| own.contains(address)));
            self.delete_flows(family, &flows)?;
        }
        Ok(())
    }

    /// Counts the flows through each of `mappings` that translates. Each protocol and family is listed
    /// once.
    ///
    /// # Errors
    /// [`Error::Socket`], [`Error::Question`].
    pub fn count_flows(&mut self, mappings: &[Mapping]) -> Result<BTreeMap<Mapping, usize>, Error> {
        let mut counts: BTreeMap<_, _> =
            mappings.iter().filter(|one| one.target.is_some()).map(|one| (*one, 0)).collect();
        for protocol in Protocol::ALL {
            for family in Family::ALL {
                let ports = Ports::of(mappings, protocol, family);
                if ports.0.is_empty() {
                    continue;
                }
                for flow in self.flows(protocol, family, &ports)? {
                    let through = counts.iter_mut().filter(|(mapping, _)| {
                        let host = &mapping.host;
                        let meant = host.protocol == protocol && host.port.get() == flow.to.port();
                        let by = |target| flow.is_stale(Stale::Target, host, target, &|_| false);
                        meant && mapping.target.is_some_and(by)
                    });
                    through.for_each(|(_, count)| *count += 1);
                }
            }
        }
        Ok(counts)
    }

    /// Lists the flows of a protocol and family to `ports`. The kernel narrows to one port, not to
    /// several.
    fn flows(
        &mut self,
        protocol: Protocol,
        family: Family,
        ports: &Ports,
    ) -> Result<Vec<Flow>, Error> {
        let only_port = ports.only();
        let mut question = Messages::default();
        let kind =
            Kind { subsystem: uapi::NFNL_SUBSYS_CTNETLINK, message: uapi::IPCTNL_MSG_CT_GET };
        question.begin(kind, REQUEST | DUMP, address_family(family), 0);
        question.nest(uapi::CTA_TUPLE_ORIG, |tuple| {
            tuple.nest(uapi::CTA_TUPLE_PROTO, |tuple| {
                tuple.put(uapi::CTA_PROTO_NUM, &[&[protocol.number()]]);
                if let Some(port) = only_port {
                    tuple.put(uapi::CTA_PROTO_DST_PORT, &[&port.to_be_bytes()]);
                }
            });
        });
        let by_port = only_port.map_or(0, |_| uapi::CTA_FILTER_F_PROTO_DST_PORT);
        question.nest(uapi::CTA_FILTER, |filter| {
            let flags = uapi::CTA_FILTER_F_PROTO_NUM | by_port;
            filter.put(uapi::CTA_FILTER_ORIG_FLAGS, &[&flags.to_ne_bytes()]);
        });
        let flows = self.socket.gather(&question, |_, attributes, flows| {
            let flow = Flow::read(protocol, family, attributes);
            flows.extend(flow.filter(|flow| ports.concern(flow)));
        })?;
        flows.map_err(|errno| Error::question("the flows of connection tracking", errno))
    }

    /// Deletes flows one by one; one that has ended meanwhile is as good as deleted.
    fn delete_flows(&mut self, family: Family, flows: &[Flow]) -> Result<(), Error> {
        let kind =
            Kind { subsystem: uapi::NFNL_SUBSYS_CTNETLINK, message: uapi::IPCTNL_MSG_CT_DELETE };
        for flow in flows {
            let mut message = Messages::default();
            message.begin(kind, REQUEST | ACK, address_family(family), 0);
            for (attribute, payload) in &flow.handle {
                let nested = if *attribute == uapi::CTA_TUPLE_ORIG { 1 << 15 } else { 0 };
                message.put(attribute | nested, &[payload]);
            }
            let mut failed = Some(libc::ENODATA);
            self.socket.ask(&message, |answer| {
                failed = match answer.body {
                    Body::Done | Body::Object(_) | Body::Refused(libc::ENOENT) => None,
                    Body::Refused(errno) => Some(errno),
                };
            })?;
            if let Some(errno) = failed {
                return Err(Error::question("that a UDP flow has ended", errno));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
