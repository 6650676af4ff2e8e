//! The numbers that the node may choose, against everybody else who uses numbers.

use std::num::NonZeroU16;

use super::{Facts, Finding, some_of};
use crate::cni::Config;
use crate::kernel::{Listener, Named};
use crate::model::{HostPort, PortRange, Record};

const CHECK: &str = "port range";

/// kube-apiserver's `--service-node-port-range`, unless told otherwise.
const NODE_PORTS: (u16, u16) = (30000, 32767);

pub(super) fn findings(facts: &Facts, configs: &[Config], ranges: &[PortRange]) -> Vec<Finding> {
    if ranges.is_empty() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for range in ranges.iter().copied() {
        findings.extend(others_ranges(facts, range));
    }
    if findings.is_empty() {
        let text = format!("{} overlaps no other range", some_of(ranges));
        findings.push(Finding::ok(CHECK, text));
    }
    findings.extend(listeners(facts, configs).unwrap_or_else(|unseen| vec![unseen]));
    findings
}

/// Who else uses numbers of `range`.
fn others_ranges(facts: &Facts, range: PortRange) -> Vec<Finding> {
    let mut findings = Vec::new();
    let sysctl = |name: &str| facts.sysctls.get(name).unwrap_or_default();
    let ephemeral = ephemeral(sysctl("net/ipv4/ip_local_port_range"));
    let reserved = reserved(sysctl("net/ipv4/ip_local_reserved_ports"));
    if let Some(common) = ephemeral.and_then(|ephemeral| common(range, ephemeral))
        && !covers(&reserved, common)
    {
        findings.push(Finding::warning(
            CHECK,
            format!("{common} of {range} is also used for outgoing connections of this node (net.ipv4.ip_local_port_range)"),
            format!("sysctl -w net.ipv4.ip_local_reserved_ports={range}, or another portRange"),
        ));
    }
    if let Some(common) = self::range(NODE_PORTS.0, NODE_PORTS.1).and_then(|it| common(range, it)) {
        findings.push(Finding::warning(
            CHECK,
            format!("{common} of {range} is also Kubernetes' NodePort range, and Services take precedence"),
            "another portRange, unless kube-apiserver has another \
             --service-node-port-range",
        ));
    }
    let others: Vec<PortRange> = reserved
        .iter()
        .filter(|reserved| reserved.overlaps(&range) && !includes(**reserved, range))
        .filter(|reserved| ephemeral.is_none_or(|ephemeral| !reserved.overlaps(&ephemeral)))
        .copied()
        .collect();
    if !others.is_empty() {
        findings.push(Finding::warning(
            CHECK,
            format!(
                "{} of {range} is reserved for some program \
                 (net.ipv4.ip_local_reserved_ports)",
                some_of(&others)
            ),
            format!("put {} into excludePorts", some_of(&others)),
        ));
    }
    findings
}

/// Every run of numbers that some network chooses from.
pub(super) fn ranges(configs: &[Config]) -> Vec<PortRange> {
    let mut ranges = Vec::new();
    for Config { ports, .. } in configs {
        let below = range(1, ports.min_port.get() - 1);
        let named = ports.named_ranges.values().flat_map(|range| &range.ports);
        let mut left: Vec<PortRange> = named.chain(&ports.ranges).copied().collect();
        for hole in ports.excluded.iter().copied().chain(below) {
            left = left.iter().flat_map(|range| without(*range, hole)).collect();
        }
        ranges.extend(left);
    }
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}

/// What is left of a run beside a hole.
fn without(whole: PortRange, hole: PortRange) -> impl Iterator<Item = PortRange> + use<> {
    let before = range(whole.first.get(), whole.last.get().min(hole.first.get() - 1));
    let after = range(whole.first.get().max(hole.last.get().saturating_add(1)), whole.last.get());
    let after = after.filter(|_| hole.last < NonZeroU16::MAX);
    before.into_iter().chain(after)
}

pub(super) fn range(first: u16, last: u16) -> Option<PortRange> {
    let range = PortRange { first: NonZeroU16::new(first)?, last: NonZeroU16::new(last)? };
    (range.first <= range.last).then_some(range)
}

fn ephemeral(text: &str) -> Option<PortRange> {
    let mut numbers = text.split_whitespace().map(str::parse);
    range(numbers.next()?.ok()?, numbers.next()?.ok()?)
}

/// `1,2-3`
fn reserved(text: &str) -> Vec<PortRange> {
    let run = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        range(first.trim().parse().ok()?, last.trim().parse().ok()?)
    };
    text.split(',').filter_map(run).collect()
}

fn common(one: PortRange, other: PortRange) -> Option<PortRange> {
    range(one.first.max(other.first).get(), one.last.min(other.last).get())
}

fn includes(outer: PortRange, inner: PortRange) -> bool {
    outer.first <= inner.first && inner.last <= outer.last
}

/// The kernel prints adjacent numbers as one run.
fn covers(runs: &[PortRange], whole: PortRange) -> bool {
    runs.iter().any(|run| includes(*run, whole))
}

/// Whether the network would choose the port, but for the listener.
fn is_in_the_way(config: &Config, listener: &Listener) -> bool {
    let Listener { protocol, port, .. } = *listener;
    let mut hosts = HostPort::each(protocol, None, port);
    ranges(std::slice::from_ref(config)).iter().any(|range| range.contains(port))
        && hosts.any(|host| listener.meets(&host, &config.policy.host_addresses))
}

fn listeners(facts: &Facts, configs: &[Config]) -> Result<Vec<Finding>, Finding> {
    const CHECK: &str = "listeners";
    let listeners = facts.listeners.or(
        || Finding::unseen(CHECK, "which programs listen"),
        |why| Finding::warning(CHECK, why, "modprobe inet_diag, tcp_diag, udp_diag"),
    )?;
    let held: Vec<(&Record, &HostPort)> = facts
        .records()
        .iter()
        .flat_map(|record| record.mappings.iter().map(move |mapping| (record, &mapping.host)))
        .collect();
    let holder = |listener: &Listener| {
        let meets = |(record, host): &&(&Record, &HostPort)| {
            listener.meets(host, &record.policy.host_addresses)
        };
        held.iter().find(meets)
    };
    let mut findings = Vec::new();
    let on_held: Vec<String> = listeners
        .iter()
        .filter_map(|listener| {
            let (record, host) = holder(listener)?;
            Some(format!("{} on {host}, which {} holds", Named(listener), record.owner))
        })
        .collect();
    if !on_held.is_empty() {
        findings.push(Finding::warning(
            CHECK,
            format!("packets from outside do not reach {}", some_of(&on_held)),
            "stop it, or give the pod another port",
        ));
    }
    let in_range: Vec<&Listener> = listeners
        .iter()
        .filter(|listener| configs.iter().any(|config| is_in_the_way(config, listener)))
        .filter(|listener| holder(listener).is_none())
        .collect();
    if !in_range.is_empty() {
        let named: Vec<Named> = in_range.into_iter().map(Named).collect();
        findings.push(Finding::warning(
            CHECK,
            format!(
                "ports of the range that are in use by other programs are not chosen: {}",
                some_of(&named)
            ),
            "put them into excludePorts, or move the program",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "no program of this node listens in the range"));
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u16, last: u16) -> PortRange {
        range(first, last).expect("a range")
    }

    #[test]
    fn sysctls_are_read_as_the_kernel_prints_them() {
        assert_eq!(ephemeral("32768\t60999"), Some(run(32768, 60999)));
        assert_eq!(ephemeral(""), None);
        assert_eq!(reserved("21000,21010-21020"), [run(21000, 21000), run(21010, 21020)]);
        assert_eq!(reserved(""), []);
    }

    #[test]
    fn what_is_excluded_leaves_what_is_beside_it() {
        let left = |hole| without(run(10, 20), hole).collect::<Vec<_>>();
        assert_eq!(left(run(12, 14)), [run(10, 11), run(15, 20)]);
        assert_eq!(left(run(1, 14)), [run(15, 20)]);
        assert_eq!(left(run(15, 65535)), [run(10, 14)]);
        assert_eq!(left(run(1, 9)), [run(10, 20)]);
        assert_eq!(left(run(21, 30)), [run(10, 20)]);
        assert_eq!(left(run(10, 20)), []);
        assert_eq!(without(run(65535, 65535), run(65535, 65535)).count(), 0);
    }

    #[test]
    fn runs_meet_in_what_both_have() {
        assert_eq!(common(run(1, 5), run(5, 9)), Some(run(5, 5)));
        assert_eq!(common(run(1, 4), run(5, 9)), None);
        assert!(covers(&[run(1, 3), run(5, 9)], run(6, 9)) && !covers(&[run(1, 3)], run(3, 4)));
    }
}
