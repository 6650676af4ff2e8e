//! The keys of maps and sets.

use std::net::IpAddr;
use std::num::NonZeroU16;

use super::{Data, Element, Set};
use crate::model::{Protocol, check_ifname};

/// A place in the table, for one element.
pub type Place = (Set, Key);

/// The key of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, derive_more::Display)]
pub enum Key {
    /// Of every set but one.
    #[display("{}{protocol} . {port}", address.map_or(String::new(), |own| format!("{own} . ")))]
    Port {
        /// The address, where the set's keys begin with one.
        address: Option<IpAddr>,
        protocol: Protocol,
        port: NonZeroU16,
    },
    /// Of [`Set::GUARDED`].
    #[display("{:?}", self.interface().unwrap_or_default())]
    Interface(Interface),
}

/// The name of an interface, as the kernel keeps it: padded with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interface(pub [u8; Self::LEN]);

impl Interface {
    /// `IFNAMSIZ`.
    pub const LEN: usize = 16;

    /// `None` where `name` is none that an interface can have, and for `lo`: the route to an address of the
    /// node itself leads there, and guarded it would drop the node's own connections to 127.0.0.1.
    pub(crate) fn named(name: &str) -> Option<Self> {
        check_ifname(name).ok().filter(|()| name != "lo")?;
        let mut bytes = [0; Self::LEN];
        bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        Some(Self(bytes))
    }

    /// The place of the interface in [`Set::GUARDED`].
    pub(crate) const fn place(self) -> Place {
        (Set::GUARDED, Key::Interface(self))
    }

    /// The element that has it guarded.
    pub(crate) fn guarded(self) -> Element {
        let (set, key) = self.place();
        let (comment, holder) = <_>::default();
        Element { set, key, data: Data::None, comment, holder, host: None }
    }
}

impl Key {
    /// The name of the interface, of a key that is one.
    pub(crate) fn interface(&self) -> Option<String> {
        let Self::Interface(Interface(name)) = self else { return None };
        let name = name.split(|byte| *byte == 0).next()?;
        Some(String::from_utf8_lossy(name).into_owned())
    }
}
