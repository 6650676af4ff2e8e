//! Which way a packet takes by this namespace's routes, and in what state the interfaces and neighbours
//! on it are.

use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use ipnetwork::IpNetwork;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::{if_indextoname, if_nametoindex};
use nix::sys::socket::SockaddrStorage;
use rtnetlink::packet_route::link::{
    InfoBridgePort, InfoKind, InfoPortData, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
    LinkXdp, XdpAttached,
};
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{RouteAttribute, RouteFlags, RouteMessage};
use rtnetlink::packet_route::rule::{RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};

use super::super::foreign::Interface;
use super::super::netlink::message::number_of;
use super::{address, talk};
use crate::model::Family;

/// Where a packet leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// The interface.
    pub interface: String,
    /// Its number.
    pub index: u32,
    /// The next hop, unless the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// What this node would send from.
    pub source: Option<IpAddr>,
    /// Whether the link is known to be down.
    pub is_down: bool,
}

/// A packet whose way is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Journey {
    pub to: IpAddr,
    /// The source, if a certain one.
    pub from: Option<IpAddr>,
    /// The number of the interface that it comes in by; `None` for one that begins here.
    pub by: Option<u32>,
    pub mark: u32,
}

impl Journey {
    /// One that begins here.
    pub const fn to(to: IpAddr) -> Self {
        Self { to, from: None, by: None, mark: 0 }
    }
}

/// Asks the kernel which way a packet takes. For one that comes in by an interface, the answer is also about
/// whether packets are forwarded at all, and whether the client may be on that side (`rp_filter`).
///
/// # Errors
/// The kernel's reason not to send it: no route (`ENETUNREACH`, `EHOSTUNREACH`), forwarding off
/// (`EHOSTUNREACH`), a client of another side (`EXDEV`), a route that forbids it.
pub fn path(journey: Journey) -> io::Result<Path> {
    let no_route = || io::Error::from_raw_os_error(nix::libc::ENETUNREACH);
    let question = question(journey)?;
    let taken = talk(false, |handle| take(handle, question.clone()))?;
    let mut path = taken.ok_or_else(no_route)?;
    let name = if_indextoname(path.index).ok().and_then(|name| name.into_string().ok());
    path.interface = name.ok_or_else(no_route)?;
    Ok(path)
}

pub(super) fn question(journey: Journey) -> io::Result<RouteMessage> {
    let Journey { to, from, by, mark } = journey;
    let prefix = |address: IpAddr| IpNetwork::from(address).prefix();
    let question = RouteMessageBuilder::<IpAddr>::new().destination_prefix(to, prefix(to));
    let mut question = question.map_err(io::Error::other)?;
    if let Some(from) = from {
        question = question.source_prefix(from, prefix(from)).map_err(io::Error::other)?;
    }
    if let Some(index) = by {
        question = question.input_interface(index);
    }
    let mut question = question.build();
    if mark != 0 {
        question.attributes.push(RouteAttribute::Mark(mark));
    }
    Ok(question)
}

/// What the rules of policy routing ask for, beyond what [`path`] is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    pub by_mark: bool,
    /// Ports, protocols or users.
    pub by_more: bool,
}

/// Lists the rules of policy routing.
///
/// # Errors
/// When the kernel does not list them.
pub fn policies(family: Family) -> io::Result<Policies> {
    let version = match family {
        Family::V4 => IpVersion::V4,
        Family::V6 => IpVersion::V6,
    };
    let list = |handle: Handle| handle.rule().get(version.clone()).execute().try_collect();
    let rules: Vec<RuleMessage> = talk(false, list)?;
    let attributes = || rules.iter().flat_map(|rule| &rule.attributes);
    let by_more = |attribute: &RuleAttribute| {
        matches!(
            attribute,
            RuleAttribute::IpProtocol(_)
                | RuleAttribute::SourcePortRange(_)
                | RuleAttribute::DestinationPortRange(_)
        )
    };
    Ok(Policies {
        by_mark: attributes().any(|one| matches!(one, RuleAttribute::FwMark(_))),
        by_more: attributes().any(by_more) || rules.iter().any(|rule| rule.header.tos != 0),
    })
}

/// Whether a filter of tc(8) sees what comes in by the interface, or goes out by it.
///
/// # Errors
/// When the kernel does not list them.
pub fn is_filtered(index: u32) -> io::Result<bool> {
    let ask = |handle: Handle| async move {
        let mut filters = handle.traffic_filter(index.cast_signed());
        let coming = filters.get().ingress().execute().try_next().await?;
        let leaving = filters.get().egress().execute().try_next().await?;
        Ok(coming.is_some() || leaving.is_some())
    };
    talk(false, ask)
}

/// Asks which route it is, and reads it but for the name of the interface.
pub(super) async fn take(
    handle: Handle,
    question: RouteMessage,
) -> Result<Option<Path>, rtnetlink::Error> {
    let route = Box::pin(handle.route().get(question).execute()).try_next().await?;
    Ok(route.as_ref().map(read))
}

fn read(route: &RouteMessage) -> Path {
    let mut path = Path {
        is_down: route.header.flags.intersects(RouteFlags::Dead | RouteFlags::Linkdown),
        ..Path::default()
    };
    for attribute in &route.attributes {
        if let RouteAttribute::Oif(index) = attribute {
            path.index = *index;
        } else if let RouteAttribute::Gateway(gateway) = attribute {
            path.gateway = address(gateway);
        } else if let RouteAttribute::PrefSource(source) = attribute {
            path.source = address(source);
        }
    }
    path
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The number of the bridge, bond or VRF that it belongs to.
    pub controller: Option<u32>,
    /// As a port of a bridge: whether packets may leave where they came in.
    pub hairpin: Option<bool>,
    pub is_bridge: bool,
    /// Whether nothing comes in: the loopback, or an interface without a cable.
    pub is_deaf: bool,
    /// Whether an XDP program sees what comes in.
    pub has_program: bool,
}

/// Every interface of this namespace.
///
/// # Errors
/// When the kernel does not list them.
pub fn links() -> io::Result<Vec<Link>> {
    let list = |handle: Handle| handle.link().get().execute().try_collect();
    let links: Vec<LinkMessage> = talk(false, list)?;
    Ok(links.iter().map(link).collect())
}

fn link(message: &LinkMessage) -> Link {
    let is_deaf = message.header.flags.contains(LinkFlags::Loopback);
    let mut link = Link { index: message.header.index, is_deaf, ..Link::default() };
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            link.name.clone_from(name);
        } else if let LinkAttribute::Controller(index) = attribute {
            link.controller = Some(*index);
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            link.hairpin = infos.iter().find_map(hairpin);
            link.is_bridge = infos.contains(&LinkInfo::Kind(InfoKind::Bridge));
            link.is_deaf |= infos.contains(&LinkInfo::Kind(InfoKind::Dummy));
        } else if let LinkAttribute::Xdp(told) = attribute {
            let is_attached =
                |one: &LinkXdp| matches!(one, LinkXdp::Attached(how) if *how != XdpAttached::None);
            link.has_program = told.iter().any(is_attached);
        }
    }
    link
}

fn hairpin(info: &LinkInfo) -> Option<bool> {
    let LinkInfo::PortData(InfoPortData::BridgePort(port)) = info else { return None };
    port.iter().find_map(
        |info| {
            if let InfoBridgePort::HairpinMode(on) = info { Some(*on) } else { None }
        },
    )
}

/// The interface that has `address`, and the network that it is in; `None` where none has it, or the kernel
/// does not say.
pub fn interface_with(address: IpAddr) -> Option<(Interface, IpNetwork)> {
    let ip = |own: &SockaddrStorage| {
        let v4 = own.as_sockaddr_in().map(|own| IpAddr::V4(own.ip()));
        v4.or_else(|| own.as_sockaddr_in6().map(|own| IpAddr::V6(own.ip())))
    };
    let is_it = |own: &InterfaceAddress| own.address.as_ref().and_then(ip) == Some(address);
    let found = getifaddrs().ok()?.find(is_it)?;
    let mask = found.netmask.as_ref().and_then(ip)?;
    let name = found.interface_name;
    let interface = Interface { index: if_nametoindex(name.as_str()).ok()?, name };
    Some((interface, IpNetwork::with_netmask(address, mask).ok()?))
}

/// What is known of who has an address on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// It answered, or was configured.
    Known,
    /// It was asked for and did not answer.
    Failed,
    /// Nobody has asked, or not yet long enough.
    Unknown,
}

/// What the neighbour table says of `address` on the interface with the number `index`.
///
/// # Errors
/// When the kernel does not list it.
pub fn neighbour(address: IpAddr, index: u32) -> io::Result<Neighbour> {
    let family = number_of(Family::of(&address)).into();
    let list = |handle: Handle| {
        handle.neighbours().get().set_address_family(family).execute().try_collect()
    };
    let all: Vec<NeighbourMessage> = talk(false, list)?;
    let own = NeighbourAttribute::Destination(address.into());
    let found = all.iter().find(|one| one.header.ifindex == index && one.attributes.contains(&own));
    Ok(match found.map(|found| found.header.state) {
        Some(NeighbourState::Failed) => Neighbour::Failed,
        None | Some(NeighbourState::None | NeighbourState::Incomplete) => Neighbour::Unknown,
        Some(_) => Neighbour::Known,
    })
}
