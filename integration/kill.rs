//! Commands that are killed before and after each of their system calls that can change anything.
//!
//! After each: the bystander is served as before, the pod's DEL works, the next claimant has the ports
//! at once, `autoport repair` finds nothing to do, and nothing is left.

use crate::ordeal::{Case, Command, Follow, Scene, points, tell};
use crate::tracer::{Among, Blow, Strike};

/// Kills `command` at every point, and follows it up in the ways that `follow` names for a point.
fn sweep(scene: &Scene, case: Case, command: Command) {
    let (changes, left) = scene.undisturbed(command);
    let mut tried = 0;
    let mut strike = |nth: usize, blow: Blow, follow: Follow| {
        let strike = Strike { among: Among::Changes, nth: Some(nth), blow };
        let traced = scene.strike(command, Some(strike));
        let Some(struck) = &traced.struck else {
            assert!(traced.outcome.status.success(), "{}", traced.outcome);
            scene.recover(command, Follow::Delete);
            scene.next_claimant();
            return false;
        };
        let what = format!("{} {case}, {blow:?} {nth} ({}), {follow:?}", command.name(), struck.text);
        scene.node.note(what.clone());
        assert_eq!(traced.outcome.status.code(), None, "{what}: {}", traced.outcome);
        scene.bystander_is_served(command);
        scene.recover(command, follow);
        scene.no_flow_is_left();
        assert_eq!(scene.next_claimant(), left, "{what}");
        tried += 1;
        true
    };
    let mut nth = 0;
    for at in points(&changes) {
        let other = if at % 2 == 0 { Follow::Again } else { Follow::Sweep };
        strike(at, Blow::KillBefore, Follow::Delete);
        strike(at, Blow::KillAfter, Follow::Delete);
        strike(at, Blow::KillAfter, other);
        nth = at + 1;
    }
    // How often it is looked whether something has expired differs from run to run.
    while strike(nth, Blow::KillBefore, Follow::Delete) {
        nth += 1;
    }
    tell(&format!("kill: {} {case}: {tried} points", command.name()));
}

const COMMANDS: [Command; 4] = [Command::Add, Command::Del, Command::Gc, Command::Repair];

fn sweep_all(case: Case, commands: &[Command]) {
    let scene = Scene::new(case);
    for command in commands {
        sweep(&scene, case, *command);
    }
}

#[test]
fn one_mapping() {
    sweep_all(Case::of(1, false), &COMMANDS);
}

#[test]
fn one_mapping_dual_stack() {
    sweep_all(Case::of(1, true), &COMMANDS);
}

#[test]
fn three_mappings() {
    sweep_all(Case::of(3, false), &COMMANDS);
}

#[test]
fn three_mappings_dual_stack() {
    sweep_all(Case::of(3, true), &COMMANDS);
}
