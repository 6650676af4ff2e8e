use std::cell::Cell;
use std::ffi::OsString;
use std::io;
use std::path::Path;

use super::*;

const CONTAINERD_ARGS: &str = "K8S_POD_INFRA_CONTAINER_ID=4f2a;K8S_POD_UID=u-1;IgnoreUnknown=1;\
                               K8S_POD_NAMESPACE=default;K8S_POD_NAME=web";

fn env(command: &str) -> Env {
    let pairs = [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "4f2a"),
        ("CNI_NETNS", "/var/run/netns/x"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", CONTAINERD_ARGS),
        ("CNI_PATH", "/opt/cni/bin"),
    ];
    pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

fn parse(command: &str, stdin: &str) -> Result<Parsed, Error> {
    Call::parse(&env(command), stdin.as_bytes(), NodeFiles::default, no_spec)
}

/// The node's own files, if only `name` exists.
fn node_files_with(name: &str, read: impl Fn() -> io::Result<Vec<u8>>) -> NodeFiles {
    NodeFiles::in_dir(Path::new(NODE_DIR), |path| {
        if path == Path::new(name) { read() } else { Err(io::ErrorKind::NotFound.into()) }
    })
}

/// Nothing here needs the spec of a Pod.
fn no_spec(_: &StoreConfig, pod: &crate::model::Pod, _: bool) -> Result<String, Error> {
    panic!("the spec of {pod} is read")
}

fn conf(version: &str, rest: &str) -> String {
    format!(r#"{{"cniVersion":"{version}","name":"net","type":"autoport"{rest}}}"#)
}

const PREV: &str = r#","prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"cni0"},
    {"name":"veth1"},{"name":"eth0","sandbox":"/var/run/netns/x"}],
    "ips":[{"interface":2,"address":"10.88.0.5/16","gateway":"10.88.0.1"}],"dns":{}}"#;

const PORTS: &str = r#","capabilities":{"portMappings":true},"runtimeConfig":{"cgroupPath":"/x",
    "io.kubernetes.cri.pod-annotations":null,
    "portMappings":[{"HostPort":8080,"ContainerPort":80,"Protocol":"tcp","HostIP":""}]}"#;

fn code(result: &Result<Parsed, Error>) -> u32 {
    result.as_ref().map_or_else(test_code, |_| 0)
}

#[test]
fn an_add_of_containerd_is_understood() {
    for command in ["ADD", "CHECK"] {
        let parsed = parse(command, &conf("1.0.0", &format!("{PREV}{PORTS}"))).expect(command);
        assert_eq!(parsed.warnings, [""; 0]);
        let (Call::Add(claim) | Call::Check(claim)) = parsed.call else {
            panic!("{command} became something else");
        };
        assert_eq!(claim.ask.holder.to_string(), "net/4f2a/eth0");
        assert_eq!(claim.ask.pod.map(|pod| pod.to_string()).as_deref(), Some("default/web"));
        assert_eq!(claim.ask.netns.as_deref(), Some("/var/run/netns/x"));
        assert_eq!(claim.ask.host_interfaces, ["cni0", "veth1"]);
        assert_eq!(claim.ask.pod_addresses[0].to_string(), "10.88.0.5/16");
        assert!(PREV.ends_with(claim.result.get()));
        let hosts: Vec<String> = claim.ask.fixed.iter().map(|one| one.host.to_string()).collect();
        assert_eq!(hosts, ["0.0.0.0:8080/tcp", "[::]:8080/tcp"]);
    }
}

#[test]
fn every_code_has_its_case() {
    let good = format!("{PREV}{PORTS}");
    let cases = [
        ("ADD", conf("1.2.0", &good), 1),
        ("ADD", conf("1.1", &good), 1),
        ("DEL", conf("2.0.0", ""), 1),
        ("CHECK", conf("0.3.1", &good), 1),
        ("GC", conf("1.0.0", ""), 1),
        ("STATUS", conf("1.0.0", ""), 1),
        ("STATUS", conf("", ""), 1),
        ("ADD", conf("1.0.0", &format!(r#"{good},"backend":"iptables""#)), 2),
        ("ADD", conf("1.0.0", &format!(r#"{good},"sourceRange":[]"#)), 2),
        ("ADD", conf("1.0.0", &good.replace("\"tcp\"", "\"icmp\"")), 2),
        ("ADD", conf("1.0.0", &good.replace("8080", "\"8080\"")), 6),
        ("ADD", conf("1.0.0", &good.replace("[{\"Host", "{\"Host")), 6),
        ("ADD", String::new(), 6),
        ("ADD", "[]".into(), 6),
        ("DEL", "{".into(), 6),
        ("DEL", r#"{"cniVersion":1,"name":"net"}"#.into(), 6),
        ("DEL", r#"{"name":["net"]}"#.into(), 6),
        ("ADD", r#"{"runtimeConfig":"x","name":"net"}"#.into(), 6),
        ("ADD", conf("1.0.0", PORTS), 7),
        ("CHECK", conf("1.0.0", PORTS), 7),
        ("ADD", conf("1.0.0", &good.replace("8080", "65536")), 7),
        ("ADD", conf("1.0.0", &good.replace("8080", "-1")), 7),
        ("ADD", conf("1.0.0", &good.replace("null", r#"{"autoport.cni/ports":"80/icmp"}"#)), 7),
        ("CHECK", conf("1.0.0", &good.replace("null", r#"{"autoport.cni/ports":","}"#)), 7),
        ("ADD", conf("1.0.0", &good.replace("null", r#"{"autoport.cni/ports":80}"#)), 6),
        ("ADD", conf("1.0.0", &good.replace("null", r#"{"autoport.cni/port":"80"}"#)), 2),
        ("DEL", conf("1.0.0", &good.replace("null", r#"{"autoport.cni/ports":80}"#)), 0),
        ("ADD", conf("1.0.0", &good.replace("8080", "0")), 0),
        ("ADD", conf("1.0.0", &format!(r#"{good},"markMasqBit":32"#)), 7),
        ("DEL", r#"{"cniVersion":"1.0.0"}"#.into(), 7),
        ("GC", conf("1.1.0", "").replace("\"net\"", "\"../net\""), 7),
        ("STATUS", r#"{"cniVersion":"1.1.0","name":""}"#.into(), 7),
        ("ADD", conf("", &good), 0),
        ("DEL", r#"{"name":"net"}"#.into(), 0),
        ("GC", conf("1.1.0", ""), 0),
        ("STATUS", conf("1.1.0", ""), 0),
        ("VERSION", String::new(), 0),
        ("UPDATE", conf("1.1.0", ""), 4),
        ("", conf("1.1.0", ""), 4),
    ];
    for (command, stdin, expected) in cases {
        let result = parse(command, &stdin);
        assert_eq!(code(&result), expected, "{command} {stdin}: {result:?}");
        if let Err(error) = result {
            let text = error.to_string();
            let plain = !text.ends_with('.') && !text.contains('\n') && text.is_ascii();
            assert!(plain, "{text}");
        }
    }
}

#[test]
fn every_version_is_spoken_and_named_when_it_is_not() {
    for version in Version::ALL {
        let result = parse("ADD", &conf(version.as_str(), PREV));
        let Ok(Parsed { call: Call::Add(claim), .. }) = result else {
            panic!("{version}: {result:?}");
        };
        assert!(claim.result.get().contains(&format!("\"cniVersion\":\"{version}\"")));
    }
    let text = parse("GC", &conf("1.0.0", "")).expect_err("GC came with 1.1.0").to_string();
    assert!(text.contains("\"1.0.0\"") && text.ends_with("with GC, supported are 1.1.0"), "{text}");
}

#[test]
fn configuration_never_fails_del_and_gc() {
    let bad = r#","snat":"x","stateDir":7,"lockTimeout":-1,"backend":"iptables","prevResult":"?",
        "sourceRange":1,"conditionsV4":["!"],"runtimeConfig":{"portMappings":[{"hostPort":-1}]}"#;
    let broken: [fn() -> io::Result<Vec<u8>>; 3] = [
        || Ok(b"{".to_vec()),
        || Ok(br#"{"stateDir":"..","snat":0}"#.to_vec()),
        || Err(io::ErrorKind::PermissionDenied.into()),
    ];
    for (read, broken_file) in
        broken.iter().flat_map(|read| [(read, NODE_FILE), (read, CLUSTER_FILE)])
    {
        let node_files = || node_files_with(broken_file, read);
        for command in ["DEL", "GC", "STATUS"] {
            let stdin = conf("1.1.0", bad);
            let parsed = Call::parse(&env(command), stdin.as_bytes(), node_files, no_spec);
            let Parsed { call, warnings } = parsed.expect(command);
            assert!(warnings.len() >= 3, "{warnings:?}");
            let (Call::Del { store, .. } | Call::Gc { store, .. } | Call::Status(store)) = call
            else {
                panic!("{command} became something else");
            };
            assert_eq!(store.state_dir.to_str(), Some(DEFAULT_STATE_DIR));
            assert_eq!(store.lock_timeout, DEFAULT_LOCK_TIMEOUT);
        }
        let stdin = conf("1.1.0", &format!("{PREV}{PORTS}"));
        assert!(Call::parse(&env("ADD"), stdin.as_bytes(), node_files, no_spec).is_err());
    }
}

#[test]
fn a_late_del_needs_next_to_nothing() {
    let env: Env = [
        ("CNI_COMMAND", "DEL"),
        ("CNI_CONTAINERID", "4f2a"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", ""),
        ("CNI_PATH", "/opt/cni/bin"),
    ]
    .into_iter()
    .map(|(name, value)| (OsString::from(name), OsString::from(value)))
    .collect();
    let parsed =
        Call::parse(&env, br#"{"name":"net","prevResult":[1]}"#, NodeFiles::default, no_spec);
    let Call::Del { attachment, has_mappings, .. } = parsed.expect("DEL").call else {
        panic!("not DEL")
    };
    assert_eq!(attachment.to_string(), "net/4f2a/eth0");
    assert!(!has_mappings);
}

#[test]
fn the_nodes_files_are_read_only_when_they_matter() {
    let cases = [
        ("VERSION", String::new(), false),
        ("ADD", conf("1.0.0", PREV), false),
        ("CHECK", conf("1.0.0", PREV), false),
        ("ADD", conf("1.0.0", &format!("{PREV}{PORTS}")), true),
        ("CHECK", conf("1.0.0", &format!("{PREV}{PORTS}")), true),
        ("DEL", conf("1.0.0", ""), true),
        ("GC", conf("1.1.0", ""), true),
        ("STATUS", conf("1.1.0", ""), true),
    ];
    for (command, stdin, expected) in cases {
        let called = Cell::new(false);
        let node_files = || {
            called.set(true);
            node_files_with(NODE_FILE, || Ok(br#"{"stateDir":"/run/x"}"#.to_vec()))
        };
        Call::parse(&env(command), stdin.as_bytes(), node_files, no_spec).expect(command);
        assert_eq!(called.get(), expected, "{command} {stdin}");
    }
}

#[test]
fn gc_knows_its_network_and_list() {
    let list = r#","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]"#;
    for (rest, expected) in [(list, Some(1)), ("", None)] {
        let call = parse("GC", &conf("1.1.0", rest)).expect("GC").call;
        let Call::Gc { network, valid, .. } = call else {
            panic!("not GC");
        };
        assert_eq!((&*network, valid.map(|valid| valid.len())), ("net", expected));
    }
}

#[test]
fn version_answers_whatever_it_is_asked() {
    // podman's probe: everything is set to "dummy" and the container ID is empty.
    for (stdin, expected) in [
        (r#"{"cniVersion":"1.0.0"}"#, "1.0.0"),
        (r#"{"cniVersion":"9.9.9"}"#, "9.9.9"),
        (r#"{"cniVersion":""}"#, "1.1.0"),
        (r#"{"cniVersion":5}"#, "1.1.0"),
        ("", "1.1.0"),
        ("\u{0}", "1.1.0"),
    ] {
        let parsed = parse("VERSION", stdin).expect("VERSION cannot fail");
        let Call::Version { cni_version } = parsed.call else { panic!("not VERSION") };
        assert_eq!(cni_version, expected);
    }
}

#[test]
fn error_replies_speak_the_askers_version() {
    for (stdin, expected) in [
        (r#"{"cniVersion":"0.4.0","name":5}"#, Version::V0_4_0),
        ("{}", Version::V0_1_0),
        (r#"{"cniVersion":"9.9.9"}"#, Version::V1_1_0),
        (r#"{"cniVersion":{}}"#, Version::V1_1_0),
        ("", Version::V1_1_0),
    ] {
        assert_eq!(reply_version(stdin.as_bytes()), expected, "{stdin}");
    }
}

#[test]
fn no_cut_or_flipped_byte_panics() {
    let stdin =
        conf("0.4.0", &format!(r#"{PREV}{PORTS},"cni.dev/attachments":[{{"ifname":"a"}}]"#));
    for command in ["ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION"] {
        for at in 0..stdin.len() {
            let mut bytes = stdin.clone().into_bytes();
            for replacement in [0, b'"', b'{', b'9', b'\\', 0xff] {
                bytes[at] = replacement;
                let _ = Call::parse(
                    &env(command),
                    &bytes,
                    || NodeFiles::default().with_cluster_file(bytes.clone()),
                    no_spec,
                );
            }
            let _ =
                Call::parse(&env(command), &stdin.as_bytes()[..at], NodeFiles::default, no_spec);
        }
    }
}

/// The specification's code for an error: the table that counts is outside, where every error of the
/// program has its number.
pub(super) fn test_code(error: &Error) -> u32 {
    match error {
        Error::IncompatibleVersion { .. } => 1,
        Error::Unsupported { .. } => 2,
        Error::Environment { .. } => 4,
        Error::NodeFile { .. } => 5,
        Error::Decode { .. } | Error::WrongType { .. } => 6,
        Error::Invalid { .. } | Error::NeedsSpec { .. } => 7,
        Error::TooMany { .. } => 104,
    }
}
