//! Set elements on the wire: the part of every ADD and DEL, so written by hand and packed.
//!
//! Every part of a concatenated key or value is padded with zeros to four bytes, and the kernel
//! compares the padding too.

use std::borrow::Borrow;
use std::net::SocketAddr;
use std::num::NonZeroU16;

use super::INET;
use super::message::{Attributes, Messages, address, octets};
use super::socket::{self, CREATE, DUMP, EXCL, REQUEST, Transaction};
use crate::kernel::uapi;
use crate::model::Protocol;
use crate::ruleset::{Data, Element, Interface, Key, Place, Set};

/// An element as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Where it leads; `None` when it is not of the shape we write, or somebody gave it a timeout.
    pub data: Option<Data>,
    /// Whose it is, as a listing shows it; empty when it says nothing.
    pub comment: String,
    /// The attachment whose it is, where it says so.
    pub holder: String,
    /// Whether it is about to go by itself.
    pub expiring: bool,
    /// How many packets have found it, where they are counted.
    pub packets: Option<u64>,
    /// Whether none has since its mapping began: it counts none, and was not made again.
    pub(super) unused: bool,
}

impl Seen {
    /// Whether it is `wanted`, to the names that it carries.
    pub(super) fn is(&self, wanted: &Element) -> bool {
        self.data.as_ref() == Some(&wanted.data)
            && self.comment == wanted.comment
            && self.holder == wanted.holder
    }
}

/// What the kernel makes of a timeout of a millisecond is a timer tick, in milliseconds: at most 10.
/// What has longer to live was not released by us.
const LONGEST_TICK: u64 = 100;

const COUNTER: &str = "counter";

/// How many elements go into one message. An attribute holds 64 KiB, and an element takes at most
/// 384 bytes.
const PER_MESSAGE: usize = 170;

fn put_key(messages: &mut Messages, key: &Key) {
    messages.nest(uapi::NFTA_SET_ELEM_KEY, |value| match key {
        Key::Port { address, protocol, port } => {
            let address = address.map_or(Vec::new(), octets);
            let (protocol, port) = ([protocol.number(), 0, 0, 0], port.get().to_be_bytes());
            value.put(uapi::NFTA_DATA_VALUE, &[&address, &protocol, &port, &[0, 0]]);
        }
        Key::Interface(Interface(name)) => value.put(uapi::NFTA_DATA_VALUE, &[name]),
    });
}

fn put_data(messages: &mut Messages, data: &Data) {
    let Data::Target(target) = data else { return };
    messages.nest(uapi::NFTA_SET_ELEM_DATA, |value| {
        let (address, port) = (octets(target.ip()), target.port().to_be_bytes());
        value.put(uapi::NFTA_DATA_VALUE, &[&address, &port, &[0, 0]]);
    });
}

fn put_element(messages: &mut Messages, element: &Element) {
    put_key(messages, &element.key);
    put_data(messages, &element.data);
    if element.comment.is_empty() {
        return;
    }
    let comment = format!("{}\0", element.comment);
    let holder = (uapi::HOLDER, element.holder.as_bytes());
    let both = [(uapi::NFTNL_UDATA_SET_ELEM_COMMENT, comment.as_bytes()), holder];
    let parts = if element.holder.is_empty() { &both[..1] } else { &both };
    messages.put_userdata(uapi::NFTA_SET_ELEM_USERDATA, parts);
}

/// Puts a counter that has counted nothing, which is not the one of the map.
fn put_counter(messages: &mut Messages) {
    messages.nest(uapi::NFTA_SET_ELEM_EXPR, |expression| {
        expression.put_text(uapi::NFTA_EXPR_NAME, COUNTER);
        expression.nest(uapi::NFTA_EXPR_DATA, |counter| {
            counter.put(uapi::NFTA_COUNTER_BYTES, &[&0_u64.to_be_bytes()]);
            counter.put(uapi::NFTA_COUNTER_PACKETS, &[&0_u64.to_be_bytes()]);
        });
    });
}

fn put_list<T>(messages: &mut Messages, set: Set, items: &[T], put: impl Fn(&mut Messages, &T)) {
    messages.put_text(uapi::NFTA_SET_ELEM_LIST_TABLE, set.table());
    messages.put_text(uapi::NFTA_SET_ELEM_LIST_SET, &set.to_string());
    messages.nest(uapi::NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
        for item in items {
            list.nest(uapi::NFTA_LIST_ELEM, |element| put(element, item));
        }
    });
}

/// Writes messages about runs of items of one set. `items` is sorted, so a set comes once.
fn put_runs<T>(
    transaction: &mut Transaction,
    (kind, flags): (u16, u16),
    items: &[T],
    place: impl Fn(&T) -> Place,
    subject: impl Fn(Set, Key) -> String,
    put: impl Fn(&mut Messages, &T),
) {
    for run in items.chunk_by(|one, other| place(one).0 == place(other).0) {
        for part in run.chunks(PER_MESSAGE) {
            let (set, key) = place(&part[0]);
            put_list(transaction.message(kind, flags, subject(set, key)), set, part, &put);
        }
    }
}

/// Adds elements. Refused when one of them is there already. Unless `is_new`, they may have translated
/// something before: then their counters are copies of the one of their map, which says so, and takes the
/// kernel less time.
pub(super) fn add<E: Borrow<Element>>(transaction: &mut Transaction, elements: &[E], is_new: bool) {
    put_runs(
        transaction,
        (uapi::NFT_MSG_NEWSETELEM, CREATE | EXCL),
        elements,
        |element| element.borrow().place(),
        |set, key| format!("adding {key} to {set}"),
        |list, element| {
            put_element(list, element.borrow());
            if is_new && element.borrow().set.is_map() {
                put_counter(list);
            }
        },
    );
}

/// Adds those of these elements that are not there yet.
pub(super) fn ensure(transaction: &mut Transaction, elements: &[&Element]) {
    put_runs(
        transaction,
        (uapi::NFT_MSG_NEWSETELEM, CREATE),
        elements,
        |element| element.place(),
        |set, key| format!("adding {key} to {set}"),
        |list, element| put_element(list, element),
    );
}

/// Lets elements expire within the next timer tick (4 ms at 250 Hz) by giving each a millisecond to
/// live. `places` says where each leads, because the kernel refuses other data for a key that is
/// there; one that has gone meanwhile comes back for that tick.
///
/// A deletion would keep whoever closes a netlink socket of this namespace next waiting for a grace
/// period of the kernel's, us first; this does not. Kernels before 6.12 take it and change nothing.
pub(super) fn expire(transaction: &mut Transaction, places: &[(Place, Data)]) {
    put_runs(
        transaction,
        (uapi::NFT_MSG_NEWSETELEM, CREATE),
        places,
        |(place, _)| *place,
        |set, key| format!("letting {key} of {set} expire"),
        |list, ((_, key), data)| {
            put_key(list, key);
            put_data(list, data);
            list.put(uapi::NFTA_SET_ELEM_TIMEOUT, &[&1_u64.to_be_bytes()]);
        },
    );
}

/// Deletes elements. Refused when one of them is not there.
pub(super) fn delete(transaction: &mut Transaction, places: &[Place]) {
    put_runs(
        transaction,
        (uapi::NFT_MSG_DELSETELEM, 0),
        places,
        |place| *place,
        |set, key| format!("deleting {key} from {set}"),
        |list, (_, key)| put_key(list, key),
    );
}

/// Asks for one element.
pub(super) fn question(messages: &mut Messages, place: &Place) {
    messages.begin(uapi::NFT_MSG_GETSETELEM, REQUEST, &[INET, 0, 0, 0]);
    put_list(messages, place.0, &[place.1], put_key);
}

/// Asks for every element of `set`.
pub(super) fn listing(set: Set) -> Messages {
    let mut messages = socket::question(uapi::NFT_MSG_GETSETELEM, DUMP, INET);
    messages.put_text(uapi::NFTA_SET_ELEM_LIST_TABLE, set.table());
    messages.put_text(uapi::NFTA_SET_ELEM_LIST_SET, &set.to_string());
    messages
}

/// Reads the elements in a part of a listing; `None` for one with a key that we never write: another protocol,
/// port 0, or the catch-all.
pub(super) fn read_all(
    set: Set,
    answer: Attributes<'_>,
) -> impl Iterator<Item = Option<(Key, Seen)>> {
    let list = answer.nested(uapi::NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or_default();
    list.iter().map(move |element| {
        let element = Attributes(element.payload);
        let key = element
            .nested(uapi::NFTA_SET_ELEM_KEY)
            .and_then(|key| read_key(set, key.get(uapi::NFTA_DATA_VALUE)?));
        Some((key?, read_element(set, element)))
    })
}

fn read_key(set: Set, bytes: &[u8]) -> Option<Key> {
    if set == Set::GUARDED {
        return Some(Key::Interface(Interface(bytes.try_into().ok()?)));
    }
    let (front, ports) = bytes.split_at_checked(bytes.len().checked_sub(8)?)?;
    let [number, 0, 0, 0, high, low, 0, 0] = ports else { return None };
    let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.number() == *number)?;
    let address = match set.key_address() {
        Some(_) => Some(address(front)?),
        None => None,
    };
    let port = NonZeroU16::new(u16::from_be_bytes([*high, *low]))?;
    Some(Key::Port { address, protocol, port })
}

fn read_element(set: Set, element: Attributes<'_>) -> Seen {
    let timeout = element.get(uapi::NFTA_SET_ELEM_TIMEOUT).and_then(|bytes| bytes.try_into().ok());
    let timeout = timeout.map(u64::from_be_bytes);
    let (packets, bytes) = read_counter(element).unzip();
    let text = |part| element.usertext(uapi::NFTA_SET_ELEM_USERDATA, part).unwrap_or_default();
    Seen {
        data: if timeout > Some(LONGEST_TICK) { None } else { read_data(set, element) },
        comment: text(uapi::NFTNL_UDATA_SET_ELEM_COMMENT).to_owned(),
        holder: text(uapi::HOLDER).to_owned(),
        expiring: timeout.is_some_and(|timeout| timeout <= LONGEST_TICK),
        packets,
        unused: bytes == Some(0),
    }
}

/// The packets and bytes that the counter beside the element shows. The sets have one expression at most.
fn read_counter(element: Attributes<'_>) -> Option<(u64, u64)> {
    let expression = element.nested(uapi::NFTA_SET_ELEM_EXPR)?;
    if expression.text(uapi::NFTA_EXPR_NAME)? != COUNTER {
        return None;
    }
    let counter = expression.nested(uapi::NFTA_EXPR_DATA)?;
    let read = |part| Some(u64::from_be_bytes(counter.get(part)?.try_into().ok()?));
    Some((read(uapi::NFTA_COUNTER_PACKETS)?, read(uapi::NFTA_COUNTER_BYTES)?))
}

fn read_data(set: Set, element: Attributes<'_>) -> Option<Data> {
    if !set.is_map() {
        return Some(Data::None);
    }
    let value = element.nested(uapi::NFTA_SET_ELEM_DATA)?.get(uapi::NFTA_DATA_VALUE)?;
    read_target(value).map(Data::Target)
}

fn read_target(bytes: &[u8]) -> Option<SocketAddr> {
    let (front, port) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    Some(SocketAddr::new(address(front)?, u16::from_be_bytes(*port.first_chunk()?)))
}

#[cfg(test)]
mod tests;
