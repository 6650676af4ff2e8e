//! Where the time of one ADD goes: which system call is for what, and how long each takes.
//!
//! strace tells the calls in words, but stops the process at each; perf puts their times into a
//! buffer, but knows only numbers. The calls are the same on every run, so the one is laid over the
//! other. Beside it the route, which is looked up only where it has to be.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use crate::Bench;
use crate::measure::{Call, fix_addresses, micros};
use crate::node::{Node, sysctl, tool};
use crate::plugins::{Executables, NUMBER, Plugin, Pod, ports};
use crate::raw::Row;

const BENCH: &str = "budget";
const ROUNDS: usize = 200;

/// Some calls in a row that serve one end.
struct Step {
    phase: &'static str,
    purpose: &'static str,
    /// Names of calls, each with something that strace shows of it.
    calls: &'static [(&'static str, &'static str)],
}

const fn step(
    phase: &'static str,
    purpose: &'static str,
    calls: &'static [(&'static str, &'static str)],
) -> Step {
    Step { phase, purpose, calls }
}

const PARSE: &str = "parse";
const EXEC: &str = "exec";
const START: &str = "runtime start";
const EXIT: &str = "exit";

/// An ADD on a node that has the table, in order. `brk` is memory for whatever is being done.
const STEPS: [Step; 24] = [
    step(
        START,
        "the C library's start, in every static program: heap, thread, stack guard; what is constant \
         from now on becomes read-only",
        &[
            ("arch_prctl", ""),
            ("set_tid_address", ""),
            ("set_robust_list", ""),
            ("rseq", ""),
            ("prlimit64", ""),
            ("readlink", ""),
            ("getrandom", ""),
            ("mprotect", ""),
        ],
    ),
    step(
        START,
        "a runtime that hangs up must not end us in the middle; streams that are closed must not \
         become files of the store",
        &[("rt_sigprocmask", ""), ("poll", "")],
    ),
    step(
        PARSE,
        "stdin: no terminal; the configuration, and its end",
        &[("ioctl", "TCGETS"), ("read", "(0, ")],
    ),
    step(
        PARSE,
        "`/etc/cni/autoport.json`, mostly absent; whether the kernel knows statx",
        &[("openat", "autoport.json"), ("statx", "autoport.json"), ("statx", "NULL")],
    ),
    step(
        "lock",
        "the state directory: ours, nobody else's to write, and in memory, so that nothing needs a sync",
        &[("openat", "O_DIRECTORY"), ("statx", "S_IFDIR"), ("geteuid", ""), ("fstatfs", "TMPFS")],
    ),
    step(
        "lock",
        "the lock, and that it is still the file of this name",
        &[("openat", "\"lock\""), ("flock", ""), ("statx", "S_IFREG")],
    ),
    step(
        "store",
        "the instance: which table and which network namespace this store belongs to",
        &[("openat", "\"instance\""), ("statx", "S_IFREG"), ("read", ""), ("close", "")],
    ),
    step("store", "our network namespace", &[("newfstatat", "/proc/self/ns/net")]),
    step(
        "netlink",
        "the way to nf_tables, before anything is recorded",
        &[("socket", "NETFILTER"), ("setsockopt", "")],
    ),
    step(
        "netlink",
        "whether portmap has rules here, which would come before ours",
        &[("sendto", "nlmsg_type=0xa04"), ("sendto", "GETCHAIN"), ("recvfrom", "")],
    ),
    step("store", "what this attachment holds already", &[("openat", "\"attachments/")]),
    step(
        "store",
        "the pod's network namespace, and our mount namespace: the evidence by which it is known \
         later that it is gone",
        &[
            ("openat", "O_PATH"),
            ("fstatfs", ""),
            ("newfstatat", "AT_EMPTY_PATH"),
            ("close", ""),
            ("newfstatat", "/proc/self/ns/mnt"),
        ],
    ),
    step("store", "who holds the port", &[("openat", "/ports/")]),
    step(
        "store",
        "what it gave back in the last ten to twenty minutes",
        &[("openat", "\"released/")],
    ),
    step(
        "listeners",
        "who listens on the port, IPv4 and IPv6: a question, an answer, its end",
        &[
            ("socket", "SOCK_DIAG"),
            ("setsockopt", ""),
            ("sendto", ""),
            ("recvfrom", ""),
            ("close", ""),
        ],
    ),
    step(
        "store",
        "what the record replaces; the entries of the port: the first try finds that the directory is \
         not there",
        &[("openat", "\"attachments/"), ("symlinkat", ""), ("mkdirat", ""), ("fchmodat", "")],
    ),
    step(
        "store",
        "the record, complete or not at all; fchmod, because a umask may take rights away",
        &[
            ("openat", "\".new\""),
            ("fchmod", ""),
            ("write", ""),
            ("close", ""),
            ("renameat", "\".new\""),
        ],
    ),
    step(
        "netlink",
        "the table",
        &[("sendto", "nlmsg_type=0xa01"), ("sendto", "GETTABLE"), ("recvfrom", "")],
    ),
    step("netlink", "its chains", &[("sendto", "GETCHAIN"), ("recvfrom", "")]),
    step("netlink", "its rules", &[("sendto", "GETRULE"), ("recvfrom", "")]),
    step("netlink", "the elements of the port", &[("sendto", "GETSETELEM"), ("recvfrom", "")]),
    step(
        "netlink",
        "the transaction, and its acknowledgement",
        &[("sendto", "BATCH_BEGIN"), ("recvfrom", "")],
    ),
    step(
        "route_localnet",
        "of the interfaces that the bridge plugin named",
        &[("openat", "route_localnet"), ("statx", ""), ("read", ""), ("close", "")],
    ),
    step(
        "reply",
        "what an earlier ADD has published; the lock is let go; the reply",
        &[("openat", "\"pods/"), ("unlinkat", ""), ("close", ""), ("write", "(1, ")],
    ),
];

/// What no step is for.
const UNKNOWN: &str = "not assigned";

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

/// What perf saw of [`take_turns`].
fn perf(executables: &Executables, rounds: usize) -> Result<String, String> {
    const EVENTS: &str = "raw_syscalls:sys_enter,raw_syscalls:sys_exit,sched:sched_process_fork,\
                          sched:sched_process_exec,sched:sched_process_exit";
    let own = std::env::current_exe().expect("the path of this program");
    let mut record = Command::new("perf");
    record.env("PATH", crate::node::PATH);
    record.args([
        "record",
        "-q",
        "-c",
        "1",
        "-m",
        "16M",
        "-e",
        EVENTS,
        "-o",
        "/run/perf.data",
        "--",
    ]);
    record.arg(own).arg(TURNS).args([&executables.autoport, &executables.floor]);
    let output = record.arg(rounds.to_string()).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let mut script = Command::new("perf");
    script.args(["script", "--ns", "-F", "tid,time,event,trace", "-i", "/run/perf.data"]);
    Ok(tool(&mut script, ""))
}

/// One system call of a run: when it began and ended, and its number.
#[derive(Clone, Copy, Debug)]
struct Made {
    number: u32,
    entered: f64,
    left: f64,
}

/// One process, all times in microseconds.
#[derive(Clone, Debug, Default)]
struct Run {
    wanted: f64,
    executed: f64,
    calls: Vec<Made>,
    ended: f64,
    reaped: f64,
}

/// The runs of ADD and of the empty program, out of what `perf script` prints.
fn runs(text: &str) -> (Vec<Run>, Vec<Run>) {
    let mut by_child: BTreeMap<u32, Run> = BTreeMap::new();
    let mut entered: BTreeMap<u32, f64> = BTreeMap::new();
    let mut order = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let mut word = || words.next().unwrap_or_default();
        let (Ok(tid), Ok(seconds)) =
            (word().parse::<u32>(), word().trim_end_matches(':').parse::<f64>())
        else {
            continue;
        };
        let (at, event) = (seconds * 1e6, word());
        let rest: Vec<&str> = words.collect();
        let number = || rest.get(1).and_then(|word| word.parse().ok()).unwrap_or(u32::MAX);
        match event {
            "sched:sched_process_fork:" => {
                let child = rest.iter().find_map(|word| word.strip_prefix("child_pid="));
                let Some(Ok(child)) = child.map(str::parse::<u32>) else { continue };
                let wanted = entered.get(&tid).copied().unwrap_or(at);
                by_child.insert(child, Run { wanted, ..Run::default() });
                order.push(child);
            }
            "sched:sched_process_exec:" => {
                if let Some(run) = by_child.get_mut(&tid) {
                    run.executed = at;
                }
            }
            "raw_syscalls:sys_enter:" => {
                entered.insert(tid, at);
                if let Some(run) = by_child.get_mut(&tid).filter(|run| run.executed > 0.0) {
                    run.calls.push(Made { number: number(), entered: at, left: f64::NAN });
                }
            }
            "raw_syscalls:sys_exit:" => {
                if let Some(last) = by_child.get_mut(&tid).and_then(|run| run.calls.last_mut()) {
                    last.left = at;
                }
                // wait(2) returns whom it reaped.
                let answer = rest.last().and_then(|word| word.parse().ok()).unwrap_or_default();
                if let Some(run) = by_child.get_mut(&answer).filter(|run| run.ended > 0.0) {
                    run.reaped = at;
                }
            }
            "sched:sched_process_exit:" => {
                if let Some(run) = by_child.get_mut(&tid) {
                    run.ended = at;
                }
            }
            _ => {}
        }
    }
    let done: Vec<Run> = order
        .into_iter()
        .filter_map(|child| by_child.remove(&child))
        .filter(|run| run.executed > 0.0 && run.reaped > 0.0)
        .collect();
    let every = |offset: usize| done.iter().skip(offset).step_by(3).cloned().collect();
    (every(0), every(2))
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

/// To which step each line of strace belongs.
fn assign(words: &[String]) -> Vec<usize> {
    let (unknown, exit, exec) = (STEPS.len(), STEPS.len() + 1, STEPS.len() + 2);
    let mut now = 0;
    let mut assigned = Vec::new();
    for line in words {
        let name = name_of(line);
        let fits = |step: &Step| {
            step.calls.iter().any(|(call, shown)| *call == name && line.contains(shown))
        };
        let step = match name {
            "execve" => exec,
            "exit_group" => exit,
            // A debug build asks whether a file is open before it closes it.
            "brk" | "fcntl" => now,
            _ => match STEPS[now..].iter().position(fits) {
                Some(further) => {
                    now += further;
                    now
                }
                None => unknown,
            },
        };
        if step == unknown {
            eprintln!("bench: what is this call for? {line:.100}");
        }
        assigned.push(step);
    }
    assigned
}

fn name_of(line: &str) -> &str {
    line.split_once('(').map_or(line, |(name, _)| name)
}

/// `openat`, `read` ×2.
fn tally<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for name in names {
        match counts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, count)) => *count += 1,
            None => counts.push((name, 1)),
        }
    }
    let shown = counts.into_iter().map(|(name, count)| match count {
        1 => format!("`{name}`"),
        more => format!("`{name}` ×{more}"),
    });
    shown.collect::<Vec<_>>().join(", ")
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
        let lines = ["execve(", "arch_prctl(", "read(0, 377", "flock(3", "exit_group(0"];
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

    #[test]
    fn a_call_nobody_expects_is_seen() {
        let lines = ["execve(", "reboot("].map(str::to_owned);
        assert_eq!(assign(&lines), [STEPS.len() + 2, STEPS.len()]);
    }
}
