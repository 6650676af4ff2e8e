//! The list of wanted ports in an annotation: `name=port/protocols`, separated by commas.
//!
//! docs/annotations.md has the grammar for those who write it. Every error quotes the item, says
//! at which character of the annotation the offending piece stands, and shows a right one.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use super::error::Error;
use super::number;
use super::text::quote;
use crate::model::{ContainerPort, PortRange, Protocol, Request};

/// As long as a label of DNS.
const LONGEST_NAME: usize = 63;

/// An item of an annotation and what it asks for.
#[derive(Clone, Debug)]
pub(super) struct Item<'a> {
    pub(super) request: Request,
    /// The ports on the pod that it names; none if the container takes the chosen number.
    pub(super) ports: Option<PortRange>,
    pub(super) source: Source<'a>,
}

impl Item<'_> {
    /// Whether it asks for this port on the pod.
    pub(super) fn covers(&self, port: NonZeroU16, protocol: Protocol) -> bool {
        self.ports.is_some_and(|ports| ports.contains(port))
            && self.request.protocols.contains(&protocol)
    }
}

/// Where an item stands.
#[derive(Clone, Copy, Debug, derive_more::Display)]
#[display("item {}, {}", index + 1, quote(item))]
pub(super) struct Source<'a> {
    /// The annotation's key.
    pub(super) key: &'static str,
    /// Its value.
    pub(super) whole: &'a str,
    /// Which item it is, from 0.
    pub(super) index: usize,
    /// The item, without the white space around it.
    pub(super) item: &'a str,
}

impl<'a> Source<'a> {
    /// Every item of a list, of which none may be empty. More than `most` are rejected before they
    /// are read: each asks for a number at least.
    pub(super) fn split(
        key: &'static str,
        whole: &'a str,
        most: NonZeroU16,
    ) -> Result<Vec<Self>, Error> {
        if whole.trim().is_empty() {
            let allowed = "but it must list the requested ports, as in \"http=8080\"; to want \
                           none, remove it";
            return Err(Error::annotation(key, whole, allowed));
        }
        let count = whole.split(',').count();
        if count > most.get().into() {
            return Err(Error::TooMany { key, count, most });
        }
        let item = |(index, piece): (usize, &'a str)| {
            let source = Self { key, whole, index, item: piece.trim() };
            match source.item {
                "" => Err(source.error(source.item, "is an empty item: remove the comma")),
                _ => Ok(source),
            }
        };
        whole.split(',').enumerate().map(item).collect()
    }

    /// Says what is wrong with `piece`, a part of the item, and what would be right.
    pub(super) fn error(&self, piece: &str, wrong: &str) -> Error {
        let before = piece.as_ptr().addr().checked_sub(self.whole.as_ptr().addr());
        let before = before.and_then(|bytes| self.whole.get(..bytes)).unwrap_or_default();
        Error::annotation(
            self.key,
            self.whole,
            format!(
                "but {} at character {} ({self}) {wrong}",
                quote(piece),
                before.chars().count() + 1
            ),
        )
    }
}

/// Reads the whole list.
pub(super) fn parse<'a>(
    key: &'static str,
    whole: &'a str,
    most: NonZeroU16,
    declared: Option<&[Item<'a>]>,
) -> Result<Vec<Item<'a>>, Error> {
    let is_bare = |it| name(it, it.item).is_ok_and(|name| name.parse::<Protocol>().is_err());
    let bare = |it, wrong| if is_bare(it) { named(it, declared) } else { Err(wrong) };
    let items = Source::split(key, whole, most)?.into_iter();
    let items = items.map(|it| item(it).or_else(|wrong| bare(it, wrong)));
    let items = items.collect::<Result<Vec<_>, _>>()?;
    refuse_repetitions(&items)?;
    Ok(items)
}

/// An item that is only the name of a port that the Pod declares.
pub(super) fn named<'a>(
    source: Source<'a>,
    declared: Option<&[Item<'a>]>,
) -> Result<Item<'a>, Error> {
    let declared = declared.ok_or(Error::NeedsSpec { needed: true })?;
    let found = declared.iter().find(|item| item.request.name.as_deref() == Some(source.item));
    found.map(|item| Item { source, ..item.clone() }).ok_or_else(|| {
        let all = quote(declared.first().map_or("none", |item| item.source.whole));
        let wrong = format!("is not the name of a port of the Pod, whose spec declares {all}");
        source.error(source.item, &wrong)
    })
}

fn item(source: Source<'_>) -> Result<Item<'_>, Error> {
    let (name, rest) = match source.item.split_once('=') {
        Some((written, rest)) => (Some(name(source, written.trim())?), rest.trim()),
        None => (None, source.item),
    };
    let (written, protocols) = match rest.split_once('/') {
        Some((port, list)) => (port.trim(), protocols(source, list.trim())?),
        None => (rest, vec![Protocol::Tcp]),
    };
    let ports = ports(source, written)?;
    let count = ports.map(|ports| ports.last.get() - ports.first.get()).unwrap_or_default();
    let first = ports.map_or(ContainerPort::Same, |ports| ContainerPort::From(ports.first));
    let count = NonZeroU16::MIN.saturating_add(count);
    let request = Request { name, count, ..Request::new(protocols, first) };
    Ok(Item { request, ports, source })
}

fn name(source: Source<'_>, name: &str) -> Result<String, Error> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    // A digit in front would make a name of a port that has none, 8080-tcp, out of one that has.
    let valid = name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.len() <= LONGEST_NAME
        && name.bytes().all(inner);
    if valid {
        return Ok(name.to_owned());
    }
    let wrong = format!(
        "is not a name: it must begin with a lower-case letter and go on with up to {} of them, \
         digits and '-', and not end with '-', as in \"http=8080\"",
        LONGEST_NAME - 1
    );
    Err(source.error(name, &wrong))
}

fn protocols(source: Source<'_>, list: &str) -> Result<Vec<Protocol>, Error> {
    let mut protocols = Vec::new();
    for piece in list.split('+').map(str::trim) {
        let Ok(protocol) = piece.parse() else {
            let wrong = "is not a protocol: it must be tcp, udp, sctp or several joined by '+', \
                         as in \"game=7777/tcp+udp\"";
            return Err(source.error(piece, wrong));
        };
        if protocols.contains(&protocol) {
            let wrong = "is a protocol named twice: once is enough, as in \"game=7777/tcp+udp\"";
            return Err(source.error(piece, wrong));
        }
        protocols.push(protocol);
    }
    protocols.sort_unstable();
    Ok(protocols)
}

/// The ports on the pod, or none for `auto`.
fn ports(source: Source<'_>, written: &str) -> Result<Option<PortRange>, Error> {
    if written == "auto" {
        return Ok(None);
    }
    if let Some(range) = number::range(written) {
        return Ok(Some(range));
    }
    let Some((first, last)) = written.split_once('-') else {
        return Err(source.error(written, not_a_port(written)));
    };
    let (first, last) = (first.trim(), last.trim());
    let wrong = [first, last].into_iter().find(|end| number::port(end).is_none());
    Err(match wrong {
        Some(end) => source.error(end, not_a_port(end)),
        None => source.error(
            written,
            "is a block that runs backwards: the lower port goes first, as in \
             \"rtp=10000-10099/udp\"",
        ),
    })
}

fn not_a_port(written: &str) -> &'static str {
    let digits = !written.is_empty() && written.bytes().all(|byte| byte.is_ascii_digit());
    if digits && written.bytes().all(|byte| byte == b'0') {
        "is not a port: it must be 1 to 65535; if the container can listen on whatever port is \
         chosen, write \"auto\", as in \"media=auto/udp\""
    } else if written.parse::<Protocol>().is_ok() {
        "is not a port: several protocols are joined by '+', as in \"game=7777/tcp+udp\""
    } else if written.contains(':') {
        "is not a port: only the port of the container is named here, as in \"http=8080\"; a \
         fixed host port goes into the Pod's hostPort"
    } else if written.starts_with(|first: char| first.is_ascii_lowercase()) {
        "is not a port: a name needs the container's port after it, as in \"http=8080\""
    } else {
        "is not a port: it must be 1 to 65535, a block such as 10000-10099, or auto, as in \
         \"http=8080\""
    }
}

/// A name and a port of the pod stand in one item: otherwise it would be unclear which number is theirs.
fn refuse_repetitions(items: &[Item<'_>]) -> Result<(), Error> {
    let (mut names, mut taken) = (BTreeMap::new(), Taken::new());
    for later in items {
        let name = later.request.name.as_deref();
        let wrong = if let Some(name) = name
            && let Some(earlier) = names.insert(name, later.source)
        {
            format!(
                "has the same name as {earlier}: give it another one, as in {}",
                quote(&later.source.item.replacen(name, "other", 1))
            )
        } else if let Some((port, protocol, earlier)) = common_port(&taken, later) {
            format!(
                "asks for container port {port}/{protocol}, as does {earlier}: name it once, with \
                 several protocols as in \"game=7777/tcp+udp\""
            )
        } else {
            let ports = later.ports.iter().flat_map(|ports| {
                let place =
                    |protocol: &Protocol| ((*protocol, ports.first), (*ports, later.source));
                later.request.protocols.iter().map(place)
            });
            taken.extend(ports);
            continue;
        };
        return Err(later.source.error(later.source.item, &wrong));
    }
    Ok(())
}

/// By protocol and first port. They do not overlap, so of those that begin before the end of another
/// only the last can overlap that.
type Taken<'a> = BTreeMap<(Protocol, NonZeroU16), (PortRange, Source<'a>)>;

fn common_port<'a>(
    taken: &Taken<'a>,
    later: &Item<'_>,
) -> Option<(NonZeroU16, Protocol, Source<'a>)> {
    let ports = later.ports?;
    later.request.protocols.iter().find_map(|protocol| {
        let before = taken.range((*protocol, NonZeroU16::MIN)..=(*protocol, ports.last));
        let (_, (others, earlier)) = before.last().filter(|(_, (one, _))| one.overlaps(&ports))?;
        Some((ports.first.max(others.first), *protocol, *earlier))
    })
}

#[cfg(test)]
mod tests;
