//! What happens in the cluster, one thing after the other, and what each has cost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use super::fleet::{Fleet, sandbox};
use super::objects;
use super::observer::{self, Seen};
use super::servers::{Counts, Servers};

/// Nothing takes longer.
const PATIENCE: Duration = Duration::from_mins(10);

/// Pods that exist.
#[derive(Default)]
pub(crate) struct Pods {
    /// The name of each, and its node.
    names: Vec<(String, String)>,
    uids: Vec<String>,
}

pub(crate) struct Scene {
    fleet: Fleet,
    servers: Servers,
    seen: Arc<Mutex<Seen>>,
    discovers: bool,
    /// If nothing is asked for this time, everything is done.
    calm: Duration,
    created: usize,
    /// What was counted, and what was used, when the last thing ended.
    before: (Counts, Usage),
    _dir: TempDir,
}

/// Processor time of the agents, etcd and the API server.
#[derive(Clone, Copy, Default)]
struct Usage([Duration; 3]);

impl Scene {
    /// A network namespace with both servers and so many nodes.
    pub(crate) fn new(nodes: usize, discovers: bool, calm: Duration) -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace; use scripts/namespaces.sh");
        let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.expect("iproute2 is installed").success());
        let dir = tempfile::tempdir().expect("a directory");
        let servers = Servers::start(dir.path());
        servers.block_on(objects::prepare(&servers.client()));
        let seen = observer::start(dir.path());
        let options: &[&str] = if discovers { &["--discovery"] } else { &[] };
        let before = (servers.counts(), Usage::default());
        let fleet = Fleet::start(dir.path(), nodes, options);
        let mut scene =
            Self { fleet, servers, seen, discovers, calm, created: 0, before, _dir: dir };
        scene.await_watches();
        scene.tell("agents started", "");
        scene
    }

    fn await_watches(&self) {
        // The observer has one as well.
        let all = self.fleet.nodes.len() + 1;
        let begun = Instant::now();
        while (self.servers.counts().watches as usize) < all {
            assert!(begun.elapsed() < PATIENCE, "{:?}", self.servers.counts());
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// So many requests were answered since the API server was started.
    pub(crate) fn requests(&self, verb: &str, resource: &str) -> usize {
        self.servers.counts().of_kind(verb, resource) as usize
    }

    /// That of the agent with the most, in MiB.
    pub(crate) fn anonymous_memory(&self) -> f64 {
        self.fleet.memory("RssAnon:").last().copied().unwrap_or_default()
    }

    /// Creates so many Pods on each node, as controller and scheduler do.
    pub(crate) fn create(&mut self, what: &str, each: usize) -> Pods {
        let begun = Instant::now();
        let all = self.created(each * self.fleet.nodes.len());
        self.settle();
        self.tell(what, &format!("{} Pods in {:.1?}", all.uids.len(), begun.elapsed()));
        all
    }

    /// Creates so many Pods, one node after the other.
    fn created(&mut self, count: usize) -> Pods {
        let numbers = self.created..self.created + count;
        self.created += count;
        let nodes = &self.fleet.nodes;
        let name =
            |it: usize| (format!("game-7d9c5b8f6d-{it:06}"), nodes[it % nodes.len()].name.clone());
        let names: Vec<_> = numbers.map(name).collect();
        let annotations = objects::annotations(self.discovers);
        let client = self.servers.client();
        let uids = self.servers.block_on(objects::create(&client, &names, &annotations));
        Pods { names, uids }
    }

    /// Has the runtimes run these Pods.
    fn run(&self, pods: &Pods) {
        for ((name, node), uid) in pods.names.iter().zip(&pods.uids) {
            self.node(node).run(sandbox(name, uid, objects::annotations(self.discovers)));
        }
    }

    fn stop(&self, pods: &Pods) {
        for ((name, node), uid) in pods.names.iter().zip(&pods.uids) {
            self.node(node).stop(sandbox(name, uid, BTreeMap::new()));
        }
    }

    fn node(&self, name: &str) -> &super::fleet::Node {
        self.fleet.nodes.iter().find(|node| node.name == name).expect("it is there")
    }

    /// Runs these Pods all at once; gives how many have their ports on the API server then.
    pub(crate) fn burst(&mut self, what: &str, pods: &Pods) -> usize {
        self.run(pods);
        self.await_status(pods);
        let told = self.latencies(pods);
        self.settle();
        self.tell(what, &told);
        let seen = self.seen.lock().expect("no test failed");
        pods.uids.iter().filter(|uid| seen.status.contains_key(*uid)).count()
    }

    fn await_status(&self, pods: &Pods) {
        let (begun, discovers) = (Instant::now(), self.discovers);
        let is_seen = |seen: &Seen, uid: &String| {
            seen.status.contains_key(uid) && (!discovers || seen.slice.contains_key(uid))
        };
        loop {
            let seen = self.seen.lock().expect("no test failed");
            let missing = pods.uids.iter().filter(|uid| !is_seen(&seen, uid)).count();
            drop(seen);
            if missing == 0 {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{missing} Pods were not written");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The times from a sandbox's begin until it is seen.
    fn latencies(&self, pods: &Pods) -> String {
        let seen = self.seen.lock().expect("no test failed");
        let begun = self.fleet.begun.lock().expect("no test failed");
        let times = |found: &BTreeMap<String, Instant>| {
            let at = pods.uids.iter().filter_map(|uid| found.get(uid)).copied().collect();
            let took = pods
                .uids
                .iter()
                .filter_map(|uid| Some(*found.get(uid)? - *begun.sandboxes.get(uid)?));
            format!("{}; {}", spread(took.collect()), rate(at))
        };
        let slices = if self.discovers {
            format!("\n  EndpointSlice visible after {}", times(&seen.slice))
        } else {
            String::new()
        };
        format!(
            "status visible after {}{slices}\n  events that an agent refused and the runtime repeated, so far: {}",
            times(&seen.status),
            begun.refused
        )
    }

    /// Has kubelets say that these Pods are ready; gives how many the slices say so of.
    pub(crate) fn ready(&mut self, what: &str, pods: &Pods) -> usize {
        let begun = Instant::now();
        let size = self.servers.block_on(objects::ready(&self.servers.client(), &pods.names));
        let told =
            format!("kubelets wrote for {:.1?}; a Pod has {size} bytes then", begun.elapsed());
        let count = || {
            let seen = self.seen.lock().expect("no test failed");
            pods.uids.iter().filter(|uid| seen.ready.contains_key(*uid)).count()
        };
        while self.discovers && count() < pods.uids.len() {
            assert!(begun.elapsed() < PATIENCE, "{} Pods are not ready", pods.uids.len() - count());
            thread::sleep(Duration::from_millis(50));
        }
        let (told, count) = (format!("{told}; all slices after {:.1?}", begun.elapsed()), count());
        self.settle();
        self.tell(what, &told);
        count
    }

    /// Lets half a minute pass.
    pub(crate) fn idle(&mut self, what: &str) {
        thread::sleep(Duration::from_secs(30));
        self.tell(what, "for 30 s");
    }

    /// Replaces so many Pods in each second by others; gives those that are there then.
    pub(crate) fn churn(
        &mut self,
        what: &str,
        mut pods: Pods,
        time: Duration,
        rate: usize,
    ) -> Pods {
        let begun = Instant::now();
        let mut new = Pods::default();
        for second in 0..time.as_secs() {
            let rest = (
                pods.names.split_off(rate.min(pods.names.len())),
                pods.uids.split_off(rate.min(pods.uids.len())),
            );
            self.stop(&pods);
            let client = self.servers.client();
            self.servers.block_on(objects::delete(&client, &pods.names));
            (pods.names, pods.uids) = rest;
            let created = self.created(rate);
            self.run(&created);
            self.servers.block_on(objects::ready(&client, &created.names));
            new.names.extend(created.names);
            new.uids.extend(created.uids);
            thread::sleep(Duration::from_secs(second + 1).saturating_sub(begun.elapsed()));
        }
        self.await_status(&new);
        let told =
            format!("{} Pods in {:.1?}; {}", new.uids.len(), begun.elapsed(), self.latencies(&new));
        self.settle();
        self.tell(what, &told);
        pods.names.extend(new.names);
        pods.uids.extend(new.uids);
        pods
    }

    /// Kills the API server, runs a Pod on each node meanwhile, and starts it again.
    pub(crate) fn restart_api(&mut self, what: &str, pause: Duration) {
        let pods = self.created(self.fleet.nodes.len());
        self.settle();
        self.servers.stop_api();
        self.run(&pods);
        thread::sleep(pause);
        self.servers.start_api();
        let begun = Instant::now();
        self.before = (Counts::default(), self.usage());
        let mut lists = Vec::new();
        let all = self.fleet.nodes.len() + 1;
        while (self.servers.counts().watches as usize) < all {
            lists.push(self.requests("LIST", "pods"));
            assert!(begun.elapsed() < PATIENCE, "{:?}", self.servers.counts());
            thread::sleep(Duration::from_millis(250));
        }
        let watched = begun.elapsed();
        self.await_status(&pods);
        let told = format!(
            "all watches after {watched:.1?}; lists of Pods until then, each 250 ms: {lists:?}\n  the Pods of \
             meanwhile have their status after {:.1?}",
            begun.elapsed()
        );
        self.settle();
        self.tell(what, &told);
        self.remove("  its Pods removed", &pods);
    }

    /// Starts all agents again.
    pub(crate) fn restart_agents(&mut self, what: &str) {
        let begun = Instant::now();
        self.fleet.restart();
        self.settle();
        self.await_watches();
        self.tell(what, &format!("calm after {:.1?}", begun.elapsed().saturating_sub(self.calm)));
    }

    /// Stops and deletes these Pods.
    pub(crate) fn remove(&mut self, what: &str, pods: &Pods) {
        let begun = Instant::now();
        self.stop(pods);
        self.servers.block_on(objects::delete(&self.servers.client(), &pods.names));
        self.settle();
        self.tell(
            what,
            &format!(
                "{} Pods, calm after {:.1?}",
                pods.uids.len(),
                begun.elapsed().saturating_sub(self.calm)
            ),
        );
    }

    /// Waits until nothing is asked any more.
    fn settle(&self) {
        let all = |counts: &Counts| {
            let asked = counts.requests.iter().filter(|((verb, resource, _), _)| {
                resource.starts_with("pods") || resource == "endpointslices" || verb == "LIST"
            });
            asked.map(|(_, number)| number).sum::<f64>()
        };
        let begun = Instant::now();
        let mut last = all(&self.servers.counts());
        let mut at = Instant::now();
        while at.elapsed() < self.calm {
            assert!(
                begun.elapsed() < PATIENCE,
                "there is no end of it: {:?}",
                self.servers.counts()
            );
            thread::sleep(Duration::from_millis(500));
            let now = all(&self.servers.counts());
            if now > last {
                (last, at) = (now, Instant::now());
            }
        }
    }

    fn usage(&self) -> Usage {
        let [(_, etcd), (_, api)] = self.servers.usage();
        Usage([self.fleet.processor_time(), etcd, api])
    }

    /// Prints what was counted since the last thing.
    #[expect(clippy::print_stdout, reason = "what was measured")]
    fn tell(&mut self, what: &str, told: &str) {
        let (counts, usage) = (self.servers.counts(), self.usage());
        let since = counts.since(&self.before.0);
        println!("{what}: {told}");
        let request = |((verb, resource, code), number): (&(String, String, String), &f64)| {
            format!("{verb} {resource} {code}: {number}")
        };
        let requests: Vec<_> = since.requests.iter().map(request).collect();
        println!("  requests: {}", requests.join(", "));
        let event = |kind: &str| {
            let (number, bytes) = since.events.get(kind).copied().unwrap_or_default();
            format!("{number} of {kind} with {:.1} MB", bytes / 1e6)
        };
        println!("  watch events: {}, {}", event("pods"), event("endpointslices"));
        let [all, anonymous] = ["VmRSS:", "RssAnon:"].map(|line| self.fleet.memory(line));
        let (middle, last) = (all.len() / 2, all.len() - 1);
        let [(etcd, _), (api, _)] = self.servers.usage();
        println!(
            "  memory in MiB: an agent {:.1}, {:.1} anonymous, {:.1} and {:.1} at most; etcd {etcd:.0}; API server \
             {api:.0} with {} connections",
            all[middle],
            anonymous[middle],
            all[last],
            anonymous[last],
            Servers::connections()
        );
        let time = |at: usize| usage.0[at].saturating_sub(self.before.1.0[at]);
        println!(
            "  processor time: all agents {:.1?}, etcd {:.1?}, API server {:.1?}",
            time(0),
            time(1),
            time(2)
        );
        self.before = (counts, usage);
    }
}

/// The middle, the slowest hundredth and the last.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let share = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
    format!("p50 {:.2?}, p99 {:.2?}, max {:.2?}", share(50), share(99), share(100))
}

/// How many there were in a second, on average and at most.
fn rate(mut at: Vec<Instant>) -> String {
    at.sort_unstable();
    let Some((first, last)) = at.first().zip(at.last()) else { return "none".to_owned() };
    let mut seconds = BTreeMap::<u64, usize>::new();
    for one in &at {
        *seconds.entry((*one - *first).as_secs()).or_default() += 1;
    }
    let most = seconds.values().max().copied().unwrap_or_default();
    let time = (*last - *first).max(Duration::from_secs(1));
    let mean = at.len() as u128 * 1000 / time.as_millis();
    format!("{mean} in a second, {most} at most")
}
