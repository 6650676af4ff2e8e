//! The stretches of the way that others decide about: rules of other tables, routes, and the pod.

use std::net::IpAddr;

use super::super::facts::{of_interface, set_sysctl, sysctl_name};
use super::super::network::{at, remedy_of, remedy_of_drop};
use super::super::passage::Passage;
use super::hops::Hop;
use super::inside::Inside;
use super::judge::Walk;
use super::way::Translated;
use crate::kernel::{self, Neighbour};
use crate::model::Family;

const LOG: &str = "check the log of the cluster's CNI plugin";

impl Walk<'_> {
    /// By which interface the packet comes.
    pub(super) fn arrival(&mut self) {
        self.at = "arrival";
        let way = self.way;
        if let (Some(other), Some(path), Some(from)) =
            (&way.may_arrive_by, &way.arrives_by, way.query.from)
        {
            let (other, by, to) = (&other.name, &path.interface, way.query.host.address);
            let text =
                format!("{from} is behind {by}, and {to} is on {other}: it may come by either");
            self.unsure(text, "follow the packet with tcpdump on both");
        }
    }

    /// Rules that the packet meets before ours.
    pub(super) fn early(&mut self) -> Option<()> {
        let way = self.way;
        self.hops(&way.early)?;
        self.at = "other tables";
        match &way.node.others {
            Ok((_, Some(why))) => self.unsure(why, "run it as root, with iptables"),
            Ok(_) if way.early.iter().any(|hop| hop.walked.taken.is_some()) => Some(()),
            Ok(_) => self.passes("no other table translates it first"),
            Err(unseen) => self.unseen(unseen, "not seen", "try again"),
        }
    }

    fn hops(&mut self, hops: &[Hop]) -> Option<()> {
        for hop in hops {
            self.hop(hop)?;
        }
        Some(())
    }

    /// What rules do with the packet at one place.
    fn hop(&mut self, hop: &Hop) -> Option<()> {
        let Hop { check, what, walked } = hop;
        if *check != "pod" && self.at != "pod" {
            self.at = check;
        }
        if let Some((at, is_certain)) = &walked.untracked {
            let text = format!("{at} keeps {what} from connection tracking: nothing translates it");
            let remedy = "exclude the packets of host ports from that rule";
            if *is_certain {
                return self.stops(text, remedy);
            }
            self.unsure(text, remedy)?;
        }
        if let Some((name, passage)) = &walked.obstacle {
            let remedy = self
                .way
                .node
                .others
                .as_ref()
                .map_or(String::new(), |(others, _)| remedy_of_drop(others, name, passage));
            let text = passage.about(what);
            if matches!(passage, Passage::Drops(_)) {
                return self.stops(text, &remedy);
            }
            self.unsure(text, &remedy)?;
        }
        let Some(taken) = &walked.taken else { return Some(()) };
        let text = format!("{} takes {what} to {} first ({})", at(taken), taken.to, taken.rule);
        let is_ours = self.way.target().is_some_and(|target| target == taken.to);
        if taken.is_certain && !is_ours && self.at != "pod" {
            return self.stops(text, &remedy_of(taken));
        }
        self.unsure(text, &remedy_of(taken))
    }

    pub(super) fn forwarding(&mut self) -> Option<()> {
        self.at = "forwarding";
        let way = self.way;
        if way.from_node {
            return Some(());
        }
        if let Some(IpAddr::V6(from)) = way.query.from
            && from.is_unicast_link_local()
        {
            let text =
                format!("the kernel does not forward packets from a link-local address, {from}");
            return self.stops(text, "use another address of the client");
        }
        let of_pods = way.path.as_ref().ok();
        let names = match Family::of(&way.query.host.address) {
            // The answer comes in by the pods' interface.
            Family::V4 => [way.arrives_by.as_ref(), of_pods]
                .map(|path| path.map(|path| of_interface(&path.interface, "forwarding")))
                .into_iter()
                .map(|name| name.unwrap_or_else(|| "net/ipv4/ip_forward".to_owned()))
                .collect(),
            Family::V6 => vec!["net/ipv6/conf/all/forwarding".to_owned()],
        };
        for name in &names {
            if way.node.sysctls.get(name) == Some("0") {
                return self.stops(format!("{} is 0", sysctl_name(name)), &set_sysctl(name, 1));
            }
        }
        self.passes(format!("{} is on", sysctl_name(&names[0])))
    }

    pub(super) fn route(&mut self, lead: &Translated) -> Option<()> {
        let (way, pod) = (self.way, lead.target.ip());
        self.hops(
            way.onward
                .iter()
                .filter(|hop| is_before_routing(hop))
                .cloned()
                .collect::<Vec<_>>()
                .as_slice(),
        )?;
        self.at = "route";
        let path = match &way.path {
            Ok(path) => path,
            Err(error) if error.raw_os_error() == Some(nix::libc::EXDEV) => {
                return self.wrong_side();
            }
            Err(error) => {
                return self.stops(format!("this node has no route to {pod}: {error}"), LOG);
            }
        };
        let by = &path.interface;
        if path.is_down {
            return self.stops(format!("{by} is down"), LOG);
        }
        let is_open = way.node.sysctls.of("all", "route_localnet") == Some("1");
        if way.is_from_loopback() && !kernel::allows_loopback(by) && !is_open {
            let name = of_interface(by, "route_localnet");
            let shown = sysctl_name(&name);
            let text = format!("{shown} is 0: packets from 127.0.0.0/8 do not leave by it");
            return self.stops(text, &set_sysctl(&name, 1));
        }
        if way.neighbour == Neighbour::Failed {
            let next = path.gateway.unwrap_or(pod);
            let text = format!("{next} does not answer on {by}");
            return self.stops(text, "see whether the pod's interface is up");
        }
        let gateway = path.gateway.map_or(String::new(), |next| format!(", {next}"));
        self.passes(format!("{pod} by {by}{gateway}"));
        self.policies();
        self.at = "bridge";
        let calls = way.node.sysctls.get("net/bridge/bridge-nf-call-iptables") == Some("1");
        let mut ports = way.node.links.iter().filter(|port| port.controller == Some(path.index));
        let is_itself = way.query.from == Some(pod);
        if is_itself && calls && ports.any(|port| port.hairpin == Some(false)) {
            let text = "bridge-nf-call-iptables is 1, and the bridge does not send a packet back by the port it came by";
            self.unsure(text, "\"hairpinMode\": true for the bridge plugin");
        }
        Some(())
    }

    /// The kernel would answer the client by another interface, and checks that.
    fn wrong_side(&mut self) -> Option<()> {
        let by = self.way.arrives_by.as_ref().map_or("all", |path| path.interface.as_str());
        let name = of_interface(by, "rp_filter");
        let text =
            format!("rp_filter of {by} is strict, and the answer would leave by another interface");
        self.stops(text, &format!("{} (loose)", set_sysctl(&name, 2)))
    }

    /// What decides about the way without being known.
    fn policies(&mut self) {
        let way = self.way;
        if way.policies.by_mark && !way.is_mark_known || way.policies.by_more {
            let text =
                "a policy routing rule depends on a property of the packet that is not known";
            self.unsure(text, "compare `ip rule` with the packet");
        }
        if !way.programs.is_empty() {
            self.at = "programs";
            let names = way.programs.join(", ");
            let text = format!("XDP programs or filters of tc on {names} see the packet");
            self.unsure(text, "see `ip link show` and `tc filter show`");
        }
    }

    /// Whether the other tables let the packet pass, and its answer.
    pub(super) fn filters(&mut self) -> Option<()> {
        let way = self.way;
        let at = if way.from_node { "OUTPUT" } else { "FORWARD" };
        self.at = at;
        if let Err(unseen) = &way.node.others {
            return self.unseen(unseen, "the chains of other tables are not seen", "try again");
        }
        for hop in way.onward.iter().filter(|hop| !is_before_routing(hop)) {
            self.hop(hop)?;
        }
        self.hops(&way.back)?;
        let is_clean = way.onward.is_empty() && way.back.is_empty();
        self.at = at;
        if is_clean { self.passes("no chain drops it") } else { Some(()) }
    }

    pub(super) fn pod(&mut self, lead: &Translated) -> Option<()> {
        self.at = "pod";
        let (way, target) = (self.way, lead.target);
        let inside = match &way.inside {
            Ok(inside) => inside,
            Err(unseen) => {
                let remedy = "run `autoport gc` if it no longer exists";
                return self.unseen(unseen, "whether it listens is not seen", remedy);
            }
        };
        let has_own_stack = inside.has_packet_sockets;
        if !inside.has_address && !has_own_stack {
            let remedy = "attach it again; run `autoport gc` if it no longer exists";
            return self.stops(format!("it does not have {}", target.ip()), remedy);
        }
        let rules = match &inside.met {
            Ok(met) => {
                self.hops(met)?;
                met.iter().any(|hop| hop.walked.taken.is_some() || hop.walked.obstacle.is_some())
            }
            Err(unseen) => {
                self.unseen(unseen, "its rules are not seen", "run it as root, with iptables")?;
                true
            }
        };
        match (&inside.listener, &inside.elsewhere) {
            (Some(listener), _) => self.passes(format!("{listener} listens there")),
            _ if rules || has_own_stack => {
                let text = format!(
                    "no socket listens on {target}, but the pod has nat rules or other means to answer"
                );
                self.unsure(text, "look into the pod")
            }
            (None, Some(other)) => {
                let text = format!("it listens on {other} only, not on {target}");
                self.stops(text, "have the program listen on 0.0.0.0 or ::")
            }
            (None, None) => {
                let text = format!("nothing listens on {target}/{}", way.query.host.protocol);
                self.stops(text, "start the program, or correct containerPort")
            }
        }?;
        self.answer(inside)
    }

    /// Whether the answer comes back to this node, and to the client.
    fn answer(&mut self, inside: &Inside) -> Option<()> {
        self.at = "answer";
        let way = self.way;
        let back = match &inside.back {
            Ok(back) => back,
            Err(why) => {
                let text = format!("the pod has {why}");
                if way.query.from.is_some() || way.is_masked {
                    return self.stops(text, "give it a default route");
                }
                return self.unsure(text, "set the client with --from");
            }
        };
        let mut is_sure = true;
        let mut doubt = |walk: &mut Self, text: String| {
            is_sure = false;
            walk.unsure(text, "follow the answer with tcpdump");
        };
        let path = way.path.as_ref().ok();
        let on_bridge =
            |index: u32| way.node.links.iter().any(|it| it.index == index && it.is_bridge);
        let is_on_bridge = path.is_some_and(|path| on_bridge(path.index));
        if inside.own.as_ref().is_some_and(|own| own.index != back.index) {
            doubt(self, format!("the pod answers by another interface, {}", back.interface));
        }
        match back.gateway {
            Some(gateway) if is_on_bridge && !way.node.has(gateway) => {
                doubt(self, format!("the pod answers by {gateway}, which is not this node"));
            }
            None if is_on_bridge && !way.is_masked && !way.from_node => {
                doubt(self, "the pod answers on its own link, not through this node".to_owned());
            }
            _ => {}
        }
        if !way.from_node
            && let Some(from) = way.query.from
        {
            match (&way.answer, &way.arrives_by) {
                (Err(error), _) => {
                    let text = format!("this node has no route for the answer to {from}: {error}");
                    return self
                        .stops(text, "see `ip route get`, with the pod's address and interface");
                }
                (Ok(leaves), Some(came)) if leaves.index != came.index => {
                    let (leaves, came) = (&leaves.interface, &came.interface);
                    doubt(
                        self,
                        format!("the answer leaves by {leaves}, and the packet came by {came}"),
                    );
                }
                _ => {}
            }
        }
        if is_sure { self.passes("the pod has a route back") } else { Some(()) }
    }
}

/// Whether it is met before the way is chosen.
fn is_before_routing(hop: &Hop) -> bool {
    matches!(hop.check, "PREROUTING" | "OUTPUT" | "INGRESS")
}
