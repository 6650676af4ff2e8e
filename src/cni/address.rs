//! Addresses and networks as text.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::model::Family;

/// Reads one address. IPv4 in IPv6's clothes (`::ffff:192.0.2.1`) is the IPv4 address, since that
/// is what packets to it carry.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// Reads `address/prefix`, keeping the host bits; a bare address is a network of one.
pub(super) fn network(text: &str) -> Option<IpNetwork> {
    let (written, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix_length(prefix)?)),
        None => (text, None),
    };
    let written: IpAddr = written.parse().ok()?;
    let prefix = prefix.unwrap_or(bits(&written));
    let address = written.to_canonical();
    // A prefix that reaches into the ::ffff:0:0/96 part has no IPv4 counterpart.
    match prefix.checked_sub(bits(&written) - bits(&address)) {
        Some(prefix) => IpNetwork::new(address, prefix).ok(),
        None => IpNetwork::new(written, prefix).ok(),
    }
}

/// Sorts networks, clears their host bits and drops those inside another: the same set of
/// addresses always gives the same list, and no two of it overlap.
pub(super) fn normalise(networks: Vec<IpNetwork>) -> Vec<IpNetwork> {
    let mut networks: Vec<IpNetwork> = networks
        .into_iter()
        .filter_map(|network| IpNetwork::new(network.network(), network.prefix()).ok())
        .collect();
    // A network sorts right before everything inside it.
    networks.sort_unstable();
    networks.dedup_by(|inner, outer| outer.contains(inner.ip()));
    networks
}

fn prefix_length(text: &str) -> Option<u8> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

const fn bits(address: &IpAddr) -> u8 {
    match Family::of(address) {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

#[cfg(test)]
mod tests {
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
}
