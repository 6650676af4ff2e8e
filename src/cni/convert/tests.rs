use serde_json::json;

use super::*;

/// One result in each shape, saying as much as all three can.
fn sample(version: Version) -> Value {
    let (v4, v6) = ("10.0.0.2/24", "fd00::2/64");
    let routes4 = json!([{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}, {"dst": "10.9.0.0/16"}]);
    let routes6 = json!([{"dst": "::/0"}]);
    let all =
        json!([{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}, {"dst": "10.9.0.0/16"}, {"dst": "::/0"}]);
    let mut value = match shape(version) {
        Shape::PerFamily => json!({
            "ip4": {"ip": v4, "gateway": "10.0.0.1", "routes": routes4},
            "ip6": {"ip": v6, "routes": routes6},
        }),
        Shape::Labelled => json!({"routes": all, "ips": [
            {"version": "4", "address": v4, "gateway": "10.0.0.1"},
            {"version": "6", "address": v6},
        ]}),
        Shape::Plain => json!({"routes": all, "ips": [
            {"address": v4, "gateway": "10.0.0.1"},
            {"address": v6},
        ]}),
    };
    value["cniVersion"] = version.as_str().into();
    value["dns"] = json!({"nameservers": ["10.0.0.1"]});
    value["later"] = json!({"unknown": [1, null]});
    value
}

fn converted(value: &Value, from: Version, to: Version) -> Value {
    let raw = to_raw_value(value).expect("a test value");
    let out = convert(&raw, from, to).expect("a conversion");
    serde_json::from_str(out.get()).expect("JSON")
}

#[test]
fn every_pair_of_versions_converts() {
    for from in Version::ALL {
        for to in Version::ALL {
            assert_eq!(converted(&sample(from), from, to), sample(to), "{from} to {to}");
        }
    }
}

#[test]
fn lists_keep_interfaces_and_the_old_shape_drops_them() {
    let new = json!({"interfaces": [{"name": "eth0", "mtu": 1500}], "ips": [
        {"address": "10.0.0.2/24", "interface": 0}, {"address": "10.0.0.3/24", "interface": 0}]});
    let middle = converted(&new, Version::V1_1_0, Version::V0_4_0);
    assert_eq!(middle["interfaces"], new["interfaces"]);
    assert_eq!(middle["ips"][1], json!({"address": "10.0.0.3/24", "interface": 0, "version": "4"}));
    let old = converted(&new, Version::V1_1_0, Version::V0_1_0);
    assert_eq!(old, json!({"cniVersion": "0.1.0", "ip4": {"ip": "10.0.0.2/24"}}));
}

#[test]
fn odd_results_convert_to_something() {
    for odd in [
        json!({}),
        json!({"ips": null, "ip4": null, "routes": null}),
        json!({"ips": 5, "ip4": [], "ip6": {"routes": {}}, "routes": "x"}),
        json!({"ips": [1, null, {"address": 5}], "routes": [[], {"dst": {}}]}),
    ] {
        for from in Version::ALL {
            for to in Version::ALL {
                assert_eq!(converted(&odd, from, to)["cniVersion"], to.as_str());
            }
        }
    }
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(9999), "]".repeat(9999));
    let raw = RawValue::from_string(deep).expect("text stays text");
    assert!(convert(&raw, Version::V1_0_0, Version::V0_4_0).is_err());
}
