//! By which addresses clients outside reach this node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use ipnetwork::IpNetwork;
use rtnetlink::Handle;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};

use super::super::{Error, is_among};
use super::path::{Journey, question, take};
use super::talk;

/// An address of the outside world for each family, of those for documentation (RFC 5737, RFC 3849). Nothing
/// is sent there.
const WORLD: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// The node's addresses by which clients outside reach what answers on those in `within` (empty: on every
/// one): at most one per family, IPv4 first. It is the one that the node sends from to the world. Without such
/// a route, or where it leads nowhere, it is the one that looks most as if clients were on its interface.
///
/// # Errors
/// [`Error::Question`].
pub fn outward_addresses(within: &[IpNetwork]) -> Result<Vec<IpAddr>, Error> {
    let within = |own: IpAddr| is_among(within, own);
    let told = talk(false, |handle| async move {
        let mut told = Vec::new();
        for world in WORLD {
            let source = towards(&handle, world).await?.filter(|source| within(*source));
            told.extend(match source {
                Some(source) => Some(source),
                None => {
                    likeliest(&handle, |own| own.is_ipv4() == world.is_ipv4() && within(own))
                        .await?
                }
            });
        }
        Ok(told)
    });
    told.map_err(|source| Error::Question { what: super::ADDRESSES, source })
}

/// What this node sends from to the world, if that leaves by an interface that carries it.
async fn towards(handle: &Handle, world: IpAddr) -> Result<Option<IpAddr>, rtnetlink::Error> {
    let Ok(question) = question(Journey::to(world)) else { return Ok(None) };
    let Ok(Some(route)) = take(handle.clone(), question).await else { return Ok(None) };
    let link = Box::pin(handle.link().get().match_index(route.index).execute()).try_next().await?;
    Ok(route.source.filter(|_| link.as_ref().is_some_and(carries)))
}

/// The address of an interface that is the likeliest to have clients beside it.
async fn likeliest(
    handle: &Handle,
    is_meant: impl Fn(IpAddr) -> bool,
) -> Result<Option<IpAddr>, rtnetlink::Error> {
    let links: Vec<_> = Box::pin(handle.link().get().execute()).try_collect().await?;
    let addresses: Vec<_> = Box::pin(handle.address().get().execute()).try_collect().await?;
    let candidates = addresses.iter().filter_map(|message| {
        let own = usable(message).filter(|own| is_meant(*own))?;
        let link = links.iter().find(|link| link.header.index == message.header.index)?;
        Some((rank(link, message, &links), link.header.index, own))
    });
    Ok(candidates.min().map(|(_, _, own)| own))
}

/// The address, unless it is for this node or this link alone, or not to be used.
fn usable(message: &AddressMessage) -> Option<IpAddr> {
    let unusable = AddressHeaderFlags::Deprecated
        | AddressHeaderFlags::Tentative
        | AddressHeaderFlags::Dadfailed;
    if message.header.scope != AddressScope::Universe || message.header.flags.intersects(unusable) {
        return None;
    }
    let find = |local| {
        message.attributes.iter().find_map(|attribute| match (attribute, local) {
            (AddressAttribute::Local(own), true) | (AddressAttribute::Address(own), false) => {
                Some(*own)
            }
            _ => None,
        })
    };
    // With a peer the former is ours; IPv6 has it only then.
    find(true).or_else(|| find(false))
}

/// How unlikely it is that clients are beside the address: fewest is best.
fn rank(link: &LinkMessage, address: &AddressMessage, links: &[LinkMessage]) -> u8 {
    let is_v4 = usable(address).is_some_and(|own| own.is_ipv4());
    // A tunnel, or a cable to one pod.
    let is_alone = address.header.prefix_len == if is_v4 { 32 } else { 128 };
    // IPv6 shows temporary addresses by this flag.
    let is_second = address.header.flags.contains(AddressHeaderFlags::Secondary);
    4 * u8::from(!carries(link))
        + 2 * u8::from(is_alone || is_for_pods(link, links))
        + u8::from(is_second)
}

/// Whether it is a bridge that has no cable to the outside.
fn is_for_pods(link: &LinkMessage, links: &[LinkMessage]) -> bool {
    let leads_out = |port: &&LinkMessage| {
        port.attributes.contains(&LinkAttribute::Controller(link.header.index))
            && kind(port) != Some(&InfoKind::Veth)
    };
    kind(link) == Some(&InfoKind::Bridge) && !links.iter().any(|port| leads_out(&port))
}

/// Whether packets that leave by it arrive somewhere.
fn carries(link: &LinkMessage) -> bool {
    let flags = link.header.flags;
    let is_deaf = flags.contains(LinkFlags::Noarp) && !flags.contains(LinkFlags::Pointopoint);
    flags.contains(LinkFlags::Up | LinkFlags::LowerUp)
        && !flags.contains(LinkFlags::Loopback)
        && !is_deaf
        && kind(link) != Some(&InfoKind::Dummy)
}

fn kind(link: &LinkMessage) -> Option<&InfoKind> {
    link.attributes.iter().find_map(|attribute| {
        let LinkAttribute::LinkInfo(infos) = attribute else { return None };
        infos
            .iter()
            .find_map(|info| if let LinkInfo::Kind(kind) = info { Some(kind) } else { None })
    })
}
