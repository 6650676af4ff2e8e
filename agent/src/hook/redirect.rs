//! Which ports a pod's programs name, and which host ports they get.

use autoport::model::{ContainerPort, Grant, Protocol};
use serde::{Deserialize, Serialize};

/// A run of ports that programs name, and the run of host ports that they get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Redirect {
    pub protocol: Protocol,
    /// The first port that programs name.
    pub named: u16,
    /// The first host port.
    pub given: u16,
    /// How many there are.
    pub count: u16,
}

impl Redirect {
    /// Whether both are about the same ports of programs.
    pub(super) fn names_the_same(self, other: Self) -> bool {
        (self.protocol, self.named, self.count) == (other.protocol, other.named, other.count)
    }
}

/// More are not attached: the programs run at each bind and connect of the pod.
pub const MOST: usize = 256;

/// A pod's ports cannot be redirected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unclear {
    #[error(
        "the Pod asks for {count} redirected ports in {MOST} items at most: write runs, as in \
         \"rtp=10000-10099/udp\", or take the pod network"
    )]
    TooMany { count: usize },
    #[error(
        "the node has chosen port {number}/{protocol} for an item {auto:?} of the Pod, and {named:?} redirects \
         that port to {given}: a program that binds {number} can mean either. Exclude the port with \
         excludePorts of the node's configuration, and delete the Pod"
    )]
    Ambiguous { number: u16, protocol: Protocol, auto: String, named: String, given: u16 },
}

/// What the programs of a pod with these grants are to be given, in order of protocol and port. Ports that are mapped to themselves
/// need nothing.
///
/// # Errors
/// [`Unclear`].
pub fn redirects(grants: &[Grant]) -> Result<Vec<Redirect>, Unclear> {
    let mut all = Vec::new();
    for grant in grants {
        let ContainerPort::From(named) = grant.request.container_port else { continue };
        for protocol in &grant.request.protocols {
            let (named, given) = (named.get(), grant.port.get());
            let count = grant.request.count.get();
            let redirect = Redirect { protocol: *protocol, named, given, count };
            refuse_ambiguous(redirect, grant, grants)?;
            all.extend((named != given).then_some(redirect));
        }
    }
    if all.len() > MOST {
        return Err(Unclear::TooMany { count: all.len() });
    }
    all.sort_unstable();
    Ok(all)
}

/// A program that knows its host port must be able to bind it.
fn refuse_ambiguous(redirect: Redirect, named: &Grant, all: &[Grant]) -> Result<(), Unclear> {
    let Redirect { protocol, .. } = redirect;
    let is_auto = |grant: &&Grant| {
        grant.request.container_port == ContainerPort::Same
            && grant.request.protocols.contains(&protocol)
    };
    let is_named = |number: &u16| {
        number.checked_sub(redirect.named).is_some_and(|place| place < redirect.count)
    };
    let mut numbers = all.iter().filter(is_auto).flat_map(|auto| {
        auto.numbers().filter(is_named).map(|number| (number, auto.request.to_string()))
    });
    numbers.next().map_or(Ok(()), |(number, auto)| {
        let (named, given) = (named.request.to_string(), redirect.given);
        Err(Unclear::Ambiguous { number, protocol, auto, named, given })
    })
}
