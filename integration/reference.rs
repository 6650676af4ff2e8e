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

/// Not asked of portmap 1.1.1: ten DELs at once (some fail on rules that another just took); CHECK
/// (fails for every pod with two families); the Service table that is there first (portmap's rules
/// then run before it).
mod with_iptables {
    use crate::kubernetes::{self, KubeProxy};
    use crate::libcni;
    use crate::plugin::Plugin::PortmapIptables as PORTMAP;
    use crate::portmap_suite;

    #[test]
    fn tcp_is_forwarded_at_every_version() {
        portmap_suite::forwards_tcp(PORTMAP);
    }

    #[test]
    fn udp_is_forwarded_to_a_successor() {
        portmap_suite::forwards_udp_to_a_successor(PORTMAP);
    }

    #[test]
    fn the_address_of_the_container_is_picked() {
        portmap_suite::picks_the_containers_address(PORTMAP);
    }

    #[test]
    fn del_works_without_details() {
        portmap_suite::del_needs_no_details(PORTMAP);
    }

    #[test]
    fn other_tables_survive() {
        portmap_suite::leaves_others_alone(PORTMAP);
    }

    #[test]
    fn repeated_add_and_del_are_harmless() {
        portmap_suite::repeats_are_harmless(PORTMAP);
    }

    #[test]
    fn eight_mappings_in_one_add() {
        portmap_suite::maps_eight_at_once(PORTMAP);
    }

    #[test]
    fn cnitool_adds_checks_and_deletes() {
        libcni::add_check_del("0.3.1", PORTMAP);
    }

    #[test]
    fn conformance() {
        kubernetes::conformance(PORTMAP);
    }

    #[test]
    fn services_on_node_addresses_win_over_an_earlier_plugin() {
        kubernetes::a_service_on_a_node_address_wins(PORTMAP, KubeProxy::AfterThePlugin);
    }

    #[test]
    fn services_keep_the_source_address() {
        kubernetes::service_traffic_keeps_its_source(PORTMAP);
    }
}

/// Not asked of portmap 1.9.1: ADD again (adds every rule again); ten DELs at once (all but the first
/// to finish may fail); the Service table that is there first, as above.
mod with_nftables {
    use crate::kubernetes::{self, KubeProxy};
    use crate::libcni;
    use crate::plugin::Plugin::PortmapNftables as PORTMAP;
    use crate::portmap_suite;

    #[test]
    fn tcp_is_forwarded_at_every_version() {
        portmap_suite::forwards_tcp(PORTMAP);
    }

    #[test]
    fn udp_is_forwarded_to_a_successor() {
        portmap_suite::forwards_udp_to_a_successor(PORTMAP);
    }

    #[test]
    fn check_passes_between_add_and_del() {
        portmap_suite::check_follows_add_and_del(PORTMAP);
    }

    #[test]
    fn the_address_of_the_container_is_picked() {
        portmap_suite::picks_the_containers_address(PORTMAP);
    }

    #[test]
    fn del_works_without_details() {
        portmap_suite::del_needs_no_details(PORTMAP);
    }

    #[test]
    fn other_tables_survive() {
        portmap_suite::leaves_others_alone(PORTMAP);
    }

    #[test]
    fn eight_mappings_in_one_add() {
        portmap_suite::maps_eight_at_once(PORTMAP);
    }

    #[test]
    fn cnitool_adds_checks_and_deletes() {
        libcni::add_check_del("1.1.0", PORTMAP);
    }

    #[test]
    fn conformance() {
        kubernetes::conformance(PORTMAP);
    }

    #[test]
    fn services_on_node_addresses_win_over_an_earlier_plugin() {
        kubernetes::a_service_on_a_node_address_wins(PORTMAP, KubeProxy::AfterThePlugin);
    }

    #[test]
    fn services_keep_the_source_address() {
        kubernetes::service_traffic_keeps_its_source(PORTMAP);
    }
}
