use super::super::tests::test_code;
use super::*;

fn parse(list: &str) -> Result<Vec<PortMapping>, Error> {
    let text = format!("{{\"runtimeConfig\":{{\"portMappings\":{list}}}}}");
    read(&Object::decode("a test", "", text.as_bytes())?)
}

/// Every mapping as `host -> target` or `host held`, for a pod with the given addresses.
fn expanded(list: &str, pod: &[&str]) -> Result<Vec<String>, Error> {
    let pod: Vec<IpNetwork> =
        pod.iter().map(|text| text.parse().expect("a test network")).collect();
    let line = |mapping: &Mapping| match mapping.target {
        Some(target) => format!("{} -> {target}", mapping.host),
        None => format!("{} held", mapping.host),
    };
    Ok(expand(&parse(list)?, &pod)?.iter().map(line).collect())
}

const DUAL: [&str; 2] = ["10.88.0.5/16", "fd00::5/64"];

#[test]
fn what_the_runtimes_send_means_the_same() {
    let expected = ["0.0.0.0:8080/tcp -> 10.88.0.5:80", "[::]:8080/tcp -> [fd00::5]:80"];
    let cases = [
        // containerd, podman and cnitool, Multus after a round trip, and portmap's leniency.
        r#"[{"HostPort":8080,"ContainerPort":80,"Protocol":"tcp","HostIP":""}]"#,
        r#"[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]"#,
        r#"[{"hostPort":8080,"containerPort":80,"protocol":"TCP","hostIP":null}]"#,
        r#"[{"hostPort":8080,"containerPort":80}]"#,
        r#"[{"hostport":8080,"CONTAINERPORT":80,"protocol":"","hostip":"","name":"http"}]"#,
        r#"[{"hostPort":1,"HostPort":8080,"containerPort":80}]"#,
    ];
    for list in cases {
        assert_eq!(expanded(list, &DUAL).expect(list), expected, "{list}");
    }
}

#[test]
fn nothing_asked_for_is_nothing() {
    for text in [
        "{}",
        r#"{"runtimeConfig":null}"#,
        r#"{"runtimeConfig":{}}"#,
        r#"{"runtimeConfig":{"portMappings":null}}"#,
        r#"{"runtimeConfig":{"portMappings":[],"io.kubernetes.cri.pod-annotations":null}}"#,
    ] {
        let object = Object::decode("a test", "", text.as_bytes()).expect(text);
        assert_eq!(read(&object).expect(text), [], "{text}");
    }
}

#[test]
fn bad_mappings_name_key_value_and_what_is_allowed() {
    let port = |value: &str| format!(r#"[{{"hostPort":{value},"containerPort":80}}]"#);
    let inner = |value: &str| format!(r#"[{{"hostPort":80,"containerPort":{value}}}]"#);
    let more = |rest: &str| format!(r#"[{{"hostPort":80,"containerPort":80,{rest}}}]"#);
    let mut cases = vec![
        (port("-0"), 7, "or 0 for a port that the node chooses".to_owned()),
        (inner("0"), 7, "containerPort is 0, it must be".to_owned()),
        (port("\"80\""), 6, "hostPort: found \"80\", expected a number".to_owned()),
        (inner("true"), 6, "containerPort: found true".to_owned()),
        (r#"[{"containerPort":80}]"#.into(), 7, "portMappings[0].hostPort is missing".to_owned()),
        (r#"[{"hostPort":80}]"#.into(), 7, "portMappings[0].containerPort is missing".to_owned()),
        ("[80]".into(), 6, "portMappings[0]: found 80, expected an object".to_owned()),
        ("{}".into(), 6, "portMappings: found {}, expected a list".to_owned()),
        ("\"x\"".into(), 6, "expected a list".to_owned()),
        (more(r#""protocol":6"#), 6, "protocol: found 6".to_owned()),
        (more(r#""hostIP":["10.0.0.1"]"#), 6, "hostIP".to_owned()),
        (more(r#""hostIP":"\ud800""#), 6, "cannot decode".to_owned()),
    ];
    for value in ["-1", "65536", "1000000000", "1e9", "80.5", "-0", "8e1", "99999999999999999999"] {
        cases.push((port(value), 7, format!("portMappings[0].hostPort is {value}, it must be")));
        cases.push((inner(value), 7, format!("containerPort is {value}, it must be an integer")));
    }
    cases.push((inner("0"), 7, "containerPort is 0, it must be an integer from 1 to 65535".into()));
    for value in ["icmp", "tcp,udp", " tcp", "tcp\\n", "tcp dport 22 accept", "\\\"tcp\\\""] {
        cases.push((
            more(&format!("\"protocol\":\"{value}\"")),
            2,
            format!("is \"{value}\", which"),
        ));
    }
    for value in [
        "10.0.0.1/24",
        "fe80::1%eth0",
        " 10.0.0.1",
        "10.0.0.1\\n",
        "10.0.0",
        "node1",
        "0.0.0.0 accept; flush ruleset",
        "\\\"::\\\"",
        "[::1]",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "::ffff:255.255.255.255",
        "10.0.0.1:80",
    ] {
        cases.push((
            more(&format!("\"hostIP\":\"{value}\"")),
            7,
            format!("hostIP is \"{value}\", "),
        ));
    }
    for (list, code, part) in cases {
        let error = parse(&list).expect_err(&list);
        assert_eq!(test_code(&error), code, "{list}: {error}");
        assert!(error.to_string().contains(&part), "{list}: {error}");
    }
}

#[test]
fn host_addresses_choose_their_family() {
    let one = |ip: &str| {
        format!(r#"[{{"hostPort":53,"containerPort":5,"protocol":"UDP","hostIP":"{ip}"}}]"#)
    };
    let cases = [
        ("0.0.0.0", "0.0.0.0:53/udp -> 10.88.0.5:5"),
        ("::", "[::]:53/udp -> [fd00::5]:5"),
        ("127.0.0.1", "127.0.0.1:53/udp -> 10.88.0.5:5"),
        ("2001:DB8:0::1", "[2001:db8::1]:53/udp -> [fd00::5]:5"),
        ("::ffff:192.0.2.1", "192.0.2.1:53/udp -> 10.88.0.5:5"),
    ];
    for (ip, expected) in cases {
        assert_eq!(expanded(&one(ip), &DUAL).expect(ip), [expected]);
    }
    assert_eq!(expanded(&one("::1"), &DUAL[..1]).expect("held"), ["[::1]:53/udp held"]);
    assert_eq!(
        expanded(r#"[{"hostPort":53,"containerPort":5}]"#, &DUAL[..1]).expect("half held"),
        ["0.0.0.0:53/tcp -> 10.88.0.5:5", "[::]:53/tcp held"]
    );
    assert_eq!(expanded(&one("0.0.0.0"), &[]).expect("host network"), ["0.0.0.0:53/udp held"]);
}

#[test]
fn kubernetes_conformance_ports_live_side_by_side() {
    let list = r#"[{"hostPort":54323,"containerPort":80,"hostIP":"127.0.0.1"},
                   {"hostPort":54323,"containerPort":81,"hostIP":"192.0.2.1"},
                   {"hostPort":54323,"containerPort":82,"protocol":"udp"}]"#;
    assert_eq!(expanded(list, &DUAL[..1]).expect("none overlap").len(), 4);
}

#[test]
fn contradictions_name_both() {
    let list = |entries: &[(&str, u16)]| {
        let entry = |(ip, port): &(&str, u16)| {
            format!(r#"{{"hostPort":80,"containerPort":{port},"hostIP":"{ip}"}}"#)
        };
        format!("[{}]", entries.iter().map(entry).collect::<Vec<_>>().join(","))
    };
    let fine: [(&[_], usize); 4] = [
        (&[("", 80), ("", 80)], 2),
        (&[("", 80), ("10.0.0.1", 80), ("::", 80)], 3),
        (&[("10.0.0.1", 80), ("10.0.0.2", 81), ("::", 82)], 3),
        (&[("0.0.0.0", 80), ("::", 81)], 2),
    ];
    for (entries, count) in fine {
        assert_eq!(expanded(&list(entries), &DUAL).expect("no contradiction").len(), count);
    }
    let bad: [&[_]; 5] = [
        &[("10.0.0.9", 80), ("", 80), ("", 81)],
        &[("0.0.0.0", 80), ("10.0.0.1", 80), ("10.0.0.2", 81)],
        &[("10.0.0.2", 81), ("10.0.0.1", 80), ("10.0.0.1", 82)],
        &[("::1", 80), ("", 81)],
        &[("::ffff:10.0.0.1", 80), ("10.0.0.1", 81)],
    ];
    for entries in bad {
        let error = expanded(&list(entries), &DUAL).expect_err("a contradiction");
        assert_eq!(test_code(&error), 7);
        let message = error.to_string();
        assert_eq!(message.matches("runtimeConfig.portMappings[").count(), 2, "{message}");
        assert_eq!(message.matches("container port").count(), 2, "{message}");
    }
}

#[test]
fn ten_thousand_mappings_take_no_time() {
    let entry = |port: usize| format!(r#"{{"HostPort":{port},"ContainerPort":{port}}}"#);
    let list = format!("[{}]", (20_000..30_000).map(entry).collect::<Vec<_>>().join(","));
    assert_eq!(expanded(&list, &DUAL).expect("all are good").len(), 20_000);
    // All in one group: the comparison must not be pairwise.
    let entry = |n: usize| {
        format!(r#"{{"hostPort":80,"containerPort":80,"hostIP":"10.0.{}.{}"}}"#, n / 250, n % 250)
    };
    let list = format!("[{}]", (0..10_000).map(entry).collect::<Vec<_>>().join(","));
    assert_eq!(expanded(&list, &DUAL).expect("all are good").len(), 10_000);
}
