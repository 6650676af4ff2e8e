//! From what was asked to where the packet goes.

use super::super::facts::{Seen, sysctl_name};
use super::super::network::{at, remedy_of};
use super::super::passage::{Packet, Passage, passage};
use super::way::{self, Led, Translated, Way};
use super::{Fate, Step, Trace};
use crate::kernel::{Hooked, Loopback, Neighbour, Table};
use crate::model::{Family, Masquerade};
use crate::ruleset::LAYOUT;
use crate::store::Who;

const DOCTOR: &str = "run `autoport doctor`";

/// Some port that clients connect from.
const CLIENTS_PORT: u16 = 50_000;

/// The way so far.
struct Walk {
    steps: Vec<Step>,
}

impl Walk {
    fn step(&mut self, at: &'static str, fate: Fate, text: String, remedy: Option<String>) {
        self.steps.push(Step { at, fate, text, remedy });
    }

    fn passes(&mut self, at: &'static str, text: impl Into<String>) {
        self.step(at, Fate::Passes, text.into(), None);
    }

    fn unsure(&mut self, at: &'static str, text: impl Into<String>, remedy: &str) {
        self.step(at, Fate::Unsure, text.into(), Some(remedy.to_owned()));
    }

    /// The packet goes no further; `None`, so that a question mark ends the walk.
    fn stops(&mut self, at: &'static str, text: impl Into<String>, remedy: &str) -> Option<()> {
        let remedy = (!remedy.is_empty()).then(|| remedy.to_owned());
        self.step(at, Fate::Stops, text.into(), remedy);
        None
    }
}

pub(super) fn judge(way: &Way) -> Trace {
    let mut walk = Walk { steps: Vec::new() };
    let arrived = walk.follow(way).is_some();
    let steps = walk.steps;
    let fate = steps.iter().map(|step| step.fate).max().unwrap_or(Fate::Unsure);
    let query = way.query;
    let reached = || match (&way.led, way.record()) {
        (Led::To(lead), Some(record)) => format!("{} of {}", lead.target, record.owner),
        (Led::To(lead), None) => lead.target.to_string(),
        (Led::Nowhere | Led::Damaged(_) | Led::Untranslated(_), _) => "a pod".to_owned(),
    };
    let worst = steps.iter().find(|step| step.fate == fate);
    let why = worst.map_or(String::new(), |step| format!("{}: {}", step.at, step.text));
    let verdict = match fate {
        Fate::Passes => format!("{query} reaches {}", reached()),
        Fate::Unsure if arrived => {
            format!("{query} reaches {}, unless it stops at {why}", reached())
        }
        Fate::Unsure | Fate::Stops => format!("{query} stops at {why}"),
    };
    Trace { steps, fate, verdict }
}

impl Walk {
    fn follow(&mut self, way: &Way) -> Option<()> {
        self.destination(way)?;
        self.before(way)?;
        self.table(way)?;
        let lead = self.element(way)?;
        self.record(way, lead);
        self.gates(way, lead)?;
        self.masquerade(way, lead)?;
        self.route(way, lead)?;
        self.filters(way, lead)?;
        self.pod(way, lead)
    }

    fn destination(&mut self, way: &Way) -> Option<()> {
        let to = way.query.to;
        if !way.is_local {
            let text = format!("{to} is no address of this node");
            return self.stops("destination", text, "use an address that `ip addr` shows");
        }
        let hook = if way.from_node { "output" } else { "prerouting" };
        self.passes("destination", format!("{to} is this node's; the packet passes {hook}"));
        Some(())
    }

    fn before(&mut self, way: &Way) -> Option<()> {
        const AT: &str = "other tables";
        match &way.before {
            Seen::Known(None) => match &way.unseen_legacy {
                None => self.passes(AT, "no other table translates it first"),
                Some(why) => self.unsure(AT, why.clone(), "run it as root, with iptables"),
            },
            Seen::Known(Some(other)) => {
                let text = format!("{} takes it to {} first", at(other), other.to);
                if !other.conditions.unknown {
                    return self.stops(AT, text, &remedy_of(other));
                }
                self.unsure(AT, format!("{text}, under conditions"), &remedy_of(other));
            }
            Seen::Hidden => self.unsure(AT, "not seen", "run it as root"),
            Seen::Failed(why) => self.unsure(AT, why.clone(), "try again"),
        }
        Some(())
    }

    fn table(&mut self, way: &Way) -> Option<()> {
        const AT: &str = "table";
        const REPAIR: &str = "`autoport repair`";
        match &way.look.table {
            Table::Absent if way.holds() => {
                return self.stops(AT, "table inet autoport is missing", REPAIR);
            }
            Table::Absent => self.passes(AT, "there is no table inet autoport"),
            Table::Foreign => {
                return self.stops(AT, "table inet autoport was not made by autoport", REPAIR);
            }
            Table::Ours(identity) if identity.layout != LAYOUT => {
                let text =
                    format!("it has layout {}; this autoport supports {LAYOUT}", identity.layout);
                self.unsure(AT, text, "use the autoport of that version");
                return None;
            }
            Table::Ours(_) if way.look.dormant => {
                return self.stops(AT, "table inet autoport is dormant", REPAIR);
            }
            Table::Ours(_) => {
                let base = if way.from_node { "chain output" } else { "chain prerouting" };
                let shared = ["chain hostports", base];
                match &way.difference {
                    Some(text) if shared.iter().any(|chain| text.contains(chain)) => {
                        return self.stops(AT, text.clone(), REPAIR);
                    }
                    Some(text) => self.unsure(AT, text.clone(), REPAIR),
                    None if way.holds() => {
                        self.passes(AT, "table inet autoport equals the record");
                    }
                    None => self.passes(AT, "table inet autoport is there"),
                }
            }
        }
        Some(())
    }

    fn element<'a>(&mut self, way: &'a Way) -> Option<&'a Translated> {
        const AT: &str = "element";
        match &way.led {
            Led::To(lead) => {
                let text = format!(
                    "{} contains the port, {} maps it to {}",
                    lead.held, lead.map, lead.target
                );
                self.passes(AT, text);
                Some(lead)
            }
            Led::Damaged(set) => {
                let text = format!("{set} contains the port, but its chains are damaged");
                self.unsure(AT, text, "`autoport repair`");
                None
            }
            Led::Untranslated(set) => {
                let text = format!("{set} contains the port, but no map contains its target");
                self.stops(AT, text, "`autoport repair`")?;
                None
            }
            Led::Nowhere if way.holds() => {
                let text = format!(
                    "{} is recorded, but no set of the table contains the port",
                    holder(way)
                );
                self.stops(AT, text, "`autoport repair`")?;
                None
            }
            Led::Nowhere => {
                let text = match (&way.listener, holder(way)) {
                    (Some(listener), _) => {
                        format!("no pod holds it; {listener} of this node listens there")
                    }
                    (None, holder) if !holder.is_empty() => {
                        format!("{holder}; its ports are not translated")
                    }
                    (None, _) => nobody(way),
                };
                let remedy = match &way.holders {
                    Seen::Known(_) => "`autoport list` shows all host ports in use",
                    Seen::Hidden | Seen::Failed(_) => DOCTOR,
                };
                self.stops(AT, text, remedy)?;
                None
            }
        }
    }

    fn record(&mut self, way: &Way, lead: &Translated) {
        const AT: &str = "record";
        match (way.record(), &way.holders) {
            (Some(record), _) => self.passes(AT, format!("{} holds it", record.owner)),
            (None, Seen::Known(_)) => {
                let text = format!("the element that leads to {} has no record", lead.target);
                self.unsure(AT, text, "`autoport repair` removes it");
            }
            (None, Seen::Hidden) => self.unsure(AT, "not seen", "run it as root"),
            (None, Seen::Failed(why)) => {
                self.unsure(AT, why.clone(), DOCTOR);
            }
        }
    }

    fn gates(&mut self, way: &Way, lead: &Translated) -> Option<()> {
        let policy = lead.network_policy.policy();
        let (to, from) = (way.query.to, way.query.from);
        let hosts = &policy.host_addresses;
        if !hosts.is_empty() {
            if !hosts.iter().any(|network| network.contains(to)) {
                let text = format!("hostAddresses does not include {to}");
                return self.stops("hostAddresses", text, "use another address of the node");
            }
            self.passes("hostAddresses", format!("{to} is among them"));
        }
        let sources = &policy.source_ranges;
        if sources.is_empty() {
            return Some(());
        }
        let listed = sources.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match from {
            None => self.unsure(
                "sourceRanges",
                format!("only {listed} may connect"),
                "set the client with --from",
            ),
            Some(from) if from.is_loopback() && from.is_ipv4() => {
                self.passes("sourceRanges", "loopback clients are always allowed");
            }
            Some(from) if sources.iter().any(|network| network.contains(from)) => {
                self.passes("sourceRanges", format!("{from} may connect"));
            }
            Some(from) => {
                let text = format!("{from} is not in {listed}");
                return self.stops("sourceRanges", text, "add it to sourceRanges");
            }
        }
        Some(())
    }

    fn masquerade(&mut self, way: &Way, lead: &Translated) -> Option<()> {
        const AT: &str = "masquerade";
        let from = way.query.from;
        let loopback = from.is_some_and(|from| from.is_loopback());
        if loopback && lead.target.is_ipv6() {
            let text = "from ::1 nothing is translated: the answer could not come back";
            return self.stops(AT, text, "use an address of the node that is not ::1");
        }
        if loopback && lead.network_policy.policy().masquerade == Masquerade::Nobody {
            let text = "snat is off, so from 127.0.0.0/8 nothing is translated";
            return self.stops(AT, text, "use an address of the node, or set snat");
        }
        self.passes(AT, way::masquerades(lead, from).1);
        Some(())
    }

    fn route(&mut self, way: &Way, lead: &Translated) -> Option<()> {
        const AT: &str = "route";
        let pod = lead.target.ip();
        self.forwarding(way)?;
        let path = match &way.path {
            Ok(path) => path,
            Err(error) => {
                let text = format!("this node has no route to {pod}: {error}");
                let remedy = "check the log of the cluster's CNI plugin";
                return self.stops(AT, text, remedy);
            }
        };
        if path.is_down {
            let text = format!("{} is down", path.interface);
            return self.stops(AT, text, "check the log of the cluster's CNI plugin");
        }
        let loopback = way.query.from.is_some_and(|from| from.is_loopback());
        if loopback && Loopback::of(&path.interface) == Loopback::Refused && !all_loopback(way) {
            let name = sysctl_name(&format!("net/ipv4/conf/{}/route_localnet", path.interface));
            let text = format!("{name} is 0: nothing from 127.0.0.0/8 leaves there");
            return self.stops(AT, text, &format!("sysctl -w {name}=1"));
        }
        let next = path.gateway.unwrap_or(pod);
        match way.neighbour {
            Neighbour::Failed => {
                let text = format!("{next} does not answer on {}", path.interface);
                return self.stops(AT, text, "see whether the pod's interface is up");
            }
            Neighbour::Known | Neighbour::Unknown => {
                let by = if path.gateway.is_some() { format!(", {next}") } else { String::new() };
                self.passes(AT, format!("{pod} by {}{by}", path.interface));
            }
        }
        let itself = way.query.from == Some(pod);
        let calls = way.sysctls.get("net/bridge/bridge-nf-call-iptables") == Some("1");
        let ports = way.links.iter().filter(|port| port.controller == Some(path.index));
        let stiff = ports.filter(|port| port.hairpin == Some(false)).count();
        if itself && calls && stiff > 0 {
            let text = "bridge-nf-call-iptables is 1, and the bridge sends nothing back";
            self.unsure("bridge", text, "\"hairpinMode\": true for the bridge plugin");
        }
        Some(())
    }

    fn forwarding(&mut self, way: &Way) -> Option<()> {
        const AT: &str = "forwarding";
        if way.from_node {
            return Some(());
        }
        let family = Family::of(&way.query.to);
        let interface = way.arrives_by.as_ref().map(|path| path.interface.as_str());
        let name = match (family, interface) {
            (Family::V4, Some(interface)) => format!("net/ipv4/conf/{interface}/forwarding"),
            (Family::V4, None) => "net/ipv4/ip_forward".to_owned(),
            (Family::V6, _) => "net/ipv6/conf/all/forwarding".to_owned(),
        };
        let dotted = sysctl_name(&name);
        if way.sysctls.get(&name) == Some("0") {
            let text = format!("{dotted} is 0");
            return self.stops(AT, text, &format!("sysctl -w {dotted}=1"));
        }
        self.passes(AT, format!("{dotted} is on"));
        Some(())
    }

    fn filters(&mut self, way: &Way, lead: &Translated) -> Option<()> {
        let (at, hook) =
            if way.from_node { ("OUTPUT", Hooked::OUTPUT) } else { ("FORWARD", Hooked::FORWARD) };
        let Seen::Known(others) = &way.others else {
            self.unsure(at, "the chains of other tables are not seen", "run it as root");
            return Some(());
        };
        let family = Family::of(&lead.target.ip());
        let packet = Packet {
            family,
            protocol: Some(way.query.protocol.number()),
            port: Some(lead.target.port()),
            destination: Some(lead.target.ip()),
        };
        // What comes back passes the same chains, unless it is for this node.
        let port = Some(CLIENTS_PORT);
        let back = Packet { port, destination: way.query.from, ..packet };
        let mut sure = true;
        for (name, chain) in &others.chains {
            let hooked = chain.hooked.as_ref().filter(|hooked| hooked.hook == hook);
            if hooked.is_none_or(|hooked| hooked.kind == "nat") || !name.space.has(family) {
                continue;
            }
            let accept = "let it accept `ct status dnat` (autoport doctor says how)";
            match passage(others, name, &packet) {
                Passage::Passes if !way.from_node => {
                    if passage(others, name, &back) == Passage::Drops {
                        return self.stops(at, format!("{name} drops the answer"), accept);
                    }
                }
                Passage::Passes => {}
                Passage::Depends => {
                    sure = false;
                    let text =
                        format!("{name} drops everything except what some of its rules accept");
                    self.unsure(at, text, accept);
                }
                Passage::Drops => return self.stops(at, format!("{name} drops it"), accept),
            }
        }
        if sure {
            self.passes(at, "no chain drops it");
        }
        Some(())
    }

    fn pod(&mut self, way: &Way, lead: &Translated) -> Option<()> {
        const AT: &str = "pod";
        let inside = match &way.inside {
            Seen::Known(inside) => inside,
            Seen::Hidden => {
                self.unsure(AT, "whether it listens is not seen", "run it as root");
                return Some(());
            }
            Seen::Failed(why) => {
                self.unsure(AT, why.clone(), "run `autoport gc` if it no longer exists");
                return Some(());
            }
        };
        if !inside.has_address {
            let text = format!("it does not have {}", lead.target.ip());
            return self.stops(
                AT,
                text,
                "attach it again; run `autoport gc` if it no longer exists",
            );
        }
        match (&inside.listener, &inside.elsewhere) {
            (Some(listener), _) => self.passes(AT, format!("{listener} listens there")),
            (None, Some(other)) => {
                let text = format!("it listens on {other} only, not on {}", lead.target);
                return self.stops(AT, text, "have the program listen on 0.0.0.0 or ::");
            }
            (None, None) => {
                let text = format!("nothing listens on {}/{}", lead.target, way.query.protocol);
                return self.stops(AT, text, "start the program, or correct containerPort");
            }
        }
        if let Some(why) = &inside.no_way_back {
            let masked = way::masquerades(lead, way.query.from).0;
            if way.query.from.is_some() || masked {
                return self.stops(
                    "answer",
                    format!("the pod has {why}"),
                    "give it a default route",
                );
            }
            self.unsure("answer", format!("the pod has {why}"), "set the client with --from");
            return Some(());
        }
        self.passes("answer", "the pod has a route back");
        Some(())
    }
}

fn all_loopback(way: &Way) -> bool {
    way.sysctls.get("net/ipv4/conf/all/route_localnet") == Some("1")
}

fn nobody(way: &Way) -> String {
    let port = format!("port {}/{}", way.query.port, way.query.protocol);
    match &way.holders {
        Seen::Known(_) => format!("no pod holds {port}"),
        Seen::Hidden => format!("no element contains {port}; the records are not seen"),
        Seen::Failed(why) => format!("no element contains {port}; {why}"),
    }
}

/// Who holds the port; empty where nobody does.
fn holder(way: &Way) -> String {
    let holders = way.holders.known().into_iter().flatten();
    let names = holders.map(|holder| match &holder.who {
        Who::Record(record) => record.owner.to_string(),
        Who::Reservation(reservation) => format!("reservation {} holds it", reservation.name),
        Who::Unreadable(unreadable) => unreadable.to_string(),
    });
    names.collect::<Vec<_>>().join(", ")
}
