//! The parts of an ADD that are values in, values out, each alone in a function of its own, so that
//! callgrind can count its instructions: `pure parse 1000`.
//!
//! What is counted is what [`counted`] runs; making the input is not.

#![expect(clippy::print_stderr, reason = "a program for benchmarks, run by hand at times")]

use std::convert::Infallible;
use std::hint::black_box;
use std::num::NonZeroU16;
use std::process::ExitCode;

use autoport::cni::{Call, Env, Error, NodeFiles, StoreConfig};
use autoport::kernel::Change;
use autoport::model::{Ask, Mapping, Owner, Pod, Record};
use autoport::plan::{self, Availability, Cursors};
use autoport::ruleset::elements_of;
use serde_json::json;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [part, count] = arguments.as_slice() else { return usage() };
    let Ok(count) = count.parse::<u16>() else { return usage() };
    match part.as_str() {
        "parse" => {
            let (env, stdin) = (environment(), configuration(count, 1));
            counted(|| parse(&env, &stdin));
        }
        "choose" => {
            let claim = parse(&environment(), &configuration(count, 0));
            counted(|| choose(&claim));
        }
        "plan" => {
            let [before, wanted] = [20_000, 20_001]
                .map(|first| parse(&environment(), &configuration(count, first)).fixed);
            counted(|| plan::union(black_box(&before), black_box(&wanted)));
        }
        "encode" => {
            let record = record(parse(&environment(), &configuration(count, 1)));
            counted(|| encode(&record));
        }
        _ => return usage(),
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("usage: pure parse|choose|plan|encode COUNT");
    ExitCode::FAILURE
}

/// callgrind counts from here to the end of it. What the work made is dropped outside.
#[inline(never)]
fn counted<T>(work: impl FnOnce() -> T) {
    #[inline(never)]
    fn autoport_counted<T>(work: impl FnOnce() -> T) -> T {
        black_box(work())
    }
    drop(black_box(autoport_counted(work)));
}

/// What a runtime sets.
fn environment() -> Env {
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME=pod;\
                K8S_POD_INFRA_CONTAINER_ID=0123456789abcdef;K8S_POD_UID=0123456789abcdef";
    let pairs = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "0123456789abcdef"),
        ("CNI_NETNS", "/run/netns/pod"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", args),
        ("CNI_PATH", "/opt/cni/bin"),
    ];
    pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect()
}

/// A configuration with `count` mappings: of `first` and the numbers after it, or of numbers that
/// the node is to choose where that is 0.
fn configuration(count: u16, first: u16) -> Vec<u8> {
    let mapping = |at| {
        let host = if first == 0 { 0 } else { first + at };
        json!({"hostPort": host, "containerPort": 1 + at, "protocol": "tcp"})
    };
    let config = json!({
        "cniVersion": "1.1.0",
        "name": "bench",
        "type": "autoport",
        "capabilities": {"portMappings": true},
        "runtimeConfig": {"portMappings": (0..count).map(mapping).collect::<Vec<_>>()},
        "prevResult": {
            "cniVersion": "1.1.0",
            "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "/run/netns/pod"}],
            "ips": [{"address": "10.1.0.2/16", "interface": 1}],
        },
    });
    config.to_string().into_bytes()
}

/// No request here needs the spec of its Pod.
fn no_spec(_: &StoreConfig, pod: &Pod, _: bool) -> Result<String, Error> {
    panic!("the spec of {pod} is read")
}

fn parse(env: &Env, stdin: &[u8]) -> Ask {
    match Call::parse(black_box(env), black_box(stdin), NodeFiles::default, no_spec)
        .map(|it| it.call)
    {
        Ok(Call::Add(claim)) => claim.ask,
        other => panic!("not an ADD: {other:?}"),
    }
}

/// Chooses numbers on a node of which every second one is taken.
fn choose(claim: &Ask) -> Vec<Mapping> {
    let cursors = Cursors::new();
    let choice = plan::Choice { ask: claim, earlier: &[], cursors: &cursors, seed: 0 };
    let look = |spot: plan::Spot, _| {
        let taken = claim.requested.len() <= 5_000 && is_even(spot.port);
        Ok::<_, Infallible>(if taken { Availability::Held } else { Availability::Free })
    };
    let Ok(granted) = plan::allocate(black_box(&choice), look);
    let grants = granted.expect("there are numbers for all").grants;
    plan::expand(&grants, &claim.pod_addresses)
}

fn is_even(port: NonZeroU16) -> bool {
    port.get().is_multiple_of(2)
}

fn record(claim: Ask) -> Record {
    Record {
        owner: Owner { holder: claim.holder, pod: claim.pod, netns: None },
        pod_addresses: claim.pod_addresses,
        policy: claim.policy,
        mappings: claim.fixed,
        grants: Vec::new(),
        dialects: [].into(),
        advertised: Vec::new(),
        offload: None,
        created: 0,
        boot_id: String::new(),
    }
}

/// The elements that a record implies, and the bytes that the kernel is sent for them.
fn encode(record: &Record) -> Vec<u8> {
    let record = black_box(record);
    let elements = elements_of(record, &record.mappings).map(|it| (it.place(), it)).collect();
    let change = Change { wanted: elements, ..Change::default() };
    change.encode().expect("nothing is in the way")
}
