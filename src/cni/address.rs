//! Addresses and networks as text.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

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
    let bits = |address: IpAddr| IpNetwork::from(address).prefix();
    let prefix = prefix.unwrap_or(bits(written));
    let address = written.to_canonical();
    // A prefix that reaches into the ::ffff:0:0/96 part has no IPv4 counterpart.
    match prefix.checked_sub(bits(written) - bits(address)) {
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

#[cfg(test)]
mod tests;
