//! The node agent restores the table too.

use std::thread;
use std::time::Duration;

use super::cost::{time_to_restore, time_to_restore_in_a_fight};
use super::{Watch, full_ruleset};
use crate::stage::bare::{add, attachment, network, tcp};
use crate::stage::netns::{elsewhere, in_one_transaction, nft};
use crate::stage::node::Node;

/// Two agents and the unit of the plugin do not undo each other's work.
#[test]
fn agents_and_the_unit_restore_the_table_together() {
    let node = Node::new();
    let web = attachment(&node, &network("blue"), "web", 5).mapping([tcp(8080)]);
    add(&node, &web);
    let before = full_ruleset();
    let watches = [Watch::of_agent(), Watch::of_agent(), Watch::start()];
    let built = || -> usize {
        watches.iter().map(|watch| watch.said().matches("built table").count()).sum()
    };
    for round in 1..=3 {
        nft("flush ruleset");
        watches[0].wait_for("the table", || web.check().status.success());
        thread::sleep(Duration::from_millis(300));
        assert!((1..=round * 3).contains(&built()), "{round}: {}", built());
    }
    let quiet = built();
    thread::sleep(Duration::from_secs(1));
    assert_eq!((built(), full_ruleset()), (quiet, before));
}

/// Two that restore it at the same time would take the processors from each other.
#[test]
fn a_standby_leaves_it_to_the_other_agent_and_restores_it_alone() {
    let node = Node::new();
    let web = attachment(&node, &network("blue"), "web", 5).mapping([tcp(8080)]);
    add(&node, &web);
    let (agent, standby) = (Watch::of_agent(), Watch::of_standby());
    let built = |watch: &Watch| watch.said().matches("built table").count();
    for round in 1..=3 {
        nft("flush ruleset");
        agent.wait_for("the table", || built(&agent) == round);
        thread::sleep(Duration::from_millis(500));
        assert_eq!((built(&agent), built(&standby)), (round, 0));
    }
    drop(agent);
    nft("flush ruleset");
    standby.wait_for("the table", || built(&standby) == 1);
    web.check().success();
}

#[test]
fn the_time_to_restore_of_the_agent() {
    let records = in_one_transaction(5_000).max(1);
    elsewhere(|| time_to_restore(records, 1, Watch::of_agent));
}

#[test]
#[ignore = "a measurement, run by make bench-agent"]
fn the_time_to_restore_of_the_agent_in_a_fight() {
    let records = in_one_transaction(5_000).max(1);
    elsewhere(|| time_to_restore_in_a_fight(records, Watch::of_agent));
}
