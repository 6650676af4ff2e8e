//! The numbers that the node may choose, against everybody else who uses numbers.

use std::num::NonZeroU16;

use ipnetwork::IpNetwork;

use super::{Facts, Report, State, some_of};
use crate::cni::{Config, port_range};
use crate::kernel::{Listener, Named, Process, REPORT};
use crate::model::{Holder, HostPort, PortRange, Record};

/// kube-apiserver's `--service-node-port-range`, unless told otherwise.
const NODE_PORTS: (u16, u16) = (30000, 32767);

pub(super) fn judge(facts: &Facts, configs: &[Config], ranges: &[PortRange], report: &mut Report) {
    if ranges.is_empty() {
        return;
    }
    report.check("port range");
    for range in ranges {
        others_ranges(facts, *range, report);
    }
    report.or_ok(format!("{} overlaps no other range", some_of(ranges)));
    listeners(facts, configs, report);
}

/// Who else uses numbers of `range`.
fn others_ranges(facts: &Facts, range: PortRange, report: &mut Report) {
    let sysctl = |name: &str| facts.sysctls.get(name).unwrap_or_default();
    let ephemeral = ephemeral(sysctl("net/ipv4/ip_local_port_range"));
    let reserved = reserved(sysctl("net/ipv4/ip_local_reserved_ports"));
    // The kernel prints adjacent numbers as one run.
    if let Some(common) = ephemeral.and_then(|ephemeral| common(range, ephemeral))
        && !reserved.iter().any(|run| includes(*run, common))
    {
        report.warning(
            format!("{common} of {range} is also used for outgoing connections of this node (net.ipv4.ip_local_port_range)"),
            format!("sysctl -w net.ipv4.ip_local_reserved_ports={range}, or another portRange"),
        );
    }
    if let Some(common) = self::range(NODE_PORTS.0, NODE_PORTS.1).and_then(|it| common(range, it)) {
        report.warning(
            format!("{common} of {range} is also Kubernetes' NodePort range, and Services take precedence"),
            "another portRange, unless kube-apiserver has another \
             --service-node-port-range",
        );
    }
    let others = reserved
        .into_iter()
        .filter(|reserved| reserved.overlaps(&range) && !includes(*reserved, range))
        .filter(|reserved| ephemeral.is_none_or(|ephemeral| !reserved.overlaps(&ephemeral)));
    let others: Vec<PortRange> = others.collect();
    if !others.is_empty() {
        let others = some_of(&others);
        report.warning(
            format!("{others} of {range} is reserved for other programs (net.ipv4.ip_local_reserved_ports)"),
            format!("put {others} into excludePorts"),
        );
    }
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
    text.split(',').filter_map(port_range).collect()
}

fn common(one: PortRange, other: PortRange) -> Option<PortRange> {
    range(one.first.max(other.first).get(), one.last.min(other.last).get())
}

fn includes(outer: PortRange, inner: PortRange) -> bool {
    outer.first <= inner.first && inner.last <= outer.last
}

/// Whether the network would choose the port, but for the listener.
fn is_in_the_way(config: &Config, listener: &Listener) -> bool {
    let Listener { protocol, port, .. } = *listener;
    let mut hosts = HostPort::each(protocol, None, port);
    ranges(std::slice::from_ref(config)).iter().any(|range| range.contains(port))
        && hosts.any(|host| listener.meets(&host, &config.policy.host_addresses))
}

/// Whether the listener is a process that the runtime runs for the pod, such as podman's conmon: it holds the
/// port so that no other program takes it.
fn is_own(record: &Record, listener: &Listener) -> bool {
    let Holder::Attachment(attachment) = &record.owner.holder else { return false };
    let address = record.pod_addresses.first().map(IpNetwork::ip);
    let process = Process::of(listener, REPORT);
    process.is_some_and(|process| process.works_for(attachment.container_id(), address))
}

fn listeners(facts: &Facts, configs: &[Config], report: &mut Report) {
    report.check("listeners");
    let remedy = "modprobe inet_diag, tcp_diag, udp_diag";
    let seen = report.see(&facts.listeners, "which programs listen", State::Warning, remedy);
    let Some(listeners) = seen else { return };
    let held: Vec<(&Record, &HostPort)> = facts.held().collect();
    let (mut on_held, mut in_range) = (Vec::new(), Vec::new());
    for listener in listeners {
        let meets = |(record, host): &&(&Record, &HostPort)| {
            listener.meets(host, &record.policy.host_addresses)
        };
        if let Some((record, host)) = held.iter().find(meets) {
            if is_own(record, listener) {
                continue;
            }
            on_held.push(format!("{} on {host}, which {} holds", Named(listener), record.owner));
        } else if configs.iter().any(|config| is_in_the_way(config, listener)) {
            in_range.push(Named(listener));
        }
    }
    if !on_held.is_empty() {
        report.warning(
            format!("packets from outside do not reach {}", some_of(&on_held)),
            "configure that program for another port, or give the pod another host port",
        );
    }
    if !in_range.is_empty() {
        let named = some_of(&in_range);
        report.warning(
            format!("ports of the range that are in use by other programs are not chosen: {named}"),
            "put them into excludePorts, or move the program",
        );
    }
    report.or_ok("no program of this node listens in the range");
}

#[cfg(test)]
mod tests;
