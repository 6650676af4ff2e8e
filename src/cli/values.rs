//! The values of options and arguments: from words to types.

use std::net::IpAddr;
use std::num::NonZeroU16;

use autoport::model::{InvalidName, PortRange, Protocol, check_short};
use autoport::plan::Spot;

/// Ports in one protocol, on one address or on all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) protocol: Protocol,
    pub(crate) address: Option<IpAddr>,
    pub(crate) range: PortRange,
}

/// A key and its value.
pub(crate) fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, as in minPort=1024")?;
    if key.is_empty() {
        return Err("the key before = is missing".to_owned());
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// The name of a reservation that is to be made.
pub(crate) fn reservation(text: &str) -> Result<String, InvalidName> {
    check_short("reservation", text).map(|()| text.to_owned())
}

/// Whom, or what, an operator asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Port(PortRange, Option<Protocol>),
    /// Whatever has this name.
    Name(String),
}

/// A number is a port, unless no port is written so: then it may begin a container ID.
pub(crate) fn subject(text: &str) -> Result<Subject, String> {
    if text.is_empty() {
        return Err("a name must not be empty".to_owned());
    }
    let (number, name) = text.split_once('/').map_or((text, None), |(n, p)| (n, Some(p)));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_range = number.split('-').all(is_number) && number.contains('-');
    let fits = number.parse::<u16>().is_ok_and(|port| port.to_string() == number);
    if !is_range && (!is_number(number) || !fits && name.is_none()) {
        return Ok(Subject::Name(text.to_owned()));
    }
    let protocol = name.map(protocol).transpose()?;
    Ok(Subject::Port(port_range(number)?, protocol))
}

/// `PORT` or `FIRST-LAST`.
pub(crate) fn port_range(text: &str) -> Result<PortRange, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = PortRange { first: port_number(first)?, last: port_number(last)? };
    if range.first > range.last {
        return Err(format!("range {text:?} is empty: write the lower port first"));
    }
    Ok(range)
}

/// `PORT[-LAST][/PROTO][@ADDRESS]`.
pub(crate) fn port(text: &str) -> Result<Ports, String> {
    let (rest, address) = match text.split_once('@') {
        Some((rest, address)) => (rest, Some(node_address(address)?)),
        None => (text, None),
    };
    let (number, protocol) = match rest.split_once('/') {
        Some((number, name)) => (number, protocol(name)?),
        None => (rest, Protocol::Tcp),
    };
    Ok(Ports { protocol, address, range: port_range(number)? })
}

/// What a packet is sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Traced {
    Port(Spot),
    /// A pod's, by whatever names it.
    Pod(String),
}

/// What begins with digits alone is a port, otherwise it names a pod. No port has six digits or more: these begin a
/// container ID.
pub(crate) fn traced(text: &str) -> Result<Traced, String> {
    if text.contains('@') {
        return Err("give the destination address with --to".to_owned());
    }
    let number = text.split_once('/').map_or(text, |(number, _)| number);
    let is_id = text.len() > 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_id && number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') {
        return Ok(Traced::Port(one_port(text)?));
    }
    Ok(Traced::Pod(text.to_owned()))
}

pub(crate) fn one_port(text: &str) -> Result<Spot, String> {
    let Ports { protocol, address, range } = port(text)?;
    if range.first != range.last {
        return Err(format!("{text:?} is more than one port; a packet has one"));
    }
    Ok(Spot { protocol, address, port: range.first })
}

pub(crate) fn port_number(text: &str) -> Result<NonZeroU16, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten();
    number.ok_or_else(|| format!("port {text:?} is not a number from 1 to 65535"))
}

pub(crate) fn protocol(text: impl AsRef<str>) -> Result<Protocol, String> {
    let text = text.as_ref();
    text.parse().map_err(|_| format!("protocol {text:?} is not one of tcp, udp, sctp"))
}

pub(crate) fn node_address(text: &str) -> Result<IpAddr, String> {
    let address = text.parse::<IpAddr>().map(|address| address.to_canonical());
    match address {
        Ok(address) if !address.is_multicast() => Ok(address),
        Ok(_) => Err(format!("address {text:?} is a multicast address, which no node has")),
        Err(_) => Err(format!(
            "address {text:?} is not an IP address such as 192.0.2.1 or 2001:db8::1, without \
             brackets and zone"
        )),
    }
}

/// One that a packet can be from, or for.
pub(crate) fn one_address(text: &str) -> Result<IpAddr, String> {
    let address = node_address(text)?;
    if address.is_unspecified() {
        return Err(format!("address {text:?} means every address; name one"));
    }
    Ok(address)
}
