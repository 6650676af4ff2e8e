//! Routes, and the one sysctl that lets 127.0.0.0/8 reach a pod.
//!
//! This is the only place with an asynchronous runtime: rtnetlink needs one, and it costs about
//! 0.1 ms, so nothing here runs on an ADD that does not need it.

mod interfaces;
mod outward;
mod path;

use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use ipnetwork::IpNetwork;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::Error;
use super::netlink::message::number_of;
use crate::model::{Family, check_ifname};
use crate::ruleset::is_host;

pub use interfaces::{exists, veths};
pub use outward::outward_addresses;
pub use path::{
    Journey, Link, Neighbour, Path, Policies, interface_with, is_filtered, links, neighbour, path,
    policies,
};

/// `RT_TABLE_LOCAL`: the kernel's own table of what is addressed to this node, the same that
/// `fib daddr type local` asks.
const TABLE_LOCAL: u32 = 255;

/// The kernel answers at once, unless others keep it from looking at its routes.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a question is about, in an error.
pub(super) const ADDRESSES: &str = "the addresses of this node";

/// Asks the kernel something by rtnetlink; strictly, where it is to answer just what was asked. A thread that
/// already runs tokio tasks may not wait for a runtime of its own, so another thread does it then.
fn talk<T: Send, F: Future<Output = Result<T, rtnetlink::Error>>>(
    strict: bool,
    ask: impl Fn(Handle) -> F + Send + Sync,
) -> io::Result<T> {
    let talk = || match talk_once(strict, &ask) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => talk_once(strict, &ask),
        told => told,
    };
    if tokio::runtime::Handle::try_current().is_err() {
        return talk();
    }
    let told = thread::scope(|scope| scope.spawn(talk).join());
    told.unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
}

fn talk_once<T, F: Future<Output = Result<T, rtnetlink::Error>>>(
    strict: bool,
    ask: impl Fn(Handle) -> F,
) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (connection, handle, mut unasked) = if strict {
            rtnetlink::new_connection_with_strict_check()?
        } else {
            rtnetlink::new_connection()?
        };
        let connection = tokio::spawn(connection);
        // Without another handle the connection ends when it is no longer needed, too.
        let answer = tokio::time::timeout(PATIENCE, ask(handle.clone())).await;
        // A socket that failed only ends the answers, and lost ones are told to nobody in particular.
        let is_cut = connection.is_finished() || unasked.try_recv().is_ok();
        connection.abort();
        let answer = answer.map_err(|_| {
            let text = format!("no answer within {} s", PATIENCE.as_secs());
            io::Error::new(io::ErrorKind::TimedOut, text)
        })?;
        if is_cut {
            let text = "the answer is not complete";
            return Err(io::Error::new(io::ErrorKind::Interrupted, text));
        }
        answer.map_err(|error| {
            if let rtnetlink::Error::NetlinkError(refusal) = &error {
                return refusal.to_io();
            }
            io::Error::other(error)
        })
    })
}

/// The addresses of this node, of one family.
#[derive(Debug, Default)]
pub struct Local {
    /// Most of them, and there may be thousands (kube-proxy's IPVS mode has one for each Service).
    hosts: BTreeSet<IpAddr>,
    /// 127.0.0.0/8, and what somebody routed to the node as a whole.
    networks: Vec<IpNetwork>,
}

impl Local {
    /// Reads the local routing table, once for all questions.
    ///
    /// # Errors
    /// When the kernel does not list it.
    pub fn of(family: Family) -> io::Result<Self> {
        let mut question = RouteMessageBuilder::<IpAddr>::new()
            .table_id(TABLE_LOCAL)
            .kind(RouteType::Local)
            .protocol(RouteProtocol::Unspec)
            .build();
        question.header.address_family = number_of(family).into();
        // Strictly: otherwise the kernel would send all routes of the family, which on a router are a million.
        let list = |handle: Handle| handle.route().get(question.clone()).execute().try_collect();
        let routes: Vec<RouteMessage> = talk(true, list)?;
        Ok(routes.iter().filter_map(|route| destination(family, route)).collect())
    }

    /// The addresses that it has one by one.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = IpAddr> {
        self.hosts.iter().copied()
    }

    /// Whether packets to `address` stay on this node.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.hosts.contains(&address) || self.networks.iter().any(|one| one.contains(address))
    }
}

impl FromIterator<IpNetwork> for Local {
    fn from_iter<I: IntoIterator<Item = IpNetwork>>(networks: I) -> Self {
        let (hosts, networks) = networks.into_iter().partition::<Vec<_>, _>(is_host);
        Self { hosts: hosts.iter().map(IpNetwork::ip).collect(), networks }
    }
}

/// The IP address in a route's attribute.
fn address(of_route: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(address) = of_route {
        return Some(IpAddr::V4(*address));
    }
    if let RouteAddress::Inet6(address) = of_route { Some(IpAddr::V6(*address)) } else { None }
}

/// Where a local route leads; one without destination leads everywhere.
fn destination(family: Family, route: &RouteMessage) -> Option<IpNetwork> {
    if route.header.kind != RouteType::Local {
        return None;
    }
    let to = route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Destination(to) = attribute { address(to) } else { None }
    });
    let to = to.unwrap_or(family.wildcard());
    if Family::of(&to) != family {
        return None;
    }
    IpNetwork::new(to, route.header.destination_prefix_length).ok()
}

/// The interface by which this node reaches `pod`; `None` when it has no route.
///
/// # Errors
/// [`Error::Route`].
pub fn interface_towards(pod: IpAddr) -> Result<Option<String>, Error> {
    // No route at all, or one of type `unreachable`.
    let no_route = [io::ErrorKind::NetworkUnreachable, io::ErrorKind::HostUnreachable];
    match path(Journey::to(pod)) {
        Ok(path) => Ok(Some(path.interface)),
        Err(refusal) if no_route.contains(&refusal.kind()) => Ok(None),
        Err(source) => Err(Error::Route { pod, source }),
    }
}

/// The sysctl of an interface; `None` where that is no name for one, which another plugin's result
/// may hold.
fn sysctl(interface: &str) -> Option<String> {
    check_ifname(interface).ok()?;
    Some(format!("/proc/sys/net/ipv4/conf/{interface}/route_localnet"))
}

/// Whether `interface` may carry packets from and to 127.0.0.0/8: `route_localnet` is set.
#[expect(clippy::disallowed_methods, reason = "sysctls are the kernel's, and this is its door")]
pub fn allows_loopback(interface: &str) -> bool {
    let mut value = [b'0'];
    let mut read = |path| std::fs::File::open(path)?.read_exact(&mut value);
    sysctl(interface).is_some_and(|path| read(path).is_ok()) && value != *b"0"
}

/// Lets packets from 127.0.0.0/8 leave by `interface` and their answers come back. The chain
/// `guard` keeps everybody else from using that (CVE-2020-8558).
///
/// # Errors
/// [`Error::Sysctl`], unless the interface lets them in all the same: `/proc/sys` may be read-only, and
/// `net.ipv4.conf.all.route_localnet` 1.
pub fn allow_loopback(interface: &str) -> Result<(), Error> {
    let set = set_loopback(interface, "1");
    if allows_loopback("all") { Ok(()) } else { set }
}

/// Takes back what [`allow_loopback`] did. An interface that is gone needs nothing.
///
/// # Errors
/// [`Error::Sysctl`].
pub fn refuse_loopback(interface: &str) -> Result<(), Error> {
    if allows_loopback(interface) { set_loopback(interface, "0") } else { Ok(()) }
}

#[expect(clippy::disallowed_methods, reason = "sysctls are the kernel's, and this is its door")]
fn set_loopback(interface: &str, value: &'static str) -> Result<(), Error> {
    let Some(path) = sysctl(interface) else { return Ok(()) };
    std::fs::write(&path, value).map_err(|source| Error::Sysctl { path, value, source })
}

#[cfg(test)]
mod tests;
