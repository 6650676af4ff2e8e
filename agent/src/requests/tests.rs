use autoport::cni::{Call, Env, PORTS};
use serde_json::{Value, json};

use super::*;

const KUBEWHARF: &str = "pod.kubewharf.kubernetes.io/autoport";
const BCS: &str = "randhostport.webhook.bkbcs.tencent.com";
const BCS_PORTS: &str = "ports.randhostport.webhook.bkbcs.tencent.com";

fn pod(annotations: &Value, spec: &Value) -> v1::Pod {
    let pod = json!({
        "metadata": {
            "namespace": "games", "name": "game-0", "uid": "0b1c8a50-0001", "annotations": annotations,
        },
        "spec": spec,
    });
    serde_json::from_value(pod).expect("a Pod")
}

fn ports(annotations: &Value, spec: &Value) -> Option<String> {
    declared(&pod(annotations, spec)).map(|declared| match declared.ports {
        Ports::Declared(ports) => ports,
        Ports::Rejected(reason) => panic!("{reason}"),
    })
}

fn spec() -> Value {
    json!({
        "initContainers": [{"name": "init", "ports": [{"name": "init", "containerPort": 1}]}],
        "containers": [
            {"name": "main", "ports": [
                {"name": "http", "containerPort": 8080, "protocol": "TCP"},
                {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                {"containerPort": 53},
            ]},
            {"name": "none"},
            {"name": "side", "ports": [
                {"name": "fixed", "containerPort": 9090, "hostPort": 9091},
                {"name": "http", "containerPort": 9000, "protocol": "SCTP"},
                {"name": "again", "containerPort": 8080},
                {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
                {"name": "8443-tls", "containerPort": 8443},
            ]},
        ],
    })
}

#[test]
fn every_declared_port_without_host_port_is_listed_in_the_order_of_the_spec() {
    let all = ports(&json!({KUBEWHARF: "true"}), &spec());
    let expected = "http=8080/tcp, dns=53/udp, dns-tcp=53/tcp, 9000/sctp, 8443/tcp";
    assert_eq!(all.as_deref(), Some(expected));
}

#[test]
fn a_list_may_name_a_port_that_has_a_host_port() {
    let expected = "http=8080/tcp, dns=53/udp, dns-tcp=53/tcp, fixed=9090/tcp, 9000/sctp, 8443/tcp";
    for annotations in
        [json!({"autoport.cni/ports": "http, dns"}), json!({BCS: "true", BCS_PORTS: "fixed"})]
    {
        assert_eq!(ports(&annotations, &spec()).as_deref(), Some(expected), "{annotations}");
    }
}

/// The list is read by the plugin's own parser.
#[test]
fn the_plugin_understands_the_list() {
    let list = ports(&json!({KUBEWHARF: "true"}), &spec()).expect("a list");
    let (config, _) = Config::read(None, &NodeFiles::default()).expect("the defaults");
    let mut ask = config.ask(HostPod::new("any").expect("a UID").into());
    let annotations = [(PORTS.to_owned(), list.clone())].into();
    read_annotations(&mut ask, &annotations, &[].into(), &mut Vec::new()).expect("a list");
    let read: Vec<String> = ask.requested.iter().map(ToString::to_string).collect();
    assert_eq!(read.join(", "), list);
}

#[test]
fn pods_that_do_not_need_their_spec_are_passed_over() {
    for annotations in [
        json!({}),
        json!({"example.com/ports": "http"}),
        json!({"autoport.cni/ports": "http=8080, auto"}),
        json!({"autoport.cni/ports": "8080", KUBEWHARF: "true"}),
        json!({KUBEWHARF: "false"}),
        json!({KUBEWHARF: "nonsense"}),
        json!({BCS: "true", BCS_PORTS: "8080"}),
        json!({BCS: "false", BCS_PORTS: "http"}),
        json!({"autoport.cni/status": "{}"}),
        json!({"autoport.cni/pots": "http"}),
    ] {
        assert_eq!(ports(&annotations, &spec()), None, "{annotations}");
    }
    let on_host = json!({"hostNetwork": true, "containers": [{"name": "main"}]});
    assert_eq!(ports(&json!({KUBEWHARF: "true"}), &on_host), None);
    // It is read, and says that there is nothing.
    let none = json!({"containers": [{"name": "main"}]});
    assert_eq!(ports(&json!({KUBEWHARF: "true"}), &none).as_deref(), Some(""));
}

#[test]
fn a_static_pod_has_the_uid_that_kubelet_gave_it() {
    let hash = "0123456789abcdef0123456789abcdef";
    let of = |mirror: &str| {
        identify(&pod(&json!({MIRROR: mirror}), &json!({"containers": []}))).map(|pod| pod.uid)
    };
    assert_eq!(of(hash).as_deref(), Some(hash));
    // The UID of another Pod.
    assert_eq!(of("0b1c8a50-4a8a-4c6e-9d53-6d2f9c1e0002"), None);
    assert_eq!(of("../../etc"), None);
    let plain = identify(&pod(&json!({}), &json!({"containers": []}))).expect("a Pod");
    assert_eq!(
        (&*plain.namespace, &*plain.name, &*plain.uid),
        ("games", "game-0", "0b1c8a50-0001")
    );
}

#[test]
fn a_pod_that_declares_too_many_ports_is_told_of() {
    let many = |count: usize| {
        let port = |number: usize| json!({"containerPort": number});
        let ports: Vec<Value> = (1..=count).map(port).collect();
        json!({"containers": [{"name": "main", "ports": ports}]})
    };
    let of = |count| declared(&pod(&json!({KUBEWHARF: ""}), &many(count)));
    let ports = |count| of(count).expect("it needs its spec").ports;
    assert!(matches!(ports(MOST), Ports::Declared(_)));
    let Ports::Rejected(told) = ports(MOST + 1) else { panic!("one more than can be served") };
    assert!(told.contains("games/game-0") && told.contains("more than 1024"), "{told}");
}

/// What the plugin makes of a Pod on the pod network: how many numbers it asks for.
fn asked(pod: &v1::Pod) -> Result<u64, Error> {
    let env: Env = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", "/run/netns/pod"),
        ("CNI_PATH", "/opt/cni/bin"),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .into_iter()
    .collect();
    let containers = &pod.spec.as_ref().expect("a spec").containers;
    let ports = containers.iter().flat_map(|one| one.ports.iter().flatten());
    let mapped = ports.filter_map(|port| {
        let (container, protocol) = (port.container_port, port.protocol.clone());
        port.host_port
            .map(|host| json!({"hostPort": host, "containerPort": container, "protocol": protocol}))
    });
    let stdin = json!({
        "type": "autoport", "name": "pods", "cniVersion": "1.0.0",
        "runtimeConfig": {
            "portMappings": mapped.collect::<Vec<_>>(),
            "io.kubernetes.cri.pod-annotations": pod.metadata.annotations,
        },
        "prevResult": { "cniVersion": "1.0.0", "ips": [{ "address": "10.200.0.2/24" }] },
    });
    let list = |_: &_, _: &_, needed| match declared(pod).map(|found| found.ports) {
        Some(Ports::Declared(list)) => Ok(list),
        Some(Ports::Rejected(reason)) => panic!("{reason}"),
        None => Err(Error::NeedsSpec { needed }),
    };
    let parsed = Call::parse(&env, stdin.to_string().as_bytes(), NodeFiles::default, list)?;
    let Call::Add(claim) = parsed.call else { panic!("ADD was asked for") };
    Ok(claim.ask.requested.iter().map(|request| u64::from(request.count.get())).sum())
}

/// `integration/cluster/admission.rs` compares the policies of the component `admission` with the same list.
#[test]
fn the_plugin_judges_annotations_as_the_admission_policies_do() {
    let cases: Vec<Value> =
        serde_json::from_str(include_str!("../../../integration/cluster/annotations.json"))
            .expect("JSON");
    for case in cases.iter().filter(|case| case["hostNetwork"] != true) {
        let ports = case["ports"].as_array().into_iter().flatten().map(|port| {
            let mut one = json!({"name": port[0], "containerPort": port[1], "protocol": port[2]});
            if port[3] != 0 {
                one["hostPort"] = port[3].clone();
            }
            one
        });
        let spec = json!({"containers": [{"name": "main", "ports": ports.collect::<Vec<_>>()}]});
        match asked(&pod(&case["annotations"], &spec)) {
            Ok(count) => assert_eq!(case["count"], count, "{case}"),
            Err(error) => assert!(case["rejected"].is_string(), "{case}: {error}"),
        }
    }
}
