//! What the node's network does with a packet on its way to a pod.

use std::net::IpAddr;

use super::facts::{Unseen, of_interface, set_sysctl, sysctl_name};
use super::passage::{DSTNAT, Passage, Stage, Taken, Walked, walk};
use super::{Facts, Report, State, counted, some_of};
use crate::kernel::{ChainName, Hook, Local, Others, Packet, Space, Tuple};
use crate::model::{Family, HostPort, Masquerade, PortRange, Protocol};
use crate::ruleset::AFTER_DSTNAT;

pub(super) fn judge(facts: &Facts, ranges: &[PortRange], report: &mut Report) {
    forwarding(facts, report);
    reverse_path(facts, report);
    routes(facts, report);
    bridges(facts, report);
    forward_policy(facts, report);
    other_tables(facts, ranges, report);
}

/// Whether some pod with a host port has an address of this family.
fn in_use(facts: &Facts, family: Family) -> bool {
    let targets = facts.records().iter().flat_map(|record| &record.mappings);
    targets.filter_map(|mapping| mapping.target).any(|to| Family::of(&to.ip()) == family)
}

fn forwarding(facts: &Facts, report: &mut Report) {
    report.check("forwarding");
    let sysctls =
        [(Family::V4, "net/ipv4/ip_forward"), (Family::V6, "net/ipv6/conf/all/forwarding")];
    let mut on = Vec::new();
    for (family, path) in sysctls {
        let name = sysctl_name(path);
        if facts.sysctls.get(path).is_some_and(|value| value != "0") {
            on.push(name);
        } else if in_use(facts, family) {
            let text = format!("{name} is 0: packets from outside do not reach any pod");
            report.failed(text, set_sysctl(path, 1));
        } else if family == Family::V4 {
            let text = format!("{name} is 0: packets from outside would not reach a pod");
            report.warning(text, set_sysctl(path, 1));
        }
    }
    let interfaces = facts.sysctls.interfaces();
    let off: Vec<&str> =
        interfaces.filter(|one| facts.sysctls.of(one, "forwarding") == Some("0")).collect();
    if !off.is_empty() && !on.is_empty() && report.is_clean() {
        report.warning(
            format!("packets that arrive by {} are not forwarded", some_of(&off)),
            set_sysctl(&of_interface(off[0], "forwarding"), 1),
        );
    }
    let verb = if on.len() == 1 { "is" } else { "are" };
    report.or_ok(format!("{} {verb} on", on.join(" and ")));
}

fn reverse_path(facts: &Facts, report: &mut Report) {
    report.check("rp_filter");
    let value = |interface: &str| {
        let text = facts.sysctls.of(interface, "rp_filter");
        text.and_then(|text| text.parse::<u8>().ok()).unwrap_or(0)
    };
    // The kernel takes the larger one; 1 is strict, 2 is loose.
    let all = value("all");
    let strict: Vec<&str> =
        facts.sysctls.interfaces().filter(|one| all.max(value(one)) == 1).collect();
    let is_uplink = |one: &&str| facts.uplinks.iter().any(|uplink| uplink == one);
    let uplinks: Vec<&str> = strict.iter().copied().filter(is_uplink).collect();
    if facts.uplinks.len() > 1 && !uplinks.is_empty() {
        let all = facts.uplinks.join(" and ");
        let text = format!(
            "this node has the uplinks {all}, and {} is strict: a client whose answers would leave \
             by another uplink is dropped",
            some_of(&uplinks)
        );
        let remedy = set_sysctl(&of_interface(uplinks[0], "rp_filter"), 2);
        report.warning(text, format!("{remedy} (loose)"));
    }
    let is_loose = strict.is_empty();
    report.or_ok(if is_loose { "no interface is strict" } else { "strict, with one uplink" });
}

fn routes(facts: &Facts, report: &mut Report) {
    report.check("routes");
    if matches!(facts.store, Err(Unseen::Hidden)) {
        return report.unseen("which pods have to be reachable");
    }
    let lost = facts.towards.iter().filter(|(_, interface)| interface.is_none());
    let lost: Vec<String> = lost.map(|(pod, _)| pod.to_string()).collect();
    if !lost.is_empty() {
        return report.failed(
            format!("this node has no route to {}", some_of(&lost)),
            "check the log of the cluster's CNI plugin; run `autoport gc` if the pods no longer exist",
        );
    }
    let value = |interface: &str| facts.sysctls.of(interface, "route_localnet");
    let by = facts.towards.iter().filter(|(pod, _)| pod.is_ipv4());
    let by = by.filter_map(|(_, interface)| interface.as_deref());
    let closed: Vec<&str> =
        by.filter(|by| value(by) == Some("0") && value("all") != Some("1")).collect();
    // Only then are packets from 127.0.0.1 meant to reach a pod.
    let masquerades = |policy| policy != Masquerade::Nobody;
    if !closed.is_empty()
        && facts.records().iter().any(|record| masquerades(record.policy.masquerade))
    {
        let remedy = set_sysctl(&of_interface(closed[0], "route_localnet"), 1);
        let closed = some_of(&closed);
        return report.warning(
            format!("host ports do not answer on 127.0.0.1: route_localnet of {closed} is 0"),
            format!("{remedy}; the next ADD sets it"),
        );
    }
    report.ok(match facts.towards.len() {
        0 => "no pod has a host port yet".to_owned(),
        1 => "the pod subnet in use has a route".to_owned(),
        number => format!("all {number} pod subnets in use have a route"),
    });
}

fn bridges(facts: &Facts, report: &mut Report) {
    report.check("bridges");
    let links = &facts.links;
    let towards = |name: &str| facts.towards.iter().any(|(_, by)| by.as_deref() == Some(name));
    let bridged = links.iter().filter(|bridge| towards(&bridge.name));
    let bridged = bridged
        .flat_map(|bridge| links.iter().filter(|port| port.controller == Some(bridge.index)));
    let bridged: Vec<_> = bridged.filter(|port| port.hairpin.is_some()).collect();
    if bridged.is_empty() {
        return;
    }
    let calls = facts.sysctls.get("net/bridge/bridge-nf-call-iptables");
    let setting = match calls {
        Some("1") => "bridge-nf-call-iptables is 1",
        Some(_) => "bridge-nf-call-iptables is 0",
        None => "br_netfilter is not loaded",
    };
    let stiff = bridged.iter().filter(|port| port.hairpin == Some(false));
    let stiff: Vec<&str> = stiff.map(|port| port.name.as_str()).collect();
    if calls == Some("1") && !stiff.is_empty() {
        let first = stiff[0];
        let stiff = some_of(&stiff);
        report.warning(
            format!("{setting}, and the pod behind {stiff} cannot reach its own host port"),
            format!(
                "\"hairpinMode\": true for the bridge plugin; now: bridge link set dev {first} hairpin on"
            ),
        );
    }
    report.or_ok(format!("{setting}; {} on bridges", counted(bridged.len(), "pod")));
}

/// What lets through what was translated, whoever translated it.
const ACCEPT: &str =
    "iptables -I FORWARD -m conntrack --ctstate DNAT -j ACCEPT, likewise ip6tables";

fn forward_policy(facts: &Facts, report: &mut Report) {
    report.check("FORWARD");
    let hidden = "the chains of other tables";
    let seen = report.see(&facts.others, hidden, State::Warning, "try again");
    let Some((others, _)) = seen else { return };
    for family in Family::ALL {
        if family == Family::V6 && !in_use(facts, family) {
            continue;
        }
        // The first packet of a connection that was translated to any pod.
        let mut packet = Packet {
            state: Some(Packet::NEW),
            status: Some(1 << 5),
            is_answer: Some(false),
            mark: Some(0),
            destination_type: Some(1),
            ..Packet::unknown(family)
        };
        let walked = walk(others, &Stage::of(Hook::Forward), &mut packet);
        let Some((name, passage)) = walked.obstacle else { continue };
        let remedy = remedy_of_drop(others, &name, &passage);
        let is_known = report.findings.iter().any(|it| it.text.contains(&name.to_string()));
        match passage {
            _ if is_known => {}
            Passage::Depends(_) => report.warning(passage.about("it"), remedy),
            Passage::Drops(_) => report.failed(passage.about("every packet to a pod"), remedy),
            // A rule against some clients is no rule against host ports.
            Passage::Passes | Passage::Perhaps(_) => {}
        }
    }
    report.or_ok("no chain drops what is forwarded");
}

/// What to do about a chain that drops, or may drop, packets.
pub(super) fn remedy_of_drop(others: &Others, name: &ChainName, passage: &Passage) -> String {
    let hooked = others.chains.get(name).and_then(|chain| chain.hooked.as_ref());
    let is_forward = hooked.is_some_and(|hooked| hooked.hook == Hook::Forward);
    let by_policy = match passage {
        Passage::Drops(at) => *at == name.to_string(),
        Passage::Depends(_) => true,
        Passage::Passes | Passage::Perhaps(_) => false,
    };
    if is_forward && by_policy {
        remedy_of_forward(others, name)
    } else {
        "change that rule if such packets are to pass".to_owned()
    }
}

fn remedy_of_forward(others: &Others, name: &ChainName) -> String {
    let has = |prefix: &str| {
        others.chains.keys().any(|it| {
            it.space == name.space && it.table == name.table && it.chain.starts_with(prefix)
        })
    };
    if name.table == "firewalld" {
        "firewall-cmd --permanent --zone=trusted --add-interface=<the pods' bridge>".to_owned()
    } else if has("ufw-") || has("ufw6-") {
        format!("ufw default allow routed; or {ACCEPT}")
    } else if name.chain == "FORWARD" {
        ACCEPT.to_owned()
    } else {
        let ChainName { space, table, chain } = name;
        format!("nft insert rule {space} {table} {chain} ct status dnat accept")
    }
}

fn other_tables(facts: &Facts, ranges: &[PortRange], report: &mut Report) {
    report.check("other tables");
    let Ok((others, unseen_legacy)) = &facts.others else {
        return report.unseen("whether other tables translate host ports first");
    };
    let mut first = First { facts, others, left: WALKS_MAX };
    let mut taken = first.of_pods();
    if taken.is_empty() {
        taken.extend(first.of_ranges(ranges));
    }
    taken.dedup();
    for (state, text, remedy) in taken.into_iter().take(5) {
        report.add(state, text, Some(remedy));
    }
    if let Some(why) = unseen_legacy {
        report.unseen(why);
    }
    report.or_ok("no other table translates host ports first");
}

/// How many packets are followed at most.
const WALKS_MAX: usize = 200_000;

/// How many of the node's addresses are asked for.
const ADDRESSES_MAX: usize = 8;

/// What an earlier rule does to host ports: how bad it is, which, and what to do.
type Told = (State, String, String);

/// Looks for rules that translate host ports before ours.
struct First<'a> {
    facts: &'a Facts,
    others: &'a Others,
    left: usize,
}

impl First<'_> {
    /// The host ports of pods that an earlier rule translates.
    fn of_pods(&mut self) -> Vec<Told> {
        let mut told: Vec<Told> = Vec::new();
        let held: Vec<_> = self.facts.held().collect();
        self.each(|first, rules, address| {
            let family = Family::of(&address);
            let of_family = |host: &HostPort| {
                Family::of(&host.address) == family
                    && (host.is_wildcard() || host.address == address)
            };
            for (record, host) in held.iter().filter(|(_, host)| of_family(host)) {
                let asked = HostPort { address, ..**host };
                if let Some(text) = first.lost(rules, &asked) {
                    let remedy = "exclude the packets of host ports from that rule".to_owned();
                    if !told.iter().any(|(_, known, _)| *known == text) {
                        told.push((State::Failed, text, remedy));
                    }
                    continue;
                }
                let Some(taken) = first.taken(rules, &asked) else { continue };
                let (at, Taken { to, rule, .. }) = (at(&taken), &taken);
                let text =
                    format!("{at} takes {host}, which {} holds, to {to} ({rule})", record.owner);
                let state = if taken.is_certain { State::Failed } else { State::Warning };
                if !told.iter().any(|(_, known, _)| *known == text) {
                    told.push((state, text, remedy_of(&taken)));
                }
            }
        });
        told.sort_by_key(|(state, ..)| std::cmp::Reverse(*state));
        told
    }

    /// The first rule that translates a port which a pod could be given.
    fn of_ranges(&mut self, ranges: &[PortRange]) -> Option<Told> {
        let mut told = None;
        self.each(|first, rules, address| {
            for port in ranges.iter().flat_map(|range| range.first.get()..=range.last.get()) {
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    let Ok(port) = port.try_into() else { continue };
                    if told.is_some() {
                        return;
                    }
                    let host = HostPort { protocol, address, port };
                    told = first.taken(rules, &host).map(|taken| {
                        let (at, Taken { to, rule, .. }) = (at(&taken), &taken);
                        let text = format!(
                            "{at} takes port {port} of the range to {to} ({rule}): a pod that is assigned \
                             this port receives no traffic"
                        );
                        (State::Warning, text, remedy_of(&taken))
                    });
                }
            }
        });
        told
    }

    /// For each address of the node, with the rules that may be for packets to it, if some of them translate.
    fn each(&mut self, mut work: impl FnMut(&mut Self, &Others, IpAddr)) {
        for family in Family::ALL {
            let own = self.facts.local.iter().flat_map(Local::hosts);
            let own = own.filter(|own| Family::of(own) == family && !own.is_loopback());
            for address in own.take(ADDRESSES_MAX).collect::<Vec<_>>() {
                let any = packet_to(None, address, None);
                let rules = self.others.for_packet(&any);
                if taken(&rules, &any).is_some() || !is_clean(&early(&rules, &any)) {
                    work(self, &rules, address);
                }
            }
        }
    }

    /// Why no packet to the port comes as far as our table.
    fn lost(&mut self, rules: &Others, host: &HostPort) -> Option<String> {
        self.left = self.left.checked_sub(1)?;
        let protocol = Some(host.protocol.number());
        let walked = early(rules, &packet_to(protocol, host.address, Some(host.port.get())));
        match (walked.untracked, walked.obstacle) {
            (Some((at, true)), _) => {
                Some(format!("{at} keeps packets to host ports from connection tracking"))
            }
            (_, Some((_, passage @ Passage::Drops(_)))) => {
                Some(passage.about("packets to host ports"))
            }
            _ => None,
        }
    }

    fn taken(&mut self, rules: &Others, host: &HostPort) -> Option<Taken> {
        self.left = self.left.checked_sub(1)?;
        let protocol = Some(host.protocol.number());
        taken(rules, &packet_to(protocol, host.address, Some(host.port.get())))
    }
}

/// The first packet of a connection to a port of this node, from anywhere.
fn packet_to(protocol: Option<u8>, address: IpAddr, port: Option<u16>) -> Packet {
    let tuple = Tuple { destination: Some(address), destination_port: port, ..Tuple::default() };
    Packet {
        protocol,
        tuple,
        original: tuple,
        answer: tuple.reversed(),
        state: Some(Packet::NEW),
        status: Some(0),
        is_answer: Some(false),
        destination_type: Some(2),
        ..Packet::unknown(Family::of(&address))
    }
}

/// What a packet from outside meets before it is translated.
fn early(rules: &Others, packet: &Packet) -> Walked {
    let stage = Stage { priorities: i32::MIN..=DSTNAT, ..Stage::of(Hook::Prerouting) };
    walk(rules, &stage, &mut packet.clone())
}

const fn is_clean(walked: &Walked) -> bool {
    walked.untracked.is_none() && walked.obstacle.is_none()
}

fn taken(rules: &Others, packet: &Packet) -> Option<Taken> {
    let priorities = i32::MIN..=AFTER_DSTNAT - 1;
    [Hook::Prerouting, Hook::Output].into_iter().find_map(|hook| {
        let stage = Stage { nat: true, priorities: priorities.clone(), ..Stage::of(hook) };
        walk(rules, &stage, &mut packet.clone()).taken
    })
}

/// Where the rule is.
pub(super) fn at(taken: &Taken) -> String {
    taken.via.last().map(ToString::to_string).unwrap_or_default()
}

/// What to do about a rule of another program.
pub(super) fn remedy_of(Taken { via, .. }: &Taken) -> String {
    let called = |prefix: &str| via.iter().find(|name| name.chain.starts_with(prefix));
    let of_table = |table: &str| via.iter().any(|name| name.table.starts_with(table));
    if let Some(portmap) = called("CNI-DN-").or_else(|| called("CNI-HOSTPORT-DNAT")) {
        let tool = if portmap.space == Space::Ip6 { "ip6tables" } else { "iptables" };
        let legacy = if portmap.table.ends_with("(iptables-legacy)") { "-legacy" } else { "" };
        let chain = &portmap.chain;
        return format!(
            "portmap created it; if its container no longer exists: {tool}{legacy} -t nat -F {chain}"
        );
    }
    let any = |prefixes: &[&str]| prefixes.iter().any(|prefix| called(prefix).is_some());
    let remedy = if of_table("cni_hostport") {
        "portmap created it; if its container (in the rule's comment) no longer exists: nft -a list table, \
         and nft delete rule by its handle"
    } else if any(&["KUBE-HOSTPORT", "KUBE-HP-"]) || of_table("crio-hostports") {
        "the runtime maps host ports itself; on CRI-O set disable_hostport_mapping = true"
    } else if any(&["KUBE-"]) || of_table("kube-proxy") {
        "a Service uses this port, and Services take precedence; give the pod another host port"
    } else if any(&["DOCKER"]) || of_table("docker-bridges") {
        "a container of Docker publishes it; stop it, or publish another port"
    } else if any(&["NETAVARK"]) || of_table("netavark") {
        "a container of podman publishes it; stop it, or publish another port"
    } else {
        "delete that rule, or free the port"
    };
    remedy.to_owned()
}
