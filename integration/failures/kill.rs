//! Commands that are killed before and after each of their system calls that can change anything.
//! After each: the bystander is served as before, the pod's DEL works, another pod gets the ports
//! at once, `autoport repair` finds no difference, and nothing is left behind.

use std::thread;

use super::ordeal::{Case, Command, Follow, Scene, is_thorough, points, tell};
use crate::stage::tracer::{Among, Blow, Strike, Which};

/// Kills `command` at every point, and follows it up in the ways that `follow` names for a point.
fn sweep(scene: &Scene, case: Case, command: Command) {
    let (changes, left) = scene.undisturbed(command);
    let mut tried = 0;
    let mut strike = |nth: usize, blow: Blow, follow: Follow| {
        let strike = Strike { among: Among::Changes, which: Which::Only(nth), blow };
        let traced = scene.strike(command, Some(strike));
        let Some(struck) = &traced.struck else {
            assert!(traced.outcome.status.success(), "{}", traced.outcome);
            scene.recover(command, Follow::Delete);
            scene.next_claimant();
            return false;
        };
        let what =
            format!("{} {case}, {blow:?} {nth} ({}), {follow:?}", command.name(), struck.text);
        scene.node.note(what.clone());
        assert_eq!(traced.outcome.status.code(), None, "{what}: {}", traced.outcome);
        scene.bystander_is_served(command);
        scene.recover(command, follow);
        Scene::no_flow_is_left();
        scene.next_claimant().must_be(&left, &what);
        tried += 1;
        true
    };
    let mut nth = 0;
    for at in points(&changes) {
        let other = if at % 2 == 0 { Follow::Again } else { Follow::Sweep };
        strike(at, Blow::KillBefore, Follow::Delete);
        // What is there after a call is what is there before the next one.
        if !case.dual || is_thorough() {
            strike(at, Blow::KillAfter, Follow::Delete);
        }
        if case.dual || is_thorough() {
            strike(at, Blow::KillAfter, other);
        }
        nth = at + 1;
    }
    // How often it is looked whether something has expired differs from run to run.
    while strike(nth, Blow::KillBefore, Follow::Delete) {
        nth += 1;
    }
    tell(&format!("kill: {} {case}: {tried} points", command.name()));
}

const ONCE: [Command; 4] = [Command::Add, Command::Del, Command::Gc, Command::Repair];

/// Each command on a node of its own, all at once: most of the time a grace period of the kernel's is
/// waited for.
fn sweep_all(case: Case, commands: &[Command]) {
    thread::scope(|scope| {
        let one = |command: &Command| {
            let command = *command;
            scope.spawn(move || sweep(&Scene::new(case), case, command))
        };
        let running: Vec<_> = commands.iter().map(one).collect();
        for one in running {
            if let Err(panicked) = one.join() {
                std::panic::resume_unwind(panicked);
            }
        }
    });
}

#[test]
fn one_mapping() {
    sweep_all(Case::of(1, false), &ONCE);
}

#[test]
fn one_mapping_dual_stack() {
    sweep_all(Case::of(1, true), &ONCE);
}

#[test]
fn three_mappings() {
    sweep_all(Case::of(3, false), &ONCE);
}

#[test]
fn three_mappings_dual_stack() {
    sweep_all(Case::of(3, true), &ONCE);
}

/// A sample of what is alike, unless every point is asked for.
#[test]
fn a_hundred_mappings() {
    sweep_all(Case::of(100, false), &ONCE);
}

#[test]
fn a_hundred_mappings_dual_stack() {
    sweep_all(Case::of(100, true), &ONCE);
}

#[test]
fn a_chosen_port() {
    sweep_all(Case { chosen: true, ..Case::of(1, false) }, &ONCE);
}

#[test]
fn three_chosen_ports_dual_stack() {
    sweep_all(Case { chosen: true, ..Case::of(3, true) }, &ONCE);
}

#[test]
fn on_a_disk() {
    sweep_all(Case { synced: true, ..Case::of(3, true) }, &ONCE);
}

#[test]
fn the_first_of_a_node() {
    sweep_all(Case::of(1, true), &[Command::FirstAdd]);
}

#[test]
fn repeated_adds() {
    sweep_all(Case::of(3, true), &Command::REPEATED);
}
