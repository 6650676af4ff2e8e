//! What is asked inside a pod, by a thread in its network namespace.

use std::net::IpAddr;

use super::super::facts::{self, Seen, Unseen};
use super::hops::{self, Hop, Hops};
use crate::kernel::{self, Interface, Journey, Listener, Listeners, Local, Packet, Path};
use crate::model::{Family, HostPort};

/// What the pod has.
#[derive(Clone, Debug)]
pub(super) struct Inside {
    /// Whether the target is an address of the pod.
    pub(super) has_address: bool,
    pub(super) listener: Option<Listener>,
    /// Who listens on the port, on whatever address.
    pub(super) elsewhere: Option<Listener>,
    /// Whether a program reads packets below IP, as sandboxes with a network stack of their own do.
    pub(super) has_packet_sockets: bool,
    /// What its own rules do with the packet, and with the answer.
    pub(super) met: Seen<Vec<Hop>>,
    /// The interface with the target's address.
    pub(super) own: Option<Interface>,
    /// The way of the answer, or why it has none.
    pub(super) back: Result<Path, String>,
}

impl Inside {
    /// Looks at where `host` is asked for, by `first`, whose answer goes to `client`. Nothing where the kernel
    /// does not show the sockets.
    pub(super) fn look(host: HostPort, client: IpAddr, first: &Packet) -> Option<Self> {
        let address = host.address;
        let wildcard = HostPort { address: Family::of(&address).wildcard(), ..host };
        let listeners = Listeners::near(&[wildcard]).ok()?;
        let local = Local::of(Family::of(&address)).ok()?;
        let has_address = local.contains(address);
        let from = Some(address).filter(|_| has_address);
        let back = kernel::path(Journey { from, ..Journey::to(client) });
        Some(Self {
            own: kernel::interface_with(address).map(|(own, _)| own),
            has_address,
            listener: listeners.find(&host, &[]).cloned(),
            elsewhere: listeners.find(&wildcard, &[]).cloned(),
            has_packet_sockets: facts::has_packet_sockets(),
            met: met(first),
            back: back.map_err(|error| format!("no route to {client}: {error}")),
        })
    }
}

/// What the rules of this namespace, a pod's, do with a packet that arrives and with its answer.
fn met(first: &Packet) -> Seen<Vec<Hop>> {
    let (others, unseen) = facts::others()?;
    if let Some(why) = unseen {
        return Err(Unseen::Failed(why));
    }
    let mut sent = Hops::new(&others, &[], first.clone(), "it");
    sent.arrive();
    let packet = hops::answer(&sent.packet, Interface::default(), first.tuple.source, false);
    let packet = Packet { status: None, ..packet };
    let mut answer = Hops::new(&others, &[], packet, "the answer");
    answer.depart();
    let packet = Packet { status: None, ..hops::second(first, None) };
    let mut second = Hops::new(&others, &[], packet, "what follows");
    second.arrive();
    Ok([sent.met, answer.met, second.met].concat())
}
