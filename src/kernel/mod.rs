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
    ChainName, Conditions, Does, Hooked, Leftover, OtherChain, OtherRule, Others, Portmap, Space,
    has_legacy_nat,
};
pub use listeners::{Listener, Listeners, Named, Process};
pub use memory::give_back_memory;
pub use nft::{Applied, Change, Events, Extent, Look, Nft, Release, Survey, Table, Woken, trial};
#[cfg(feature = "replay")]
pub use nft::{Asked, read};
pub use route::{
    Link, Local, Neighbour, Path, allow_loopback, allows_loopback, interface_towards, links,
    neighbour, outward_addresses, path, refuse_loopback,
};

/// `NFPROTO_INET` of `linux/netfilter.h`.
const INET: u8 = 1;

/// How often a change is tried again when somebody else changed the tables meanwhile.
const ATTEMPTS: u32 = 16;

/// Whether a gate lets the address pass. One without networks lets all.
fn is_among(networks: &[ipnetwork::IpNetwork], address: std::net::IpAddr) -> bool {
    networks.is_empty() || networks.iter().any(|network| network.contains(address))
}
