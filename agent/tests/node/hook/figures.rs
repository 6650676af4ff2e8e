//! What the hook costs a program: the figures of docs/agent.md.

use std::fmt::Write as _;
use std::fs;

use super::*;
use crate::stop;

const ROUNDS: usize = 15;

/// The numbers of all rounds, sorted.
fn median(mut all: Vec<u64>) -> u64 {
    all.sort_unstable();
    all[all.len() / 2]
}

fn spread(all: &[u64]) -> String {
    let (least, most) = (all.iter().min(), all.iter().max());
    format!("{} to {}", least.expect("rounds"), most.expect("rounds"))
}

#[test]
#[ignore = "a measurement, run by make bench-hook"]
#[expect(clippy::print_stdout, reason = "the figures are for people")]
fn what_a_call_costs() {
    let mut scene = Scene::new();
    let mut actors = vec![("none".to_owned(), 8063, scene.stranger())];
    for count in [1_u16, 8, 64] {
        let uid = format!("m{count}");
        // The port that is measured is the last of the program.
        let items: Vec<_> =
            (0..count).map(|at| format!("p{at}={}/udp", 8064 - count + at)).collect();
        let pod = scene.pod(&uid, &items.join(", "), "redirect");
        scene.runs(&pod, ["P0"]);
        actors.push((count.to_string(), 8063, scene.actor(&uid)));
    }
    let mut table =
        String::from("| redirected ports | bind of UDP, ns | connect to 127.0.0.1, ns |\n");
    let mut all = vec![(Vec::new(), Vec::new()); actors.len()];
    for _ in 0..ROUNDS {
        for ((_, port, actor), (binds, connects)) in actors.iter_mut().zip(&mut all) {
            let mut times = |what: &str| -> u64 {
                actor.does(&format!("{what} 127.0.0.1:{port}")).parse().expect("nanoseconds")
            };
            binds.push(times("times-bind"));
            connects.push(times("times-connect"));
        }
    }
    for ((name, ..), (binds, connects)) in actors.iter().zip(all) {
        let (bind, connect) = (spread(&binds), spread(&connects));
        let (binds, connects) = (median(binds), median(connects));
        writeln!(table, "| {name} | {binds} ({bind}) | {connects} ({connect}) |").expect("a text");
    }
    println!("{table}");
}

#[test]
#[ignore = "a measurement, run by make bench-hook"]
#[expect(clippy::print_stdout, reason = "the figures are for people")]
fn what_a_connection_carries() {
    let mut scene = Scene::new();
    let mut outside = outside();
    let pod = scene.pod("one", "http=8080", "redirect");
    let [http] = scene.runs(&pod, ["HTTP"]);
    let (mut hooked, mut plain) = (scene.actor("one"), scene.stranger());
    hooked.does("swallows 0.0.0.0:8080");
    plain.does("swallows 0.0.0.0:9090");
    let mut all = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (port, all) in [http, 9090].into_iter().zip(&mut all) {
            let carried = outside.does(&format!("floods 198.51.100.1:{port}"));
            all.push(carried.parse().expect("megabytes"));
        }
    }
    for (name, all) in ["bind hook", "plain host network"].into_iter().zip(all) {
        let spread = spread(&all);
        println!("{name}: {} MB/s ({spread})", median(all));
    }
}

/// Of the release, which `make bench-hook` runs.
#[test]
#[ignore = "a measurement, run by make bench-hook"]
#[expect(clippy::print_stdout, reason = "the figures are for people")]
fn what_attaching_takes() {
    let mut scene = Scene::new();
    let items =
        |count: u16| (0..count).map(|at| format!("p{at}={}", 8000 + at)).collect::<Vec<_>>();
    for (name, items) in
        [("auto", vec!["http=auto".to_owned()]), ("1", items(1)), ("64", items(64))]
    {
        let mut all = Vec::new();
        for at in 0..ROUNDS {
            let pod = scene.pod(&format!("{name}-{at}"), &items.join(", "), "redirect");
            let begun = std::time::Instant::now();
            run(&mut scene.connection, &pod).expect("it is assigned its ports");
            all.push(begun.elapsed().as_micros() as u64);
            stop(&mut scene.connection, &pod);
        }
        let spread = spread(&all);
        println!("RunPodSandbox, {name}: {} us ({spread})", median(all));
    }
}

/// What a pod holds in the measurements of the guard.
const HELD: &str = "http=auto/udp";

impl Scene {
    /// By an agent that does not log each Pod: nobody reads that here.
    fn replace_quietly(&mut self) {
        self.agent.signal(nix::sys::signal::Signal::SIGKILL);
        self.agent = self.node.start(&self.runtime.socket(), &["--log-level=warn"]);
        self.connection = self.runtime.connect(self.pods.clone(), Vec::new());
    }
}

/// What a sandbox takes with so many other holders, and binds of its own port and of another.
fn with_holders(count: usize, guard: bool) -> String {
    let mut scene = Scene::guarded("\"portRange\": \"20000-29999\"");
    scene.replace_quietly();
    for at in 0..count {
        let pod = scene.below_all(&format!("held-{at}"), &[(PORTS, HELD)]);
        run(&mut scene.connection, &pod).expect("it is assigned its port");
        scene.pods.push(pod);
    }
    let file = scene.node.node_dir().join("autoport.json");
    let before = fs::read_to_string(&file).expect("it is there");
    let after = before.replacen('{', &format!("{{\"guardRange\": {guard}, "), 1);
    fs::write(&file, after).expect("it is ours");
    scene.replace_quietly();
    // The agent has read all holders by then.
    let (_, own) = scene.holds("last", HELD, None);
    let mut sandboxes = Vec::new();
    for at in 0..ROUNDS {
        let pod = scene.below_all(&format!("next-{at}"), &[(PORTS, HELD)]);
        let begun = std::time::Instant::now();
        run(&mut scene.connection, &pod).expect("it is assigned its ports");
        sandboxes.push(begun.elapsed().as_micros() as u64);
        stop(&mut scene.connection, &pod);
    }
    let mut actor = scene.inside("last");
    let mut times = |port: u16| -> Vec<u64> {
        let order = format!("times-bind 127.0.0.1:{port}");
        (0..ROUNDS).map(|_| actor.does(&order).parse().expect("nanoseconds")).collect()
    };
    let columns = [sandboxes, times(own), times(8063)].map(|all| {
        let spread = spread(&all);
        format!("{} ({spread})", median(all))
    });
    format!("| {count} | {guard} | {} |", columns.join(" | "))
}

/// Of the release, which `make bench-hook` runs.
#[test]
#[ignore = "a measurement, run by make bench-hook"]
#[expect(clippy::print_stdout, reason = "the figures are for people")]
fn what_the_guard_costs() {
    println!(
        "| other holders | guard | RunPodSandbox, us | bind of its port, ns | of another, ns |"
    );
    for count in [0, 100, 1000, 5000] {
        for guard in [false, true] {
            // A thread is one node.
            let row = std::thread::spawn(move || with_holders(count, guard)).join();
            println!("{}", row.expect("it is measured"));
        }
    }
}
