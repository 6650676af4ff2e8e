//! Sixteen workers, a hundred attachments: ADD, DEL, CHECK, GC, repair and STATUS in random order,
//! killed at random moments, while somebody damages the table; then kernel, records and a model are
//! compared.
//!
//! `make soak N=10000 SEED=1`. What each worker does is a function of the seed; how the workers
//! meet is not.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::num::NonZeroU16;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use autoport::kernel::Nft;
use autoport::model::{HostPort, Protocol, Record};
use autoport::ruleset::{Identity, Ruleset};
use autoport::store::Store;
use fastrand::Rng;
use serde_json::{Value, json};

use crate::bare::{lead_nowhere, network, result};
use crate::chain::{Attachment, Network, PortMapping};
use crate::netns::{PATH, run, sysctl};
use crate::node::{CLIENT, FIRST, Node, address};
use crate::plugin::{Outcome, Plugin};
use crate::probe::Transport;
use crate::udp::keep_tracking;
use crate::view::{self, STATE};

const WORKERS: usize = 16;
const ATTACHMENTS: usize = 100;

/// How many operations lie between two comparisons.
const PHASE: usize = 500;

/// What claims name: few enough that they collide.
const STATIC: std::ops::Range<u16> = 8000..8160;
/// What the node chooses from: so few that it runs out at times.
const CHOSEN: std::ops::RangeInclusive<u16> = 20000..=20024;
/// What nobody claims: the host ports of elements that somebody else adds.
const FOREIGN: std::ops::Range<u16> = 9990..9999;

/// A call that takes longer is stuck. The longest wait it may have is 30 s, for the lock.
const STUCK: Duration = Duration::from_mins(2);

/// What an attachment asks for at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    mappings: Vec<PortMapping>,
}

impl Claim {
    fn random(rng: &mut Rng) -> Self {
        let mut mappings: Vec<PortMapping> = Vec::new();
        for _ in 0..rng.usize(1..=3) {
            let transport = Transport::BOTH[usize::from(rng.bool())];
            let host_ip = if rng.u8(0..4) == 0 { FIRST[rng.usize(0..2)] } else { "" };
            let port = rng.u16(STATIC);
            let equal = |one: &PortMapping| one.host_port == port;
            if !mappings.iter().any(equal) {
                mappings.push(PortMapping::new(transport, port, 80).on(host_ip));
            }
        }
        if rng.u8(0..3) == 0 {
            mappings.push(PortMapping::new(Transport::Tcp, 0, 81));
        }
        Self { mappings }
    }

    /// The host ports that it names.
    fn named(&self) -> BTreeSet<HostPort> {
        let named = self.mappings.iter().filter(|mapping| mapping.host_port != 0);
        named.flat_map(hosts_of).collect()
    }

    fn wishes(&self) -> usize {
        self.mappings.iter().filter(|mapping| mapping.host_port == 0).count()
    }
}

fn hosts_of(mapping: &PortMapping) -> Vec<HostPort> {
    let protocol: Protocol = mapping.protocol.parse().expect("a protocol");
    let port = NonZeroU16::new(mapping.host_port).expect("it is named");
    let own = mapping.host_ip.as_deref().map(address);
    HostPort::each(protocol, own, port).collect()
}

/// One step of a worker. `attachment` is one of its own.
#[derive(Clone, Debug)]
enum Step {
    Add {
        attachment: usize,
        claim: Claim,
    },
    Del {
        attachment: usize,
    },
    Check {
        attachment: usize,
    },
    /// GC that names all attachments of the network but these, which are the worker's own.
    Gc {
        network: usize,
        without: Vec<usize>,
    },
    /// GC that names none, so that only evidence counts.
    Look {
        network: usize,
    },
    Repair,
    Status {
        attachment: usize,
    },
    Damage(Damage),
    /// Datagrams to host ports.
    Send {
        ports: Vec<u16>,
    },
}

#[derive(Clone, Debug)]
enum Damage {
    Everything,
    Table,
    Chain(&'static str),
    Element(usize),
    Rule(usize),
    Foreign(u16),
}

/// A step, and after how long its process is killed, if it is.
#[derive(Clone, Debug)]
struct Order {
    step: Step,
    kill: Option<Duration>,
}

impl fmt::Display for Order {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}", self.step)?;
        self.kill.map_or(Ok(()), |after| write!(out, ", killed after {after:?}"))
    }
}

/// The networks by number; what is special about each makes chains of its own.
fn networks() -> Vec<Network> {
    let range = format!("{}-{}", CHOSEN.start(), CHOSEN.end());
    let all = [
        network("blue"),
        network("green").with("masqAll", true).with("markMasqBit", 14),
        network("red").with("sourceRanges", json!(["192.0.2.0/24", "2001:db8::/32"])),
        network("grey").with("snat", false).with("counters", true),
    ];
    let common = |one: Network| one.with("portRange", range.as_str()).with("lockTimeout", 60);
    all.into_iter().map(common).collect()
}

const fn network_of(attachment: usize) -> usize {
    attachment / WORKERS % 4
}

fn own_of(worker: usize) -> Vec<usize> {
    (0..ATTACHMENTS).filter(|one| one % WORKERS == worker).collect()
}

impl Order {
    fn random(rng: &mut Rng, worker: usize) -> Self {
        let own = own_of(worker);
        let attachment = own[rng.usize(0..own.len())];
        let step = match rng.u8(0..100) {
            0..42 => Step::Add { attachment, claim: Claim::random(rng) },
            42..70 => Step::Del { attachment },
            70..80 => Step::Check { attachment },
            80..83 => {
                let network = rng.usize(0..4);
                let mut without = own;
                without.retain(|one| network_of(*one) == network && rng.bool());
                Step::Gc { network, without }
            }
            83..85 => Step::Look { network: rng.usize(0..4) },
            85..87 => Step::Repair,
            87..88 => Step::Status { attachment },
            88..91 => Step::Damage(Damage::random(rng)),
            _ => Step::Send { ports: (0..20).map(|_| rng.u16(STATIC)).collect() },
        };
        let killable = !matches!(step, Step::Damage(_) | Step::Send { .. });
        let after = Duration::from_micros(rng.u64(0..8000));
        let kill = (rng.u8(0..8) == 0 && killable).then_some(after);
        Self { step, kill }
    }
}

impl Damage {
    fn random(rng: &mut Rng) -> Self {
        const CHAINS: [&str; 4] = ["prerouting", "hostports", "guard", "postrouting"];
        match rng.u8(0..6) {
            0 => Self::Everything,
            1 => Self::Table,
            2 => Self::Chain(CHAINS[rng.usize(0..CHAINS.len())]),
            3 => Self::Element(rng.usize(0..1000)),
            4 => Self::Rule(rng.usize(0..1000)),
            _ => Self::Foreign(rng.u16(FOREIGN)),
        }
    }

    /// Does it. Where there is nothing to damage, nothing happens.
    fn run(&self) {
        match self {
            Self::Everything => {
                nft("flush ruleset");
                keep_tracking();
            }
            Self::Table => nft("delete table inet autoport"),
            Self::Chain(name) => nft(&format!("flush chain inet autoport {name}")),
            Self::Element(number) => {
                let listing = nft_lists("list map inet autoport ports4");
                // "tcp . 8080 : 10.1.0.5 . 80 comment …"
                let keys = listing.split(['{', ',', '}']).filter_map(|one| one.split_once(" : "));
                let keys: Vec<&str> =
                    keys.map(|(key, _)| key.trim()).filter(|key| key.contains(" . ")).collect();
                if let Some(key) = keys.get(number % keys.len().max(1)) {
                    let key = key.rsplit('\n').next().unwrap_or(key).trim();
                    let key = key.trim_start_matches("elements = ");
                    nft(&format!("delete element inet autoport ports4 {{ {key} }}"));
                }
            }
            Self::Rule(number) => {
                let listing = nft_lists("-a list table inet autoport");
                let (mut chain, mut rules) = ("", Vec::new());
                for line in listing.lines().map(str::trim) {
                    if let Some(rest) = line.strip_prefix("chain ") {
                        chain = rest.split(' ').next().unwrap_or_default();
                    } else if let Some((_, handle)) = line.split_once(" # handle ")
                        && !line.contains('{')
                        && !chain.is_empty()
                    {
                        rules.push(format!("{chain} handle {handle}"));
                    }
                }
                if let Some(rule) = rules.get(number % rules.len().max(1)) {
                    nft(&format!("delete rule inet autoport {rule}"));
                }
            }
            Self::Foreign(port) => {
                nft(&format!(
                    "add element inet autoport ports4 {{ tcp . {port} : 10.1.0.9 . 80 }}"
                ));
            }
        }
    }
}

/// Runs a command of nft that may come too late.
fn nft(command: &str) {
    let _ = run(Command::new("nft").args(["-f", "-"]), command);
}

fn nft_lists(command: &str) -> String {
    run(Command::new("nft").args(command.split(' ')), "").1
}

/// The host ports that a record may name: `None` where there is none. A killed ADD leaves what was,
/// what was asked for, or both.
type Held = Option<BTreeSet<HostPort>>;

/// What is known of one attachment.
#[derive(Clone, Debug)]
struct State {
    possible: BTreeSet<Held>,
    /// The claim that is in force, where that is certain.
    certain: Option<Claim>,
    /// What was asked for last.
    asked: Option<Claim>,
}

impl State {
    fn nothing() -> Self {
        Self { possible: BTreeSet::from([None]), certain: None, asked: None }
    }

    fn is_certain(&self) -> bool {
        self.possible.len() == 1
    }

    fn added(&mut self, claim: &Claim) {
        self.possible = BTreeSet::from([Some(claim.named())]);
        self.certain = Some(claim.clone());
    }

    fn removed(&mut self) {
        self.possible = BTreeSet::from([None]);
        self.certain = None;
    }

    fn maybe_added(&mut self, claim: &Claim) {
        let named = claim.named();
        let unions = self.possible.iter().flatten().map(|held| Some(held | &named));
        let unions: Vec<Held> = unions.collect();
        self.possible.extend(unions);
        self.possible.insert(Some(named));
        self.certain = None;
    }

    fn maybe_removed(&mut self) {
        self.possible.insert(None);
        self.certain = self.certain.take().filter(|_| self.possible.len() == 1);
    }
}

/// What a process came to: its outcome, or `None` if it was killed.
type Ended = Option<Outcome>;

struct Soak {
    node: Node,
    seed: u64,
    attachments: Vec<Attachment>,
    states: Vec<Mutex<State>>,
    /// Who certainly holds which host port at this moment.
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
            Some(101) if claim.wishes() > 0 => self.count("ADD: none free (101)"),
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

    /// With nobody at work: settles what is in question, has everything healed, and compares.
    fn compare(&self, number: usize) {
        let records = self.records();
        for (one, state) in self.states.iter().enumerate() {
            let state = lock(state);
            let held: Held = records.get(&one).map(named);
            assert!(
                state.possible.contains(&held),
                "seed {}, c{one} holds {held:?}, and could hold {:?}",
                self.seed,
                state.possible
            );
        }
        let order = |step| Order { step, kill: None };
        for one in 0..ATTACHMENTS {
            let state = lock(&self.states[one]).clone();
            if state.is_certain() {
                continue;
            }
            if let Some(claim) = state.asked.filter(|_| one % 2 == 0) {
                self.obey(0, &order(Step::Add { attachment: one, claim }));
            }
            if !lock(&self.states[one]).is_certain() {
                self.obey(0, &order(Step::Del { attachment: one }));
            }
            self.assert_fine();
        }
        let healing =
            if number.is_multiple_of(2) { Step::Look { network: 0 } } else { Step::Repair };
        self.obey(0, &order(healing));
        self.assert_fine();
        self.assert_equal();
        for one in (number % 5..ATTACHMENTS).step_by(5) {
            self.obey(0, &order(Step::Check { attachment: one }));
        }
        self.assert_fine();
    }

    /// The records by the number of the attachment.
    fn records(&self) -> BTreeMap<usize, Record> {
        let store = Store::at(Path::new(STATE));
        let Some(shared) =
            store.read(Duration::ZERO, &mut std::io::sink()).expect("nobody locks it")
        else {
            return BTreeMap::new();
        };
        let read = shared.records().expect("they can be listed").into_iter();
        read.map(|record| {
            let record = record.unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
            let id = record.owner.attachment.container_id();
            (id[1..].parse().expect("c and a number"), record)
        })
        .collect()
    }

    /// Model, records, index, published files, elements, rules and flows: all say the same.
    fn assert_equal(&self) {
        let seed = self.seed;
        let records = self.records();
        let mut held: Vec<(HostPort, usize)> = Vec::new();
        for (one, state) in self.states.iter().enumerate() {
            let state = lock(state);
            let record = records.get(&one);
            assert_eq!(
                record.map(named).map_or(BTreeSet::from([None]), |n| BTreeSet::from([Some(n)])),
                state.possible,
                "seed {seed}, c{one}"
            );
            let Some(record) = record else {
                let pods = format!("{STATE}/pods/uid-c{one}");
                assert!(!Path::new(&pods).exists(), "seed {seed}: {pods} is left");
                continue;
            };
            let wishes = state.certain.as_ref().map_or(0, Claim::wishes);
            assert_eq!(record.grants.len(), wishes, "seed {seed}, c{one}: {record:?}");
            assert_eq!(
                record.mappings.len(),
                named(record).len() + 2 * wishes,
                "seed {seed}, c{one}"
            );
            let json = fs::read(format!("{STATE}/pods/uid-c{one}/ports.json")).unwrap_or_default();
            let json: Value = serde_json::from_slice(&json).unwrap_or_default();
            let told = json["ports"].as_array().into_iter().flatten();
            let told = told
                .filter(|entry| entry["origin"] == "chosen")
                .map(|entry| entry["hostPort"].as_u64());
            let granted = record.grants.iter().map(|grant| Some(u64::from(grant.port.get())));
            assert!(told.eq(granted), "seed {seed}, c{one}: {json}, {:?}", record.grants);
            held.extend(record.mappings.iter().map(|mapping| (mapping.host, one)));
        }
        for (at, (host, one)) in held.iter().enumerate() {
            let other = held[..at].iter().find(|(other, _)| other.overlaps(host));
            assert_eq!(other, None, "seed {seed}: c{one} has {host} too");
        }
        assert_eq!(view::index().len(), held.len(), "seed {seed}: the index");
        let whole = whole(&records);
        let instance = &whole.identity.instance;
        let difference = Nft::open(instance).and_then(|mut nft| nft.check(&whole));
        assert_eq!(
            difference.expect("the kernel answers"),
            None,
            "seed {seed}: kernel and records"
        );
        let elements = view::elements();
        assert_eq!(
            elements.len(),
            whole.elements.len(),
            "seed {seed}: {elements:#?}\n{:#?}",
            whole.elements.keys()
        );
        self.assert_flows(&records);
    }

    /// Every UDP flow goes where the record of its port says, and where there is none, to no pod.
    fn assert_flows(&self, records: &BTreeMap<usize, Record>) {
        for flow in flows() {
            let mappings = records.values().flat_map(|record| &record.mappings);
            let mut own = mappings.filter(|mapping| {
                mapping.host.protocol == Protocol::Udp
                    && mapping.host.port.get() == flow.to.port()
                    && mapping.target.is_some()
                    && (mapping.host.address == flow.to.ip()
                        || mapping.host.is_wildcard()
                            && mapping.host.address.is_ipv4() == flow.to.is_ipv4())
            });
            let target = own.next().and_then(|mapping| mapping.target);
            let right = target.map_or(!is_pod(flow.by), |target| target.ip() == flow.by);
            assert!(right, "seed {}: {flow:?} should go to {target:?}", self.seed);
        }
    }

    /// Takes everything back and insists that nothing is left.
    fn end_all(&self) {
        let seed = self.seed;
        for attachment in 0..ATTACHMENTS {
            self.obey(0, &Order { step: Step::Del { attachment }, kill: None });
        }
        self.assert_fine();
        view::assert_nothing_held();
        let pods: Vec<_> = flows().into_iter().filter(|flow| is_pod(flow.by)).collect();
        assert!(pods.is_empty(), "seed {seed}: flows are left: {pods:?}");
        let left: Vec<String> = view::tree(Path::new(STATE)).lines().map(str::to_owned).collect();
        let expected =
            ["lock", "instance", "cursors/", "released/", "ports/", "attachments/", "pods/"];
        let stray = left.iter().find(|line| {
            let path = line.strip_prefix(&format!("{STATE}/"));
            !path.is_none_or(|path| expected.iter().any(|one| path.starts_with(one)))
        });
        assert_eq!(stray, None, "seed {seed}");
        for folder in ["ports/tcp", "ports/udp", "attachments", "pods"] {
            let within = fs::read_dir(Path::new(STATE).join(folder)).into_iter().flatten().count();
            assert_eq!(within, 0, "seed {seed}: {folder} is not empty");
        }
        let store = Store::at(Path::new(STATE));
        store.lock(Duration::ZERO, &mut std::io::sink()).expect("nobody holds the lock");
    }
}

/// The table of these records.
fn whole(records: &BTreeMap<usize, Record>) -> Ruleset {
    let text = fs::read(format!("{STATE}/instance")).expect("there is a store");
    let instance: Value = serde_json::from_slice(&text).expect("it is JSON");
    let id = instance["id"].as_str().expect("it has an ID");
    Ruleset::new(Identity::current(id), records.values())
}

/// Whether a refusal says that an attachment other than this holds the port.
fn names_another(message: &str, number: usize) -> bool {
    let holder = message.split_once(" is held by pod default/c").map(|(_, holder)| holder);
    let holder = holder.and_then(|holder| holder.split(' ').next()?.parse::<usize>().ok());
    holder.is_some_and(|holder| holder != number && holder < ATTACHMENTS)
}

/// The host ports of a record that were asked for by number.
fn named(record: &Record) -> BTreeSet<HostPort> {
    let hosts = record.mappings.iter().map(|mapping| mapping.host);
    hosts.filter(|host| !CHOSEN.contains(&host.port.get())).collect()
}

/// A UDP flow: where its client sends to, and who answers.
#[derive(Debug)]
struct Flow {
    to: SocketAddr,
    by: IpAddr,
}

fn is_pod(address: IpAddr) -> bool {
    let pods: [ipnetwork::IpNetwork; 2] =
        ["10.1.0.0/16", "fd00:1::/64"].map(|text| text.parse().expect("a network"));
    pods.iter().any(|network| network.contains(address))
}

fn flows() -> Vec<Flow> {
    let all = view::flows();
    let udp = all.iter().filter(|line| line.contains(" udp "));
    udp.filter_map(|line| {
        let all = |prefix: &'static str| {
            line.split_whitespace().filter_map(move |word| word.strip_prefix(prefix))
        };
        let to: IpAddr = all("dst=").next()?.parse().ok()?;
        let port = all("dport=").next()?.parse().ok()?;
        Some(Flow { to: SocketAddr::new(to, port), by: all("src=").nth(1)?.parse().ok()? })
    })
    .collect()
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
