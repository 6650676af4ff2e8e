//! What the node's network does with a packet on its way to a pod.

use super::facts::{Unseen, of_interface, set_sysctl, sysctl_name};
use super::passage::{Packet, Passage, Translation, hooked_at, passage, translations};
use super::{Facts, Report, State, counted, ports, some_of};
use crate::kernel::{ChainName, Hooked, Others, Space};
use crate::model::{Family, Masquerade, PortRange};
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
    for (name, _) in hooked_at(others, Hooked::FORWARD) {
        for family in Family::ALL.into_iter().filter(|family| name.space.has(*family)) {
            if family == Family::V6 && !in_use(facts, family) {
                continue;
            }
            let packet = Packet { family, protocol: None, port: None, destination: None };
            let remedy = remedy_of_forward(others, name);
            match passage(others, name, &packet) {
                Passage::Passes => continue,
                Passage::Depends => report.warning(
                    format!("{name} drops everything except what some of its rules accept"),
                    remedy,
                ),
                Passage::Drops => {
                    report.failed(format!("{name} drops every packet to a pod"), remedy);
                }
            }
            break;
        }
    }
    report.or_ok("no chain drops what is forwarded");
}

fn remedy_of_forward(others: &Others, name: &ChainName) -> String {
    let has = |prefix: &str| {
        others.chains.keys().any(|it| {
            it.space == name.space && it.table == name.table && it.chain.starts_with(prefix)
        })
    };
    if name.table == "firewalld" {
        "firewall-cmd --permanent --zone=trusted --add-interface=<the pods' bridge>".to_owned()
    } else if has("ufw-") {
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
    let hooks = [Hooked::PREROUTING, Hooked::OUTPUT];
    let earlier: Vec<Translation> =
        hooks.iter().flat_map(|hook| translations(others, *hook, AFTER_DSTNAT)).collect();
    let mut taken = taken_ports(facts, &earlier);
    if taken.is_empty() {
        taken.extend(taken_range(facts, &earlier, ranges));
    }
    taken.dedup();
    for (state, text, remedy) in taken.into_iter().take(5) {
        report.add(state, text, Some(remedy));
    }
    if let Some(why) = unseen_legacy {
        report.unseen(why);
    }
    report.or_ok(match earlier.len() {
        0 => "no other table translates host ports first".to_owned(),
        1 => "one rule of another table is applied first, to ports that autoport does not use"
            .to_owned(),
        number => format!(
            "{number} rules of other tables are applied first, to ports that autoport does not use"
        ),
    });
}

/// What an earlier rule does to host ports: how bad it is, which, and what to do.
type Taken = (State, String, String);

/// The host ports of pods that an earlier rule translates.
fn taken_ports(facts: &Facts, earlier: &[Translation]) -> Vec<Taken> {
    let taken = facts.held().filter_map(|(record, host)| {
        let first = earlier.iter().find(|it| it.meets(host, |address| facts.is_local(address)))?;
        let text =
            format!("{} takes {host}, which {} holds, to {}", at(first), record.owner, first.to);
        let state = if first.conditions.unknown { State::Warning } else { State::Failed };
        Some((state, text, remedy_of(first)))
    });
    taken.collect()
}

/// The first rule that translates a port which a pod could be given.
fn taken_range(facts: &Facts, earlier: &[Translation], ranges: &[PortRange]) -> Option<Taken> {
    let ports = |one: &Translation| -> Vec<PortRange> {
        let runs = one.conditions.ports.iter().flatten();
        runs.filter_map(|run| ports::range(*run.start(), *run.end())).collect()
    };
    let first = earlier.iter().find(|one| {
        one.conditions.destination.is_none_or(|to| facts.is_local(to.ip()))
            && ports(one).iter().any(|run| ranges.iter().any(|range| range.overlaps(run)))
    })?;
    let text = format!(
        "{} takes port {} of the range to {}: a pod that is assigned this port receives no traffic",
        at(first),
        some_of(&ports(first)),
        first.to
    );
    Some((State::Warning, text, remedy_of(first)))
}

/// Where the rule is.
pub(super) fn at(translation: &Translation) -> String {
    translation.via.last().map(ToString::to_string).unwrap_or_default()
}

/// What to do about somebody else's rule.
pub(super) fn remedy_of(Translation { via, .. }: &Translation) -> String {
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
