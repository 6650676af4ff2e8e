//! Which sockets of this network namespace listen.
//!
//! A socket counts when a packet from a stranger would reach it: a TCP or SCTP socket that listens,
//! a UDP socket that is bound and not connected. An outgoing connection that merely uses the number
//! as its ephemeral port does not. A UDP socket that its owner never connects (a resolver's, say)
//! cannot be told from a server's, so its ephemeral port counts while it is open.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::libc;
use nix::net::if_::if_indextoname;
use rtnetlink::sys::protocols::NETLINK_SOCK_DIAG;

use super::netlink::message::{Attributes, Messages, address, number_of};
use super::netlink::socket::{DUMP, REQUEST, Socket};
use super::{Error, is_among, uapi};
use crate::model::{Family, HostPort, Protocol};

/// A socket that listens.
#[derive(Clone, Debug, PartialEq, Eq, derive_more::Display)]
#[display("{}/{protocol} ({})", SocketAddr::new(*address, port.get()), match inode {
    0 => "a socket of the kernel's own".to_owned(),
    _ => format!("uid {uid}, socket:[{inode}]"),
})]
pub struct Listener {
    pub protocol: Protocol,
    /// The address it is bound to, as its owner wrote it.
    pub address: IpAddr,
    pub port: NonZeroU16,
    /// Its number in the links of `/proc/<pid>/fd`; 0 for a socket of the kernel's own, such as a
    /// tunnel's.
    pub inode: u32,
    pub uid: u32,
    /// The cgroup, of version 2, of the process that made it: the inode of its directory. Since Linux 5.8.
    pub cgroup: Option<u64>,
    /// Whether it is an IPv6 socket that takes no IPv4 packets.
    only_v6: bool,
    /// The number of the interface that it is bound to (`SO_BINDTODEVICE`).
    device: Option<NonZeroU32>,
}

impl Listener {
    /// Whether packets for `host` could be meant for this socket. A wildcard answers on the node's addresses in
    /// `within`; empty means on every one.
    pub(crate) fn meets(&self, host: &HostPort, within: &[IpNetwork]) -> bool {
        let address = self.address.to_canonical();
        let takes_both = self.address == Family::V6.wildcard() && !self.only_v6;
        let is_of_family = address.is_ipv4() == host.address.is_ipv4() || takes_both;
        if (self.protocol, self.port) != (host.protocol, host.port) || !is_of_family {
            return false;
        }
        let answers_on =
            |own: &IpAddr| *own == host.address || host.is_wildcard() && is_among(within, *own);
        if !address.is_unspecified() {
            return answers_on(&address);
        }
        let family = |one: &IpAddr| one.is_ipv4() == host.address.is_ipv4();
        if host.is_wildcard() && !within.iter().any(|network| family(&network.ip())) {
            return within.is_empty();
        }
        // One that is bound to an interface has the addresses of that. An interface without any is one that
        // leads to others, such as a VRF.
        let own = self.device.map_or_else(Vec::new, addresses_of);
        let mut own = own.iter().filter(|one| family(one)).peekable();
        own.peek().is_none() || own.any(answers_on)
    }

    /// Reads one `struct inet_diag_msg`: a socket, once for each address that it is bound to. Nothing
    /// when it is none, not bound to a port, or in another state: of SCTP the kernel shows every
    /// socket to whoever asks for those that listen.
    pub(super) fn read(protocol: Protocol, family: Family, message: &[u8]) -> Vec<Self> {
        Self::read_one(protocol, family, message).map_or_else(Vec::new, |one| {
            let attributes = Attributes(&message[uapi::INET_DIAG_MSG..]);
            // Of SCTP the header has the address to which somebody connected last.
            let locals = attributes.get(uapi::INET_DIAG_LOCALS).unwrap_or_default();
            let bound: Vec<_> =
                locals.chunks_exact(uapi::SOCKADDR_STORAGE).filter_map(read_address).collect();
            if bound.is_empty() {
                return vec![one];
            }
            bound.into_iter().map(|address| Self { address, ..one.clone() }).collect()
        })
    }

    fn read_one(protocol: Protocol, family: Family, message: &[u8]) -> Option<Self> {
        let header = message.first_chunk::<{ uapi::INET_DIAG_MSG }>()?;
        if header[uapi::INET_DIAG_STATE] != listening(protocol) {
            return None;
        }
        let port = &header[uapi::INET_DIAG_SPORT..];
        let len = if family == Family::V4 { 4 } else { 16 };
        let attributes = Attributes(&message[uapi::INET_DIAG_MSG..]);
        let only_v6 = attributes.get(uapi::INET_DIAG_SKV6ONLY).is_some_and(|flag| flag != [0]);
        let cgroup =
            attributes.get(uapi::INET_DIAG_CGROUP_ID).and_then(|id| id.first_chunk().copied());
        let number = |at: usize| header[at..].first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
        Some(Self {
            protocol,
            address: address(&header[uapi::INET_DIAG_SRC..][..len])?,
            port: NonZeroU16::new(u16::from_be_bytes(*port.first_chunk()?))?,
            inode: number(uapi::INET_DIAG_INODE)?,
            uid: number(uapi::INET_DIAG_UID)?,
            cgroup: cgroup.map(u64::from_ne_bytes),
            only_v6,
            device: NonZeroU32::new(number(uapi::INET_DIAG_IF)?),
        })
    }
}

/// The addresses of an interface; none where they cannot be had.
fn addresses_of(device: NonZeroU32) -> Vec<IpAddr> {
    let Ok(name) = if_indextoname(device.get()) else { return Vec::new() };
    let all = getifaddrs().into_iter().flatten();
    let own = all.filter(|one| one.interface_name.as_bytes() == name.to_bytes());
    let address = |one: InterfaceAddress| {
        let address = one.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    own.filter_map(address).collect()
}

/// Reads the address of a `struct sockaddr_storage`.
fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    match u8::try_from(u16::from_ne_bytes(*bytes.first_chunk()?)).ok()? {
        uapi::AF_INET => address(bytes.get(uapi::SIN_ADDR..)?.get(..4)?),
        uapi::AF_INET6 => address(bytes.get(uapi::SIN6_ADDR..)?.get(..16)?),
        _ => None,
    }
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
        let cannot = [libc::ENOENT, libc::EOPNOTSUPP, libc::EPROTONOSUPPORT].map(Some);
        let mut socket = Socket::open_for(NETLINK_SOCK_DIAG)?;
        for (protocol, family) in protocols.iter().flat_map(|one| Family::ALL.map(|it| (*one, it)))
        {
            let question = question(protocol, family, only);
            let listed = socket.gather(&question, "the sockets that listen", |answer, _, found| {
                found.extend(Listener::read(protocol, family, answer.message));
            });
            if listed.as_ref().is_err_and(|error| cannot.contains(&error.refusal())) {
                listeners.unknown.push(protocol);
                continue;
            }
            for listener in listed? {
                let at_port = listeners.by_port.entry((protocol, listener.port));
                at_port.or_default().push(listener);
            }
        }
        listeners.unknown.dedup();
        Ok(listeners)
    }

    /// The first that `host` would be in the way of, answering `within`.
    pub fn find(&self, host: &HostPort, within: &[IpNetwork]) -> Option<&Listener> {
        let at_port = self.by_port.get(&(host.protocol, host.port))?;
        at_port.iter().find(|listener| listener.meets(host, within))
    }

    /// All of them, by protocol and port.
    pub fn all(&self) -> impl Iterator<Item = &Listener> {
        self.by_port.values().flatten()
    }

    /// The protocols whose sockets this kernel cannot list: SCTP where nobody uses it, or any
    /// protocol where the kernel was built without its `…_diag`. Nothing is known to listen there.
    pub fn unknown(&self) -> &[Protocol] {
        &self.unknown
    }
}

/// The state in which a socket takes packets from strangers.
const fn listening(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp | Protocol::Sctp => uapi::TCP_LISTEN,
        Protocol::Udp => uapi::TCP_CLOSE,
    }
}

fn question(protocol: Protocol, family: Family, only: Option<NonZeroU16>) -> Messages {
    let states = (1_u32 << listening(protocol)).to_ne_bytes();
    let port = only.map_or(0, NonZeroU16::get).to_be_bytes();
    let start = [number_of(family), protocol.number(), 0, 0];
    // From anywhere to anywhere, and no particular socket (`INET_DIAG_NOCOOKIE`).
    let header = [&start[..], &states, &port, &[0; 38], &[0xff; 8]].concat();
    let mut question = Messages::default();
    question.begin(uapi::SOCK_DIAG_BY_FAMILY, REQUEST | DUMP, &header);
    question
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, derive_more::Display)]
#[display("process {pid} ({})", command.escape_debug())]
pub struct Process {
    /// Its number, as seen from this PID namespace.
    pub pid: u32,
    /// Its `comm`.
    pub command: String,
}

/// How long a report looks for the process behind a listener: past it, the report has the socket only.
pub const REPORT: Duration = Duration::from_millis(300);

/// A listener in a report: its process, where that is found, and its socket.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a>(pub &'a Listener);

impl fmt::Display for Named<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(process) = Process::of(self.0, REPORT) {
            write!(out, "{process}, ")?;
        }
        write!(out, "{}", self.0)
    }
}

impl Process {
    /// The process with the lowest number that has the socket open, if it is found within `budget`:
    /// finding it means reading the descriptors of one process after the other, of which a machine may
    /// have any number. `None` as well for a socket of the kernel's own, for a process of another PID
    /// namespace, and where reading is not permitted.
    #[expect(clippy::disallowed_methods, reason = "/proc is the kernel's, and this is its door")]
    pub fn of(listener: &Listener, budget: Duration) -> Option<Self> {
        if listener.inode == 0 {
            return None;
        }
        let begun = Instant::now();
        let in_time = || begun.elapsed() < budget;
        let link = format!("socket:[{}]", listener.inode);
        let mut pids: Vec<u32> = std::fs::read_dir("/proc")
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        pids.sort_unstable();
        let has_it = |pid: &u32| {
            let files =
                std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            let mut targets = files
                .take_while(|_| in_time())
                .filter_map(|file| std::fs::read_link(file.path()).ok());
            targets.any(|target| target.as_os_str() == link.as_str())
        };
        let pid = pids.into_iter().take_while(|_| in_time()).find(has_it)?;
        let command = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Some(Self { pid, command: command.trim_end().to_owned() })
    }

    /// Whether it works for the container of this ID: a monitor or a proxy, which has the ID among its
    /// arguments, or the container's address.
    #[expect(clippy::disallowed_methods, reason = "/proc is the kernel's, and this is its door")]
    pub fn works_for(&self, container_id: &str, address: Option<IpAddr>) -> bool {
        const PROXIES: [&str; 4] = ["conmon", "rootlessport", "rootlesskit", "docker-proxy"];
        let arguments = std::fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments);
        let address = address.map(|address| address.to_string());
        let has = |word: &str| arguments.split('\0').any(|argument| argument == word);
        // Podman passes it as a part of paths as well; a short name may be a part of anything.
        let is_long = container_id.len() >= 12;
        PROXIES.contains(&self.command.as_str())
            || has(container_id)
            || is_long && arguments.contains(container_id)
            || address.is_some_and(|address| has(&address))
    }
}

#[cfg(test)]
mod tests;
