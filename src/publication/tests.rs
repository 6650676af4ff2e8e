use super::*;
use crate::model::{Owner, Request, test_record};

fn attachment(network: &str, sandbox: &str) -> Attachment {
    Attachment::new(network, sandbox, "eth0").expect("a valid attachment")
}

fn port(number: u16) -> NonZeroU16 {
    number.try_into().expect("a port")
}

fn entry(name: Option<&str>, protocols: &[Protocol], host_port: u16, container_port: u16) -> Entry {
    Entry {
        attachment: Some(attachment("cbr0", "4f2a")),
        name: name.map(str::to_owned),
        protocols: protocols.to_vec(),
        host_port: port(host_port),
        container_port: port(container_port),
        count: NonZeroU16::MIN,
        host_ips: ["192.0.2.10", "2001:db8::10"].map(|ip| ip.parse().expect("an address")).into(),
        origin: Origin::Chosen,
        dialects: BTreeSet::new(),
    }
}

fn publication(entries: Vec<Entry>) -> Publication {
    let pod = Pod { namespace: "shop".into(), name: "web-0.x".into(), uid: "u1".into() };
    Publication { version: VERSION, pod, entries }
}

const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];
const TCP: [Protocol; 1] = [Protocol::Tcp];

/// The worked example of the contract.
#[test]
fn our_own_variables() {
    let told = publication(vec![
        entry(Some("http"), &TCP, 20417, 8080),
        entry(Some("game-udp"), &BOTH, 20418, 7777),
        Entry { count: port(100), ..entry(None, &[Protocol::Udp], 20500, 10000) },
    ]);
    assert_eq!(
        told.to_env(),
        "AUTOPORT_HOST_IP='192.0.2.10'\n\
         AUTOPORT_HOST_IP_V4='192.0.2.10'\n\
         AUTOPORT_HOST_IP_V6='2001:db8::10'\n\
         AUTOPORT_PORTS='20417,20418,20500-20599'\n\
         AUTOPORT_HOST_PORT_HTTP='20417'\n\
         AUTOPORT_PORT_HTTP='8080'\n\
         AUTOPORT_ADDR_HTTP='192.0.2.10:20417'\n\
         AUTOPORT_HOST_PORT_GAME_UDP='20418'\n\
         AUTOPORT_PORT_GAME_UDP='7777'\n\
         AUTOPORT_ADDR_GAME_UDP='192.0.2.10:20418'\n\
         AUTOPORT_HOST_PORT_10000_UDP='20500'\n\
         AUTOPORT_PORT_10000_UDP='10000'\n\
         AUTOPORT_ADDR_10000_UDP='192.0.2.10:20500'\n\
         AUTOPORT_COUNT_10000_UDP='100'\n"
    );
}

fn lines_with<'a>(env: &'a str, prefix: &str) -> Vec<&'a str> {
    env.lines().filter(|line| line.starts_with(prefix)).collect()
}

#[test]
fn one_number_in_two_protocols_has_both_unnamed_variables() {
    let env = publication(vec![entry(None, &BOTH, 20001, 53)]).to_env();
    assert_eq!(
        lines_with(&env, "AUTOPORT_HOST_PORT_"),
        ["AUTOPORT_HOST_PORT_53_TCP='20001'", "AUTOPORT_HOST_PORT_53_UDP='20001'"]
    );
}

#[test]
fn kubewharf_counts_what_the_node_chose() {
    let dialects: BTreeSet<_> = [Dialect::KubeWharf].into();
    let static_port = Entry { origin: Origin::Static, ..entry(None, &TCP, 80, 80) };
    let told = publication(vec![
        Entry { dialects: dialects.clone(), ..static_port },
        Entry { dialects: dialects.clone(), ..entry(Some("a-b"), &TCP, 20001, 81) },
        Entry { dialects, ..entry(None, &TCP, 20002, 82) },
    ]);
    assert_eq!(
        lines_with(&told.to_env(), "PORT"),
        [
            "PORT='20001'",
            "PORT0='20001'",
            "PORT1='20002'",
            "PORT_A_B='20001'",
            "PORTS='20001,20002'"
        ]
    );
    let fixed = publication(vec![entry(Some("http"), &TCP, 20001, 8080)]).to_env();
    assert_eq!(lines_with(&fixed, "PORT"), [""; 0], "the container does not listen on 20001");
    let same = Entry { origin: Origin::Passthrough, ..entry(Some("media"), &TCP, 20003, 20003) };
    let told = publication(vec![entry(Some("http"), &TCP, 20001, 8080), same]).to_env();
    assert_eq!(
        lines_with(&told, "PORT"),
        ["PORT='20003'", "PORT0='20003'", "PORT_MEDIA='20003'", "PORTS='20003'"]
    );
}

#[test]
fn bcs_has_its_own_names() {
    let bcs = Entry { dialects: [Dialect::Bcs].into(), ..entry(None, &TCP, 20001, 8080) };
    let told = publication(vec![entry(None, &TCP, 20000, 9090), bcs]).to_env();
    assert_eq!(
        lines_with(&told, "BCS"),
        [
            "BCS_RANDHOSTPORT_FOR_CONTAINER_PORT_8080='20001'",
            "BCS_RANDHOSTPORT_HOSTIP='192.0.2.10'",
            "BCS_RANDHOSTPORT_POD_NAME='web-0.x'",
            "BCS_RANDHOSTPORT_POD_NAMESPACE='shop'",
        ]
    );
}

#[test]
fn of_two_colliding_names_the_first_named_one_stays() {
    let told = publication(vec![
        entry(None, &TCP, 20000, 8080),
        Entry { host_ips: Vec::new(), ..entry(Some("8080-tcp"), &TCP, 20001, 1) },
        entry(Some("a-b"), &TCP, 20002, 2),
        entry(Some("A_b"), &TCP, 20003, 3),
    ]);
    let env = told.to_env();
    assert_eq!(
        lines_with(&env, "AUTOPORT_HOST_PORT_"),
        ["AUTOPORT_HOST_PORT_8080_TCP='20001'", "AUTOPORT_HOST_PORT_A_B='20002'"]
    );
    assert_eq!(
        lines_with(&env, "AUTOPORT_ADDR_"),
        ["AUTOPORT_ADDR_A_B='192.0.2.10:20002'"],
        "an address never stands beside the port of another entry"
    );
    assert!(env.contains("AUTOPORT_PORTS='20000,20001,20002,20003'\n"), "none is lost");
    let json = told.to_json().expect("JSON");
    let names: BTreeSet<&str> = env.lines().filter_map(|line| line.split('=').next()).collect();
    assert_eq!(names.len(), env.lines().count(), "each variable once");
    assert_eq!(json.matches("\"hostPort\"").count(), told.entries.len());
}

#[test]
fn nothing_that_a_shell_would_interpret_gets_through() {
    let mut told = publication(vec![
        Entry { dialects: [Dialect::Bcs].into(), ..entry(Some("x'; rm $(y)\n"), &TCP, 20001, 1) },
        entry(Some(""), &TCP, 20002, 2),
    ]);
    told.pod.name = "a'$(reboot)".to_owned();
    told.pod.namespace = String::new();
    for line in told.to_env().lines() {
        let (name, value) = line.split_once('=').expect("an assignment");
        let in_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        assert!(name.chars().all(in_name), "{line}");
        let value = value.strip_prefix('\'').and_then(|value| value.strip_suffix('\''));
        let harmless = |c: char| c.is_ascii_alphanumeric() || "-.,:[]".contains(c);
        assert!(value.is_some_and(|value| value.chars().all(harmless)), "{line}");
    }
}

/// A record of the pod u1 for which the node chose one number.
fn chosen_record(network: &str, sandbox: &str, number: u16, created: u64) -> Record {
    let request = Request {
        name: None,
        protocols: TCP.to_vec(),
        container_port: ContainerPort::Same,
        count: NonZeroU16::MIN,
        address: None,
        range: None,
    };
    let grants = vec![Grant { request, port: port(number) }];
    let mut record = record(&[("0.0.0.0", number, number, Some("10.0.0.2:80"))], grants);
    record.owner = Owner::bare(attachment(network, sandbox));
    record.owner.pod = Some(publication(Vec::new()).pod);
    record.created = created;
    record
}

#[test]
fn attachments_of_one_sandbox_stand_side_by_side() {
    let numbers = |records: &[Record]| -> Option<Vec<u16>> {
        let told = Publication::of(records)?;
        Some(told.entries.iter().map(|entry| entry.host_port.get()).collect())
    };
    let (a, b) = (chosen_record("a", "old", 4, 20), chosen_record("b", "old", 3, 10));
    let new = chosen_record("b", "new", 5, 30);
    assert_eq!(numbers(&[a.clone(), b.clone()]), Some(vec![3, 4]), "the earlier in front");
    assert_eq!(numbers(&[a.clone(), b.clone(), new]), Some(vec![5]), "the old sandbox is over");
    let named = Record { grants: Vec::new(), ..b };
    assert_eq!(numbers(std::slice::from_ref(&named)), None, "it named its ports itself");
    assert_eq!(numbers(&[named, a]), Some(vec![4]));
    assert_eq!(numbers(&[]), None);
}

#[test]
fn variables_are_pairs() {
    let records = [chosen_record("a", "4f2a", 20417, 1)];
    let publication = Publication::of(&records).expect("it is told something");
    let told = publication.variables();
    let line = |(name, value): &(String, String)| format!("{name}='{value}'\n");
    let lines: String = told.iter().map(line).collect();
    assert_eq!(lines, publication.to_env());
    assert!(told.contains(&("AUTOPORT_PORTS".to_owned(), "20417".to_owned())), "{told:?}");
}

#[test]
fn json_is_what_the_documentation_shows() {
    let told = publication(vec![Entry {
        dialects: [Dialect::KubeWharf].into(),
        ..entry(Some("http"), &BOTH, 20417, 8080)
    }]);
    let shown = include_str!("../../docs/published-files.md");
    let json = told.to_json().expect("JSON");
    assert!(shown.contains(&json), "{json}");
}

fn record(mappings: &[(&str, u16, u16, Option<&str>)], grants: Vec<Grant>) -> Record {
    let mapping =
        |(address, host_port, container_port, target): &(&str, u16, u16, Option<&str>)| {
            let address = address.parse().expect("an address");
            Mapping {
                host: HostPort { protocol: Protocol::Tcp, address, port: port(*host_port) },
                container_port: port(*container_port),
                target: target.map(|target| target.parse().expect("an address")),
            }
        };
    Record {
        mappings: mappings.iter().map(mapping).collect(),
        grants,
        advertised: vec!["192.0.2.10".parse().expect("an address")],
        ..test_record(Owner::bare(attachment("cbr0", "4f2a")))
    }
}

#[test]
fn a_record_tells_what_was_chosen_first_and_where_it_answers() {
    let request = Request {
        name: Some("media".to_owned()),
        protocols: TCP.to_vec(),
        container_port: ContainerPort::Same,
        count: port(2),
        address: None,
        range: None,
    };
    let grants = vec![Grant { request, port: port(20000) }];
    let v4 = Some("10.0.0.2:80");
    let mappings = [
        ("0.0.0.0", 80, 8080, v4),
        ("192.0.2.7", 81, 8081, v4),
        ("0.0.0.0", 20000, 20000, v4),
        ("0.0.0.0", 20001, 20001, v4),
        ("::", 80, 8080, None),
        ("::", 20000, 20000, None),
        ("::", 20001, 20001, None),
    ];
    let node: Vec<IpAddr> =
        ["2001:db8::10", "192.0.2.10"].map(|ip| ip.parse().expect("an address")).into();
    let advertising = |record| Record { advertised: node.clone(), ..record };
    let told = entries_of(&advertising(record(&mappings, grants.clone())));
    let shown: Vec<_> = told
        .iter()
        .map(|entry| (entry.host_port.get(), entry.count.get(), entry.host_ips.clone()))
        .collect();
    let ip = |text: &str| -> Vec<IpAddr> { vec![text.parse().expect("an address")] };
    assert_eq!(
        shown,
        [(20000, 2, ip("192.0.2.10")), (80, 1, ip("192.0.2.10")), (81, 1, ip("192.0.2.7"))],
        "the pod has no IPv6 address"
    );
    assert_eq!(told[0].origin, Origin::Passthrough);
    assert_eq!(told[1].origin, Origin::Static);
    let on_host = [("0.0.0.0", 80, 80, None), ("::", 80, 80, None)];
    let told = entries_of(&advertising(record(&on_host, Vec::new())));
    assert_eq!(told[0].host_ips, node, "on the node's own network, both families");
}

#[test]
fn a_container_can_have_a_count_of_its_own() {
    let dialects: BTreeSet<_> = [Dialect::KubeWharf].into();
    let told = publication(vec![
        Entry { dialects: dialects.clone(), ..entry(Some("a"), &TCP, 20001, 81) },
        Entry { dialects, ..entry(Some("b"), &TCP, 20002, 82) },
    ]);
    let variables = told.variables_for(&|entry| entry.container_port == port(82));
    let value =
        |name: &str| variables.iter().find(|(its, _)| its == name).map(|(_, value)| value.as_str());
    assert_eq!(
        (value("PORT"), value("PORT0"), value("PORT1")),
        (Some("20002"), Some("20002"), None)
    );
    assert_eq!(value("AUTOPORT_PORT_A"), Some("81"), "our own are about the pod");
}

#[test]
fn a_pod_that_waits_for_its_variables_is_told_what_it_named_itself() {
    let pod = Pod { namespace: "shop".into(), name: "web-0".into(), uid: "u1".into() };
    let mut record = record(&[("0.0.0.0", 8080, 80, Some("10.0.0.2:80"))], Vec::new());
    record.owner.pod = Some(pod);
    assert_eq!(Publication::of(&[record.clone()]), None);
    let told = Publication::of_all(&[record]).expect("it is told");
    assert!(told.to_env().contains("AUTOPORT_HOST_PORT_80_TCP='8080'"), "{}", told.to_env());
}
