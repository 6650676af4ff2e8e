//! The same expectations against Debian's portmap, so that they do not only describe autoport.

use std::thread;

use super::kubernetes::{self, KubeProxy};
use super::portmap_suite;
use crate::calls::libcni;
use crate::packets::matrix::{self, ANY, ANY_V6, Asker, Expect, Question, SHARED, Source, To};
use crate::stage::chain::Main;
use crate::stage::plugin::Plugin::{self, PortmapIptables, PortmapNftables};

/// portmap translates packets from `::1` to `::1`, which the kernel then does not let leave the node:
/// no client is refused, and none gets an answer.
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

/// Runs a scenario with both of portmap's backends, each on a node of its own.
fn of_both(scenario: impl Fn(Plugin) + Sync) {
    let scenario = &scenario;
    thread::scope(|scope| {
        for peer in [PortmapIptables, PortmapNftables] {
            scope.spawn(move || scenario(peer));
        }
    });
}

#[test]
fn the_matrix_holds_for_portmap_with_iptables_on_a_bridge() {
    matrix::run(PortmapIptables, Main::Bridge, iptables);
}

#[test]
fn the_matrix_holds_for_portmap_with_iptables_on_point_to_point_links() {
    matrix::run(PortmapIptables, Main::Ptp, iptables);
}

#[test]
fn the_matrix_holds_for_portmap_with_nftables_on_a_bridge() {
    matrix::run(PortmapNftables, Main::Bridge, nftables);
}

#[test]
fn the_matrix_holds_for_portmap_with_nftables_on_point_to_point_links() {
    matrix::run(PortmapNftables, Main::Ptp, nftables);
}

#[test]
fn portmap_forwards_tcp_at_every_version() {
    of_both(portmap_suite::forwards_tcp);
}

#[test]
fn portmap_forwards_udp_to_a_successor() {
    of_both(portmap_suite::forwards_udp_to_a_successor);
}

/// Not asked of portmap 1.1.1, whose CHECK fails for every pod with addresses of two families.
#[test]
fn check_of_portmap_passes_between_add_and_del() {
    portmap_suite::check_follows_add_and_del(PortmapNftables);
}

#[test]
fn portmap_picks_the_address_of_the_container() {
    of_both(portmap_suite::picks_the_containers_address);
}

#[test]
fn del_of_portmap_works_without_details() {
    of_both(portmap_suite::del_needs_no_details);
}

#[test]
fn other_tables_survive_portmap() {
    of_both(portmap_suite::leaves_others_alone);
}

/// Not asked of the nftables backend, which adds every rule again. Ten DELs at once are asked of
/// neither: of those that come second to a rule, some fail.
#[test]
fn repeated_add_and_del_of_portmap_are_harmless() {
    portmap_suite::repeats_are_harmless(PortmapIptables);
}

#[test]
fn portmap_maps_eight_at_once() {
    of_both(portmap_suite::maps_eight_at_once);
}

#[test]
fn cnitool_adds_checks_and_deletes_with_portmap() {
    // At a version without CHECK for the older portmap, for the reason above.
    libcni::add_check_del("0.3.1", PortmapIptables);
    libcni::add_check_del("1.1.0", PortmapNftables);
}

#[test]
fn portmap_passes_the_conformance_case() {
    of_both(kubernetes::conformance);
}

/// Not asked for a Service table that was there first: portmap's chains then run before it, and
/// the host port wins.
#[test]
fn services_on_node_addresses_win_over_an_earlier_portmap() {
    of_both(|peer| {
        kubernetes::a_service_on_a_node_address_wins(peer, KubeProxy::AfterThePlugin);
    });
}

#[test]
fn services_keep_the_source_address_with_portmap() {
    of_both(kubernetes::service_traffic_keeps_its_source);
}
