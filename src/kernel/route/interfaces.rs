//! The interfaces there are, asked by hand: this is on the way of an ADD, and the asynchronous runtime of
//! the rest costs as much as the whole transaction that depends on it.

use nix::net::if_::if_nametoindex;
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::super::netlink::message::{Attributes, Messages};
use super::super::netlink::socket::{REQUEST, Socket};
use crate::kernel::{Error, uapi};

/// Whether this namespace has an interface of this name.
pub fn exists(interface: &str) -> bool {
    if_nametoindex(interface).is_ok()
}

/// Those of `names` that are virtual Ethernet interfaces: one end on the node, the other in a pod.
///
/// # Errors
/// [`Error::Socket`].
pub fn veths(names: &[String]) -> Result<Vec<String>, Error> {
    let mut questions = Messages::default();
    for name in names {
        questions.begin(uapi::RTM_GETLINK, REQUEST, &[0; uapi::IFINFOMSG]);
        questions.put_text(uapi::IFLA_IFNAME, name);
    }
    let mut found = Vec::new();
    Socket::open_for(NETLINK_ROUTE)?.ask(&questions, |answer| {
        let attributes = answer.message.get(uapi::IFINFOMSG..).map(Attributes).unwrap_or_default();
        let info = attributes.nested(uapi::IFLA_LINKINFO).unwrap_or_default();
        if info.text(uapi::IFLA_INFO_KIND) == Some("veth") {
            found.extend(names.get(answer.number as usize).cloned());
        }
    })?;
    Ok(found)
}
