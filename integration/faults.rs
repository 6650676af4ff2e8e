//! Commands that are killed, or whose system calls fail, at a chosen point; strace does it.

use nix::mount::{MsFlags, mount};

use crate::bare::{add, attachment, network, run, tcp};
use crate::chain::Attachment;
use crate::node::Node;
use crate::plugin::Outcome;
use crate::view::{assert_nothing_held, snapshot};

/// Runs a command with `fault`, an `inject=` expression of strace(1).
pub(crate) fn with_fault(attachment: &Attachment, command: &str, fault: &str) -> Outcome {
    let inject = format!("inject={fault}");
    let strace = [
        "strace",
        "-f",
        "-e",
        "trace=sendto,renameat,renameat2",
        "-e",
        &inject,
        "-o",
        "/run/strace",
    ];
    attachment.plugin_call(command).under(&strace).run()
}

/// A claimant that gets no further than to put the holder's port into its own name must not keep
/// the port from everybody else.
#[test]
fn a_takeover_that_fails_or_dies_leaves_the_port_free() {
    // The record cannot be renamed into place; killed before the kernel is asked anything; killed
    // before each of the first transactions.
    let faults = ["renameat,renameat2:error=ENOSPC"]
        .map(str::to_owned)
        .into_iter()
        .chain((1..=10).map(|nth| format!("sendto:signal=SIGKILL:when={nth}")))
        .chain((1..=3).map(|nth| format!("renameat,renameat2:signal=SIGKILL:when={nth}")));
    let node = Node::new();
    let mut struck = 0;
    for fault in faults {
        let pod = |id, number| attachment(&node, &network("blue"), id, number).mapping([tcp(8080)]);
        let old = pod("old", 5).of_pod("shop", "web", "uid");
        let new = pod("new", 6).of_pod("shop", "web", "uid");
        let next = pod("next", 7);
        add(&node, &old);
        struck += u32::from(!with_fault(&new, "ADD", &fault).status.success());
        run(&new, "DEL").success();
        run(&old, "DEL").success();
        node.note(fault);
        add(&node, &next);
        next.check().success();
        run(&next, "DEL").success();
        assert_nothing_held();
    }
    assert!(struck >= 6, "only {struck} faults struck");
}

/// The record of a repeated ADD already names the new configuration while the kernel still has the
/// elements of the old one.
#[test]
fn a_changed_configuration_that_was_not_carried_out_leaves_nothing_behind() {
    let node = Node::new();
    let mut struck = 0;
    for nth in 1..=6 {
        let plain = attachment(&node, &network("blue"), "pod", 5).mapping([tcp(8080)]);
        add(&node, &plain);
        let counting = network("blue").with("counters", true);
        let counting = attachment(&node, &counting, "pod", 5).mapping([tcp(8080)]);
        let outcome = with_fault(&counting, "ADD", &format!("sendto:signal=SIGKILL:when={nth}"));
        struck += u32::from(!outcome.status.success());
        run(&counting, "DEL").success();
        assert_nothing_held();
    }
    assert!(struck >= 4, "only {struck} faults struck");
}

/// What happens after the transaction is in force must not be taken for its refusal.
#[test]
fn a_fault_after_the_change_does_not_take_its_record_back() {
    let node = Node::new();
    let mut struck = 0;
    for nth in 1..=6 {
        let pod = |second| {
            let one = attachment(&node, &network("blue"), "pod", 5);
            one.mapping([tcp(8080), tcp(second)])
        };
        let (before, after) = (pod(8081), pod(8082));
        add(&node, &before);
        let outcome = with_fault(&after, "ADD", &format!("sendto:error=ENOMEM:when={nth}"));
        let held = if outcome.status.success() { &after } else { &before };
        struck += u32::from(!outcome.status.success());
        node.note(format!("ENOMEM at question {nth}: {outcome}"));
        held.check().success();
        run(held, "DEL").success();
        assert_nothing_held();
    }
    assert!(struck >= 3, "only {struck} faults struck");
}

/// The standard library panics where the machine has no random numbers: the only panic that is known,
/// and one that needs a broken machine. The runtime is told all the same, and nothing is left.
#[test]
fn a_panic_is_an_error_reply() {
    let node = Node::new();
    let held = attachment(&node, &network("blue"), "held", 5).mapping([tcp(8080)]);
    // This begins the store, which takes a random number.
    add(&node, &held);
    let random = network("blue").with("allocation", "random");
    let lucky = attachment(&node, &random, "lucky", 6).mapping([tcp(0)]);
    let before = snapshot();
    let nothing = Some("/dev/null");
    mount(nothing, "/dev/urandom", None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .expect("the mount namespace is the test's own");
    let strace = ["strace", "-f", "-e", "inject=getrandom:error=ENOSYS", "-o", "/run/strace"];
    let outcome = lucky.plugin_call("ADD").under(&strace).run();
    outcome.failure(999);
    assert!(outcome.message().contains("please report it"), "{outcome}");
    let details = outcome.reply.as_ref().and_then(|reply| reply["details"].as_str());
    assert!(details.is_some_and(|details| details.contains("panicked at")), "{outcome}");
    assert!(outcome.stderr.contains("panicked at"), "{outcome}");
    assert_eq!(snapshot(), before);
    run(&lucky, "DEL").success();
    held.check().success();
}
