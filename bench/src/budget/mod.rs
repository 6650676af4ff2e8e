//! Where the time of one ADD goes: which system call is for what, and how long each takes.
//!
//! strace tells the calls in words, but stops the process at each; perf puts their times into a
//! buffer, but knows only numbers. The calls are the same on every run, so the one is laid over the
//! other. Beside it the route, which is looked up only where it has to be.

mod perf;
mod steps;

use std::path::PathBuf;

use self::perf::{Run, perf, runs};
use self::steps::{EXEC, EXIT, PARSE, START, STEPS, UNKNOWN, assign, name_of, tally};
use crate::Bench;
use crate::measure::{Call, fix_addresses, micros};
use crate::node::{Node, sysctl};
use crate::plugins::{Executables, NUMBER, Plugin, Pod, ports};
use crate::raw::Row;

const BENCH: &str = "budget";
const ROUNDS: usize = 200;

pub(crate) fn run(bench: &Bench) {
    let node = Node::new();
    let rounds = bench.rounds(ROUNDS);
    let executables = &bench.executables;
    let wall: Vec<f64> = node.space.run(|| {
        let once = |round| {
            let [add, del] = both(executables, round);
            let sample = add.time().success("ADD");
            del.time().success("DEL");
            micros(sample.wall)
        };
        once(0);
        (1..=rounds).map(once).collect()
    });
    let words = node.space.run(|| {
        fix_addresses();
        let [add, del] = both(executables, rounds + 1);
        let words = add.words();
        del.time().success("DEL");
        words
    });
    bench.raw.begin(BENCH);
    let row = |program: &str, phase: &str| Row::new(BENCH, program).param("phase", phase);
    bench.raw.put(&row("autoport", "untraced").samples("us", wall));
    let unknown = assign(&words).into_iter().zip(&words).find(|(step, _)| *step == STEPS.len());
    // On another kernel a call may be answered otherwise, and lead to others; that is worth a table still.
    assert!(!bench.quick || unknown.is_none(), "no step of an ADD makes this call: {unknown:?}");
    match node.space.run(|| perf(executables, rounds)) {
        Ok(events) => {
            let (adds, floors) = runs(&events);
            for (at, one) in steps(&words, &adds).into_iter().enumerate() {
                let row = row("autoport", one.phase).param("step", at).fact("for", one.purpose);
                let row = row.fact("calls", one.calls).samples("us", one.all);
                bench.raw.put(&row.samples("kernel_us", one.kernel));
            }
            for (phase, spans) in bare(&floors) {
                bench.raw.put(&row("floor", phase).samples("us", spans));
            }
        }
        Err(error) => eprintln!("bench: no budget without perf as root: {error}"),
    }
    let route = node.space.run(|| route(executables, rounds));
    bench.raw.begin("route");
    for (known, wall) in [(true, route.0), (false, route.1)] {
        let row = Row::new("route", "autoport").param("known", known);
        bench.raw.put(&row.samples("wall_us", wall));
    }
}

/// ADD and DEL of a pod that was never there before: what a pod has given back is kept for it, and read.
fn both(executables: &Executables, round: usize) -> [Call; 2] {
    let pod = Pod::numbered(NUMBER + round as u16, false, ports(round, 1));
    ["ADD", "DEL"].map(|command| Call::cni(executables, Plugin::Autoport, command, &pod))
}

/// ADD where `route_localnet` is set, and where the interface has to be found and set first.
fn route(executables: &Executables, rounds: usize) -> (Vec<f64>, Vec<f64>) {
    let time = |round| {
        let [add, del] = both(executables, round);
        let sample = add.time().success("ADD");
        del.time().success("DEL");
        micros(sample.wall)
    };
    // Other pods than those before, and never the port of the last.
    let pairs = (0..rounds).map(|turn| {
        let round = 1_000 + 2 * turn;
        let known = time(round);
        sysctl("net/ipv4/conf/cni0/route_localnet", "0");
        (known, time(round + 1))
    });
    pairs.unzip()
}

/// The word by which this program asks itself for [`take_turns`].
pub(crate) const TURNS: &str = "take-turns";

/// ADD, DEL and the empty program, again and again: what perf looks at.
pub(crate) fn take_turns(words: &[String]) {
    let [autoport, floor, rounds] = words else {
        panic!("{TURNS} takes two programs and a number")
    };
    let executables = Executables {
        autoport: PathBuf::from(autoport),
        tools: PathBuf::new(),
        floor: PathBuf::from(floor),
    };
    fix_addresses();
    let rounds: usize = rounds.parse().expect("a number");
    for round in 0..rounds {
        for call in both(&executables, 3_000 + round) {
            call.time().success("ADD or DEL");
        }
        Call::bare(&executables.floor).time().success("the empty program");
    }
}

/// What one step took, in each run.
#[derive(Debug, Default)]
struct Took {
    phase: &'static str,
    purpose: &'static str,
    calls: String,
    all: Vec<f64>,
    kernel: Vec<f64>,
}

/// Lays strace's words over perf's times.
fn steps(words: &[String], runs: &[Run]) -> Vec<Took> {
    let assigned = assign(words);
    let count = STEPS.len();
    let mut all: Vec<Took> = STEPS
        .iter()
        .map(|step| Took { phase: step.phase, purpose: step.purpose, ..Took::default() })
        .collect();
    let make = |phase, purpose| Took { phase, purpose, ..Took::default() };
    all.push(make(UNKNOWN, ""));
    all.push(make(EXIT, "the kernel takes the process down, and the runtime learns of it"));
    all.push(make(EXEC, "a process; the kernel takes the program up"));
    let (exit, exec) = (count + 1, count + 2);
    for (at, one) in all.iter_mut().enumerate() {
        let names = assigned.iter().zip(words).filter(|(step, _)| **step == at);
        one.calls = tally(names.map(|(_, line)| name_of(line)));
    }
    "`execve`".clone_into(&mut all[exec].calls);
    let numbers = |run: &Run| run.calls.iter().map(|call| call.number).collect::<Vec<_>>();
    // Without the execve.
    let alike = |run: &&Run| run.calls.len() + 1 == words.len();
    let Some(usual) = runs.iter().find(alike).map(numbers) else {
        eprintln!("bench: no run has the {} calls that strace saw", words.len());
        return all;
    };
    let same: Vec<&Run> = runs.iter().filter(|run| numbers(run) == usual).collect();
    eprintln!("bench: {} of {} runs made the same calls", same.len(), runs.len());
    for run in same {
        let mut spans = vec![(0.0, 0.0); all.len()];
        spans[exec].0 = run.executed - run.wanted;
        spans[exec].1 = spans[exec].0;
        let mut before = run.executed;
        for (at, call) in run.calls.iter().enumerate() {
            let step = assigned[at + 1];
            // What is computed is computed for the next call; but who has read parses.
            let last = assigned[at];
            let reader = STEPS.get(last).is_some_and(|step| step.phase == PARSE) && at > 0;
            let gap = if reader {
                last
            } else if step == exit {
                exit - 2
            } else {
                step
            };
            spans[gap].0 += call.entered - before;
            let left = if call.left.is_nan() { run.reaped } else { call.left };
            spans[step].0 += left - call.entered;
            spans[step].1 += left - call.entered;
            before = left;
        }
        for (one, (all, kernel)) in all.iter_mut().zip(spans) {
            one.all.push(all);
            one.kernel.push(kernel);
        }
    }
    all.rotate_right(1);
    all.retain(|one| one.phase != UNKNOWN || !one.calls.is_empty());
    all
}

/// The phases of a program that does nothing.
fn bare(runs: &[Run]) -> [(&'static str, Vec<f64>); 3] {
    let last = |run: &Run| run.calls.last().map_or(run.executed, |call| call.entered);
    let each = |span: &dyn Fn(&Run) -> f64| runs.iter().map(span).collect();
    [
        (EXEC, each(&|run| run.executed - run.wanted)),
        (START, each(&|run| last(run) - run.executed)),
        (EXIT, each(&|run| run.reaped - last(run))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERF: &str = "
 7 1.000001000: raw_syscalls:sys_enter: NR 435 (0, 0)
 7 1.000002000: sched:sched_process_fork: comm=bench pid=7 child_comm=bench child_pid=8
 8 1.000003000: raw_syscalls:sys_enter: NR 59 (0, 0)
 8 1.000010000: sched:sched_process_exec: filename=/a pid=8 old_pid=8
 8 1.000010500: raw_syscalls:sys_exit: NR 59 = 0
 7 1.000010600: raw_syscalls:sys_exit: NR 435 = 8
 8 1.000012000: raw_syscalls:sys_enter: NR 158 (0)
 8 1.000013000: raw_syscalls:sys_exit: NR 158 = 0
 8 1.000020000: raw_syscalls:sys_enter: NR 0 (0, 1)
 8 1.000021000: raw_syscalls:sys_exit: NR 0 = 377
 8 1.000041000: raw_syscalls:sys_enter: NR 73 (3)
 8 1.000043000: raw_syscalls:sys_exit: NR 73 = 0
 8 1.000044000: raw_syscalls:sys_enter: NR 231 (0)
 8 1.000045000: sched:sched_process_exit: comm=a pid=8 prio=120
 7 1.000050000: raw_syscalls:sys_exit: NR 61 = 8
";

    #[test]
    fn every_microsecond_belongs_to_one_step() {
        let (adds, floors) = runs(PERF);
        assert_eq!((adds.len(), floors.len()), (1, 0));
        let lines = ["execve(", "arch_prctl(", "read(0, 377", "flock(3, LOCK_EX", "exit_group(0"];
        let took = steps(&lines.map(str::to_owned), &adds);
        let spans: Vec<_> = took
            .iter()
            .filter(|one| !one.calls.is_empty())
            .map(|one| (one.phase, &*one.calls, one.all[0].round(), one.kernel[0].round()))
            .collect();
        assert_eq!(
            spans,
            [
                (EXEC, "`execve`", 9.0, 9.0),
                (START, "`arch_prctl`", 3.0, 1.0),
                // Reading, and what was made of it until the next call.
                (PARSE, "`read`", 28.0, 1.0),
                ("lock", "`flock`", 2.0, 2.0),
                (EXIT, "`exit_group`", 6.0, 6.0),
            ]
        );
        let total: f64 = took.iter().flat_map(|one| &one.all).sum();
        assert_eq!(format!("{total:.0}"), "49", "from wanted to reaped");
    }
}
