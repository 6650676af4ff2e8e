//! The kernel's side: our nftables table, read and changed over netlink.
//!
//! Two costs shape this module, both a grace period of the kernel's (about 8 ms): a transaction
//! that **fails**, and closing the socket after one that **deleted** something. So every change
//! looks first, which costs microseconds, and sends only what will succeed; `NLM_F_EXCL` guards
//! against what happened in between, and a refusal means to look again. And what has to go is given
//! a millisecond to live where the kernel can do that, and deleted where it cannot.

mod error;
mod flows;
mod foreign;
mod listeners;
mod memory;
mod netlink;
mod nft;
mod route;
mod uapi;

pub use error::Error;
pub use flows::Redirected;
pub use foreign::{
    ChainName, Does, Hook, Hooked, Interface, Leftover, Marks, OtherChain, OtherRule, Others,
    Packet, Portmap, Set, Source, Space, Step, Tuple, back, has_legacy_nat, masked, some_bit,
};
pub use listeners::{Listener, Listeners, Named, Process, REPORT};
pub use memory::give_back_memory;
pub use nft::{
    Applied, Change, Events, Extent, Look, Nft, Offloading, Release, Survey, Table, Woken,
    offload_trial, trial,
};
#[cfg(feature = "replay")]
pub use nft::{Asked, read};
pub use route::{
    Journey, Link, Local, Neighbour, Path, Policies, allow_loopback, allows_loopback, exists,
    interface_towards, interface_with, is_filtered, links, neighbour, outward_addresses, path,
    policies, refuse_loopback, veths,
};

/// `NFPROTO_INET` of `linux/netfilter.h`.
const INET: u8 = 1;

/// How often a change is tried again when somebody else changed the tables meanwhile.
const ATTEMPTS: u32 = 16;

/// Whether a gate lets the address pass. One without networks lets all.
fn is_among(networks: &[ipnetwork::IpNetwork], address: std::net::IpAddr) -> bool {
    networks.is_empty() || networks.iter().any(|network| network.contains(address))
}
