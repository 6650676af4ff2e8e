//! Where the metrics are served.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::Deserialize;

/// An IP address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Address(pub SocketAddr);

/// A text that is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IP address and a port, such as 127.0.0.1:9417")]
pub struct NoAddress(String);

impl Address {
    /// The same address with the next port, for the second agent of the node.
    #[must_use]
    pub const fn next(self) -> Self {
        let Self(mut address) = self;
        address.set_port(address.port().saturating_add(1));
        Self(address)
    }
}

impl FromStr for Address {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        // A manifest writes the address of the node in front of a port, and cannot put it in brackets.
        let bare = || {
            let (host, port) = text.rsplit_once(':')?;
            Some(SocketAddr::new(IpAddr::V6(host.parse().ok()?), port.parse().ok()?))
        };
        let address = text.parse().ok().or_else(bare);
        // Port 0 would be another one at each start.
        let address = address.filter(|address: &SocketAddr| address.port() != 0);
        address.map(Self).ok_or_else(|| NoAddress(text.to_owned()))
    }
}

impl TryFrom<String> for Address {
    type Error = NoAddress;

    fn try_from(text: String) -> Result<Self, NoAddress> {
        text.parse()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_port_and_no_name() {
        for (text, expected) in [
            ("127.0.0.1:9417", "127.0.0.1:9417"),
            ("0.0.0.0:1", "0.0.0.0:1"),
            ("[::1]:9417", "[::1]:9417"),
            ("fd00::7:9417", "[fd00::7]:9417"),
        ] {
            let address: Address = text.parse().expect("an address");
            assert_eq!(address.to_string(), expected);
        }
        for text in ["", "9417", ":9417", "127.0.0.1", "127.0.0.1:0", "localhost:9417", "::1"] {
            assert_eq!(text.parse::<Address>(), Err(NoAddress(text.to_owned())));
        }
        let address: Address = "192.0.2.1:9417".parse().expect("an address");
        assert_eq!(address.next().to_string(), "192.0.2.1:9418");
    }
}
