//! Routes, and the one sysctl that lets 127.0.0.0/8 reach a pod.
//!
//! This is the only place with an asynchronous runtime: rtnetlink needs one, and it costs about
//! 0.1 ms, so nothing here runs on an ADD that does not need it.

use std::io;
use std::net::{IpAddr, UdpSocket};

use futures_util::TryStreamExt as _;
use nix::net::if_::if_indextoname;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};

use super::Error;
use crate::model::check_ifname;

/// Asks the kernel how it would reach `address`; `None` when it would not.
fn route_to(address: IpAddr) -> io::Result<Option<RouteMessage>> {
    let host_prefix = if address.is_ipv4() { 32 } else { 128 };
    let question = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(address, host_prefix)
        .map_err(io::Error::other)?
        .build();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let connection = tokio::spawn(connection);
        let answer = Box::pin(handle.route().get(question).execute()).try_next().await;
        connection.abort();
        match answer {
            Ok(route) => Ok(route),
            Err(rtnetlink::Error::NetlinkError(refusal)) => match refusal.to_io() {
                source if is_no_route(&source) => Ok(None),
                source => Err(source),
            },
            Err(other) => Err(io::Error::other(other)),
        }
    })
}

/// No route at all, or one of type `unreachable`.
fn is_no_route(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable)
}

/// Whether packets to `address` stay on this node.
pub(super) fn is_local(address: IpAddr) -> io::Result<bool> {
    Ok(route_to(address)?.is_some_and(|route| route.header.kind == RouteType::Local))
}

/// The name of the interface by which this node reaches `pod`; `None` when it has no route.
///
/// # Errors
/// [`Error::Route`].
pub fn interface_towards(pod: IpAddr) -> Result<Option<String>, Error> {
    let error = |source| Error::Route { pod, source };
    let Some(route) = route_to(pod).map_err(error)? else { return Ok(None) };
    let index = route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Oif(index) = attribute { Some(*index) } else { None }
    });
    let Some(index) = index else { return Ok(None) };
    let name = if_indextoname(index).map_err(|errno| error(errno.into()))?;
    Ok(name.into_string().ok())
}

/// The addresses that this node has towards the world, at most one per family: what it would send
/// from. The world is an address for documentation (RFC 5737, RFC 3849); nothing is sent.
#[must_use]
pub fn outward_addresses() -> Vec<IpAddr> {
    let source = |from: &str, world: &str| {
        let socket = UdpSocket::bind((from, 0)).ok()?;
        socket.connect((world, 9)).ok()?;
        socket.local_addr().ok().map(|own| own.ip())
    };
    let sources = [source("0.0.0.0", "192.0.2.1"), source("::", "2001:db8::1")];
    sources.into_iter().flatten().collect()
}

/// Whether an interface may carry packets from and to 127.0.0.0/8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loopback {
    /// `route_localnet` is set.
    Allowed,
    /// It is not, or there is no such interface.
    Refused,
}

/// The sysctl of an interface; `None` where that is no name for one, which another plugin's result
/// may hold.
fn sysctl(interface: &str) -> Option<String> {
    check_ifname(interface).ok()?;
    Some(format!("/proc/sys/net/ipv4/conf/{interface}/route_localnet"))
}

impl Loopback {
    /// Reads the sysctl of `interface`.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "sysctls are the kernel's, and this is its door")]
    pub fn of(interface: &str) -> Self {
        let value = sysctl(interface).and_then(|path| std::fs::read(path).ok());
        match value.as_deref().and_then(<[u8]>::first) {
            Some(b'0') | None => Self::Refused,
            Some(_) => Self::Allowed,
        }
    }
}

/// Lets packets from 127.0.0.0/8 leave by `interface` and their answers come back. The chain
/// `guard` keeps everybody else from using that (CVE-2020-8558).
///
/// # Errors
/// [`Error::Sysctl`].
#[expect(clippy::disallowed_methods, reason = "sysctls are the kernel's, and this is its door")]
pub fn allow_loopback(interface: &str) -> Result<(), Error> {
    let Some(path) = sysctl(interface) else { return Ok(()) };
    std::fs::write(&path, "1").map_err(|source| Error::Sysctl { path, source })
}
