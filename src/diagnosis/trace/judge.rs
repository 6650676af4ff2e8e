//! From what was asked to where the packet goes.

use super::super::facts::Unseen;
use super::super::who_sees_it;
use super::way::{self, Led, Translated, Way};
use super::{Fate, Finding, Trace};
use crate::kernel::Table;
use crate::model::{HostPort, Masquerade};
use crate::ruleset::{LAYOUT, Offload};
use crate::store::Who;

const DOCTOR: &str = "run `autoport doctor`";
const REPAIR: &str = "`autoport repair`";

/// The way so far. What looks at a stretch of it gives `None` where the packet goes no further, so that a
/// question mark ends the walk.
pub(super) struct Walk<'a> {
    pub(super) way: &'a Way<'a>,
    /// The stretch.
    pub(super) at: &'static str,
    steps: Vec<Finding<Fate>>,
    hidden: Vec<&'static str>,
}

pub(super) fn judge(way: &Way<'_>) -> Trace {
    let mut walk = Walk { way, at: "", steps: Vec::new(), hidden: Vec::new() };
    let arrived = walk.follow().is_some();
    let Walk { steps, hidden, .. } = walk;
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
    Trace { steps, hidden, state: fate, verdict }
}

impl<'a> Walk<'a> {
    fn step(&mut self, fate: Fate, text: impl Into<String>, remedy: Option<&str>) -> Option<()> {
        let remedy = remedy.map(str::to_owned);
        self.steps.push(Finding { check: self.at, state: fate, text: text.into(), remedy });
        (fate != Fate::Stops).then_some(())
    }

    pub(super) fn passes(&mut self, text: impl Into<String>) -> Option<()> {
        self.step(Fate::Passes, text, None)
    }

    pub(super) fn unsure(&mut self, text: impl Into<String>, remedy: &str) -> Option<()> {
        self.step(Fate::Unsure, text, Some(remedy))
    }

    pub(super) fn stops<T>(&mut self, text: impl Into<String>, remedy: &str) -> Option<T> {
        self.step(Fate::Stops, text, Some(remedy));
        None
    }

    pub(super) fn unseen(&mut self, unseen: &Unseen, hidden: &str, remedy: &str) -> Option<()> {
        match unseen {
            Unseen::Hidden => {
                self.hidden.push(self.at);
                self.unsure(hidden, who_sees_it())
            }
            Unseen::Failed(why) => self.unsure(why, remedy),
        }
    }

    fn follow(&mut self) -> Option<()> {
        self.destination()?;
        self.arrival();
        self.early()?;
        self.table()?;
        let lead = self.element()?;
        self.record(lead);
        self.host_addresses(lead)?;
        self.source_ranges(lead)?;
        self.masquerade(lead)?;
        self.forwarding()?;
        self.route(lead)?;
        self.filters()?;
        self.offload();
        self.pod(lead)
    }

    /// What becomes of the packets after the first ones.
    fn offload(&mut self) -> Option<()> {
        self.at = "offload";
        let wanted = Offload::of(self.way.record()?);
        if wanted.is_empty() || self.way.from_node {
            return None;
        }
        let seen = &self.way.node.offloading;
        let devices: Vec<_> = wanted.devices.intersection(&seen.devices).cloned().collect();
        self.passes(match &seen.flaw {
            Some(flaw) => format!("{flaw}: later packets take this way, too"),
            None => {
                format!("later packets skip routing and FORWARD between {}", devices.join(", "))
            }
        })
    }

    fn destination(&mut self) -> Option<()> {
        self.at = "destination";
        let to = self.way.query.host.address;
        if !self.way.is_local {
            let text = format!("{to} is not an address of this node");
            return self.stops(text, "use an address that `ip addr` shows");
        }
        let hook = if self.way.from_node { "output" } else { "prerouting" };
        self.passes(format!("{to} is this node's; the packet passes {hook}"))
    }

    fn table(&mut self) -> Option<()> {
        self.at = "table";
        let way = self.way;
        match &way.node.look.table {
            Table::Absent if way.holds() => self.stops("table inet autoport is missing", REPAIR),
            Table::Absent => self.passes("there is no table inet autoport"),
            Table::Foreign => self.stops("table inet autoport was not made by autoport", REPAIR),
            Table::Ours(identity) if identity.layout != LAYOUT => {
                let layout = identity.layout;
                let text = format!("it has layout {layout}; this autoport supports {LAYOUT}");
                self.unsure(text, "use the autoport of that version")?;
                None
            }
            Table::Ours(_) if way.node.look.dormant => {
                self.stops("table inet autoport is dormant", REPAIR)
            }
            Table::Ours(_) => {
                let base = if way.from_node { "chain output" } else { "chain prerouting" };
                let is_ipv6 = way.query.host.address.is_ipv6();
                let passes = |text: &str| {
                    text.contains(base) || (is_ipv6 && text.contains("chain hostports6"))
                };
                match &way.difference {
                    Some(text) if passes(text) => self.stops(text, REPAIR),
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
            let text = "packets from ::1 are not translated: the answer could not come back";
            return self.stops(text, "use an address of the node that is not ::1");
        }
        if loopback && lead.network_policy.policy().masquerade == Masquerade::Nobody {
            let text = "snat is off, so packets from 127.0.0.0/8 are not translated";
            return self.stops(text, "use an address of the node, or set snat");
        }
        self.passes(way::masquerades(lead, self.way.query.from).1)
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
