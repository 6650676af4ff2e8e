use super::super::tests::test_code;
use super::*;

fn parse(prev: &str, asked: Version) -> Result<PrevResult, Error> {
    let text = format!("{{\"prevResult\":{prev}}}");
    read(&Object::decode("a test", "", text.as_bytes())?, asked, "eth0")
}

fn addresses(prev: &str) -> Vec<String> {
    let read = parse(prev, Version::NEWEST).expect(prev);
    read.addresses.iter().map(ToString::to_string).collect()
}

#[test]
fn the_same_version_is_echoed_byte_for_byte() {
    let prev =
        "{ \"ips\" : [ ],\n\"zzz\":1.50e+400, \"cniVersion\":\"1.0.0\",\"a\":{\"b\" :null} }";
    assert_eq!(parse(prev, Version::V1_0_0).expect(prev).echo.get(), prev);
}

#[test]
fn a_missing_version_is_set_and_the_rest_left_alone() {
    for version in ["", r#""cniVersion":null,"#, r#""cniVersion":"","#] {
        let prev = format!("{{{version}\"z\":1.50e+400,\"a\":{{\"b\" :[]}}}}");
        let expected = r#"{"cniVersion":"0.3.1","z":1.50e+400,"a":{"b" :[]}}"#;
        assert_eq!(
            parse(&prev, Version::named("0.3.1").expect("a version")).expect(&prev).echo.get(),
            expected
        );
    }
}

#[test]
fn another_version_is_converted() {
    let prev = r#"{"cniVersion":"1.0.0","ips":[{"address":"10.1.2.3/24"}]}"#;
    let echo = parse(prev, Version::V0_4_0).expect(prev).echo;
    assert!(echo.get().contains(r#""version":"4""#), "{echo}");
}

#[test]
fn addresses_of_the_node_are_not_the_pods() {
    // portmap's "correctly parses an ADD config" (P1).
    let prev = r#"{"interfaces":[{"name":"host"},{"name":"eth0","sandbox":"netns"},{"name":"other","sandbox":"netns"}],
        "ips":[{"version":"4","address":"10.0.0.1/24","gateway":"10.0.0.1","interface":0},
               {"version":"6","address":"2001:db8:1::2/64","interface":1},
               {"version":"4","address":"10.0.0.7/24","interface":2},
               {"version":"4","address":"10.0.0.2/24","interface":1},
               {"version":"4","address":"10.0.0.3/24","interface":1}]}"#;
    assert_eq!(addresses(prev), ["10.0.0.2/24", "2001:db8:1::2/64"]);
}

#[test]
fn addresses_without_a_listed_interface_are_the_pods() {
    // portmap's "does not fail on missing prevResult interface index" (P9), and its kin.
    for entry in ["", r#","interface":null"#, r#","interface":7"#, r#","interface":-1"#] {
        let prev = format!(
            r#"{{"interfaces":[{{"name":"veth1"}}],"ips":[{{"address":"10.0.0.2/24"{entry}}}]}}"#
        );
        assert_eq!(addresses(&prev), ["10.0.0.2/24"], "{prev}");
    }
}

#[test]
fn old_shapes_and_empty_ones_are_read() {
    let old = r#"{"ip6":{"ip":"fd00::2/64"},"ip4":{"ip":"10.0.0.2/24","gateway":"10.0.0.1"}}"#;
    assert_eq!(addresses(old), ["10.0.0.2/24", "fd00::2/64"]);
    for none in ["{}", r#"{"ips":null,"interfaces":null}"#, r#"{"ips":[]}"#] {
        assert_eq!(addresses(none), [""; 0], "{none}");
    }
}

#[test]
fn host_interfaces_come_in_order() {
    let prev = r#"{"interfaces":[{"name":"cni0","mac":"x"},{"name":"veth1","sandbox":""},
                   {"name":"eth0","sandbox":"/n"},{"name":"bad/name"},{"sandbox":""}]}"#;
    let read = parse(prev, Version::NEWEST).expect(prev);
    assert_eq!(read.host_interfaces, ["cni0", "veth1"]);
}

#[test]
fn bad_results_are_refused() {
    let cases = [
        ("null", 7, "chained plugin"),
        ("[]", 6, "prevResult: found []"),
        (r#"{"cniVersion":1}"#, 6, "prevResult.cniVersion"),
        (r#"{"cniVersion":"2.0.0"}"#, 7, "prevResult.cniVersion is \"2.0.0\""),
        (r#"{"ips":{}}"#, 6, "prevResult"),
        (r#"{"ips":[{"interface":"0"}]}"#, 6, "prevResult"),
        (r#"{"ips":[{}]}"#, 7, "prevResult.ips[0].address is missing"),
        (r#"{"ips":[{"address":"10.0.0.1/24\n"}]}"#, 7, r#"is "10.0.0.1/24\n""#),
        (r#"{"ip6":{"ip":"10.0.0.1/99"}}"#, 7, "prevResult.ip6.ip"),
    ];
    for (prev, code, part) in cases {
        let error = parse(prev, Version::NEWEST).expect_err(prev);
        assert_eq!(test_code(&error), code, "{prev}: {error}");
        assert!(error.to_string().contains(part), "{prev}: {error}");
    }
}
