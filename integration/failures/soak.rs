//! Sixteen workers, a hundred attachments: ADD, DEL, CHECK, GC, repair and STATUS in random order,
//! killed at random moments, while the table is damaged; then kernel, records and a model are
//! compared. `make soak N=10000 SEED=1`. The seed determines what each worker does, but not how the
//! workers interleave.

mod comparison;
mod orders;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use autoport::model::HostPort;
use fastrand::Rng;
use serde_json::{Value, json};

use self::orders::{Claim, Order, Step, network_of, networks};
use self::state::State;
use crate::stage::bare::{lead_nowhere, result};
use crate::stage::chain::Attachment;
use crate::stage::netns::{PATH, keep_tracking, sysctl};
use crate::stage::node::{CLIENT, FIRST, Node, address};
use crate::stage::plugin::{Outcome, Plugin};
use crate::stage::view::{self, STATE};

const WORKERS: usize = 16;
const ATTACHMENTS: usize = 100;

/// How many operations lie between two comparisons.
const PHASE: usize = 500;

/// A call that takes longer is stuck. The longest wait it may have is 30 s, for the lock.
const STUCK: Duration = Duration::from_mins(2);

/// What a process came to: its outcome, or `None` if it was killed.
type Ended = Option<Outcome>;

struct Soak {
    node: Node,
    seed: u64,
    attachments: Vec<Attachment>,
    states: Vec<Mutex<State>>,
    /// The holders of host ports that are certain at this moment.
    owners: Mutex<BTreeMap<HostPort, usize>>,
    sockets: [UdpSocket; 2],
    /// Raised before and after each damage.
    damage: AtomicU64,
    /// The value of `damage` at which GC or repair has found everything.
    healed: AtomicU64,
    /// What each worker is doing, since when.
    doing: Vec<Mutex<Option<(Instant, String, u32)>>>,
    failed: AtomicBool,
    failures: Mutex<Vec<String>>,
    tally: Mutex<BTreeMap<String, usize>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Soak {
    fn new(seed: u64) -> Self {
        let node = Node::new();
        lead_nowhere(&node);
        keep_tracking();
        // For the command line as well: sixteen processes on a busy machine wait for each other. Where
        // the folder cannot be had, ten seconds have to do.
        let _ = fs::write("/etc/cni/autoport.json", "{\"lockTimeout\": 60}");
        sysctl("net/netfilter/nf_conntrack_udp_timeout", "3600");
        let networks = networks();
        let attachments: Vec<_> = (0..ATTACHMENTS)
            .map(|number| {
                let network = &networks[network_of(number)];
                let id = format!("c{number}");
                let mut one = Attachment::new(network, &id, &node.client);
                let mut addresses = vec![format!("10.1.0.{}/16", number + 5)];
                if number % 3 != 0 {
                    addresses.push(format!("fd00:1::{:x}/64", number + 5));
                }
                one.result = Some(result(network.version, &addresses));
                one.of_pod("default", &id, &format!("uid-{id}"))
            })
            .collect();
        let socket = |own: &str| {
            let own = SocketAddr::new(address(own), 0);
            node.client.run(|| UdpSocket::bind(own).expect("the client has this address"))
        };
        let sockets = CLIENT.map(socket);
        Self {
            states: attachments.iter().map(|_| Mutex::new(State::nothing())).collect(),
            attachments,
            node,
            seed,
            owners: Mutex::default(),
            sockets,
            damage: AtomicU64::new(0),
            healed: AtomicU64::new(0),
            doing: (0..WORKERS).map(|_| Mutex::default()).collect(),
            failed: AtomicBool::new(false),
            failures: Mutex::default(),
            tally: Mutex::default(),
        }
    }

    fn count(&self, what: &str) {
        *lock(&self.tally).entry(what.to_owned()).or_default() += 1;
    }

    fn fail(&self, worker: usize, order: &Order, what: &str) {
        let seed = self.seed;
        lock(&self.failures).push(format!("seed {seed}, worker {worker}, {order}: {what}"));
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Runs the orders of every worker; says which is stuck, if one is.
    fn phase(&self, orders: &[Vec<Order>]) {
        thread::scope(|scope| {
            let running: Vec<_> = orders
                .iter()
                .enumerate()
                .map(|(worker, orders)| {
                    scope.spawn(move || {
                        for order in orders {
                            if self.failed.load(Ordering::Relaxed) {
                                break;
                            }
                            self.obey(worker, order);
                        }
                    })
                })
                .collect();
            while running.iter().any(|worker| !worker.is_finished()) {
                thread::sleep(Duration::from_millis(20));
                for doing in &self.doing {
                    if let Some((since, what, pid)) =
                        lock(doing).take_if(|it| it.0.elapsed() > STUCK)
                    {
                        let _ = Command::new("kill")
                            .args(["-9", &pid.to_string()])
                            .env("PATH", PATH)
                            .status();
                        lock(&self.failures)
                            .push(format!("stuck for {:?}: {what}", since.elapsed()));
                        self.failed.store(true, Ordering::Relaxed);
                    }
                }
            }
        });
        self.assert_fine();
    }

    fn assert_fine(&self) {
        let failures = lock(&self.failures);
        assert!(failures.is_empty(), "\n{}\n", failures.join("\n"));
    }

    fn obey(&self, worker: usize, order: &Order) {
        match &order.step {
            Step::Add { attachment, claim } => self.add(worker, order, *attachment, claim),
            Step::Del { attachment } => self.del(worker, order, *attachment),
            Step::Check { attachment } => self.check(worker, order, *attachment),
            Step::Gc { network, without } => self.gc(worker, order, *network, Some(without)),
            Step::Look { network } => self.gc(worker, order, *network, None),
            Step::Repair => self.repair(worker, order),
            Step::Status { attachment } => {
                let call = &self.attachments[*attachment];
                self.must_succeed(
                    worker,
                    order,
                    "STATUS",
                    self.call(worker, order, call, "STATUS"),
                );
            }
            Step::Damage(damage) => {
                self.damage.fetch_add(1, Ordering::SeqCst);
                damage.run();
                self.damage.fetch_add(1, Ordering::SeqCst);
                self.count("damage");
            }
            Step::Send { ports } => {
                for port in ports {
                    for (socket, to) in self.sockets.iter().zip(FIRST) {
                        // Whether anybody is there does not matter.
                        let _ = socket.send_to(b"?", SocketAddr::new(address(to), *port));
                    }
                }
                self.count("datagrams sent");
            }
        }
    }

    /// Runs a command of the plugin for an attachment.
    fn call(&self, worker: usize, order: &Order, attachment: &Attachment, command: &str) -> Ended {
        let config = attachment.config();
        self.call_with(worker, order, attachment, command, &config)
    }

    fn call_with(
        &self,
        worker: usize,
        order: &Order,
        attachment: &Attachment,
        command: &str,
        config: &Value,
    ) -> Ended {
        let mut process = Command::new(Plugin::Autoport.path());
        process.env_clear();
        process.env("CNI_COMMAND", command).env("CNI_PATH", "/opt/cni/bin");
        process
            .env("CNI_CONTAINERID", &attachment.container_id)
            .env("CNI_NETNS", &attachment.netns);
        process.env("CNI_IFNAME", &attachment.ifname).env("CNI_ARGS", &attachment.args);
        self.end(worker, order, process, config.to_string().as_bytes())
    }

    fn end(&self, worker: usize, order: &Order, mut process: Command, stdin: &[u8]) -> Ended {
        let mut child: Child = process
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the plugin can be started");
        *lock(&self.doing[worker]) = Some((Instant::now(), order.to_string(), child.id()));
        // A pipe holds more than a request or what is said about it.
        let _ = child.stdin.take().expect("a pipe").write_all(stdin);
        if let Some(after) = order.kill {
            thread::sleep(after);
            let _ = child.kill();
        }
        let output = child.wait_with_output().expect("a child can be waited for");
        *lock(&self.doing[worker]) = None;
        // None was told: a signal.
        if output.status.code().is_none() && order.kill.is_some() {
            self.count("processes killed");
            return None;
        }
        Some(Outcome {
            status: output.status,
            reply: serde_json::from_slice(&output.stdout).ok(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Whatever holds, DEL, GC, STATUS and repair succeed.
    fn must_succeed(&self, worker: usize, order: &Order, what: &str, ended: Ended) -> bool {
        let Some(outcome) = ended else { return false };
        self.count(what);
        if !outcome.status.success() {
            self.fail(worker, order, &outcome.to_string());
        }
        outcome.status.success()
    }

    /// What the attachment holds is in question from now on.
    fn disown(&self, attachment: usize) {
        lock(&self.owners).retain(|_, owner| *owner != attachment);
    }

    fn add(&self, worker: usize, order: &Order, number: usize, claim: &Claim) {
        self.disown(number);
        let mut attachment = self.attachments[number].clone();
        attachment.mappings.clone_from(&claim.mappings);
        let ended = self.call(worker, order, &attachment, "ADD");
        let mut state = lock(&self.states[number]);
        state.asked = Some(claim.clone());
        let Some(outcome) = ended else {
            state.maybe_added(claim);
            return;
        };
        match outcome.code() {
            None => {
                self.count("ADD");
                state.added(claim);
                drop(state);
                self.own(worker, order, number, &claim.named());
            }
            // Somebody else of us holds a port.
            Some(100) if names_another(outcome.message(), number) => {
                self.count("ADD: held by another (100)");
            }
            Some(101) if claim.requests() > 0 => self.count("ADD: none free (101)"),
            Some(_) => self.fail(worker, order, &outcome.to_string()),
        }
    }

    /// Two owners at one time are one too many: who is entered has its ports for certain.
    fn own(&self, worker: usize, order: &Order, number: usize, hosts: &BTreeSet<HostPort>) {
        let mut owners = lock(&self.owners);
        for host in hosts {
            if let Some((held, other)) = owners.iter().find(|(held, _)| held.overlaps(host)) {
                self.fail(worker, order, &format!("{host} is c{number}'s and {held} c{other}'s"));
            }
        }
        owners.extend(hosts.iter().map(|host| (*host, number)));
    }

    fn del(&self, worker: usize, order: &Order, number: usize) {
        self.disown(number);
        let ended = self.call(worker, order, &self.attachments[number], "DEL");
        let mut state = lock(&self.states[number]);
        if ended.is_none() {
            state.maybe_removed();
        } else {
            state.removed();
        }
        drop(state);
        self.must_succeed(worker, order, "DEL", ended);
    }

    fn check(&self, worker: usize, order: &Order, number: usize) {
        let state = lock(&self.states[number]).clone();
        let Some(asked) = &state.asked else { return };
        let mut attachment = self.attachments[number].clone();
        attachment.mappings.clone_from(&asked.mappings);
        let damage = self.damage.load(Ordering::SeqCst);
        let sound = self.healed.load(Ordering::SeqCst) == damage;
        let Some(outcome) = self.call(worker, order, &attachment, "CHECK") else { return };
        let sound = sound && self.damage.load(Ordering::SeqCst) == damage;
        let same = state.certain.as_ref() == Some(asked);
        match outcome.code() {
            None if same || !state.is_certain() => self.count("CHECK"),
            // A claim that only names what is held anyway.
            Some(120) if !same => self.count("CHECK: not as asked (120)"),
            Some(120) if !sound => self.count("CHECK: damaged (120)"),
            None | Some(_) => {
                let what = format!("{outcome}, although it has {:?}", state.certain);
                self.fail(worker, order, &what);
            }
        }
    }

    fn gc(&self, worker: usize, order: &Order, number: usize, without: Option<&Vec<usize>>) {
        let of_network = |one: &usize| network_of(*one) == number;
        let first = (0..ATTACHMENTS).find(of_network).expect("each network has some");
        let mut config = self.attachments[first].config();
        if let Some(without) = without {
            let valid = (0..ATTACHMENTS).filter(of_network).filter(|one| !without.contains(one));
            config["cni.dev/valid-attachments"] = valid
                .map(|one| json!({"containerID": format!("c{one}"), "ifname": "eth0"}))
                .collect();
        }
        for one in without.into_iter().flatten() {
            self.disown(*one);
            // GC leaves alone what was recorded just now. Nobody else changes this record.
            let Attachment { network, container_id, ifname, .. } = &self.attachments[*one];
            let name = format!("attachments/{}:{container_id}:{ifname}.json", network.name);
            view::an_hour_passes_for(&[Path::new(STATE).join(name)]);
        }
        let damage = self.damage.load(Ordering::SeqCst);
        let attachment = &self.attachments[first];
        let ended = self.call_with(worker, order, attachment, "GC", &config);
        for one in without.into_iter().flatten() {
            let mut state = lock(&self.states[*one]);
            if ended.is_none() {
                state.maybe_removed();
            } else {
                state.removed();
            }
        }
        if self.must_succeed(worker, order, "GC", ended) {
            self.heal(damage);
        }
    }

    fn repair(&self, worker: usize, order: &Order) {
        let damage = self.damage.load(Ordering::SeqCst);
        let mut process = Command::new(Plugin::Autoport.path());
        process.env_clear().arg("repair");
        let ended = self.end(worker, order, process, b"");
        if self.must_succeed(worker, order, "repair", ended) {
            self.heal(damage);
        }
    }

    /// Everything that was damaged before is found now. An odd number is a damage in progress.
    fn heal(&self, damage: u64) {
        if damage.is_multiple_of(2) && self.damage.load(Ordering::SeqCst) == damage {
            self.healed.fetch_max(damage, Ordering::SeqCst);
        }
    }
}

/// Whether a refusal says that an attachment other than this holds the port.
fn names_another(message: &str, number: usize) -> bool {
    let holder = message.split_once(" is held by pod default/c").map(|(_, holder)| holder);
    let holder = holder.and_then(|holder| holder.split(' ').next()?.parse::<usize>().ok());
    holder.is_some_and(|holder| holder != number && holder < ATTACHMENTS)
}

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    env::var(name).ok().filter(|text| !text.is_empty()).map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, it must be a number"))
    })
}

#[test]
#[expect(clippy::print_stderr, reason = "the figures are what it is run for")]
fn nothing_is_lost_or_leaked_in_random_company() {
    let (count, seed) = (setting("SOAK_N", 1500) as usize, setting("SOAK_SEED", 1));
    eprintln!("soak: {count} operations, seed {seed}");
    let soak = Soak::new(seed);
    let begun = Instant::now();
    let mut rngs: Vec<Rng> = (0..WORKERS as u64)
        .map(|worker| Rng::with_seed(seed.wrapping_mul(1000) + worker))
        .collect();
    let mut left = count;
    let mut number = 0;
    while left > 0 {
        let now = left.min(PHASE);
        left -= now;
        let orders: Vec<Vec<Order>> = rngs
            .iter_mut()
            .enumerate()
            .map(|(worker, rng)| {
                let share = now / WORKERS + usize::from(worker < now % WORKERS);
                (0..share).map(|_| Order::random(rng, worker)).collect()
            })
            .collect();
        soak.phase(&orders);
        soak.compare(number);
        number += 1;
    }
    soak.end_all();
    let took = begun.elapsed();
    eprintln!(
        "soak: {count} operations, {number} comparisons, seed {seed}, {took:.1?}: nothing left"
    );
    for (what, times) in lock(&soak.tally).iter() {
        eprintln!("soak: {times:6} {what}");
    }
    drop(soak.node);
}
