//! Which way a packet takes by this namespace's routes, and in what state the interfaces and neighbours
//! on it are.

use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use ipnetwork::IpNetwork;
use nix::net::if_::if_indextoname;
use rtnetlink::packet_route::link::{
    InfoBridgePort, InfoPortData, LinkAttribute, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{RouteAttribute, RouteFlags, RouteMessage};
use rtnetlink::{Handle, RouteMessageBuilder};

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

/// Asks the kernel which way a packet to `to` takes: one that begins here, or, with a client and the
/// number of an interface, one that arrives there from that client. Then the answer is also about
/// whether packets are forwarded at all, and whether the client may be on that side (`rp_filter`).
///
/// # Errors
/// The kernel's reason not to send it: no route (`ENETUNREACH`, `EHOSTUNREACH`), forwarding off
/// (`EHOSTUNREACH`), a client of another side (`EXDEV`), a route that forbids it.
pub fn path(to: IpAddr, arriving: Option<(IpAddr, u32)>) -> io::Result<Path> {
    let no_route = || io::Error::from_raw_os_error(nix::libc::ENETUNREACH);
    let question = question(to, arriving)?;
    let taken = talk(false, |handle| take(handle, question.clone()))?;
    let mut path = taken.ok_or_else(no_route)?;
    let name = if_indextoname(path.index).ok().and_then(|name| name.into_string().ok());
    path.interface = name.ok_or_else(no_route)?;
    Ok(path)
}

pub(super) fn question(to: IpAddr, arriving: Option<(IpAddr, u32)>) -> io::Result<RouteMessage> {
    let prefix = |address: IpAddr| IpNetwork::from(address).prefix();
    let question = RouteMessageBuilder::<IpAddr>::new().destination_prefix(to, prefix(to));
    let mut question = question.map_err(io::Error::other)?;
    if let Some((client, index)) = arriving {
        question = question.source_prefix(client, prefix(client)).map_err(io::Error::other)?;
        question = question.input_interface(index);
    }
    Ok(question.build())
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
    let mut link = Link { index: message.header.index, ..Link::default() };
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            link.name.clone_from(name);
        } else if let LinkAttribute::Controller(index) = attribute {
            link.controller = Some(*index);
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            link.hairpin = infos.iter().find_map(hairpin);
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
