//! `make bench-load`: what others can do to the commands of a pod that has nothing to do with them.
//!
//! Two nodes, each in namespaces of its own with a store in memory. On both an innocent pod gets a port
//! and gives it back, in a loop. Then one of the nodes is attacked, by what authors of Pods can do:
//!
//! - 1,000 processes with 200 open files each, and four pods whose ADD is refused in a loop, since a
//!   daemon listens on the host port they ask for: to name that daemon all files are searched;
//! - ten pods that write into their published directory: files of 16 MiB with 100,000 entries, directories
//!   with as many files or 10,000 deep, files that change all the time, a FIFO, a device, links; their
//!   sandboxes are created again in a loop, with garbage collections in between;
//! - a namespace whose pods of 128 ports come and go in a loop;
//! - at last, connection tracking filled to 262,144 entries.
//!
//! The quiet node is measured at the same moments, so it has the same processors under the same load,
//! and also what the kernel shares between nodes: the RTNL lock, RCU's grace periods, the one hash table
//! of connection tracking (the entries are the other node's, but a walk passes them). What is
//! different on the attacked node is then due to what autoport does with what attackers made: with its
//! lock, its store, its table and the kernel's answers.

mod attacks;
mod locks;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

pub(crate) use attacks::{CROWD, LISTEN, crowd, listen};
use attacks::{Crowd, HOSTILE, Hostile};
use locks::{Hold, Locks, Place};

use crate::measure::{Call, text};
use crate::node::Node;
use crate::plugins::{Executables, NUMBER, Plugin, Pod, ports};
use crate::stats::quantile;

/// The pods that are on both nodes all the time.
const RESIDENTS: u16 = 20;
const REFUSED: u16 = 4;
/// The first pods of each kind.
const REFUSED_PODS: u16 = 1_000;
const HOSTILE_PODS: u16 = 2_000;
const CHURNING_PODS: u16 = 3_000;
/// Between two pods of the innocent loop.
const PAUSE: Duration = Duration::from_millis(2);
/// The code for a lock that stayed taken.
const LOCK_TAKEN: u64 = 11;

/// A node with what is started there.
pub(crate) struct Site<'a> {
    executables: &'a Executables,
    node: Node,
    place: Place,
}

/// What one command came to.
struct Answer {
    /// On the monotonic clock, which is the trace's.
    begun: f64,
    ended: f64,
    pid: u32,
    /// `None` for success; 0 where it has no code.
    code: Option<u64>,
    output: String,
}

/// Seconds on the monotonic clock.
fn now() -> f64 {
    Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).expect("there is that clock"))
        .as_secs_f64()
}

impl Answer {
    fn of(call: &Call) -> Self {
        let begun = now();
        let (mut child, mut output) = call.start(&[]);
        let pid = child.id();
        let status = child.wait().expect("a child can be waited for");
        let ended = now();
        let output = text(&mut output);
        let code = (!status.success()).then(|| code_in(&output).unwrap_or_default());
        Self { begun, ended, pid, code, output }
    }

    fn millis(&self) -> f64 {
        (self.ended - self.begun) * 1e3
    }
}

/// The `code` of an error reply, between lines for people.
fn code_in(output: &str) -> Option<u64> {
    let (_, rest) = output.split_once("\"code\"")?;
    let digits: String = rest
        .chars()
        .skip_while(|letter| !letter.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().ok()
}

/// How often each command of the attackers had which result.
#[derive(Default)]
pub(crate) struct Tally(Mutex<BTreeMap<Kind, (u64, String)>>);

/// A command and its result: how often it came, and the output of the first.
type Kind = (String, Option<u64>);

impl Tally {
    fn count(&self, what: &str, answer: &Answer) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, _) = all
            .entry((what.to_owned(), answer.code))
            .or_insert_with(|| (0, answer.output.trim().to_owned()));
        *count += 1;
    }

    /// How often there was this code.
    fn with(&self, code: u64) -> u64 {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|((_, found), _)| *found == Some(code)).map(|(_, (count, _))| count).sum()
    }

    fn print(&self) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for ((what, code), (count, first)) in all.iter() {
            let result = code.map_or("succeeded".to_owned(), |code| format!("code {code}"));
            println!("  {count:6} {what}: {result}");
            // Of what is not meant to be, an example.
            if code.is_some_and(|code| !(what == "refused ADD" && code == 103)) {
                println!("         {}", first.lines().last().unwrap_or_default());
            }
        }
    }
}

/// What was measured on one node in one phase.
#[derive(Default)]
struct Seen {
    adds: Vec<Answer>,
    dels: Vec<Answer>,
    holds: Vec<Hold>,
}

impl Seen {
    fn times(answers: &[Answer]) -> Vec<f64> {
        answers.iter().map(Answer::millis).collect()
    }

    /// How long each innocent ADD waited for the lock.
    fn waits(&self) -> Vec<f64> {
        let mut of: BTreeMap<u32, Vec<&Hold>> = BTreeMap::new();
        for hold in &self.holds {
            of.entry(hold.pid).or_default().push(hold);
        }
        let waits = self.adds.iter().filter_map(|answer| {
            let own = of.get(&answer.pid)?.iter();
            // Process numbers come again.
            let own = own.filter(|it| it.granted >= answer.begun && it.released <= answer.ended);
            let waited: Option<Vec<f64>> = own.map(|it| Some(it.granted - it.asked?)).collect();
            waited.filter(|all| !all.is_empty()).map(|all| all.iter().sum::<f64>() * 1e3)
        });
        waits.collect()
    }

    fn held(&self) -> Vec<f64> {
        self.holds.iter().map(|hold| (hold.released - hold.granted) * 1e3).collect()
    }

    fn taken(&self) -> usize {
        let all = self.adds.iter().chain(&self.dels);
        all.filter(|answer| answer.code == Some(LOCK_TAKEN)).count()
    }
}

/// Measures and prints; `quick` shows only that it works.
pub(crate) fn run(executables: &Executables, quick: bool) {
    let begun = Instant::now();
    let sites = [(); 2].map(|()| site(executables));
    let [attacked, _] = &sites;
    let places = sites.each_ref().map(|site| site.place);
    let locks = Locks::watch(&attacked.node.space, &places);
    let (crowd_size, files, flows) = if quick { (50, 20, 4_096) } else { (1_000, 200, 262_144) };
    let spans = if quick { [1, 3, 3] } else { [10, 60, 60] }.map(Duration::from_secs);
    let stage = Stage { sites: &sites, locks: &locks };
    println!("two nodes with {RESIDENTS} pods each; locks seen by {}", locks.how());
    println!(
        "milliseconds: ADD and DEL of an innocent pod with one port, what its ADD waited for the \
         lock, and for how long any command of that node had the lock\n"
    );
    heading();
    let mut calls = 0;
    stage.phase("nothing else", spans[0], &mut calls);
    let tally = Tally::default();
    let [taken, last] = stage.attack(
        crowd_size,
        files,
        |attacking| {
            let before = stage.phase("attacked", spans[1], &mut calls);
            let flows = attacks::flood(&attacking.node, flows);
            let name = format!("and {flows} flows");
            [before, stage.phase(&name, spans[2], &mut calls)]
        },
        &tally,
    );
    println!("\nthe attackers' commands:");
    tally.print();
    let innocent = [&taken, &last].iter().flat_map(|phase| *phase).map(Seen::taken).sum::<usize>();
    let busy = tally.with(LOCK_TAKEN) + innocent as u64;
    println!("\n{} s in all; code 11 by innocent pods: {innocent}", begun.elapsed().as_secs());
    let [attacked, quiet] = &last;
    let p99 = |seen: &Seen| quantile(&Seen::times(&seen.adds), 0.99);
    println!(
        "add p99 {:.1} ms (quiet {:.1} ms), hold p99.9 {:.1} ms, code 11: {busy}",
        p99(attacked),
        p99(quiet),
        quantile(&attacked.held(), 0.999),
    );
}

/// A node with its residents.
fn site(executables: &Executables) -> Site<'_> {
    let node = Node::new();
    let place = node.space.run(|| {
        // The bridge has the first address.
        for number in 2..2 + RESIDENTS {
            let pod = Pod::numbered(number, false, [30_000 + number]);
            Call::cni(executables, Plugin::Autoport, "ADD", &pod).time().success("ADD");
        }
        locks::place()
    });
    Site { executables, node, place }
}

fn heading() {
    println!(
        "{:17}{:9}{:>5}{:>9}{:>9}{:>9}{:>9}{:>10}{:>9}{:>9}{:>10}{:>9}{:>9}{:>6}",
        "phase",
        "node",
        "pods",
        "ADD p50",
        "p99",
        "DEL p50",
        "p99",
        "wait p50",
        "p99",
        "p99.9",
        "hold p50",
        "p99.9",
        "max",
        "busy"
    );
}

struct Stage<'a> {
    sites: &'a [Site<'a>; 2],
    locks: &'a Locks<'a>,
}

impl Stage<'_> {
    /// Lets the innocent loops of both nodes run for so long.
    fn phase(&self, name: &str, span: Duration, calls: &mut usize) -> [Seen; 2] {
        self.locks.take();
        let before = processors();
        let first = *calls;
        let mut seen = thread::scope(|scope| {
            let both = self.sites.each_ref().map(|site| {
                scope.spawn(move || site.node.space.run(|| innocent(site, first, span)))
            });
            both.map(|loops| loops.join().expect("the loop ends"))
        });
        *calls = first + seen.iter().map(|seen| seen.adds.len()).max().unwrap_or(0);
        let busy = busy(before, processors());
        for hold in self.locks.take() {
            let at = self.sites.iter().position(|site| site.place == hold.place);
            seen[at.expect("only these are watched")].holds.push(hold);
        }
        for (seen, node) in seen.iter().zip(["attacked", "quiet"]) {
            let (adds, dels) = (Seen::times(&seen.adds), Seen::times(&seen.dels));
            let (waits, held) = (seen.waits(), seen.held());
            let q = |values: &[f64], part| format!("{:.1}", quantile(values, part));
            println!(
                "{name:17}{node:9}{:>5}{:>9}{:>9}{:>9}{:>9}{:>10}{:>9}{:>9}{:>10}{:>9}{:>9}{:>5.0}%",
                adds.len(),
                q(&adds, 0.5),
                q(&adds, 0.99),
                q(&dels, 0.5),
                q(&dels, 0.99),
                q(&waits, 0.5),
                q(&waits, 0.99),
                q(&waits, 0.999),
                q(&held, 0.5),
                q(&held, 0.999),
                q(&held, 1.0),
                busy,
            );
        }
        seen
    }

    /// Attacks the first node while `work` is done.
    fn attack<T>(
        &self,
        processes: usize,
        files: usize,
        work: impl FnOnce(&Site) -> T,
        tally: &Tally,
    ) -> T {
        let [site, _] = self.sites;
        let _crowd = Crowd::gather(&site.node, processes, files);
        let stop = AtomicBool::new(false);
        let pods: Vec<_> =
            (0..HOSTILE).map(|kind| Hostile::numbered(kind, HOSTILE_PODS + kind)).collect();
        site.node.space.run(|| {
            for pod in &pods {
                let added = Answer::of(&pod.call(site, "ADD", 0));
                assert_eq!(added.code, None, "{}", added.output);
                pod.plant();
            }
        });
        let mut attacks: Vec<Box<dyn FnOnce() + Send + '_>> = Vec::new();
        for pod in REFUSED_PODS..REFUSED_PODS + REFUSED {
            let stop = &stop;
            attacks.push(Box::new(move || attacks::refused(site, pod, stop, tally)));
        }
        for pod in pods.iter().filter(|pod| pod.is_busy()) {
            attacks.push(Box::new(|| pod.writes(&stop)));
        }
        attacks.push(Box::new(|| attacks::sandboxes(site, &pods, &stop, tally)));
        attacks.push(Box::new(|| attacks::churn(site, CHURNING_PODS, &stop, tally)));
        thread::scope(|scope| {
            let _stopped = Stopped(&stop);
            for attack in attacks {
                scope.spawn(|| site.node.space.run(attack));
            }
            work(site)
        })
    }
}

/// Tells the attackers to stop, also when measuring fails.
struct Stopped<'a>(&'a AtomicBool);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Pods that come and go one after the other.
fn innocent(site: &Site, first: usize, span: Duration) -> Seen {
    let mut seen = Seen::default();
    let begun = Instant::now();
    for round in 0.. {
        if begun.elapsed() > span {
            break;
        }
        let turn = first + round;
        // Their numbers come again when what the former had is long forgotten.
        let number = (turn % 5_000) as u16;
        let pod = Pod::numbered(NUMBER + number, false, ports(turn, 1));
        for (command, answers) in [("ADD", &mut seen.adds), ("DEL", &mut seen.dels)] {
            let answer = Answer::of(&Call::cni(site.executables, Plugin::Autoport, command, &pod));
            assert!(
                matches!(answer.code, None | Some(LOCK_TAKEN)),
                "{command} of an innocent pod: {}",
                answer.output
            );
            answers.push(answer);
        }
        thread::sleep(PAUSE);
    }
    seen
}

/// Ticks of all processors since the machine started: busy, and all.
fn processors() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> =
        line.split_whitespace().skip(1).filter_map(|it| it.parse().ok()).collect();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    let all: u64 = ticks.iter().take(8).sum();
    (all - idle, all)
}

/// In percent.
fn busy(before: (u64, u64), after: (u64, u64)) -> f64 {
    let (busy, all) = (after.0 - before.0, after.1 - before.1);
    busy as f64 / all.max(1) as f64 * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_found_between_lines() {
        let output =
            "autoport: waiting up to 10.0 s\n{\"cniVersion\":\"1.1.0\",\"code\":11,\"msg\":\"\"}";
        assert_eq!(code_in(output), Some(11));
        assert_eq!(code_in("{\n  \"code\": 103,\n"), Some(103));
        assert_eq!(code_in("nothing"), None);
    }
}
