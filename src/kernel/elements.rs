//! Set elements on the wire: the part of every ADD and DEL, so written by hand and packed.
//!
//! Every part of a concatenated key or value is padded with zeros to four bytes, and the kernel
//! compares the padding too.

use std::net::{IpAddr, SocketAddr};

use super::INET;
use super::message::{Attributes, Kind, Messages};
use super::socket::{CREATE, EXCL, NFTABLES, REQUEST, Transaction};
use crate::ruleset::{Data, DataKind, Element, Key, Set, TABLE};

/// `linux/netfilter/nf_tables.h`.
mod uapi {
    pub(super) const NFT_MSG_NEWSETELEM: u8 = 12;
    pub(super) const NFT_MSG_GETSETELEM: u8 = 13;
    pub(super) const NFT_MSG_DELSETELEM: u8 = 14;
    pub(super) const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
    pub(super) const NFTA_SET_ELEM_LIST_SET: u16 = 2;
    pub(super) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
    pub(super) const NFTA_LIST_ELEM: u16 = 1;
    pub(super) const NFTA_SET_ELEM_KEY: u16 = 1;
    pub(super) const NFTA_SET_ELEM_DATA: u16 = 2;
    pub(super) const NFTA_SET_ELEM_USERDATA: u16 = 6;
    pub(super) const NFTA_DATA_VALUE: u16 = 1;
    pub(super) const NFTA_DATA_VERDICT: u16 = 2;
    pub(super) const NFTA_VERDICT_CODE: u16 = 1;
    pub(super) const NFTA_VERDICT_CHAIN: u16 = 2;
    pub(super) const NFT_GOTO: i32 = -4;
    /// How nft(8) marks a comment inside user data.
    pub(super) const NFTNL_UDATA_SET_ELEM_COMMENT: u8 = 0;
}

/// How many elements go into one message. An attribute holds 64 KiB, and an element takes at most
/// 300 bytes.
const PER_MESSAGE: usize = 200;

fn octets(address: IpAddr, into: &mut Vec<u8>) {
    match address {
        IpAddr::V4(v4) => into.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => into.extend_from_slice(&v6.octets()),
    }
}

fn key_bytes(key: &Key) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(24);
    if let Some(address) = key.address {
        octets(address, &mut bytes);
    }
    bytes.extend_from_slice(&[key.protocol.number(), 0, 0, 0]);
    bytes.extend_from_slice(&key.port.get().to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes
}

fn target_bytes(target: &SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20);
    octets(target.ip(), &mut bytes);
    bytes.extend_from_slice(&target.port().to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes
}

fn put_key(messages: &mut Messages, key: &Key) {
    messages.nest(uapi::NFTA_SET_ELEM_KEY, |value| {
        value.put(uapi::NFTA_DATA_VALUE, &[&key_bytes(key)]);
    });
}

fn put_element(messages: &mut Messages, element: &Element) {
    put_key(messages, &element.key);
    match &element.data {
        Data::None => {}
        Data::Target(target) => messages.nest(uapi::NFTA_SET_ELEM_DATA, |data| {
            data.put(uapi::NFTA_DATA_VALUE, &[&target_bytes(target)]);
        }),
        Data::Goto(chain) => messages.nest(uapi::NFTA_SET_ELEM_DATA, |data| {
            data.nest(uapi::NFTA_DATA_VERDICT, |verdict| {
                verdict.put_u32(uapi::NFTA_VERDICT_CODE, uapi::NFT_GOTO.cast_unsigned());
                verdict.put_text(uapi::NFTA_VERDICT_CHAIN, chain);
            });
        }),
    }
    messages.put(uapi::NFTA_SET_ELEM_USERDATA, &[&userdata(&element.comment)]);
}

/// A comment as nft(8) leaves it with an element.
pub(super) fn userdata(comment: &str) -> Vec<u8> {
    let header = [uapi::NFTNL_UDATA_SET_ELEM_COMMENT, (comment.len() + 1) as u8];
    [&header, comment.as_bytes(), &[0]].concat()
}

/// The element in an answer.
pub(super) fn element_of(answer: Attributes<'_>) -> Option<Attributes<'_>> {
    answer.nested(uapi::NFTA_SET_ELEM_LIST_ELEMENTS)?.nested(uapi::NFTA_LIST_ELEM)
}

/// Reads the user data of the element in an answer; empty when it has none.
pub(super) fn read_userdata(answer: Attributes<'_>) -> Vec<u8> {
    let userdata = element_of(answer).and_then(|element| element.get(uapi::NFTA_SET_ELEM_USERDATA));
    userdata.unwrap_or_default().to_vec()
}

fn put_list<T>(messages: &mut Messages, set: Set, items: &[T], put: impl Fn(&mut Messages, &T)) {
    messages.put_text(uapi::NFTA_SET_ELEM_LIST_TABLE, TABLE);
    messages.put_text(uapi::NFTA_SET_ELEM_LIST_SET, set.name());
    messages.nest(uapi::NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
        for item in items {
            list.nest(uapi::NFTA_LIST_ELEM, |element| put(element, item));
        }
    });
}

/// Calls `each` with runs of places of one set. `places` is sorted, so a set comes once.
fn for_each_run<T>(places: &[T], set: impl Fn(&T) -> Set, mut each: impl FnMut(Set, &[T])) {
    for run in places.chunk_by(|a, b| set(a) == set(b)) {
        for part in run.chunks(PER_MESSAGE) {
            each(set(&part[0]), part);
        }
    }
}

/// Adds elements. Refused when one of them is there already.
pub(super) fn add(transaction: &mut Transaction, elements: &[&Element]) {
    for_each_run(
        elements,
        |element| element.set,
        |set, run| {
            let subject = format!("adding {} to {set}", run[0].key);
            let message = transaction.message(uapi::NFT_MSG_NEWSETELEM, CREATE | EXCL, subject);
            put_list(message, set, run, |list, element| put_element(list, element));
        },
    );
}

/// Deletes elements. Refused when one of them is not there.
pub(super) fn delete(transaction: &mut Transaction, places: &[(Set, Key)]) {
    for_each_run(
        places,
        |place| place.0,
        |set, run| {
            let subject = format!("deleting {} from {set}", run[0].1);
            let message = transaction.message(uapi::NFT_MSG_DELSETELEM, 0, subject);
            put_list(message, set, run, |list, (_, key)| put_key(list, key));
        },
    );
}

/// Asks for one element; the answer carries `number`.
pub(super) fn question(messages: &mut Messages, place: &(Set, Key), number: u32) {
    let kind = Kind { subsystem: NFTABLES, message: uapi::NFT_MSG_GETSETELEM };
    messages.begin(kind, REQUEST, INET, number);
    put_list(messages, place.0, &[place.1], put_key);
}

/// Reads where the element in an answer leads; `None` when it is not of the shape we write.
pub(super) fn read_data(set: Set, answer: Attributes<'_>) -> Option<Data> {
    let element = element_of(answer)?;
    let data = || element.nested(uapi::NFTA_SET_ELEM_DATA);
    match set.data() {
        DataKind::None => Some(Data::None),
        DataKind::Target => read_target(data()?.get(uapi::NFTA_DATA_VALUE)?).map(Data::Target),
        DataKind::Verdict => {
            let verdict = data()?.nested(uapi::NFTA_DATA_VERDICT)?;
            let goto = verdict.u32(uapi::NFTA_VERDICT_CODE)? == uapi::NFT_GOTO.cast_unsigned();
            let chain = verdict.text(uapi::NFTA_VERDICT_CHAIN)?;
            goto.then(|| Data::Goto(chain.to_owned()))
        }
    }
}

fn read_target(bytes: &[u8]) -> Option<SocketAddr> {
    let (address, port) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    let address = match address.len() {
        4 => IpAddr::from(*address.first_chunk::<4>()?),
        16 => IpAddr::from(*address.first_chunk::<16>()?),
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::from_be_bytes(*port.first_chunk()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_read_back_and_odd_lengths_do_not() {
        for text in ["10.1.2.3:80", "[2001:db8::1]:65535"] {
            let target = text.parse().expect("a test address");
            assert_eq!(read_target(&target_bytes(&target)), Some(target));
        }
        for len in [0, 3, 4, 7, 9, 19, 21] {
            assert_eq!(read_target(&vec![1; len]), None, "{len} bytes");
        }
    }
}
