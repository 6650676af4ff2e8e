//! From what was asked to where the packet goes.

use super::super::facts::{Unseen, of_interface, set_sysctl, sysctl_name};
use super::super::network::{at, remedy_of};
use super::super::passage::{Packet, Passage, Translation, hooked_at, passage, translations};
use super::way::{self, Led, Translated, Way};
use super::{Fate, Finding, Trace};
use crate::kernel::{self, Hooked, Neighbour, Table};
use crate::model::{Family, HostPort, Masquerade};
use crate::ruleset::{AFTER_DSTNAT, LAYOUT};
use crate::store::Who;

const DOCTOR: &str = "run `autoport doctor`";
const REPAIR: &str = "`autoport repair`";

/// Some port that clients connect from.
const CLIENTS_PORT: u16 = 50_000;

/// The way so far. What looks at a stretch of it gives `None` where the packet goes no further, so that a
/// question mark ends the walk.
struct Walk<'a> {
    way: &'a Way,
    /// The stretch.
    at: &'static str,
    steps: Vec<Finding<Fate>>,
}

pub(super) fn judge(way: &Way) -> Trace {
    let mut walk = Walk { way, at: "", steps: Vec::new() };
    let arrived = walk.follow().is_some();
    let steps = walk.steps;
    let fate = steps.iter().map(|step| step.state).max().unwrap_or(Fate::Unsure);
    let query = way.query;
    let reached = || match (&way.led, way.record()) {
        (Led::To(lead), Some(record)) => format!("{} of {}", lead.target, record.owner),
        (Led::To(lead), None) => lead.target.to_string(),
        (Led::Nowhere | Led::Damaged(_) | Led::Untranslated(_), _) => "a pod".to_owned(),
    };
    let worst = steps.iter().find(|step| step.state == fate);
    let why = worst.map_or(String::new(), |step| format!("{}: {}", step.check, step.text));
    let verdict = match fate {
        Fate::Passes => format!("{query} reaches {}", reached()),
        Fate::Unsure if arrived => {
            format!("{query} reaches {}, unless it stops at {why}", reached())
        }
        Fate::Unsure | Fate::Stops => format!("{query} stops at {why}"),
    };
    Trace { steps, state: fate, verdict }
}

impl<'a> Walk<'a> {
    fn step(&mut self, fate: Fate, text: impl Into<String>, remedy: Option<&str>) -> Option<()> {
        let remedy = remedy.map(str::to_owned);
        self.steps.push(Finding { check: self.at, state: fate, text: text.into(), remedy });
        (fate != Fate::Stops).then_some(())
    }

    fn passes(&mut self, text: impl Into<String>) -> Option<()> {
        self.step(Fate::Passes, text, None)
    }

    fn unsure(&mut self, text: impl Into<String>, remedy: &str) -> Option<()> {
        self.step(Fate::Unsure, text, Some(remedy))
    }

    fn stops<T>(&mut self, text: impl Into<String>, remedy: &str) -> Option<T> {
        self.step(Fate::Stops, text, Some(remedy));
        None
    }

    fn unseen(&mut self, unseen: &Unseen, hidden: &str, remedy: &str) -> Option<()> {
        match unseen {
            Unseen::Hidden => self.unsure(hidden, "run it as root"),
            Unseen::Failed(why) => self.unsure(why, remedy),
        }
    }

    fn follow(&mut self) -> Option<()> {
        self.destination()?;
        self.before()?;
        self.table()?;
        let lead = self.element()?;
        self.record(lead);
        self.host_addresses(lead)?;
        self.source_ranges(lead)?;
        self.masquerade(lead)?;
        self.forwarding()?;
        self.route(lead)?;
        self.filters(lead)?;
        self.pod(lead)
    }

    fn destination(&mut self) -> Option<()> {
        self.at = "destination";
        let to = self.way.query.host.address;
        if !self.way.is_local {
            let text = format!("{to} is no address of this node");
            return self.stops(text, "use an address that `ip addr` shows");
        }
        let hook = if self.way.from_node { "output" } else { "prerouting" };
        self.passes(format!("{to} is this node's; the packet passes {hook}"))
    }

    fn before(&mut self) -> Option<()> {
        self.at = "other tables";
        let way = self.way;
        let hook = if way.from_node { Hooked::OUTPUT } else { Hooked::PREROUTING };
        let meets =
            |one: &Translation| one.meets(&way.query.host, |own| own == way.query.host.address);
        let first = |others| translations(others, hook, AFTER_DSTNAT).into_iter().find(meets);
        match way.others.as_ref().map(|(others, unseen)| (first(others), unseen)) {
            Ok((None, None)) => self.passes("no other table translates it first"),
            Ok((None, Some(why))) => self.unsure(why, "run it as root, with iptables"),
            Ok((Some(other), _)) => {
                let text = format!("{} takes it to {} first", at(&other), other.to);
                if !other.conditions.unknown {
                    return self.stops(text, &remedy_of(&other));
                }
                self.unsure(format!("{text}, under conditions"), &remedy_of(&other))
            }
            Err(unseen) => self.unseen(unseen, "not seen", "try again"),
        }
    }

    fn table(&mut self) -> Option<()> {
        self.at = "table";
        let way = self.way;
        match &way.look.table {
            Table::Absent if way.holds() => self.stops("table inet autoport is missing", REPAIR),
            Table::Absent => self.passes("there is no table inet autoport"),
            Table::Foreign => self.stops("table inet autoport was not made by autoport", REPAIR),
            Table::Ours(identity) if identity.layout != LAYOUT => {
                let layout = identity.layout;
                let text = format!("it has layout {layout}; this autoport supports {LAYOUT}");
                self.unsure(text, "use the autoport of that version")?;
                None
            }
            Table::Ours(_) if way.look.dormant => {
                self.stops("table inet autoport is dormant", REPAIR)
            }
            Table::Ours(_) => {
                let base = if way.from_node { "chain output" } else { "chain prerouting" };
                let shared = ["chain hostports", base];
                match &way.difference {
                    Some(text) if shared.iter().any(|chain| text.contains(chain)) => {
                        self.stops(text, REPAIR)
                    }
                    Some(text) => self.unsure(text, REPAIR),
                    None if way.holds() => self.passes("table inet autoport equals the record"),
                    None => self.passes("table inet autoport is there"),
                }
            }
        }
    }

    fn element(&mut self) -> Option<&'a Translated> {
        self.at = "element";
        let way = self.way;
        match &way.led {
            Led::To(lead) => {
                let Translated { held, map, target, .. } = &**lead;
                self.passes(format!("{held} contains the port, {map} maps it to {target}"))?;
                Some(lead)
            }
            Led::Damaged(set) => {
                let text = format!("{set} contains the port, but its chains are damaged");
                self.unsure(text, REPAIR)?;
                None
            }
            Led::Untranslated(set) => {
                let text = format!("{set} contains the port, but no map contains its target");
                self.stops(text, REPAIR)
            }
            Led::Nowhere if way.holds() => {
                let holder = holder(way);
                let text =
                    format!("{holder} is recorded, but no set of the table contains the port");
                self.stops(text, REPAIR)
            }
            Led::Nowhere => {
                let HostPort { port, protocol, .. } = way.query.host;
                let nowhere = format!("no element contains port {port}/{protocol}");
                let text = match (&way.listener, &way.holders) {
                    (Some(one), _) => format!("no pod holds it; {one} of this node listens there"),
                    (None, Ok(holders)) if holders.is_empty() => {
                        format!("no pod holds port {port}/{protocol}")
                    }
                    (None, Ok(_)) => format!("{}; its ports are not translated", holder(way)),
                    (None, Err(Unseen::Hidden)) => format!("{nowhere}; the records are not seen"),
                    (None, Err(Unseen::Failed(why))) => format!("{nowhere}; {why}"),
                };
                let is_seen = way.holders.is_ok();
                let list = "`autoport list` shows all host ports in use";
                self.stops(text, if is_seen { list } else { DOCTOR })
            }
        }
    }

    fn record(&mut self, lead: &Translated) -> Option<()> {
        self.at = "record";
        match (self.way.record(), &self.way.holders) {
            (Some(record), _) => self.passes(format!("{} holds it", record.owner)),
            (None, Ok(_)) => {
                let text = format!("the element that leads to {} has no record", lead.target);
                self.unsure(text, "`autoport repair` removes it")
            }
            (None, Err(unseen)) => self.unseen(unseen, "not seen", DOCTOR),
        }
    }

    fn host_addresses(&mut self, lead: &Translated) -> Option<()> {
        self.at = "hostAddresses";
        let to = self.way.query.host.address;
        let hosts = &lead.network_policy.policy().host_addresses;
        if hosts.is_empty() {
            return Some(());
        }
        if !hosts.iter().any(|network| network.contains(to)) {
            let text = format!("hostAddresses does not include {to}");
            return self.stops(text, "use another address of the node");
        }
        self.passes(format!("{to} is among them"))
    }

    fn source_ranges(&mut self, lead: &Translated) -> Option<()> {
        self.at = "sourceRanges";
        let sources = &lead.network_policy.policy().source_ranges;
        if sources.is_empty() {
            return Some(());
        }
        let listed = sources.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match self.way.query.from {
            None => self.unsure(format!("only {listed} may connect"), "set the client with --from"),
            Some(from) if from.is_loopback() && from.is_ipv4() => {
                self.passes("loopback clients are always allowed")
            }
            Some(from) if sources.iter().any(|network| network.contains(from)) => {
                self.passes(format!("{from} may connect"))
            }
            Some(from) => {
                self.stops(format!("{from} is not in {listed}"), "add it to sourceRanges")
            }
        }
    }

    fn masquerade(&mut self, lead: &Translated) -> Option<()> {
        self.at = "masquerade";
        let loopback = self.way.is_from_loopback();
        if loopback && lead.target.is_ipv6() {
            let text = "from ::1 nothing is translated: the answer could not come back";
            return self.stops(text, "use an address of the node that is not ::1");
        }
        if loopback && lead.network_policy.policy().masquerade == Masquerade::Nobody {
            let text = "snat is off, so from 127.0.0.0/8 nothing is translated";
            return self.stops(text, "use an address of the node, or set snat");
        }
        self.passes(way::masquerades(lead, self.way.query.from).1)
    }

    fn forwarding(&mut self) -> Option<()> {
        self.at = "forwarding";
        let way = self.way;
        if way.from_node {
            return Some(());
        }
        let name = match (Family::of(&way.query.host.address), &way.arrives_by) {
            (Family::V4, Some(path)) => of_interface(&path.interface, "forwarding"),
            (Family::V4, None) => "net/ipv4/ip_forward".to_owned(),
            (Family::V6, _) => "net/ipv6/conf/all/forwarding".to_owned(),
        };
        let dotted = sysctl_name(&name);
        if way.sysctls.get(&name) == Some("0") {
            return self.stops(format!("{dotted} is 0"), &set_sysctl(&name, 1));
        }
        self.passes(format!("{dotted} is on"))
    }

    fn route(&mut self, lead: &Translated) -> Option<()> {
        self.at = "route";
        let (way, pod) = (self.way, lead.target.ip());
        let log = "check the log of the cluster's CNI plugin";
        let path = match &way.path {
            Ok(path) => path,
            Err(error) => {
                return self.stops(format!("this node has no route to {pod}: {error}"), log);
            }
        };
        let by = &path.interface;
        if path.is_down {
            return self.stops(format!("{by} is down"), log);
        }
        let is_open = way.sysctls.of("all", "route_localnet") == Some("1");
        if way.is_from_loopback() && !kernel::allows_loopback(by) && !is_open {
            let name = of_interface(by, "route_localnet");
            let shown = sysctl_name(&name);
            let text = format!("{shown} is 0: nothing from 127.0.0.0/8 leaves there");
            return self.stops(text, &set_sysctl(&name, 1));
        }
        if way.neighbour == Neighbour::Failed {
            let next = path.gateway.unwrap_or(pod);
            let text = format!("{next} does not answer on {by}");
            return self.stops(text, "see whether the pod's interface is up");
        }
        let gateway = path.gateway.map_or(String::new(), |next| format!(", {next}"));
        self.passes(format!("{pod} by {by}{gateway}"));
        self.at = "bridge";
        let calls = way.sysctls.get("net/bridge/bridge-nf-call-iptables") == Some("1");
        let mut ports = way.links.iter().filter(|port| port.controller == Some(path.index));
        let is_itself = way.query.from == Some(pod);
        if is_itself && calls && ports.any(|port| port.hairpin == Some(false)) {
            let text = "bridge-nf-call-iptables is 1, and the bridge sends nothing back";
            self.unsure(text, "\"hairpinMode\": true for the bridge plugin");
        }
        Some(())
    }

    fn filters(&mut self, lead: &Translated) -> Option<()> {
        let way = self.way;
        let (at, hook) =
            if way.from_node { ("OUTPUT", Hooked::OUTPUT) } else { ("FORWARD", Hooked::FORWARD) };
        self.at = at;
        let Ok((others, _)) = &way.others else {
            return self.unsure("the chains of other tables are not seen", "run it as root");
        };
        let family = Family::of(&lead.target.ip());
        let packet = Packet {
            family,
            protocol: Some(way.query.host.protocol.number()),
            port: Some(lead.target.port()),
            destination: Some(lead.target.ip()),
        };
        // What comes back passes the same chains, unless it is for this node.
        let port = Some(CLIENTS_PORT);
        let back = Packet { port, destination: way.query.from, ..packet };
        let accept = "let it accept `ct status dnat` (autoport doctor says how)";
        let mut sure = true;
        for (name, hooked) in hooked_at(others, hook) {
            if hooked.kind == "nat" || !name.space.has(family) {
                continue;
            }
            match passage(others, name, &packet) {
                Passage::Passes => {
                    if !way.from_node && passage(others, name, &back) == Passage::Drops {
                        return self.stops(format!("{name} drops the answer"), accept);
                    }
                }
                Passage::Depends => {
                    sure = false;
                    let text =
                        format!("{name} drops everything except what some of its rules accept");
                    self.unsure(text, accept);
                }
                Passage::Drops => return self.stops(format!("{name} drops it"), accept),
            }
        }
        if sure { self.passes("no chain drops it") } else { Some(()) }
    }

    fn pod(&mut self, lead: &Translated) -> Option<()> {
        self.at = "pod";
        let (way, target) = (self.way, lead.target);
        let inside = match &way.inside {
            Ok(inside) => inside,
            Err(unseen) => {
                let remedy = "run `autoport gc` if it no longer exists";
                return self.unseen(unseen, "whether it listens is not seen", remedy);
            }
        };
        if !inside.has_address {
            let remedy = "attach it again; run `autoport gc` if it no longer exists";
            return self.stops(format!("it does not have {}", target.ip()), remedy);
        }
        match (&inside.listener, &inside.elsewhere) {
            (Some(listener), _) => self.passes(format!("{listener} listens there")),
            (None, Some(other)) => {
                let text = format!("it listens on {other} only, not on {target}");
                self.stops(text, "have the program listen on 0.0.0.0 or ::")
            }
            (None, None) => {
                let text = format!("nothing listens on {target}/{}", way.query.host.protocol);
                self.stops(text, "start the program, or correct containerPort")
            }
        }?;
        self.at = "answer";
        let Some(why) = &inside.no_way_back else {
            return self.passes("the pod has a route back");
        };
        let text = format!("the pod has {why}");
        let masked = way::masquerades(lead, way.query.from).0;
        if way.query.from.is_some() || masked {
            return self.stops(text, "give it a default route");
        }
        self.unsure(text, "set the client with --from")
    }
}

/// Who holds the port by the records.
fn holder(way: &Way) -> String {
    let holders = way.holders.iter().flatten();
    let names = holders.map(|holder| match &holder.who {
        Who::Record(record) => record.owner.to_string(),
        Who::Reservation(reservation) => format!("reservation {} holds it", reservation.name),
        Who::Unreadable(unreadable) => unreadable.to_string(),
    });
    names.collect::<Vec<_>>().join(", ")
}
