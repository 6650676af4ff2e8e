//! Which chains of other tables a packet meets on its way, and its answer on the way back.

use std::net::{IpAddr, SocketAddr};

use super::super::passage::{DSTNAT, Passage, SRCNAT, Stage, Walked, walk};
use crate::kernel::{Hook, Interface, Link, Others, Packet, Path, Tuple};
use crate::model::{Family, HostPort, Protocol};
use crate::ruleset::AFTER_DSTNAT;

/// `RTN_UNICAST`, `RTN_LOCAL`.
const UNICAST: u32 = 1;
const LOCAL: u32 = 2;

/// `IPS_*`: what was seen of a connection, and translated.
const TRANSLATED: u32 = 1 << 5 | 1 << 8;
const ANSWERED: u32 = TRANSLATED | 1 << 1 | 1 << 3 | 1 << 7;
const MASQUERADED: u32 = 1 << 4;

/// What was met at one place of the way.
#[derive(Clone, Debug)]
pub(super) struct Hop {
    pub(super) check: &'static str,
    /// The packet, or its answer.
    pub(super) what: &'static str,
    pub(super) walked: Walked,
}

/// The way so far, and the packet as it is there.
#[derive(Debug)]
pub(super) struct Hops<'a> {
    others: &'a Others,
    links: &'a [Link],
    what: &'static str,
    pub(super) packet: Packet,
    pub(super) met: Vec<Hop>,
    pub(super) is_masqueraded: bool,
}

pub(super) fn interface(path: &Path) -> Interface {
    Interface { index: path.index, name: path.interface.clone() }
}

/// What it is asked with.
pub(super) struct Asked {
    pub(super) from: Option<IpAddr>,
    pub(super) host: HostPort,
    pub(super) from_node: bool,
    pub(super) input: Option<Interface>,
    /// Whether the node would answer by that interface.
    pub(super) is_symmetric: Option<bool>,
}

/// The first packet of a connection.
pub(super) fn first(asked: &Asked) -> Packet {
    let Asked { from, host, from_node, .. } = asked;
    let tuple = Tuple {
        source: *from,
        destination: Some(host.address),
        source_port: None,
        destination_port: Some(host.port.get()),
    };
    let lo = Interface { index: 1, name: "lo".to_owned() };
    let (input, output) = if *from_node {
        (Some(Interface::default()), Some(lo))
    } else {
        (asked.input.clone(), Some(Interface::default()))
    };
    Packet {
        protocol: Some(host.protocol.number()),
        tuple,
        original: tuple,
        answer: tuple.reversed(),
        input,
        output,
        state: Some(Packet::NEW),
        status: Some(0),
        is_answer: Some(false),
        tcp_flags: (host.protocol == Protocol::Tcp).then_some(2),
        mark: Some(0),
        connection_mark: Some(0),
        source_type: Some(if *from_node { LOCAL } else { UNICAST }),
        destination_type: Some(LOCAL),
        is_symmetric: asked.is_symmetric,
        ..Packet::unknown(Family::of(&host.address))
    }
}

impl<'a> Hops<'a> {
    pub(super) fn new(
        others: &'a Others,
        links: &'a [Link],
        packet: Packet,
        what: &'static str,
    ) -> Self {
        Self { others, links, what, packet, met: Vec::new(), is_masqueraded: false }
    }

    pub(super) fn meet(&mut self, check: &'static str, stage: &Stage<'_>) {
        let walked = walk(self.others, stage, &mut self.packet);
        self.is_masqueraded |= walked.is_masqueraded;
        if walked.obstacle.is_some() || walked.taken.is_some() || walked.untracked.is_some() {
            self.met.push(Hop { check, what: self.what, walked });
        }
    }

    /// The chains of an interface, and of the bridge that it may be.
    fn at_interface(&mut self, hook: Hook, interface: &Interface) {
        let check = if hook == Hook::Ingress { "INGRESS" } else { "EGRESS" };
        let stage = |device| Stage { device: Some(device), ..Stage::of(hook) };
        let links = self.links;
        let ports = links.iter().filter(|port| port.controller == Some(interface.index));
        let is_bridge = links.iter().any(|it| it.index == interface.index && it.is_bridge);
        let ports: Vec<&Link> = ports.filter(|_| is_bridge).collect();
        if hook == Hook::Egress {
            self.meet(check, &stage(&interface.name));
        }
        if is_bridge {
            let input = self.packet.input.take();
            let output = self.packet.output.take();
            let hooks = if hook == Hook::Ingress {
                [Hook::Prerouting, Hook::Input]
            } else {
                [Hook::Output, Hook::Postrouting]
            };
            for hook in hooks {
                self.meet("bridge", &Stage { of_bridge: true, ..Stage::of(hook) });
            }
            (self.packet.input, self.packet.output) = (input, output);
        }
        let before = self.met.len();
        for port in &ports {
            self.meet(check, &stage(&port.name));
        }
        if ports.len() > 1 {
            // Which of them it passes is not known.
            for hop in &mut self.met[before..] {
                if let Some((_, passage)) = &mut hop.walked.obstacle
                    && let Passage::Drops(at) = passage
                {
                    *passage = Passage::Perhaps(std::mem::take(at));
                }
            }
        }
        if hook == Hook::Ingress {
            self.meet(check, &stage(&interface.name));
        }
    }

    /// Comes in, up to where destinations are translated.
    pub(super) fn begin(&mut self) {
        if let Some(input) = self.packet.input.clone().filter(|input| input.index != 0) {
            self.at_interface(Hook::Ingress, &input);
        }
        let (check, hook) = self.first_hook();
        self.meet(check, &Stage { priorities: i32::MIN..=DSTNAT, ..Stage::of(hook) });
    }

    fn first_hook(&self) -> (&'static str, Hook) {
        let begins_here = self.packet.input.as_ref().is_some_and(|input| input.index == 0);
        if begins_here { ("OUTPUT", Hook::Output) } else { ("PREROUTING", Hook::Prerouting) }
    }

    /// Who translates it before we do.
    pub(super) fn translations(&mut self) {
        let (_, hook) = self.first_hook();
        let priorities = i32::MIN..=AFTER_DSTNAT - 1;
        self.meet("other tables", &Stage { nat: true, priorities, ..Stage::of(hook) });
    }

    /// Goes on with another destination, up to where its way is chosen.
    pub(super) fn translated(&mut self, to: SocketAddr, destination_type: u32) {
        let (check, hook) = self.first_hook();
        let packet = &mut self.packet;
        packet.tuple.destination = Some(to.ip());
        packet.tuple.destination_port = Some(to.port());
        packet.answer.source = Some(to.ip());
        packet.answer.source_port = Some(to.port());
        packet.destination_type = Some(destination_type);
        packet.status = packet.status.map(|status| status | TRANSLATED);
        if hook == Hook::Output {
            packet.output = None;
        }
        self.meet(check, &Stage { priorities: DSTNAT..=i32::MAX, ..Stage::of(hook) });
    }

    /// Makes the packet an answer to `client`, and walks it to the routing decision.
    pub(super) fn restored(&mut self, client: Option<IpAddr>) {
        self.packet.tuple.destination = client;
        self.packet.tuple.destination_port = None;
        let stage = Stage::of(Hook::Prerouting);
        self.meet("PREROUTING", &Stage { priorities: DSTNAT..=i32::MAX, ..stage });
    }

    /// Leaves by `output`, forwarded unless it began here; `nat` is whether it is the first of its connection.
    pub(super) fn leave(&mut self, output: &Interface, masquerades: bool, nat: bool) {
        let (_, hook) = self.first_hook();
        self.packet.output = Some(output.clone());
        if hook == Hook::Prerouting {
            self.meet("FORWARD", &Stage::of(Hook::Forward));
        }
        let stage = |priorities| Stage { priorities, ..Stage::of(Hook::Postrouting) };
        self.meet("POSTROUTING", &stage(i32::MIN..=SRCNAT));
        if nat {
            let stage = Stage { nat: true, ..Stage::of(Hook::Postrouting) };
            self.meet("POSTROUTING", &stage);
        }
        if self.packet.is_answer == Some(true) {
            // As the client knows it.
            self.packet.tuple.source = self.packet.original.destination;
            self.packet.tuple.source_port = self.packet.original.destination_port;
        } else if masquerades || self.is_masqueraded {
            self.packet.tuple.source = None;
            self.packet.tuple.source_port = None;
        }
        self.meet("POSTROUTING", &stage(SRCNAT..=i32::MAX));
        self.at_interface(Hook::Egress, &output.clone());
    }

    /// Comes to a pod that it is for, with what translates it there.
    pub(super) fn arrive(&mut self) {
        self.meet("pod", &Stage::of(Hook::Ingress));
        self.begin();
        let is_first = self.packet.state == Some(Packet::NEW);
        if is_first {
            self.meet("pod", &Stage { nat: true, ..Stage::of(Hook::Prerouting) });
        }
        self.meet(
            "pod",
            &Stage { priorities: DSTNAT + 1..=i32::MAX, ..Stage::of(Hook::Prerouting) },
        );
        self.meet("pod", &Stage::of(Hook::Input));
        if is_first {
            self.meet("pod", &Stage { nat: true, ..Stage::of(Hook::Input) });
        }
    }

    /// Leaves the pod where it begins.
    pub(super) fn depart(&mut self) {
        self.packet.output = None;
        self.meet("pod", &Stage::of(Hook::Output));
        self.meet("pod", &Stage::of(Hook::Postrouting));
        self.meet("pod", &Stage::of(Hook::Egress));
    }

    /// Is for this node.
    pub(super) fn end(&mut self) {
        self.meet("INPUT", &Stage::of(Hook::Input));
    }
}

/// The answer to `sent`, as it comes from the pod by `input` towards `client`, who is masqueraded as `masked`.
pub(super) fn answer(
    sent: &Packet,
    input: Interface,
    towards: Option<IpAddr>,
    to_node: bool,
) -> Packet {
    let tuple = Tuple { destination: towards, ..sent.answer };
    let masquerade = if to_node { MASQUERADED } else { 0 };
    Packet {
        tuple,
        answer: tuple,
        input: Some(input),
        output: Some(Interface::default()),
        state: Some(Packet::ESTABLISHED),
        status: Some(ANSWERED | masquerade),
        is_answer: Some(true),
        tcp_flags: sent.tcp_flags.map(|_| 0x12),
        mark: Some(0),
        source_type: Some(UNICAST),
        destination_type: Some(if to_node { LOCAL } else { UNICAST }),
        is_symmetric: Some(true),
        is_tracked: Some(true),
        ..sent.clone()
    }
}

/// What the client sends after the answer.
pub(super) fn second(first: &Packet, connection_mark: Option<u32>) -> Packet {
    Packet {
        state: Some(Packet::ESTABLISHED),
        status: Some(ANSWERED | 1 << 2),
        tcp_flags: first.tcp_flags.map(|_| 0x10),
        connection_mark,
        ..first.clone()
    }
}
