//! Netlink itself, for all families that are spoken: bytes, and the socket that carries them.

pub(super) mod message;
pub(super) mod socket;

use super::{ATTEMPTS, Error, INET};
