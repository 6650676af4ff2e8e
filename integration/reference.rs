//! The same expectations against Debian's portmap, so that they are not private opinions.

use crate::chain::Main;
use crate::matrix::{self, ANY, ANY_V6, Asker, Expect, Question, SHARED, Source, To};
use crate::plugin::Plugin;

/// portmap translates packets from ::1 to ::1, which the kernel then does not let leave the node:
/// nobody is refused and nobody is answered.
fn iptables(question: &Question, _: Expect) -> Option<Expect> {
    let mapped = [ANY, SHARED, ANY_V6].contains(&question.port);
    let loopback = question.from == Asker::Node && question.to == To::Loopback;
    (question.v6 && mapped && loopback).then_some(Expect::Silence)
}

/// Besides, portmap's nftables backend masquerades a pod that asks for itself, but not its
/// neighbours. On a bridge the holder then answers the neighbour directly, past the node, unless
/// bridges call iptables.
fn nftables(question: &Question, expect: Expect) -> Option<Expect> {
    if let (Asker::Pod(asker), Expect::Reached(holder, Source::Gateway)) = (question.from, expect) {
        let past_the_node = question.main == Main::Bridge && !question.bridge_calls_iptables;
        let instead =
            if past_the_node { Expect::Silence } else { Expect::Reached(holder, Source::Kept) };
        return (asker != holder).then_some(instead);
    }
    iptables(question, expect)
}

#[test]
fn the_matrix_holds_for_portmap_with_iptables_on_a_bridge() {
    matrix::run(Plugin::PortmapIptables, Main::Bridge, iptables);
}

#[test]
fn the_matrix_holds_for_portmap_with_iptables_on_point_to_point_links() {
    matrix::run(Plugin::PortmapIptables, Main::Ptp, iptables);
}

#[test]
fn the_matrix_holds_for_portmap_with_nftables_on_a_bridge() {
    matrix::run(Plugin::PortmapNftables, Main::Bridge, nftables);
}

#[test]
fn the_matrix_holds_for_portmap_with_nftables_on_point_to_point_links() {
    matrix::run(Plugin::PortmapNftables, Main::Ptp, nftables);
}
