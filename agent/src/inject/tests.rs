use std::num::NonZeroU16;

use autoport::cni::{Config, NodeFiles};
use autoport::model::{
    Attachment, ContainerPort, Grant, HostPod, HostPort, Mapping, Owner, Pod as Named, Protocol,
    Request,
};

use super::*;

const KUBEWHARF: &str = "pod.kubewharf.kubernetes.io/autoport";

fn port(number: u16) -> NonZeroU16 {
    number.try_into().expect("a port")
}

fn pod(annotations: &[(&str, &str)]) -> Pod {
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let annotations = annotations.iter().map(own).collect();
    Pod { id: "s1".into(), uid: "u1".into(), annotations, ..Pod::default() }
}

fn container(env: &[&str], ports: &str) -> Container {
    let annotations = match ports {
        "" => [].into(),
        ports => [("io.kubernetes.container.ports".to_owned(), ports.to_owned())].into(),
    };
    let env = env.iter().map(|text| text.as_bytes().to_vec()).collect();
    Container { name: "main".into(), annotations, env, ..Container::default() }
}

/// A record of the sandbox, or of the pod on the node's network, with these host ports.
fn record(sandbox: Option<&str>, ports: &[(&str, u16, ContainerPort)], is_chosen: bool) -> Record {
    let holder: autoport::model::Holder = match sandbox {
        Some(id) => Attachment::new("cbr0", id, "eth0").expect("an attachment").into(),
        None => HostPod::new("u1").expect("a UID").into(),
    };
    let pod = Named { namespace: "games".into(), name: "game-0".into(), uid: "u1".into() };
    let (config, _) = Config::read(None, &NodeFiles::default()).expect("the defaults");
    let grant = |(name, number, container_port): &(&str, u16, ContainerPort)| Grant {
        request: Request {
            name: Some((*name).to_owned()),
            protocols: vec![Protocol::Tcp],
            container_port: *container_port,
            count: NonZeroU16::MIN,
            address: None,
            range: None,
        },
        port: port(*number),
    };
    let mapping = |(_, number, container_port): &(&str, u16, ContainerPort)| Mapping {
        host: HostPort {
            protocol: Protocol::Tcp,
            address: "0.0.0.0".parse().expect("an address"),
            port: port(*number),
        },
        container_port: match container_port {
            ContainerPort::From(number) => *number,
            ContainerPort::Same => port(*number),
        },
        target: None,
    };
    Record {
        owner: Owner { pod: Some(pod), ..Owner::bare(holder) },
        pod_addresses: Vec::new(),
        policy: config.policy,
        mappings: ports.iter().map(mapping).collect(),
        grants: if is_chosen { ports.iter().map(grant).collect() } else { Vec::new() },
        dialects: BTreeSet::new(),
        advertised: vec!["192.0.2.1".parse().expect("an address")],
        offload: None,
        created: 1,
        boot_id: String::new(),
    }
}

fn known(records: Vec<Record>) -> Known {
    Known::of(&pod(&[]), records, Some("/run/autoport/pods/u1".into()))
}

pub(crate) fn http() -> Record {
    record(Some("s1"), &[("http", 20001, ContainerPort::From(port(8080)))], true)
}

fn value<'a>(injection: &'a Injection, name: &str) -> Option<&'a str> {
    let found = injection.adjustment.env.iter().find(|variable| variable.name == name);
    found.map(|variable| variable.value.as_str())
}

fn injected(pod: &Pod, container: &Container, known: &Known) -> Injection {
    inject(pod, container, known).expect("nothing is missing").expect("it is told something")
}

#[test]
fn a_container_is_told_its_pods_ports_and_where_the_files_are() {
    let told = injected(&pod(&[(PORTS, "http=8080")]), &container(&[], ""), &known(vec![http()]));
    assert_eq!(value(&told, "AUTOPORT_HOST_PORT_HTTP"), Some("20001"));
    assert_eq!(value(&told, "AUTOPORT_HOST_IP"), Some("192.0.2.1"));
    let [mount] = told.adjustment.mounts.as_slice() else { panic!("{told:?}") };
    assert_eq!(mount.source, "/run/autoport/pods/u1");
    assert_eq!(mount.destination, "/run/autoport/pod");
    assert!(mount.options.contains(&"ro".to_owned()), "{mount:?}");
    assert!(told.replaced.is_empty());
}

#[test]
fn a_pod_on_the_nodes_network_is_told_too() {
    let record = record(None, &[("http", 20001, ContainerPort::Same)], true);
    let told = injected(&pod(&[(PORTS, "http=auto")]), &container(&[], ""), &known(vec![record]));
    for name in ["AUTOPORT_PORT_HTTP", "AUTOPORT_HOST_PORT_HTTP", "PORT", "PORT0", "PORT_HTTP"] {
        assert_eq!(value(&told, name), Some("20001"), "{name}");
    }
}

#[test]
fn the_containers_own_variables_are_replaced_and_counted() {
    let own = container(&["PATH=/bin", "AUTOPORT_PORTS=x", "AUTOPORT_PORT_HTTP", "A=B=C"], "");
    let mut not_utf8 = own.clone();
    not_utf8.env.push(b"AUTOPORT_HOST_IP=\xff".to_vec());
    let told = injected(&pod(&[]), &not_utf8, &known(vec![http()]));
    assert_eq!(told.replaced, ["AUTOPORT_HOST_IP", "AUTOPORT_PORTS", "AUTOPORT_PORT_HTTP"]);
}

#[test]
fn no_mount_where_the_pod_or_the_container_has_it_otherwise() {
    let without = pod(&[(MOUNT, "false")]);
    let told = injected(&without, &container(&[], ""), &known(vec![http()]));
    assert!(told.adjustment.mounts.is_empty());
    let mut own = container(&[], "");
    own.mounts.push(Mount { destination: "/run/autoport/pod/".into(), ..Mount::default() });
    let told = injected(&pod(&[]), &own, &known(vec![http()]));
    assert!(told.adjustment.mounts.is_empty() && !told.adjustment.env.is_empty());
}

#[test]
fn kubewharfs_variables_count_the_ports_that_the_container_declares() {
    let chosen = [
        ("a", 20001, ContainerPort::From(port(81))),
        ("b", 20002, ContainerPort::From(port(82))),
        ("own", 20003, ContainerPort::Same),
    ];
    let mut record = record(Some("s1"), &chosen, true);
    record.dialects = [Dialect::KubeWharf].into();
    let known = known(vec![record]);
    let pod = pod(&[(KUBEWHARF, "true"), (PORTS, "a=81,b=82,own=auto")]);
    for (declared, expected) in [
        ("", [Some("20001"), Some("20002"), Some("20003")]),
        (r#"[{"containerPort":82,"protocol":"TCP"}]"#, [Some("20002"), Some("20003"), None]),
        (r#"[{"name":"x","containerPort":81}]"#, [Some("20001"), Some("20003"), None]),
        (r#"[{"containerPort":82,"protocol":"UDP"}]"#, [Some("20003"), None, None]),
        ("[", [Some("20001"), Some("20002"), Some("20003")]),
    ] {
        let told = injected(&pod, &container(&[], declared), &known);
        assert_eq!(
            ["PORT0", "PORT1", "PORT2"].map(|name| value(&told, name)),
            expected,
            "{declared}"
        );
        assert_eq!(value(&told, "AUTOPORT_PORTS"), Some("20001,20002,20003"));
    }
}

#[test]
fn a_pod_with_fixed_ports_is_told_if_it_asks() {
    let fixed = record(Some("s1"), &[("", 8080, ContainerPort::From(port(80)))], false);
    let known = known(vec![fixed]);
    assert_eq!(inject(&pod(&[]), &container(&[], ""), &known), Ok(None));
    let told = injected(&pod(&[(ENV, "required")]), &container(&[], ""), &known);
    assert_eq!(value(&told, "AUTOPORT_HOST_PORT_80_TCP"), Some("8080"));
    assert!(told.adjustment.mounts.is_empty(), "there are no files of such a pod");
}

#[test]
fn what_a_pod_asks_for_and_cannot_be_told_is_an_error() {
    let other = known(vec![record(Some("s0"), &[("a", 1, ContainerPort::Same)], true)]);
    let fixed = known(vec![record(Some("s1"), &[("", 8080, ContainerPort::Same)], false)]);
    let asking = [(PORTS, "http=8080"), (KUBEWHARF, "true"), (ENV, "required")];
    for asked in asking {
        for known in [&known(Vec::new()), &other] {
            let refused = inject(&pod(&[asked]), &container(&[], ""), known);
            assert!(
                matches!(&refused, Err(Refusal::NoPorts { annotation, .. }) if annotation == asked.0),
                "{asked:?}: {refused:?}"
            );
        }
    }
    let listed = pod(&[(PORTS, "http=8080")]);
    assert!(inject(&listed, &container(&[], ""), &fixed).is_err());
    // A patched kubelet has chosen them.
    let both = pod(&[(PORTS, "http=8080"), (KUBEWHARF, "true")]);
    assert_eq!(inject(&both, &container(&[], ""), &fixed), Ok(None));
    assert_eq!(inject(&pod(&[]), &container(&[], ""), &known(Vec::new())), Ok(None));
}

#[test]
fn a_value_that_an_annotation_does_not_have_is_an_error() {
    for wrong in [(ENV, "true"), (MOUNT, "no")] {
        let refused = inject(&pod(&[wrong]), &container(&[], ""), &known(vec![http()]));
        let refused = refused.expect_err("it is wrong").to_string();
        assert!(refused.contains(wrong.0) && refused.contains(wrong.1), "{refused}");
    }
}

#[test]
fn a_thousand_ports_fit_into_an_answer() {
    let names: Vec<String> = (0..1000).map(|at| format!("port-{at}")).collect();
    let ports: Vec<_> = names
        .iter()
        .zip(20000..)
        .map(|(name, at)| (name.as_str(), at, ContainerPort::Same))
        .collect();
    let told = injected(&pod(&[]), &container(&[], ""), &known(vec![record(None, &ports, true)]));
    assert_eq!(value(&told, "AUTOPORT_HOST_PORT_PORT_999"), Some("20999"));
    let size = prost::Message::encoded_len(&told.adjustment);
    assert!(size < 400_000, "{size} bytes");
}
