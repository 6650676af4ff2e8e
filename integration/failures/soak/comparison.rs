//! Model, records, index, published files, elements, rules and flows: whether all say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use autoport::event::Silent;
use autoport::kernel::Nft;
use autoport::model::{HostPort, Protocol, Record};
use autoport::ruleset::{Identity, Ruleset};
use autoport::store::Store;
use serde_json::Value;

use super::orders::{CHOSEN, Claim, Order, Step};
use super::state::Held;
use super::{ATTACHMENTS, Soak, lock};
use crate::stage::view::{self, STATE};

impl Soak {
    /// While no worker runs: decides open cases, has damage repaired, and compares.
    pub(super) fn compare(&self, number: usize) {
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
        let store = Store::at(Path::new(STATE)).waiting(Duration::ZERO);
        let Some(shared) = store.read(&mut Silent).expect("nobody locks it") else {
            return BTreeMap::new();
        };
        let read = shared.records().expect("they can be listed").into_iter();
        read.map(|record| {
            let record = record.unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
            let id = record.owner.container_id().expect("an attachment");
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
            let requests = state.certain.as_ref().map_or(0, Claim::requests);
            assert_eq!(record.grants.len(), requests, "seed {seed}, c{one}: {record:?}");
            assert_eq!(
                record.mappings.len(),
                named(record).len() + 2 * requests,
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

    /// No UDP flow goes to another pod than the record of its port says. One that began at the node itself may
    /// have stayed there: a command that was killed does not end it (docs/architecture.md). Without kills
    /// `udp` insists on that.
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
            let right = target.is_some_and(|target| target.ip() == flow.by) || !is_pod(flow.by);
            assert!(right, "seed {}: {flow:?} should go to {target:?}", self.seed);
        }
    }

    /// Takes everything back and insists that nothing is left.
    pub(super) fn end_all(&self) {
        let seed = self.seed;
        for attachment in 0..ATTACHMENTS {
            self.obey(0, &Order { step: Step::Del { attachment }, kill: None });
        }
        self.assert_fine();
        view::assert_nothing_held();
        let pods: Vec<_> = flows().into_iter().filter(|flow| is_pod(flow.by)).collect();
        assert!(pods.is_empty(), "seed {seed}: flows are left: {pods:?}");
        let left: Vec<String> = view::tree(Path::new(STATE)).lines().map(str::to_owned).collect();
        let expected = [
            "lock",
            "instance",
            "cursors/",
            "released/",
            "ports/",
            "attachments/",
            "pods/",
            "loopback/",
        ];
        let stray = left.iter().find(|line| {
            let path = line.strip_prefix(&format!("{STATE}/"));
            let is_empty = |path| ["containers/", "owners/", "namespaces/"].contains(&path);
            let is_known = |path: &str| expected.iter().any(|one| path.starts_with(one));
            !path.is_none_or(|path| is_empty(path) || is_known(path))
        });
        assert_eq!(stray, None, "seed {seed}");
        for folder in ["ports/tcp", "ports/udp", "attachments", "pods"] {
            let within = fs::read_dir(Path::new(STATE).join(folder)).into_iter().flatten().count();
            assert_eq!(within, 0, "seed {seed}: {folder} is not empty");
        }
        let store = Store::at(Path::new(STATE)).waiting(Duration::ZERO);
        store.lock(&mut Silent).expect("nobody holds the lock");
    }
}

/// The table of these records.
fn whole(records: &BTreeMap<usize, Record>) -> Ruleset {
    let text = fs::read(format!("{STATE}/instance")).expect("there is a store");
    let instance: Value = serde_json::from_slice(&text).expect("it is JSON");
    let id = instance["id"].as_str().expect("it has an ID");
    Ruleset::new(Identity::current(id), records.values())
}

/// The host ports of a record that were asked for by number.
fn named(record: &Record) -> BTreeSet<HostPort> {
    let hosts = record.mappings.iter().map(|mapping| mapping.host);
    hosts.filter(|host| !CHOSEN.contains(&host.port.get())).collect()
}

/// A UDP flow: the destination of its client, and the address that answers.
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
