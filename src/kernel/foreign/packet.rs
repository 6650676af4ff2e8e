//! A packet as rules see it, as far as it is known.

use std::net::IpAddr;

use crate::kernel::netlink::message::{number_of, octets};
use crate::kernel::uapi;
use crate::model::Family;

/// A byte that may not be known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Byte {
    Known(u8),
    /// It is not less than this.
    AtLeast(u8),
    #[default]
    Unknown,
}

impl Byte {
    pub(super) const fn known(self) -> Option<u8> {
        match self {
            Self::Known(byte) => Some(byte),
            Self::AtLeast(_) | Self::Unknown => None,
        }
    }
}

impl From<Option<u8>> for Byte {
    fn from(byte: Option<u8>) -> Self {
        byte.map_or(Self::Unknown, Self::Known)
    }
}

/// Ports of clients: programs take lower ones only where they insist.
pub(super) const CLIENTS_PORTS: u16 = 1024;

/// An interface in a hook. Where the hook has none, its number is 0 and its name empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub name: String,
}

/// The addresses and ports of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuple {
    pub source: Option<IpAddr>,
    pub destination: Option<IpAddr>,
    pub source_port: Option<u16>,
    pub destination_port: Option<u16>,
}

impl Tuple {
    /// That of the answer.
    pub(crate) const fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }

    fn common(&mut self, other: &Self) {
        common(&mut self.source, other.source.as_ref());
        common(&mut self.destination, other.destination.as_ref());
        common(&mut self.source_port, other.source_port.as_ref());
        common(&mut self.destination_port, other.destination_port.as_ref());
    }
}

/// A packet. Everywhere, `None` means that it is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub family: Family,
    pub protocol: Option<u8>,
    pub tuple: Tuple,
    /// What its connection looked like when it began, and what its answer looks like.
    pub original: Tuple,
    pub answer: Tuple,
    pub input: Option<Interface>,
    pub output: Option<Interface>,
    /// `NF_CT_STATE_BIT` of `linux/netfilter/nf_conntrack_common.h`.
    pub state: Option<u32>,
    /// `IPS_*`.
    pub status: Option<u32>,
    /// Whether it is an answer.
    pub is_answer: Option<bool>,
    pub tcp_flags: Option<u8>,
    pub mark: Option<u32>,
    pub connection_mark: Option<u32>,
    /// `RTN_*` of the addresses.
    pub source_type: Option<u32>,
    pub destination_type: Option<u32>,
    /// Whether this node would answer by the interface that it came in by.
    pub is_symmetric: Option<bool>,
    /// Whether connection tracking is to see it.
    pub is_tracked: Option<bool>,
}

/// The states of a packet in connection tracking.
impl Packet {
    /// No connection, as it is before connection tracking has seen the packet.
    pub(crate) const INVALID: u32 = 1;
    /// Part of a connection that was answered, or the answer.
    pub(crate) const ESTABLISHED: u32 = 1 << 1;
    /// The first of a connection.
    pub(crate) const NEW: u32 = 1 << 3;
    /// Left out of connection tracking.
    pub(crate) const UNTRACKED: u32 = 1 << 6;

    /// A packet with nothing known but its family.
    pub(crate) fn unknown(family: Family) -> Self {
        Self {
            family,
            protocol: None,
            tuple: Tuple::default(),
            original: Tuple::default(),
            answer: Tuple::default(),
            input: None,
            output: None,
            state: None,
            status: None,
            is_answer: None,
            tcp_flags: None,
            mark: None,
            connection_mark: None,
            source_type: None,
            destination_type: None,
            is_symmetric: None,
            is_tracked: Some(true),
        }
    }

    /// Keeps what both have in common.
    pub(crate) fn merge(&mut self, other: &Self) {
        common(&mut self.mark, other.mark.as_ref());
        common(&mut self.connection_mark, other.connection_mark.as_ref());
        common(&mut self.is_tracked, other.is_tracked.as_ref());
        self.tuple.common(&other.tuple);
    }

    /// A byte of the header of the network layer.
    pub(super) fn network(&self, at: usize) -> Byte {
        let part = |address: Option<IpAddr>, at: usize| {
            Byte::from(address.and_then(|address| octets(address).get(at).copied()))
        };
        let Tuple { source, destination, .. } = self.tuple;
        match (self.family, at) {
            (Family::V4, 0) => Byte::Known(0x45),
            (Family::V4, 9) | (Family::V6, 6) => self.protocol.into(),
            (Family::V4, 12..16) => part(source, at - 12),
            (Family::V4, 16..20) => part(destination, at - 16),
            (Family::V6, 8..24) => part(source, at - 8),
            (Family::V6, 24..40) => part(destination, at - 24),
            _ => Byte::Unknown,
        }
    }

    /// A byte of the header of TCP or UDP.
    pub(super) fn transport(&self, at: usize) -> Byte {
        let Tuple { source_port, destination_port, .. } = self.tuple;
        let part = |port: Option<u16>, at: usize| match (port, at) {
            (Some(port), at) => Byte::Known(port.to_be_bytes()[at]),
            (None, 0) if self.protocol.is_some() => Byte::AtLeast(CLIENTS_PORTS.to_be_bytes()[0]),
            (None, _) => Byte::Unknown,
        };
        match at {
            0..2 => part(source_port, at),
            2..4 => part(destination_port, at - 2),
            13 => self.tcp_flags.into(),
            _ => Byte::Unknown,
        }
    }

    /// `NFT_META_*`.
    pub(super) fn meta(&self, key: u32) -> Option<Vec<u8>> {
        let (of_input, of_output) = (self.input.as_ref(), self.output.as_ref());
        let name = |interface: &Interface| {
            let mut name = interface.name.as_bytes().to_vec();
            name.resize(16, 0);
            name
        };
        let index = |interface: &Interface| interface.index.to_ne_bytes().to_vec();
        match key {
            uapi::NFT_META_PROTOCOL => Some(self.ether_type().to_be_bytes().to_vec()),
            uapi::NFT_META_MARK => self.mark.map(|mark| mark.to_ne_bytes().to_vec()),
            uapi::NFT_META_IIF => of_input.map(index),
            uapi::NFT_META_OIF => of_output.map(index),
            uapi::NFT_META_IIFNAME => of_input.map(name),
            uapi::NFT_META_OIFNAME => of_output.map(name),
            uapi::NFT_META_NFPROTO => Some(vec![number_of(self.family)]),
            uapi::NFT_META_L4PROTO => self.protocol.map(|protocol| vec![protocol]),
            // PACKET_HOST.
            uapi::NFT_META_PKTTYPE => Some(vec![0]),
            _ => None,
        }
    }

    pub(super) const fn ether_type(&self) -> u16 {
        match self.family {
            Family::V4 => 0x0800,
            Family::V6 => 0x86dd,
        }
    }

    /// `NFT_CT_*`, of a direction where it has one.
    pub(super) fn connection(&self, key: u32, direction: Option<u8>) -> Option<Vec<u8>> {
        let tuple = if direction == Some(1) { self.answer } else { self.original };
        let number = |value: Option<u32>| value.map(|value| value.to_ne_bytes().to_vec());
        let address = |address: Option<IpAddr>| address.map(octets);
        let port = |port: Option<u16>| port.map(|port| port.to_be_bytes().to_vec());
        match key {
            uapi::NFT_CT_STATE => number(self.state),
            uapi::NFT_CT_DIRECTION => self.is_answer.map(|answer| vec![u8::from(answer)]),
            uapi::NFT_CT_STATUS => number(self.status),
            uapi::NFT_CT_MARK => number(self.connection_mark),
            uapi::NFT_CT_L3PROTOCOL => Some(vec![number_of(self.family)]),
            uapi::NFT_CT_PROTOCOL => self.protocol.map(|protocol| vec![protocol]),
            uapi::NFT_CT_SRC | uapi::NFT_CT_SRC_IP | uapi::NFT_CT_SRC_IP6 => address(tuple.source),
            uapi::NFT_CT_DST | uapi::NFT_CT_DST_IP | uapi::NFT_CT_DST_IP6 => {
                address(tuple.destination)
            }
            uapi::NFT_CT_PROTO_SRC => port(tuple.source_port),
            uapi::NFT_CT_PROTO_DST => port(tuple.destination_port),
            _ => None,
        }
    }

    /// What `fib` says: the type of an address, or by which interface the source would be answered.
    pub(super) fn route(&self, flags: u32, result: u32) -> Option<Vec<u8>> {
        const OF_MARK: u32 = 1 << 2;
        let has = |flag: u32| flags & flag != 0;
        if result == uapi::NFT_FIB_RESULT_ADDRTYPE {
            let kind =
                if has(uapi::NFTA_FIB_F_DADDR) { self.destination_type } else { self.source_type };
            return kind.map(|kind| kind.to_ne_bytes().to_vec());
        }
        let by_source = uapi::NFTA_FIB_F_SADDR | uapi::NFTA_FIB_F_IIF;
        if flags & by_source != by_source || has(OF_MARK) && self.mark != Some(0) {
            return None;
        }
        let (is_there, input) = (self.is_symmetric?, self.input.as_ref()?);
        if has(uapi::NFTA_FIB_F_PRESENT) {
            return Some(vec![u8::from(is_there)]);
        }
        let index = if is_there { input.index } else { 0 };
        (result == uapi::NFT_FIB_RESULT_OIF).then(|| index.to_ne_bytes().to_vec())
    }

    /// The states that `xt_conntrack` knows.
    pub(super) fn x_state(&self) -> Option<u32> {
        const SNAT: u32 = 1 << 6;
        const DNAT: u32 = 1 << 7;
        const UNTRACKED: u32 = 1 << 8;
        match self.state? {
            Self::UNTRACKED => Some(UNTRACKED),
            Self::INVALID => Some(Self::INVALID),
            state => {
                let status = self.status?;
                let bit = |of: u32, bit: u32| if status & of == 0 { 0 } else { bit };
                Some(state | bit(uapi::IPS_SRC_NAT, SNAT) | bit(uapi::IPS_DST_NAT, DNAT))
            }
        }
    }
}

fn common<T: PartialEq>(one: &mut Option<T>, other: Option<&T>) {
    if one.as_ref() != other {
        *one = None;
    }
}
