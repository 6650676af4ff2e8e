use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::asking;
use crate::cni::{BIND, Call, Env, Error, NodeFiles, StoreConfig, bind_hook};
use crate::model::{Ask, ContainerPort, Dialect, Pod};

const PORTS: &str = "autoport.cni/ports";
const RANGE: &str = "autoport.cni/range";
const ALLOCATION: &str = "autoport.cni/allocation";
const KUBEWHARF: &str = "pod.kubewharf.kubernetes.io/autoport";
const BCS: &str = "randhostport.webhook.bkbcs.tencent.com";
const BCS_PORTS: &str = "ports.randhostport.webhook.bkbcs.tencent.com";
const BCS_SAME: &str = "randcontainerport.randhostport.webhook.bkbcs.tencent.com";

/// An ADD with these port mappings (host, container) and annotations, as containerd sends it, on a node without
/// agent.
fn claim(mappings: &[(u16, u16)], annotations: &[(&str, &str)]) -> Result<Ask, Error> {
    claim_with(mappings, annotations, |needed| {
        if needed { Err(Error::NeedsSpec { needed }) } else { Ok(String::new()) }
    })
}

/// The same, where `spec` lists what the Pod declares.
fn claim_with(
    mappings: &[(u16, u16)],
    annotations: &[(&str, &str)],
    spec: impl FnOnce(bool) -> Result<String, Error>,
) -> Result<Ask, Error> {
    let declared = |_: &StoreConfig, pod: &Pod, needed| {
        assert_eq!(pod.uid, "u1");
        spec(needed)
    };
    let pairs = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "4f2a"),
        ("CNI_NETNS", "/var/run/netns/x"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "K8S_POD_NAMESPACE=games;K8S_POD_NAME=game-0;K8S_POD_UID=u1"),
        ("CNI_PATH", "/opt/cni/bin"),
    ];
    let env: Env = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let mappings: Vec<Value> = mappings
        .iter()
        .map(|(host, container)| {
            json!({"HostPort": host, "ContainerPort": container, "Protocol": "tcp", "HostIP": ""})
        })
        .collect();
    let annotations: Map<String, Value> =
        annotations.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    let conf = json!({
        "cniVersion": "1.0.0",
        "name": "net",
        "type": "autoport",
        "namedRanges": {"game": "7000-7999"},
        "runtimeConfig": {
            "portMappings": mappings,
            "io.kubernetes.cri.pod-annotations": annotations,
        },
        "prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.88.0.5/16"}]},
    });
    let parsed = Call::parse(&env, conf.to_string().as_bytes(), NodeFiles::default, declared)?;
    let warned: BTreeSet<_> = parsed.warnings.iter().collect();
    assert_eq!(warned.len(), parsed.warnings.len(), "said twice: {:?}", parsed.warnings);
    let Call::Add(claim) = parsed.call else { panic!("an ADD became something else") };
    Ok(claim.ask)
}

fn requests(mappings: &[(u16, u16)], annotations: &[(&str, &str)]) -> Vec<String> {
    let claim = claim(mappings, annotations);
    let claim = claim.unwrap_or_else(|error| panic!("{mappings:?} {annotations:?}: {error}"));
    claim.requested.iter().map(ToString::to_string).collect()
}

fn refusal(mappings: &[(u16, u16)], annotations: &[(&str, &str)]) -> String {
    match claim(mappings, annotations) {
        Ok(claim) => panic!("{mappings:?} {annotations:?} was taken: {:?}", claim.requested),
        Err(error) => error.to_string(),
    }
}

#[test]
fn nobody_asks_by_accident() {
    assert!(claim(&[], &[]).expect("nothing").is_empty());
    assert!(claim(&[], &[("some.other/annotation", "8080")]).expect("nothing").is_empty());
    assert_eq!(requests(&[(8080, 80)], &[]), [""; 0]);
}

#[test]
fn host_port_zero_and_the_annotation_ask() {
    assert_eq!(requests(&[(0, 80)], &[]), ["80/tcp"]);
    assert_eq!(requests(&[(0, 80), (8443, 443)], &[]), ["80/tcp"]);
    let both = requests(&[(0, 80), (8443, 443)], &[(PORTS, "game=7777/udp")]);
    assert_eq!(both, ["80/tcp", "game=7777/udp"]);
    let named = claim(&[], &[(PORTS, "a=1,b=2"), (RANGE, "game")]).expect("a known range");
    assert!(named.requested.iter().all(|request| request.range.as_deref() == Some("game")));
    assert!(refusal(&[], &[(PORTS, "a=1"), (RANGE, "gmae")]).contains("game"), "names the known");
}

#[test]
fn the_pod_may_say_how_numbers_are_chosen() {
    use crate::model::Allocation::{Random, Sequential, Stable};
    let how = |more: &[(&str, &str)]| {
        claim(&[], &[&[(PORTS, "a=1")], more].concat()).expect("a choice").allocation
    };
    assert_eq!(how(&[]), Sequential);
    for (value, allocation) in
        [("stable", Stable), (" random ", Random), ("sequential", Sequential)]
    {
        assert_eq!(how(&[(ALLOCATION, value)]), allocation);
        assert_eq!(how(&[(ALLOCATION, value), (KUBEWHARF, "random")]), allocation, "ours counts");
    }
    for odd in ["", "Stable", "hash", "true"] {
        let error = refusal(&[], &[(PORTS, "a=1"), (ALLOCATION, odd)]);
        assert!(error.contains(ALLOCATION) && error.contains("\"stable\""), "{error}");
    }
    assert!(refusal(&[], &[(ALLOCATION, "stable")]).contains("no port is named"));
    assert!(
        claim(&[(8080, 80)], &[(ALLOCATION, "stable")]).expect("harmless").requested.is_empty()
    );
    for near in ["autoport.cni/Allocation", "autoport.cni/alocation", "autoport.cni/allocations"] {
        assert!(
            refusal(&[], &[(PORTS, "a=1"), (near, "stable")]).contains("did you mean"),
            "{near}"
        );
    }
}

#[test]
fn a_port_that_is_mapped_already_is_not_requested_for() {
    let error = refusal(&[(8080, 80)], &[(PORTS, "http=80")]);
    assert!(error.contains("80") && error.contains("8080"), "{error}");
    assert_eq!(requests(&[(8080, 80)], &[(PORTS, "http=80/udp")]), ["http=80/udp"]);
}

#[test]
fn kubewharfs_annotation_is_read() {
    use crate::model::Allocation::{Random, Sequential};
    for (value, allocation) in
        [("", Sequential), ("true", Sequential), ("1", Sequential), ("sequential", Sequential)]
            .into_iter()
            .chain([("random", Random)])
    {
        let claim = claim(&[(0, 80)], &[(KUBEWHARF, value)]).expect(value);
        assert_eq!(claim.requested.len(), 1, "{value:?}");
        assert_eq!(claim.allocation, allocation, "{value:?}");
        assert!(claim.dialects.contains(&Dialect::KubeWharf), "{value:?}");
    }
    for off in ["false", "0"] {
        assert!(claim(&[], &[(KUBEWHARF, off)]).expect(off).is_empty(), "{off:?}");
    }
    for odd in ["yes", "TRUE ", "2", "randm"] {
        assert!(refusal(&[(0, 80)], &[(KUBEWHARF, odd)]).contains(KUBEWHARF), "{odd:?}");
    }
    // A plugin does not see the pod's ports.
    let error = claim(&[], &[(KUBEWHARF, "true")]).expect_err("no agent");
    assert!(matches!(error, Error::NeedsSpec { needed: true }), "{error}");
    assert_eq!(requests(&[], &[(KUBEWHARF, "true"), (PORTS, "8080")]), ["8080/tcp"]);
    // A patched kubelet has filled the pod.
    assert_eq!(requests(&[(9200, 80)], &[(KUBEWHARF, "true")]), [""; 0]);
}

#[test]
fn the_annotations_of_bcs_are_read() {
    let on = (BCS, "true");
    assert_eq!(requests(&[], &[on, (BCS_PORTS, "8080,9090")]), ["8080/tcp", "9090/tcp"]);
    assert_eq!(requests(&[(30000, 8080)], &[on, (BCS_PORTS, "8080")]), [""; 0], "a webhook did it");
    assert_eq!(requests(&[], &[(BCS, "false"), (BCS_PORTS, "8080")]), [""; 0]);
    let same = claim(&[], &[on, (BCS_PORTS, "8080"), (BCS_SAME, "")]).expect("a request");
    assert_eq!(same.requested[0].container_port, ContainerPort::Same);
    assert!(same.dialects.contains(&Dialect::Bcs));
    let error = claim(&[], &[on, (BCS_PORTS, "metric")]).expect_err("a name is unknown here");
    assert!(matches!(error, Error::NeedsSpec { needed: true }), "{error}");
    assert!(refusal(&[], &[on]).contains(BCS_PORTS), "no list");
}

/// An ADD of the same pod refuses what cannot be read, and ignores what is off.
#[test]
fn the_annotations_that_ask_are_those_that_an_add_reads() {
    let all = [Dialect::KubeWharf, Dialect::Bcs].into();
    let none = BTreeSet::new();
    for (pairs, expected) in [
        (&[(PORTS, "8080")][..], &[PORTS][..]),
        (&[(PORTS, "")], &[PORTS]),
        (&[(KUBEWHARF, " random ")], &[KUBEWHARF]),
        (&[(KUBEWHARF, "yes")], &[KUBEWHARF]),
        (&[(KUBEWHARF, " false ")], &[]),
        (&[(KUBEWHARF, "0")], &[]),
        (&[(BCS, "true"), (PORTS, "8080")], &[PORTS, BCS]),
        (&[(BCS, " true ")], &[]),
        (&[(BCS, "yes"), (BCS_PORTS, "8080")], &[]),
        (&[("example.com/ports", "8080")], &[]),
    ] {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let annotations = pairs.iter().map(own).collect();
        let asked: Vec<_> = asking(&annotations, &all).collect();
        assert_eq!(asked, expected, "{pairs:?}");
        let is_refused_or_served = !matches!(claim(&[], pairs), Ok(ask) if ask.is_empty());
        assert_eq!(is_refused_or_served, !expected.is_empty(), "{pairs:?}");
        assert!(asking(&annotations, &none).all(|key| key == PORTS));
    }
}

#[test]
fn a_pod_waits_for_its_variables_only_by_one_word() {
    for annotations in [&[("autoport.cni/env", " required ")][..], &[]] {
        assert!(claim(&[(80, 80)], annotations).is_ok(), "{annotations:?}");
    }
    for value in ["true", "Required", "", "optional"] {
        let said = refusal(&[(80, 80)], &[("autoport.cni/env", value)]);
        assert!(
            said.contains("autoport.cni/env") && said.contains("must be \"required\""),
            "{said}"
        );
    }
}

/// What is asked for by a Pod that declares `spec`, which has to be read.
fn of_spec(spec: &str, mappings: &[(u16, u16)], annotations: &[(&str, &str)]) -> Ask {
    let mut is_read = false;
    let claim = claim_with(mappings, annotations, |_| {
        is_read = true;
        Ok(spec.to_owned())
    });
    assert!(is_read, "{annotations:?}");
    claim.unwrap_or_else(|error| panic!("{spec:?} {mappings:?} {annotations:?}: {error}"))
}

fn listed(ask: &Ask) -> Vec<String> {
    ask.requested.iter().map(ToString::to_string).collect()
}

const SPEC: &str = "http=8080/tcp, dns=53/udp, 53/tcp, metrics=9090/tcp";

#[test]
fn kubewharfs_annotation_alone_asks_for_every_declared_port() {
    let on = (KUBEWHARF, "true");
    let all = of_spec(SPEC, &[], &[on]);
    assert_eq!(listed(&all), ["http=8080/tcp", "dns=53/udp", "53/tcp", "metrics=9090/tcp"]);
    assert_eq!(all.annotation, Some(KUBEWHARF), "for allowedNamespaces");
    // One that has a host port keeps it; a patched kubelet gives all of them one.
    assert_eq!(listed(&of_spec(SPEC, &[(80, 8080), (90, 9090)], &[on])), ["dns=53/udp", "53/tcp"]);
    assert!(of_spec("8080/tcp", &[(80, 8080)], &[on]).requested.is_empty());
    let error = claim_with(&[], &[on], |_| Ok(String::new())).expect_err("nothing is declared");
    assert!(error.to_string().contains("declares none"), "{error}");
    // In the range and with the allocation that the Pod asks for.
    let ask = of_spec(SPEC, &[], &[(KUBEWHARF, "random"), (RANGE, "game")]);
    assert!(ask.requested.iter().all(|request| request.range.as_deref() == Some("game")));
    assert_eq!(ask.allocation, crate::model::Allocation::Random);
    assert_eq!(of_spec(SPEC, &[], &[on, (BCS, "maybe")]).requested.len(), 4, "warned of once");
}

#[test]
fn a_bare_name_is_the_declared_port_of_that_name() {
    let ask = of_spec(SPEC, &[], &[(PORTS, "dns, game=7777/udp,metrics")]);
    assert_eq!(listed(&ask), ["dns=53/udp", "game=7777/udp", "metrics=9090/tcp"]);
    assert_eq!(ask.annotation, Some(PORTS));
    for (list, shown) in [
        ("htp", "\"htp\" at character 1"),
        ("http, http", "has the same name"),
        ("http, web=8080", "container port 8080/tcp, as does item 1"),
    ] {
        let error = claim_with(&[], &[(PORTS, list)], |_| Ok(SPEC.to_owned()));
        let error = error.expect_err(list).to_string();
        assert!(error.contains(shown), "{error}");
    }
    let unknown = claim_with(&[], &[(PORTS, "htp")], |_| Ok(SPEC.to_owned()));
    let unknown = unknown.expect_err("unknown").to_string();
    assert!(unknown.contains(SPEC), "{unknown} does not list the ports");
    let mapped = claim_with(&[(80, 8080)], &[(PORTS, "http")], |_| Ok(SPEC.to_owned()));
    assert!(mapped.expect_err("it has a host port").to_string().contains("host port 80"));
}

#[test]
fn bcs_names_are_those_of_declared_ports() {
    let on = (BCS, "true");
    let named = of_spec(SPEC, &[], &[on, (BCS_PORTS, "dns,8080,metrics")]);
    assert_eq!(listed(&named), ["dns=53/udp", "8080/tcp", "metrics=9090/tcp"]);
    // By number and by name it is one port.
    assert_eq!(listed(&of_spec(SPEC, &[], &[on, (BCS_PORTS, "8080,http")])), ["8080/tcp"]);
    let same = of_spec(SPEC, &[], &[on, (BCS_PORTS, "dns"), (BCS_SAME, "")]);
    assert_eq!(listed(&same), ["53=auto/udp"]);
    assert!(of_spec(SPEC, &[(30000, 8080)], &[on, (BCS_PORTS, "http")]).requested.is_empty());
    // KubeWharf's annotation asks for the others too.
    let both = of_spec(SPEC, &[], &[on, (BCS_PORTS, "9090,dns"), (KUBEWHARF, "")]);
    assert_eq!(listed(&both), ["9090/tcp", "dns=53/udp", "http=8080/tcp", "53/tcp"]);
    let error = claim_with(&[], &[on, (BCS_PORTS, "metric")], |_| Ok(SPEC.to_owned()));
    assert!(error.expect_err("unknown").to_string().contains("\"metric\" at character 1"));
}

/// What works without an agent goes on to work: the spec is not read, or is not needed.
#[test]
fn the_spec_is_read_only_where_it_matters() {
    let read = |mappings: &[_], annotations: &[_]| {
        let mut read = None;
        let _ = claim_with(mappings, annotations, |needed| {
            read = Some(needed);
            Ok(SPEC.to_owned())
        });
        read
    };
    let (kubewharf, bcs) = ((KUBEWHARF, "true"), (BCS, "true"));
    let chosen = ("randhostport.webhook.bkbcs.tencent.com.8080", "30000");
    for (mappings, annotations, expected) in [
        (&[(8080, 80)][..], &[][..], None),
        (&[], &[(PORTS, "http=8080, auto, game=7777/udp")], None),
        (&[], &[(PORTS, "8080"), kubewharf], None),
        (&[(0, 80)], &[kubewharf], None),
        (&[], &[(KUBEWHARF, "false")], None),
        (&[], &[bcs, (BCS_PORTS, "8080")], None),
        (&[], &[bcs, (BCS_PORTS, "http"), (PORTS, "http=8080")], None),
        (&[(30000, 8080)], &[bcs, (BCS_PORTS, "http"), chosen], None),
        (&[], &[(BCS, "false"), (BCS_PORTS, "http")], None),
        // A patched kubelet or a webhook may have been here.
        (&[(9200, 80)], &[kubewharf], Some(false)),
        (&[], &[kubewharf, bcs, (BCS_PORTS, "8080")], Some(false)),
        (&[], &[kubewharf], Some(true)),
        (&[(9200, 80)], &[(PORTS, "http")], Some(true)),
        (&[], &[bcs, (BCS_PORTS, "8080,http")], Some(true)),
    ] {
        assert_eq!(read(mappings, annotations), expected, "{mappings:?} {annotations:?}");
    }
    assert_eq!(requests(&[(9200, 80)], &[kubewharf]), [""; 0]);
    assert_eq!(requests(&[], &[kubewharf, bcs, (BCS_PORTS, "8080")]), ["8080/tcp"]);
}

/// The agent writes them: a sandbox that is made again must not fail on what we wrote ourselves.
#[test]
fn output_and_keys_of_others_are_no_misspelt_requests() {
    for key in ["status", "service", "endpoints", "host-port.http", "mount"] {
        let key = format!("autoport.cni/{key}");
        let asked = requests(&[], &[(&key, "{\"version\":1}"), (PORTS, "8080")]);
        assert_eq!(asked, ["8080/tcp"], "{key}");
    }
}

#[test]
fn the_bind_hook_changes_nothing_on_the_pod_network_but_its_value_is_read() {
    for value in ["redirect", " redirect , getsockname "] {
        assert_eq!(requests(&[], &[(BIND, value), (PORTS, "8080")]), ["8080/tcp"], "{value}");
        assert_eq!(requests(&[], &[(BIND, value)]), [""; 0]);
    }
    let read = |value| {
        let read = bind_hook(value).map_err(|error| error.to_string());
        read.map(|hook| hook.map(|hook| hook.getsockname))
    };
    assert_eq!(read(None), Ok(None));
    assert_eq!(read(Some("redirect")), Ok(Some(false)));
    assert_eq!(read(Some("redirect,getsockname")), Ok(Some(true)));
    for value in ["", "true", "Redirect", "getsockname", "redirect,", "getsockname,redirect"] {
        let text = read(Some(value)).expect_err(value);
        assert!(text.contains("\"redirect\" or \"redirect,getsockname\""), "{text}");
    }
}
