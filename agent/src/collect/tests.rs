use autoport::cni::{Config, NodeFiles};
use autoport::model::{Attachment, HostPod, Owner, Pod};

use super::*;

/// Seconds since the epoch at which the records are made.
const CREATED: u64 = 1_700_000_000;

fn record(holder: impl Into<Holder>, uid: &str) -> Record {
    let pod = Pod { namespace: "games".into(), name: "web".into(), uid: uid.into() };
    let (config, _) = Config::read(None, &NodeFiles::default()).expect("the defaults");
    Record {
        owner: Owner { pod: Some(pod), ..Owner::bare(holder.into()) },
        pod_addresses: Vec::new(),
        policy: config.policy,
        mappings: Vec::new(),
        grants: Vec::new(),
        dialects: [].into(),
        advertised: Vec::new(),
        offload: None,
        created: CREATED,
        boot_id: String::new(),
    }
}

fn on_host(uid: &str) -> Record {
    record(HostPod::new(uid).expect("a UID"), uid)
}

fn in_sandbox(sandbox: &str, uid: &str) -> Record {
    record(Attachment::new("cbr0", sandbox, "eth0").expect("an attachment"), uid)
}

/// What the plugin recorded for the sandbox of this pod.
pub(crate) fn attached(uid: &str) -> Record {
    in_sandbox(&format!("of-{uid}"), uid)
}

/// Looks at a time in seconds after the records were made.
struct Looks {
    begun: Instant,
    suspects: Suspects,
}

impl Looks {
    fn new() -> Self {
        Self { begun: Instant::now(), suspects: Suspects::default() }
    }

    fn at(&mut self, seconds: u64, records: &[Record], sandboxes: &Sandboxes) -> Vec<String> {
        let now = self.begun + Duration::from_secs(seconds);
        let found = self.suspects.look(records, sandboxes, now, CREATED + seconds);
        found.into_iter().map(|record| record.owner.holder.to_string()).collect()
    }
}

fn named(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| record.owner.holder.to_string()).collect()
}

#[test]
fn a_holder_is_released_at_the_second_look_that_does_not_find_its_pod() {
    let (mut looks, mut sandboxes) = (Looks::new(), Sandboxes::default());
    sandboxes.run("here", "s1", Instant::now());
    let records = ["here", "gone", "late"].map(on_host);
    assert!(looks.at(0, &records, &sandboxes).is_empty());
    assert!(looks.at(59, &records, &sandboxes).is_empty());
    sandboxes.run("late", "s2", Instant::now());
    assert_eq!(looks.at(60, &records, &sandboxes), named(&records[1..2]));
    sandboxes.remove("late", "s2");
    assert_eq!(looks.at(100, &records, &sandboxes), named(&records[1..2]), "a first look again");
    looks.suspects.forget();
    assert!(looks.at(200, &records, &sandboxes).is_empty());
}

#[test]
fn a_lost_del_is_made_up_for_when_the_sandbox_is_not_listed() {
    let (mut looks, mut sandboxes) = (Looks::new(), Sandboxes::default());
    sandboxes.run("u1", "s1", Instant::now());
    sandboxes.run("u2", "s4", Instant::now());
    sandboxes.stop("u1", "s1");
    let records = [
        in_sandbox("s1", "u1"), // Stopped, and not removed: its DEL may still come.
        in_sandbox("s2", "u1"),
        in_sandbox("s3", "gone"),
        in_sandbox("s4", "u2"),
        in_sandbox("s5", ""), // Of another runtime.
    ];
    // A sandbox that is still being set up is not listed.
    for seconds in [0, 60, 540] {
        assert!(looks.at(seconds, &records, &sandboxes).is_empty(), "{seconds}");
    }
    assert!(looks.at(600, &records, &sandboxes).is_empty(), "the first look that counts");
    assert_eq!(looks.at(660, &records, &sandboxes), named(&records[1..3]));
    assert!(looks.at(720, &records, &Sandboxes::default()).is_empty(), "not kubelet's runtime");
}
