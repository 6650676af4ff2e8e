//! When each system call of a process began and ended.

use std::collections::BTreeMap;
use std::process::Command;

use super::TURNS;
use crate::node::tool;
use crate::plugins::Executables;

/// What perf saw of [`super::take_turns`].
pub(super) fn perf(executables: &Executables, rounds: usize) -> Result<String, String> {
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
pub(super) struct Made {
    pub(super) number: u32,
    pub(super) entered: f64,
    pub(super) left: f64,
}

/// One process, all times in microseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Run {
    pub(super) wanted: f64,
    pub(super) executed: f64,
    pub(super) calls: Vec<Made>,
    pub(super) ended: f64,
    pub(super) reaped: f64,
}

/// The runs of ADD and of the empty program, out of what `perf script` prints.
pub(super) fn runs(text: &str) -> (Vec<Run>, Vec<Run>) {
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
