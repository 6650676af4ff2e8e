//! Which sockets of this network namespace listen.
//!
//! A socket counts when a packet from a stranger would reach it: a TCP or SCTP socket that listens,
//! a UDP socket that is bound and not connected. An outgoing connection that merely uses the number
//! as its ephemeral port does not. A UDP socket that its owner never connects (a resolver's, say)
//! cannot be told from a server's, so its ephemeral port counts while it is open.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;

use nix::libc;
use rtnetlink::sys::protocols::NETLINK_SOCK_DIAG;

use super::Error;
use super::netlink::message::{Attributes, Messages};
use super::netlink::socket::{DUMP, REQUEST, Socket};
use crate::model::{Family, HostPort, Protocol};

/// `linux/sock_diag.h`, `linux/inet_diag.h`, `net/tcp_states.h`.
mod uapi {
    pub(super) const SOCK_DIAG_BY_FAMILY: u16 = 20;
    pub(super) const AF_INET: u8 = 2;
    pub(super) const AF_INET6: u8 = 10;
    pub(super) const INET_DIAG_SKV6ONLY: u16 = 11;
    pub(super) const INET_DIAG_LOCALS: u16 = 12;
    /// `struct sockaddr_storage`, and where the address is in those of either family.
    pub(super) const SOCKADDR: usize = 128;
    pub(super) const SOCKADDR_V4: usize = 4;
    pub(super) const SOCKADDR_V6: usize = 8;
    /// `TCP_CLOSE`: the state of a UDP socket that is not connected.
    pub(super) const CLOSE: u8 = 7;
    pub(super) const LISTEN: u8 = 10;
    /// The request after its first four bytes: states, then `struct inet_diag_sockid`.
    pub(super) const REQUEST_REST: usize = 4 + 48;
    /// `struct inet_diag_msg`, and where its members are.
    pub(super) const MESSAGE: usize = 72;
    pub(super) const STATE: usize = 1;
    pub(super) const SOURCE_PORT: usize = 4;
    pub(super) const SOURCE: usize = 8;
    pub(super) const UID: usize = 64;
    pub(super) const INODE: usize = 68;
}

/// A socket that listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The address it is bound to, as its owner wrote it.
    pub address: IpAddr,
    /// The port.
    pub port: NonZeroU16,
    /// Its number in the links of `/proc/<pid>/fd`; 0 for a socket of the kernel's own, such as a
    /// tunnel's.
    pub inode: u32,
    /// The user who opened it.
    pub uid: u32,
    /// Whether it is an IPv6 socket that takes no IPv4 packets.
    only_v6: bool,
}

impl fmt::Display for Listener {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, address, port, inode, uid, .. } = self;
        write!(out, "{}/{protocol} ", SocketAddr::new(*address, port.get()))?;
        match inode {
            0 => write!(out, "(a socket of the kernel's own)"),
            _ => write!(out, "(uid {uid}, socket:[{inode}])"),
        }
    }
}

impl Listener {
    /// Whether packets for `host` could be meant for this socket.
    #[must_use]
    pub fn meets(&self, host: &HostPort) -> bool {
        let at = |address| HostPort { protocol: self.protocol, address, port: self.port };
        let (own, mapped) = match self.address {
            IpAddr::V4(_) => (self.address, None),
            IpAddr::V6(address) => match address.to_ipv4_mapped() {
                Some(v4) => (IpAddr::V4(v4), None),
                None if address.is_unspecified() && !self.only_v6 => {
                    (self.address, Some(Family::V4.wildcard()))
                }
                None => (self.address, None),
            },
        };
        at(own).overlaps(host) || mapped.is_some_and(|mapped| at(mapped).overlaps(host))
    }

    /// Reads one `struct inet_diag_msg`: a socket, once for each address that it is bound to. Nothing
    /// when it is none, not bound to a port, or in another state: of SCTP the kernel shows every
    /// socket to whoever asks for those that listen.
    pub(super) fn read(protocol: Protocol, family: Family, message: &[u8]) -> Vec<Self> {
        Self::read_one(protocol, family, message).map_or_else(Vec::new, |one| {
            let attributes = Attributes(&message[uapi::MESSAGE..]);
            // Of SCTP the header has the address to which somebody connected last.
            let locals = attributes.get(uapi::INET_DIAG_LOCALS).unwrap_or_default();
            let bound: Vec<_> =
                locals.chunks_exact(uapi::SOCKADDR).filter_map(read_address).collect();
            if bound.is_empty() {
                return vec![one];
            }
            bound.into_iter().map(|address| Self { address, ..one.clone() }).collect()
        })
    }

    fn read_one(protocol: Protocol, family: Family, message: &[u8]) -> Option<Self> {
        let header = message.first_chunk::<{ uapi::MESSAGE }>()?;
        if header[uapi::STATE] != listening(protocol) {
            return None;
        }
        let attributes = Attributes(&message[uapi::MESSAGE..]);
        let port = u16::from_be_bytes([header[uapi::SOURCE_PORT], header[uapi::SOURCE_PORT + 1]]);
        let source: [u8; 16] = *header[uapi::SOURCE..].first_chunk()?;
        let address = match family {
            Family::V4 => Ipv4Addr::from(*source.first_chunk::<4>()?).into(),
            Family::V6 => Ipv6Addr::from(source).into(),
        };
        let only_v6 = attributes.get(uapi::INET_DIAG_SKV6ONLY).is_some_and(|flag| flag != [0]);
        let number = |at: usize| header[at..].first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
        Some(Self {
            protocol,
            address,
            port: NonZeroU16::new(port)?,
            inode: number(uapi::INODE)?,
            uid: number(uapi::UID)?,
            only_v6,
        })
    }
}

/// Reads the address of a `struct sockaddr_storage`.
fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    let family = u16::from_ne_bytes(*bytes.first_chunk()?);
    if family == u16::from(uapi::AF_INET) {
        return Some(Ipv4Addr::from(*bytes[uapi::SOCKADDR_V4..].first_chunk::<4>()?).into());
    }
    let v6 = family == u16::from(uapi::AF_INET6);
    v6.then(|| Some(Ipv6Addr::from(*bytes[uapi::SOCKADDR_V6..].first_chunk::<16>()?).into()))?
}

/// The sockets of this network namespace that listen, as they were when they were listed.
#[derive(Clone, Debug, Default)]
pub struct Listeners {
    by_port: BTreeMap<(Protocol, NonZeroU16), Vec<Listener>>,
    unknown: Vec<Protocol>,
}

impl Listeners {
    /// Lists those of `protocols`: two questions for each, however many sockets there are.
    ///
    /// # Errors
    /// [`Error::Socket`], [`Error::Question`]. Not for a protocol that the kernel cannot list
    /// ([`Listeners::unknown`]).
    pub fn of(protocols: &[Protocol]) -> Result<Self, Error> {
        Self::list(protocols, None)
    }

    /// Lists those that could be in the way of `hosts`. Where that is only one number, the kernel
    /// looks through its sockets and shows few.
    ///
    /// # Errors
    /// As for [`Listeners::of`].
    pub fn near(hosts: &[HostPort]) -> Result<Self, Error> {
        let mut protocols: Vec<Protocol> = hosts.iter().map(|host| host.protocol).collect();
        protocols.sort_unstable();
        protocols.dedup();
        let first = hosts.first().map(|host| host.port);
        let only = first.filter(|first| hosts.iter().all(|host| host.port == *first));
        Self::list(&protocols, only)
    }

    fn list(protocols: &[Protocol], only: Option<NonZeroU16>) -> Result<Self, Error> {
        let mut listeners = Self::default();
        if protocols.is_empty() {
            return Ok(listeners);
        }
        let mut socket = Socket::open_for(NETLINK_SOCK_DIAG)?;
        for protocol in protocols {
            for family in Family::ALL {
                listeners.add(&mut socket, *protocol, family, only)?;
            }
        }
        Ok(listeners)
    }

    fn add(
        &mut self,
        socket: &mut Socket,
        protocol: Protocol,
        family: Family,
        only: Option<NonZeroU16>,
    ) -> Result<(), Error> {
        let listed = socket.gather(&question(protocol, family, only), |answer, _, found| {
            found.extend(Listener::read(protocol, family, answer.message));
        })?;
        match listed {
            Ok(found) => {
                for listener in found {
                    self.by_port.entry((protocol, listener.port)).or_default().push(listener);
                }
            }
            Err(libc::ENOENT | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT) => {
                if !self.unknown.contains(&protocol) {
                    self.unknown.push(protocol);
                }
            }
            Err(errno) => return Err(refused(io::Error::from_raw_os_error(errno))),
        }
        Ok(())
    }

    /// The first that `host` would be in the way of.
    #[must_use]
    pub fn find(&self, host: &HostPort) -> Option<&Listener> {
        let at_port = self.by_port.get(&(host.protocol, host.port))?;
        at_port.iter().find(|listener| listener.meets(host))
    }

    /// All of them, by protocol and port.
    pub fn all(&self) -> impl Iterator<Item = &Listener> {
        self.by_port.values().flatten()
    }

    /// The protocols whose sockets this kernel cannot list: SCTP where nobody uses it, or any
    /// protocol where the kernel was built without its `…_diag`. Nothing is known to listen there.
    #[must_use]
    pub fn unknown(&self) -> &[Protocol] {
        &self.unknown
    }
}

fn refused(source: io::Error) -> Error {
    Error::Question { what: "the sockets that listen", source }
}

/// The state in which a socket takes packets from strangers.
const fn listening(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp | Protocol::Sctp => uapi::LISTEN,
        Protocol::Udp => uapi::CLOSE,
    }
}

fn question(protocol: Protocol, family: Family, only: Option<NonZeroU16>) -> Messages {
    let address_family = match family {
        Family::V4 => uapi::AF_INET,
        Family::V6 => uapi::AF_INET6,
    };
    let mut rest = [0; uapi::REQUEST_REST];
    rest[..4].copy_from_slice(&(1_u32 << listening(protocol)).to_ne_bytes());
    rest[4..6].copy_from_slice(&only.map_or(0, NonZeroU16::get).to_be_bytes());
    // No particular socket: `INET_DIAG_NOCOOKIE`.
    rest[44..].fill(0xff);
    let mut question = Messages::default();
    let start = [address_family, protocol.number(), 0, 0];
    question.begin_raw(uapi::SOCK_DIAG_BY_FAMILY, REQUEST | DUMP, start, 0);
    question.extend(&rest);
    question
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number, as seen from this PID namespace.
    pub pid: u32,
    /// Its `comm`.
    pub command: String,
}

impl fmt::Display for Process {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "process {} ({})", self.pid, self.command.escape_debug())
    }
}

impl Process {
    /// The process with the lowest number that has the socket open. Looks through every process of
    /// the machine, so it is for error messages only. `None` for a socket of the kernel's own, for a
    /// process of another PID namespace, and where we may not look.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "/proc is the kernel's, and this is its door")]
    pub fn of(listener: &Listener) -> Option<Self> {
        if listener.inode == 0 {
            return None;
        }
        let link = format!("socket:[{}]", listener.inode);
        let mut pids: Vec<u32> = std::fs::read_dir("/proc")
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        pids.sort_unstable();
        let has_it = |pid: &u32| {
            let files =
                std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            let mut targets = files.filter_map(|file| std::fs::read_link(file.path()).ok());
            targets.any(|target| target.as_os_str() == link.as_str())
        };
        let pid = pids.into_iter().find(has_it)?;
        let command = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Some(Self { pid, command: command.trim_end().to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(protocol: Protocol, address: &str, port: u16) -> HostPort {
        HostPort {
            protocol,
            address: address.parse().expect("an address"),
            port: port.try_into().expect("a port"),
        }
    }

    /// A `struct inet_diag_msg` as the kernel makes it.
    fn message(address: &str, port: u16, only_v6: Option<u8>) -> Vec<u8> {
        let mut bytes = vec![0; uapi::MESSAGE];
        bytes[uapi::STATE] = uapi::LISTEN;
        bytes[uapi::SOURCE_PORT..][..2].copy_from_slice(&port.to_be_bytes());
        match address.parse().expect("an address") {
            IpAddr::V4(v4) => bytes[uapi::SOURCE..][..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => bytes[uapi::SOURCE..][..16].copy_from_slice(&v6.octets()),
        }
        bytes[uapi::UID..][..4].copy_from_slice(&101_u32.to_ne_bytes());
        bytes[uapi::INODE..][..4].copy_from_slice(&23_411_u32.to_ne_bytes());
        if let Some(flag) = only_v6 {
            bytes.extend_from_slice(&5_u16.to_ne_bytes());
            bytes.extend_from_slice(&uapi::INET_DIAG_SKV6ONLY.to_ne_bytes());
            bytes.extend_from_slice(&[flag, 0, 0, 0]);
        }
        bytes
    }

    fn listener(address: &str, only_v6: Option<u8>) -> Listener {
        let family = Family::of(&address.parse().expect("an address"));
        let mut read = Listener::read(Protocol::Tcp, family, &message(address, 53, only_v6));
        read.pop().expect("a listener")
    }

    #[test]
    fn what_meets_what() {
        let cases = [
            // Listener, only IPv6, the claims that meet it, the claims that do not.
            ("127.0.0.53", None, &["0.0.0.0", "127.0.0.53"][..], &["::", "127.0.0.1"][..]),
            ("0.0.0.0", None, &["0.0.0.0", "192.0.2.1"], &["::", "2001:db8::1"]),
            ("::", Some(0), &["::", "0.0.0.0", "192.0.2.1", "2001:db8::1"], &[]),
            ("::", None, &["::", "0.0.0.0"], &[]),
            ("::", Some(1), &["::", "2001:db8::1"], &["0.0.0.0", "192.0.2.1"]),
            ("::1", Some(0), &["::", "::1"], &["0.0.0.0", "2001:db8::1"]),
            ("::ffff:192.0.2.1", Some(0), &["0.0.0.0", "192.0.2.1"], &["::", "192.0.2.2"]),
            ("::ffff:0.0.0.0", Some(0), &["0.0.0.0", "192.0.2.1"], &["::", "::1"]),
        ];
        for (address, only_v6, met, unmet) in cases {
            let listener = listener(address, only_v6);
            for claim in met {
                assert!(listener.meets(&host(Protocol::Tcp, claim, 53)), "{address} {claim}");
            }
            for claim in unmet {
                assert!(!listener.meets(&host(Protocol::Tcp, claim, 53)), "{address} {claim}");
            }
            assert!(!listener.meets(&host(Protocol::Udp, met[0], 53)), "{address}: protocol");
            assert!(!listener.meets(&host(Protocol::Tcp, met[0], 54)), "{address}: port");
        }
    }

    #[test]
    fn a_listener_says_what_an_operator_can_look_for() {
        let mut found = listener("::", Some(0));
        assert_eq!(found.to_string(), "[::]:53/tcp (uid 101, socket:[23411])");
        found.inode = 0;
        assert_eq!(found.to_string(), "[::]:53/tcp (a socket of the kernel's own)");
        assert_eq!(Process::of(&found), None);
    }

    #[test]
    fn half_a_message_is_none() {
        let whole = message("127.0.0.1", 53, Some(1));
        for cut in 0..whole.len() {
            let read = Listener::read(Protocol::Tcp, Family::V4, &whole[..cut]);
            assert_eq!(read.len(), usize::from(cut >= uapi::MESSAGE), "{cut}");
        }
        let unbound = message("0.0.0.0", 0, None);
        assert_eq!(Listener::read(Protocol::Tcp, Family::V4, &unbound), []);
    }

    /// The kernel's SCTP shows sockets that have the port as one end of a connection.
    #[test]
    fn what_is_connected_does_not_listen() {
        const ESTABLISHED: u8 = 1;
        let mut bytes = message("192.0.2.1", 53, None);
        bytes[uapi::STATE] = ESTABLISHED;
        for protocol in Protocol::ALL {
            assert_eq!(Listener::read(protocol, Family::V4, &bytes), [], "{protocol}");
        }
    }

    /// As the kernel shows an SCTP socket that is bound to two addresses, when a client has come.
    #[test]
    fn an_sctp_socket_listens_on_every_address_that_it_is_bound_to() {
        let mut bytes = message("::ffff:192.0.2.1", 53, Some(0));
        let length = u16::try_from(4 + 2 * uapi::SOCKADDR).expect("it is small");
        bytes.extend_from_slice(&length.to_ne_bytes());
        bytes.extend_from_slice(&uapi::INET_DIAG_LOCALS.to_ne_bytes());
        for text in ["192.0.2.2", "2001:db8::1"] {
            let mut sockaddr = vec![0; uapi::SOCKADDR];
            let (family, at, octets) = match text.parse().expect("an address") {
                IpAddr::V4(v4) => (uapi::AF_INET, uapi::SOCKADDR_V4, v4.octets().to_vec()),
                IpAddr::V6(v6) => (uapi::AF_INET6, uapi::SOCKADDR_V6, v6.octets().to_vec()),
            };
            sockaddr[..2].copy_from_slice(&u16::from(family).to_ne_bytes());
            sockaddr[at..][..octets.len()].copy_from_slice(&octets);
            bytes.extend(sockaddr);
        }
        let listeners = Listener::read(Protocol::Sctp, Family::V6, &bytes);
        let addresses: Vec<_> = listeners.iter().map(|it| it.address.to_string()).collect();
        assert_eq!(addresses, ["192.0.2.2", "2001:db8::1"]);
        for cut in uapi::MESSAGE..bytes.len() {
            Listener::read(Protocol::Sctp, Family::V6, &bytes[..cut]);
        }
    }

    #[test]
    fn the_question_is_a_whole_request() {
        let port = NonZeroU16::new(0x1234);
        let bytes = question(Protocol::Udp, Family::V6, port).as_bytes().to_vec();
        assert_eq!(bytes.len(), 16 + 56);
        assert_eq!(bytes[..4], 72_u32.to_ne_bytes());
        assert_eq!(bytes[16..20], [10, 17, 0, 0]);
        assert_eq!(bytes[20..24], (1_u32 << 7).to_ne_bytes());
        assert_eq!(bytes[24..26], [0x12, 0x34]);
    }
}
