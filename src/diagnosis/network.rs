//! What the node's network does with a packet on its way to a pod.

use super::facts::{Seen, sysctl_name};
use super::passage::{Packet, Passage, Translation, passage, translations};
use super::{Facts, Finding, counted, ports, some_of};
use crate::kernel::{ChainName, Hooked, OtherChain, Others, Space};
use crate::model::{Family, Masquerade, PortRange};
use crate::ruleset;

pub(super) fn findings(facts: &Facts, ranges: &[PortRange]) -> Vec<Finding> {
    let mut findings = forwarding(facts);
    findings.push(reverse_path(facts));
    findings.push(routes(facts));
    findings.extend(bridges(facts));
    findings.extend(forward_policy(facts).unwrap_or_else(|unseen| vec![unseen]));
    findings.extend(other_tables(facts, ranges));
    findings
}

/// Whether some pod with a host port has an address of this family.
fn in_use(facts: &Facts, family: Family) -> bool {
    let targets = facts.records().iter().flat_map(|record| &record.mappings);
    targets.filter_map(|mapping| mapping.target).any(|to| Family::of(&to.ip()) == family)
}

fn forwarding(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "forwarding";
    let sysctls = [
        (Family::V4, "net/ipv4/ip_forward", "net.ipv4.ip_forward"),
        (Family::V6, "net/ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding"),
    ];
    let mut findings = Vec::new();
    let mut on = Vec::new();
    for (family, path, name) in sysctls {
        let value = facts.sysctls.get(path);
        if value.is_some_and(|value| value != "0") {
            on.push(name);
        } else if in_use(facts, family) {
            let text = format!("{name} is 0: packets from outside do not reach any pod");
            findings.push(Finding::failed(CHECK, text, format!("sysctl -w {name}=1")));
        } else if family == Family::V4 {
            let text = format!("{name} is 0: packets from outside would not reach a pod");
            findings.push(Finding::warning(CHECK, text, format!("sysctl -w {name}=1")));
        }
    }
    let off: Vec<&str> = facts
        .sysctls
        .interfaces()
        .filter(|one| facts.sysctls.get(&format!("net/ipv4/conf/{one}/forwarding")) == Some("0"))
        .filter(|one| *one != "lo")
        .collect();
    if !off.is_empty() && !on.is_empty() && findings.is_empty() {
        findings.push(Finding::warning(
            CHECK,
            format!("packets that arrive by {} are not forwarded", some_of(&off)),
            format!("sysctl -w {}=1", sysctl_name(&format!("net/ipv4/conf/{}/forwarding", off[0]))),
        ));
    }
    if findings.is_empty() {
        let verb = if on.len() == 1 { "is" } else { "are" };
        findings.push(Finding::ok(CHECK, format!("{} {verb} on", on.join(" and "))));
    }
    findings
}

fn reverse_path(facts: &Facts) -> Finding {
    const CHECK: &str = "rp_filter";
    let value = |interface: &str| {
        let text = facts.sysctls.get(&format!("net/ipv4/conf/{interface}/rp_filter"));
        text.and_then(|text| text.parse::<u8>().ok()).unwrap_or(0)
    };
    // The kernel takes the larger one; 1 is strict, 2 is loose.
    let all = value("all");
    let strict: Vec<&str> =
        facts.sysctls.interfaces().filter(|one| *one != "lo" && all.max(value(one)) == 1).collect();
    let uplinks: Vec<&str> =
        strict.iter().filter(|one| facts.uplinks.iter().any(|up| up == *one)).copied().collect();
    if facts.uplinks.len() > 1 && !uplinks.is_empty() {
        return Finding::warning(
            CHECK,
            format!(
                "this node has the uplinks {}, and {} is strict: a client whose answers would leave \
                 by another uplink is dropped",
                facts.uplinks.join(" and "),
                some_of(&uplinks)
            ),
            format!(
                "sysctl -w {}=2 (loose)",
                sysctl_name(&format!("net/ipv4/conf/{}/rp_filter", uplinks[0]))
            ),
        );
    }
    let text = if strict.is_empty() { "no interface is strict" } else { "strict, with one uplink" };
    Finding::ok(CHECK, text)
}

fn routes(facts: &Facts) -> Finding {
    const CHECK: &str = "routes";
    if matches!(facts.store, Seen::Hidden) {
        return Finding::unseen(CHECK, "which pods have to be reachable");
    }
    let lost: Vec<String> = facts
        .towards
        .iter()
        .filter(|(_, interface)| interface.is_none())
        .map(|(pod, _)| pod.to_string())
        .collect();
    if !lost.is_empty() {
        return Finding::failed(
            CHECK,
            format!("this node has no route to {}", some_of(&lost)),
            "check the log of the cluster's CNI plugin; run `autoport gc` if the pods no longer exist",
        );
    }
    let closed: Vec<&str> = facts
        .towards
        .iter()
        .filter_map(|(pod, interface)| {
            let interface = interface.as_deref()?;
            let value = facts.sysctls.get(&format!("net/ipv4/conf/{interface}/route_localnet"));
            let all = facts.sysctls.get("net/ipv4/conf/all/route_localnet");
            (pod.is_ipv4() && value == Some("0") && all != Some("1")).then_some(interface)
        })
        .collect();
    if let Some(interface) = closed.first().filter(|_| masquerades(facts)) {
        return Finding::warning(
            CHECK,
            format!(
                "host ports do not answer on 127.0.0.1: route_localnet of {} is 0",
                some_of(&closed)
            ),
            format!(
                "sysctl -w {}=1; the next ADD sets it",
                sysctl_name(&format!("net/ipv4/conf/{interface}/route_localnet"))
            ),
        );
    }
    Finding::ok(
        CHECK,
        match facts.towards.len() {
            0 => "no pod has a host port yet".to_owned(),
            1 => "the pod subnet in use has a route".to_owned(),
            number => format!("all {number} pod subnets in use have a route"),
        },
    )
}

/// Whether packets from 127.0.0.1 are meant to reach a pod.
fn masquerades(facts: &Facts) -> bool {
    facts.records().iter().any(|record| record.policy.masquerade != Masquerade::Nobody)
}

fn bridges(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "bridges";
    let Some(links) = facts.links.known() else { return Vec::new() };
    let towards = |name: &str| facts.towards.iter().any(|(_, by)| by.as_deref() == Some(name));
    let calls = facts.sysctls.get("net/bridge/bridge-nf-call-iptables");
    let bridged: Vec<_> = links
        .iter()
        .filter(|bridge| towards(&bridge.name))
        .flat_map(|bridge| links.iter().filter(|port| port.controller == Some(bridge.index)))
        .filter(|port| port.hairpin.is_some())
        .collect();
    if bridged.is_empty() {
        return Vec::new();
    }
    let setting = match calls {
        Some("1") => "bridge-nf-call-iptables is 1",
        Some(_) => "bridge-nf-call-iptables is 0",
        None => "br_netfilter is not loaded",
    };
    let stiff: Vec<&str> = bridged
        .iter()
        .filter(|port| port.hairpin == Some(false))
        .map(|port| port.name.as_str())
        .collect();
    if calls == Some("1") && !stiff.is_empty() {
        return vec![Finding::warning(
            CHECK,
            format!(
                "{setting}, and the pod behind {} cannot reach its own host port",
                some_of(&stiff)
            ),
            format!(
                "\"hairpinMode\": true for the bridge plugin; now: bridge link set dev {} hairpin on",
                stiff[0]
            ),
        )];
    }
    vec![Finding::ok(CHECK, format!("{setting}; {} on bridges", counted(bridged.len(), "pod")))]
}

/// What lets through what was translated, whoever translated it.
const ACCEPT: &str =
    "iptables -I FORWARD -m conntrack --ctstate DNAT -j ACCEPT, likewise ip6tables";

fn forward_policy(facts: &Facts) -> Result<Vec<Finding>, Finding> {
    const CHECK: &str = "FORWARD";
    let others = facts.others.or(
        || Finding::unseen(CHECK, "the chains of other tables"),
        |why| Finding::warning(CHECK, why, "try again"),
    )?;
    let mut findings = Vec::new();
    let hooked = |chain: &OtherChain| {
        chain.hooked.as_ref().is_some_and(|hooked| hooked.hook == Hooked::FORWARD)
    };
    for (name, _) in others.chains.iter().filter(|(_, chain)| hooked(chain)) {
        for family in Family::ALL.into_iter().filter(|family| name.space.has(*family)) {
            if family == Family::V6 && !in_use(facts, family) {
                continue;
            }
            let packet = Packet { family, protocol: None, port: None, destination: None };
            let remedy = remedy_of_forward(others, name);
            match passage(others, name, &packet) {
                Passage::Passes => continue,
                Passage::Depends => findings.push(Finding::warning(
                    CHECK,
                    format!("{name} drops everything except what some of its rules accept"),
                    remedy,
                )),
                Passage::Drops => findings.push(Finding::failed(
                    CHECK,
                    format!("{name} drops every packet to a pod"),
                    remedy,
                )),
            }
            break;
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "no chain drops what is forwarded"));
    }
    Ok(findings)
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
        format!("nft insert rule {} {table} {chain} ct status dnat accept", space.as_str())
    }
}

/// The priority of our base chains.
pub(super) fn own_priority() -> i32 {
    let chains = ruleset::base_chains();
    let nat = chains.iter().filter(|chain| chain.name == "prerouting");
    nat.filter_map(|chain| chain.base.as_ref()).map(|base| base.priority).next().unwrap_or(-99)
}

const OTHER_TABLES: &str = "other tables";

fn other_tables(facts: &Facts, ranges: &[PortRange]) -> Vec<Finding> {
    const CHECK: &str = OTHER_TABLES;
    let Some(others) = facts.others.known() else {
        return vec![Finding::unseen(CHECK, "whether other tables translate host ports first")];
    };
    let hooks = [Hooked::PREROUTING, Hooked::OUTPUT];
    let earlier: Vec<Translation> =
        hooks.iter().flat_map(|hook| translations(others, *hook, own_priority())).collect();
    let mut findings = taken_ports(facts, &earlier);
    if findings.is_empty() {
        findings.extend(taken_range(facts, &earlier, ranges));
    }
    findings.dedup();
    findings.truncate(5);
    if let Some(why) = &facts.unseen_legacy {
        findings.push(Finding::unseen(CHECK, why.clone()));
    }
    if findings.is_empty() {
        let text = match earlier.len() {
            0 => "no other table translates host ports first".to_owned(),
            1 => "one rule of another table is applied first, to ports that autoport does not use"
                .to_owned(),
            number => format!(
                "{number} rules of other tables are applied first, to ports that autoport does not use"
            ),
        };
        findings.push(Finding::ok(CHECK, text));
    }
    findings
}

/// The host ports of pods that an earlier rule translates.
fn taken_ports(facts: &Facts, earlier: &[Translation]) -> Vec<Finding> {
    let held = facts.records().iter();
    let held = held.flat_map(|record| record.mappings.iter().map(move |one| (record, &one.host)));
    let taken = held.filter_map(|(record, host)| {
        let first = earlier.iter().find(|it| it.meets(host, |address| facts.is_local(address)))?;
        let text =
            format!("{} takes {host}, which {} holds, to {}", at(first), record.owner, first.to);
        let finding = if first.conditions.unknown { Finding::warning } else { Finding::failed };
        Some(finding(OTHER_TABLES, text, remedy_of(first)))
    });
    taken.collect()
}

/// The first rule that translates a port which a pod could be given.
fn taken_range(facts: &Facts, earlier: &[Translation], ranges: &[PortRange]) -> Option<Finding> {
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
    Some(Finding::warning(OTHER_TABLES, text, remedy_of(first)))
}

/// Where the rule is.
pub(super) fn at(translation: &Translation) -> String {
    translation.via.last().map(ToString::to_string).unwrap_or_default()
}

/// What to do about somebody else's rule.
pub(super) fn remedy_of(translation: &Translation) -> String {
    let called = |prefix: &str| translation.via.iter().find(|name| name.chain.starts_with(prefix));
    let of_table = |table: &str| translation.via.iter().any(|name| name.table.starts_with(table));
    if let Some(portmap) = called("CNI-DN-").or_else(|| called("CNI-HOSTPORT-DNAT")) {
        let tool = if portmap.space == Space::Ip6 { "ip6tables" } else { "iptables" };
        let legacy = if portmap.table.ends_with("(iptables-legacy)") { "-legacy" } else { "" };
        return format!(
            "portmap created it; if its container no longer exists: {tool}{legacy} -t nat -F {}",
            portmap.chain
        );
    }
    if of_table("cni_hostport") {
        return "portmap created it; if its container (in the rule's comment) no longer exists: nft -a list \
                table, and nft delete rule by its handle"
            .to_owned();
    }
    if called("KUBE-HOSTPORT").is_some()
        || called("KUBE-HP-").is_some()
        || of_table("crio-hostports")
    {
        return "the runtime maps host ports itself; on CRI-O set disable_hostport_mapping = true"
            .to_owned();
    }
    if called("KUBE-").is_some() || of_table("kube-proxy") {
        return "a Service uses this port, and Services take precedence; give the pod another host port"
            .to_owned();
    }
    if called("DOCKER").is_some() || of_table("docker-bridges") {
        return "a container of Docker publishes it; stop it, or publish another port".to_owned();
    }
    if of_table("netavark") || called("NETAVARK").is_some() {
        return "a container of podman publishes it; stop it, or publish another port".to_owned();
    }
    "delete that rule, or free the port".to_owned()
}
