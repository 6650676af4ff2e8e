//! What is fuzzed: four doors through which bytes of others come in. Each function takes any bytes and
//! panics where the code behind the door does, or where it breaks a promise to the code behind that.
//!
//! libFuzzer calls them (`make fuzz`), and so does plain `cargo test` with the corpus
//! (`tests/corpus.rs`).

use std::cell::OnceCell;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use autoport::cni::{self, Call, Env, NodeFiles, StoreConfig};
use autoport::error::Error;
use autoport::event::Silent;
use autoport::kernel::{self, Asked};
use autoport::model::{Ask, Attachment, ContainerPort, Family, Owner, Pod, Protocol};
use autoport::plan;
use autoport::publication::Publication;
use autoport::ruleset::{Digest, Identity, Ruleset, Set};
use autoport::store::Store;

/// A call: a line `NAME=value` for each variable, an empty line, standard input; behind a line `%%`
/// the node's own file.
pub fn request(bytes: &[u8]) {
    let (head, rest) = split(bytes, b"\n\n");
    let (stdin, node_file) = split(rest, b"\n%%\n");
    let has_file = node_file.as_ptr_range() != rest[rest.len()..].as_ptr_range();
    let with_file = || NodeFiles::default().with_cluster_file(node_file.to_vec());
    let node_files = || if has_file { with_file() } else { NodeFiles::default() };
    let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let env: Env = head
        .split(|byte| *byte == b'\n')
        .map(|line| split(line, b"="))
        .map(|(name, value)| (text(name), text(value)))
        .collect();
    let _ = env.is_plugin_call();
    match Call::parse(&env, stdin, node_files, declared) {
        Ok(parsed) => {
            for warning in &parsed.warnings {
                assert_one_line(warning);
            }
            match parsed.call {
                Call::Add(claim) => {
                    judge(&claim.ask);
                    json(claim.result.get());
                }
                Call::Check(claim) => judge(&claim.ask),
                Call::Version { cni_version } => json(&cni::versions(&cni_version)),
                Call::Del { .. } | Call::Gc { .. } | Call::Status(_) => {}
            }
        }
        Err(error) => refusal(error, stdin),
    }
}

/// What a Pod declares, where it cannot do without.
fn declared(_: &StoreConfig, _: &Pod, needed: bool) -> Result<String, cni::Error> {
    let list = needed.then(|| "http=8080/tcp, game=7777/udp, 9090/sctp".to_owned());
    list.ok_or(cni::Error::NeedsSpec { needed })
}

/// The values of annotations: a line each for `autoport.cni/ports`, `autoport.cni/range`, and those
/// of `KubeWharf` and BCS. An empty line is an annotation that is not there.
pub fn annotation(bytes: &[u8]) {
    const KEYS: [&str; 5] = [
        "autoport.cni/ports",
        "autoport.cni/range",
        "pod.kubewharf.kubernetes.io/autoport",
        "randhostport.webhook.bkbcs.tencent.com",
        "ports.randhostport.webhook.bkbcs.tencent.com",
    ];
    let text = String::from_utf8_lossy(bytes);
    let annotations: serde_json::Map<_, _> = KEYS
        .iter()
        .zip(text.split('\n'))
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| ((*key).to_owned(), value.into()))
        .collect();
    let stdin = serde_json::json!({
        "cniVersion": "1.1.0",
        "name": "blue",
        "type": "autoport",
        "namedRanges": {"game": "7000-7999"},
        "runtimeConfig": {
            "io.kubernetes.cri.pod-annotations": annotations,
            "portMappings": [
                {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
                {"hostPort": 0, "containerPort": 81, "protocol": "udp"},
            ],
        },
        "prevResult": {
            "cniVersion": "1.1.0",
            "interfaces": [{"name": "eth0", "sandbox": "/run/netns/web"}],
            "ips": [
                {"address": "10.1.0.5/16", "interface": 0},
                {"address": "fd00:1::5/64", "interface": 0},
            ],
        },
    });
    let stdin = stdin.to_string().into_bytes();
    let variables = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "web"),
        ("CNI_NETNS", "/run/netns/web"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin"),
    ];
    let env: Env = variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    match Call::parse(&env, &stdin, NodeFiles::default, declared) {
        Ok(parsed) => {
            let Call::Add(claim) = parsed.call else { panic!("an ADD is an ADD") };
            judge(&claim.ask);
        }
        Err(error) => refusal(error, &stdin),
    }
}

/// A file of the store: its path below the state directory, a line break, what is in it.
pub fn record(bytes: &[u8]) {
    thread_local! {
        static STATE: OnceCell<State> = const { OnceCell::new() };
    }
    STATE.with(|state| state.get_or_init(State::new).hold(bytes));
}

/// The paths that a file of the store may have here; the first where it has another.
const PATHS: [&str; 5] = [
    "attachments/blue:web:eth0.json",
    "reservations/db.json",
    "instance",
    "hostpods/uid-web.json",
    "released/0/pod:uid-web.json",
];

/// A state directory, in memory where that can be had.
struct State(PathBuf);

impl State {
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let id = format!("{:?}", std::thread::current().id());
        let id: String = id.chars().filter(char::is_ascii_digit).collect();
        Self(parent.join(format!("autoport-fuzz-{}-{id}", std::process::id())))
    }

    fn hold(&self, bytes: &[u8]) {
        let (path, content) = split(bytes, b"\n");
        let path = PATHS.into_iter().find(|one| one.as_bytes() == path).unwrap_or(PATHS[0]);
        let Self(dir) = self;
        let put = |name: &str, bytes: &[u8]| {
            let file = dir.join(name);
            fs::create_dir_all(file.parent().expect("it is below the directory")).expect("ours");
            fs::write(file, bytes).expect("the directory is ours");
        };
        let netns = "{\"device\":4,\"inode\":1}";
        let id = "00112233445566778899aabbccddeeff";
        let instance =
            format!("{{\"version\":1,\"id\":\"{id}\",\"netns\":{netns},\"bootId\":\"boot\"}}");
        put("instance", instance.as_bytes());
        put(path, content);
        for protocol in ["tcp", "udp"] {
            let folder = dir.join(format!("ports/{protocol}/8080"));
            fs::create_dir_all(&folder).expect("the directory is ours");
            for address in ["0.0.0.0", "::"] {
                let target = format!("../../../{}", if path == PATHS[1] { path } else { PATHS[0] });
                let _ = std::os::unix::fs::symlink(target, folder.join(address));
            }
        }
        self.look();
        fs::remove_dir_all(dir).expect("the directory is ours");
    }

    /// Does with the store what list, ADD, DEL, GC and the rebuild of the table do.
    fn look(&self) {
        let store = Store::at(&self.0);
        let attachment = Attachment::new("blue", "web", "eth0").expect("a valid attachment");
        let pod = Pod { namespace: "d".into(), name: "web".into(), uid: "uid-web".into() };
        let owner = Owner { holder: attachment.into(), pod: Some(pod), netns: None };
        let locked = match store.lock(&mut Silent) {
            Ok(locked) => locked,
            Err(error) => return refusal_of(&Error::Store(error), b"{}"),
        };
        let _ = locked.belongs_here();
        let mut records = Vec::new();
        for read in locked.records().expect("the directory can be read") {
            match read {
                Ok(record) => records.push(record),
                Err(unreadable) => assert_one_line(&unreadable.to_string()),
            }
        }
        for record in &mut records {
            // Whoever is read back is who he was.
            let again = locked
                .record(&autoport::store::Key::of(&record.owner.holder))
                .expect("it could be read");
            assert_eq!(again.as_ref(), Some(&*record));
            let hosts: Vec<_> = record.mappings.iter().map(|mapping| mapping.host).collect();
            let _ = locked.holders(&hosts).expect("the index can be read");
            let _ = locked.remember(record, 5);
            let _ = plan::expand(&record.grants, &record.pod_addresses);
            let _ = record.owner.to_string();
            record.mappings = locked.owned(record).expect("the index can be read");
        }
        let _ = Ruleset::new(Identity::current(&locked.instance().id), &records).to_string();
        for read in locked.reservations().expect("the directory can be read") {
            match read {
                Ok(reservation) => {
                    let _ = locked.holders(&reservation.hosts).expect("the index can be read");
                    locked.release(&reservation.name).expect("it can go");
                }
                Err(unreadable) => assert_one_line(&unreadable.to_string()),
            }
        }
        let _ = locked.memory(&owner, 5).grants(&owner.holder);
        if let Some(told) = Publication::of(&records) {
            assert!(told.to_json().is_ok());
            let env = told.to_env();
            assert!(env.lines().all(|line| line.split('\'').count() == 3), "{env}");
        }
        let _ = locked.records_of_pod("uid-web").expect("the directory can be read");
        let _ = locked.granted_in_namespace("d").expect("the directory can be read");
        for record in &records {
            locked.remove(record).expect("the directory is ours");
        }
        locked.tidy().expect("the directory is ours");
        drop(locked.unlock().publish_rest(Duration::ZERO, &mut Silent));
    }
}

/// An answer of the kernel: one byte for the question, then a datagram.
pub fn netlink(bytes: &[u8]) {
    let Some((question, datagram)) = bytes.split_first() else { return };
    let all = questions();
    let asked = all[usize::from(*question) % all.len()];
    let _ = kernel::read(asked, datagram);
}

/// Every question, in the order of the numbers that stand for them in the corpus.
#[must_use]
pub fn questions() -> Vec<Asked> {
    let mut all = vec![Asked::Table, Asked::Chains, Asked::Rules];
    all.extend(Family::ALL.map(Asked::Flows));
    for protocol in Protocol::ALL {
        all.extend(Family::ALL.map(|family| Asked::Listeners(protocol, family)));
    }
    let sets = Set::common().chain(Set::of_network_policy(some_network_policy()));
    all.extend(sets.flat_map(|set| [Asked::Element(set), Asked::Elements(set)]));
    all
}

/// The network policy that stands for every other: what is read does not depend on its name.
#[must_use]
pub fn some_network_policy() -> Digest {
    Digest::of_chain("net_0000000000000000").expect("the name of a chain")
}

/// What is before the first `separator`, and what is behind it.
fn split<'a>(bytes: &'a [u8], separator: &[u8]) -> (&'a [u8], &'a [u8]) {
    let at = bytes.windows(separator.len()).position(|window| window == separator);
    at.map_or((bytes, &bytes[bytes.len()..]), |at| (&bytes[..at], &bytes[at + separator.len()..]))
}

/// What is past the door needs no checking.
fn judge(ask: &Ask) {
    assert!(ask.fixed.is_sorted(), "they would not be found: {:?}", ask.fixed);
    for mapping in &ask.fixed {
        if let Some(target) = mapping.target {
            assert_eq!(Family::of(&mapping.host.address), Family::of(&target.ip()));
        }
    }
    for request in &ask.requested {
        assert!(!request.protocols.is_empty() && request.protocols.is_sorted(), "{request}");
        if let ContainerPort::From(first) = request.container_port {
            let last = u32::from(first.get()) + u32::from(request.count.get()) - 1;
            assert!(u16::try_from(last).is_ok(), "{request}");
        }
    }
}

fn refusal(error: cni::Error, stdin: &[u8]) {
    refusal_of(&Error::Request(error), stdin);
}

/// A reply of the specification, whatever the error quotes.
fn refusal_of(error: &Error, stdin: &[u8]) {
    let (message, details) = (error.to_string(), error.details());
    assert_one_line(&message);
    json(&cni::failure(cni::reply_version(stdin), error.code(), &message, &details));
}

fn json(reply: &str) {
    assert!(serde_json::from_str::<serde_json::Value>(reply).is_ok(), "{reply:?}");
}

/// A name from outside must not look like a line of the log.
fn assert_one_line(text: &str) {
    assert!(!text.contains(['\n', '\r', '\u{1b}']), "{text:?}");
}
