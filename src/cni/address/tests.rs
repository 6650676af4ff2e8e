use super::*;

#[test]
fn networks_are_read_strictly() {
    let cases = [
        ("10.1.2.3/24", "10.1.2.3/24"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("fd00::1/64", "fd00::1/64"),
        ("fd00::1", "fd00::1/128"),
        ("::ffff:10.1.2.3/120", "10.1.2.3/24"),
        ("::ffff:10.1.2.3", "10.1.2.3/32"),
        ("::ffff:0:0/64", "::ffff:0.0.0.0/64"),
        ("0.0.0.0/0", "0.0.0.0/0"),
    ];
    for (text, expected) in cases {
        assert_eq!(network(text).expect(text).to_string(), expected, "{text}");
    }
    let bad = [
        "",
        "/",
        "10.0.0.0/",
        "10.0.0.0/33",
        "10.0.0.0/+8",
        "10.0.0.0/-1",
        "10.0.0.0/8/8",
        "10.0.0.0/255.0.0.0",
        "10.0.0/8",
        "fd00::/129",
        "fe80::1%eth0/64",
        " 10.0.0.0/8",
        "010.0.0.1",
        "10.0.0.0/999",
    ];
    for text in bad {
        assert_eq!(network(text), None, "{text}");
    }
}

#[test]
fn lists_of_networks_have_one_form() {
    let read = |texts: &[&str]| -> Vec<String> {
        let networks = texts.iter().map(|text| network(text).expect(text)).collect();
        normalise(networks).iter().map(ToString::to_string).collect()
    };
    let one = ["10.1.0.0/16", "fd00::5/8", "10.9.9.9/8", "192.0.2.1", "10.2.3.4", "fd01::/16"];
    let expected = ["10.0.0.0/8", "192.0.2.1/32", "fd00::/8"];
    assert_eq!(read(&one), expected);
    assert_eq!(read(&["192.0.2.1/32", "fd00::/8", "10.0.0.0/8", "10.0.0.0/8"]), expected);
}
