use std::collections::BTreeMap;
use std::num::NonZeroU16;

use super::super::tests::test_code;
use super::super::{CLUSTER_FILE, NODE_DIR, NODE_FILE};
use super::*;
use crate::model::{Allocation, HostListeners};

fn read(judge: &mut Judge, texts: &[&str]) -> Result<Config, Error> {
    let decoded: Vec<Object<'_>> = texts
        .iter()
        .map(|text| Object::decode("a test", "", text.as_bytes()).expect("an object"))
        .collect();
    Config::from_layers(&decoded.iter().collect::<Vec<_>>(), judge)
}

fn strict(text: &str) -> Result<Config, Error> {
    read(&mut Judge::strict(), &[text])
}

fn defaults() -> Config {
    Config {
        policy: Policy {
            masquerade: Masquerade::Local,
            mark_bit: 13,
            source_ranges: vec![],
            host_addresses: vec![],
        },
        ports: PortPolicy {
            ranges: super::super::number::range("20000-29999").into_iter().collect(),
            named_ranges: BTreeMap::new(),
            excluded: vec![],
            min_port: NonZeroU16::MIN,
            allocation: Allocation::Sequential,
            host_listeners: HostListeners::Reject,
            allowed_namespaces: None,
            max_per_pod: NonZeroU16::new(128).expect("it is not 0"),
            max_per_namespace: None,
        },
        aliases: [Dialect::KubeWharf, Dialect::Bcs].into(),
        agent_required: false,
        guard_range: false,
        advertise_addresses: vec![],
        guard_except: vec![],
        offload: vec![],
        store: StoreConfig {
            state_dir: "/run/autoport".into(),
            lock_timeout: Duration::from_secs(10),
        },
    }
}

#[test]
fn defaults_are_portmaps() {
    assert_eq!(strict("{}").expect("nothing is needed"), defaults());
    let nulls = r#"{"snat":null,"masqAll":null,"markMasqBit":null,"backend":null,
                    "sourceRanges":null,"stateDir":null,"lockTimeout":null,"conditionsV4":null,
                    "conditionsV6":[],"externalSetMarkChain":"","hostAddresses":[]}"#;
    assert_eq!(strict(nulls).expect("null is absent"), defaults());
}

#[test]
fn every_key_is_read() {
    let config = strict(
        r#"{"backend":"nftables","masqAll":true,"markMasqBit":31,
            "sourceRanges":["10.1.2.3/8","fd00::1"],"hostAddresses":["192.0.2.0/24"],
            "advertiseAddresses":["203.0.113.1","2001:db8::1"],
            "guardExcept":["loopback0","eth0","loopback0"],"offload":["eth1","bond0.5"],
            "stateDir":"//var/lib//autoport/","lockTimeout":0.5}"#,
    )
    .expect("all are good");
    assert_eq!(config.policy.masquerade, Masquerade::Everybody);
    assert_eq!(config.policy.mark_bit, 31);
    let ranges: Vec<String> = config.policy.source_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["10.0.0.0/8", "fd00::1/128"]);
    assert_eq!(config.policy.host_addresses.len(), 1);
    let told: Vec<String> = config.advertise_addresses.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["203.0.113.1", "2001:db8::1"]);
    assert_eq!(config.guard_except, ["eth0", "loopback0"]);
    assert_eq!(config.offload, ["bond0.5", "eth1"]);
    let one = strict(r#"{"advertiseAddresses":"203.0.113.1"}"#).expect("one is enough");
    assert_eq!(one.advertise_addresses.len(), 1);
    assert_eq!(config.store.state_dir, Path::new("/var/lib/autoport"));
    assert_eq!(config.store.lock_timeout, Duration::from_millis(500));
}

#[test]
fn masq_all_needs_snat() {
    let config = strict(r#"{"snat":false,"masqAll":true}"#).expect("both are good");
    assert_eq!(config.policy.masquerade, Masquerade::Nobody);
}

#[test]
fn bad_values_name_key_value_and_remedy() {
    let cases = [
        (r#"{"snat":"no"}"#, 6, "snat: found \"no\", expected true or false"),
        (r#"{"masqAll":1}"#, 6, "masqAll"),
        (r#"{"markMasqBit":"13"}"#, 6, "markMasqBit"),
        (r#"{"markMasqBit":32}"#, 7, "markMasqBit is 32, it must be a bit"),
        (r#"{"markMasqBit":-1}"#, 7, "-1"),
        (r#"{"markMasqBit":1.5}"#, 7, "1.5"),
        (r#"{"backend":"iptables"}"#, 2, "backend is \"iptables\""),
        (r#"{"backend":"ipvs"}"#, 7, "nftables"),
        (r#"{"backend":5}"#, 6, "a string"),
        (r#"{"conditionsV4":["!","-s","1.2.3.4/32"]}"#, 2, "sourceRanges"),
        (r#"{"conditionsV6":["x"]}"#, 2, "hostAddresses"),
        (r#"{"externalSetMarkChain":"KUBE-MARK-MASQ"}"#, 2, "markMasqBit"),
        (r#"{"sourceRanges":"10.0.0.0/8"}"#, 6, "expected a list"),
        (r#"{"sourceRanges":["::/0",8]}"#, 6, "sourceRanges[1]: found 8"),
        (
            r#"{"sourceRanges":["10.0.0.0/8 accept"]}"#,
            7,
            "sourceRanges[0] is \"10.0.0.0/8 accept\"",
        ),
        (r#"{"hostAddresses":["eth0"]}"#, 7, "hostAddresses[0]"),
        (r#"{"advertiseAddresses":"node1"}"#, 7, "advertiseAddresses is \"node1\", it must be one"),
        (r#"{"advertiseAddresses":["0.0.0.0"]}"#, 7, "advertiseAddresses[0] is \"0.0.0.0\""),
        (r#"{"advertiseAddresses":"192.0.2.0/24"}"#, 7, "without prefix"),
        (
            r#"{"advertiseAddresses":["::1","::2"]}"#,
            7,
            "advertiseAddresses[1] is \"::2\", but the list already has",
        ),
        (r#"{"advertiseAddresses":1}"#, 6, "advertiseAddresses"),
        (r#"{"guardExcept":"loopback0"}"#, 6, "expected a list"),
        (r#"{"guardExcept":["a/b"]}"#, 7, "guardExcept[0] is \"a/b\", it must be 1 to 15 bytes"),
        (r#"{"offload":"eth0"}"#, 6, "offload: found \"eth0\", expected a list"),
        (r#"{"offload":[0]}"#, 6, "offload[0]: found 0"),
        (r#"{"offload":["lo"]}"#, 7, "offload[0] is \"lo\", it must be an interface towards"),
        (r#"{"offload":["eth0","sixteen-letters0"]}"#, 7, "offload[1] is \"sixteen-letters0\""),
        (r#"{"offload":["eth0","eth0"]}"#, 7, "offload[1] is \"eth0\", but the list already has"),
        (r#"{"stateDir":"run/autoport"}"#, 7, "stateDir is \"run/autoport\""),
        (r#"{"stateDir":"/run/../etc"}"#, 7, ".."),
        (r#"{"stateDir":"/run/./x"}"#, 7, "stateDir"),
        (r#"{"stateDir":"/"}"#, 7, "stateDir"),
        (r#"{"stateDir":""}"#, 7, "stateDir"),
        (r#"{"stateDir":"/run/\u0000x"}"#, 7, "stateDir"),
        (r#"{"stateDir":["/run"]}"#, 6, "stateDir"),
        (r#"{"lockTimeout":601}"#, 7, "0 to 600"),
        (r#"{"lockTimeout":-1}"#, 7, "lockTimeout is -1"),
        (r#"{"lockTimeout":1e999}"#, 7, "lockTimeout"),
        (r#"{"lockTimeout":"10s"}"#, 6, "a number"),
    ];
    for (text, code, part) in cases {
        let error = strict(text).expect_err(text);
        assert_eq!(test_code(&error), code, "{text}: {error}");
        assert!(error.to_string().contains(part), "{text}: {error}");
        let mut judge = Judge::lenient();
        let config = read(&mut judge, &[text]).expect("lenient means no error");
        assert_eq!((config, judge.warnings.len()), (defaults(), 1), "{text}");
    }
}

#[test]
fn near_misses_are_errors_and_strangers_warnings() {
    let cases = [
        ("SNAT", "snat"),
        ("masq_all", "masqAll"),
        ("masqAl", "masqAll"),
        ("sourceRange", "sourceRanges"),
        ("source-ranges", "sourceRanges"),
        ("soruceRanges", "sourceRanges"),
        ("hostAdresses", "hostAddresses"),
        ("statedir", "stateDir"),
        ("lockTimeoutS", "lockTimeout"),
        ("markMaskBit", "markMasqBit"),
        ("Backend", "backend"),
        ("conditionsv4", "conditionsV4"),
    ];
    for (key, ours) in cases {
        let error = strict(&format!("{{\"{key}\":1}}")).expect_err(key);
        assert_eq!(test_code(&error), 2, "{key}");
        let message = error.to_string();
        assert!(message.contains(key) && message.contains(&format!("mean {ours}?")), "{message}");
    }
    for key in ["nat", "dnat", "mtu", "_comment", "bridge", "state", "a\\nb", &"x".repeat(99_999)] {
        let mut judge = Judge::strict();
        assert_eq!(read(&mut judge, &[&format!("{{\"{key}\":1}}")]).expect(key), defaults());
        assert_eq!(judge.warnings.len(), 1, "{key}");
        assert!(judge.warnings.iter().all(|text| text.len() < 200 && !text.contains('\n')));
    }
}

#[test]
fn keys_of_others_are_known() {
    let mut judge = Judge::strict();
    let text = r#"{"cniVersion":1,"name":1,"type":1,"capabilities":1,"runtimeConfig":1,"args":1,
                   "prevResult":1,"ipam":1,"dns":1,"ipMasq":1,"labels":1,"disableCheck":1,
                   "cni.dev/valid-attachments":1,"cni.dev/attachments":1,"cni.dev/new":1}"#;
    assert_eq!(read(&mut judge, &[text]).expect("none is ours"), defaults());
    assert_eq!(judge.warnings, [""; 0]);
}

#[test]
fn the_node_file_wins_key_by_key() {
    let node = r#"{"stateDir":"/run/other","snat":null}"#;
    let conf = r#"{"stateDir":"/run/conf","snat":false,"lockTimeout":3}"#;
    let config = read(&mut Judge::strict(), &[node, conf]).expect("both are good");
    assert_eq!(config.policy.masquerade, Masquerade::Nobody);
    assert_eq!(config.store.state_dir, Path::new("/run/other"));
    assert_eq!(config.store.lock_timeout, Duration::from_secs(3));

    let hidden = read(&mut Judge::strict(), &[node, r#"{"stateDir":"bad"}"#]);
    assert_eq!(hidden.map_err(|error| test_code(&error)), Err(7));
    let mut judge = Judge::lenient();
    let config = read(&mut judge, &[r#"{"stateDir":"bad"}"#, conf]).expect("lenient");
    assert_eq!(config.store.state_dir, Path::new("/run/conf"));
}

#[test]
fn errors_in_the_node_file_name_it() {
    let cases = [("{", 6), ("[]", 6), (r#"{"stateDir":"x"}"#, 7), (r#"{"state_dir":"/x"}"#, 2)];
    for (text, code) in cases {
        for path in [NODE_FILE, CLUSTER_FILE] {
            let files = files(&[(path, text)]);
            let error = Config::read(None, &files).expect_err(text);
            assert_eq!(test_code(&error), code, "{text}");
            assert!(error.to_string().contains(path), "{error}");
            // What is wrong is left out.
            assert_eq!(StoreConfig::of_node_in_part(&files), defaults().store, "{text}");
        }
    }
    assert_eq!(Config::read(None, &files(&[])).expect("no file"), (defaults(), vec![]));
    assert_eq!(StoreConfig::of_node_in_part(&files(&[])), defaults().store);
    let half = files(&[(NODE_FILE, r#"{"stateDir":"/run/other","portRang":"1"}"#)]);
    assert_eq!(StoreConfig::of_node_in_part(&half).state_dir, Path::new("/run/other"));
}

#[test]
fn the_nodes_file_wins_over_that_of_the_cluster_and_both_over_a_network() {
    let node = (NODE_FILE, r#"{"minPort": 3}"#);
    let cluster = (CLUSTER_FILE, r#"{"minPort": 2, "markMasqBit": 2}"#);
    let network = Some(&br#"{"minPort": 1, "markMasqBit": 1, "lockTimeout": 1}"#[..]);
    for (found, expected) in [
        (&[][..], (1, 1)),
        (&[cluster], (2, 2)),
        (&[node], (3, 1)),
        (&[node, cluster], (3, 2)),
        // The order in which they are found does not count.
        (&[cluster, node], (3, 2)),
    ] {
        let (config, _) = Config::read(network, &files(found)).expect("it is right");
        assert_eq!((config.ports.min_port.get(), config.policy.mark_bit), expected, "{found:?}");
        assert_eq!(config.store.lock_timeout, Duration::from_secs(1));
    }
}

/// These files of a node.
fn files(found: &[(&str, &str)]) -> NodeFiles {
    NodeFiles::in_dir(Path::new(NODE_DIR), |path| {
        let file = found.iter().find(|(name, _)| path == Path::new(name));
        file.map(|(_, text)| text.as_bytes().to_vec()).ok_or(std::io::ErrorKind::NotFound.into())
    })
}
