use super::super::message::attributes_of;
use super::*;
use crate::model::Family;
use crate::ruleset::SetKind;

/// What `put` writes into the attribute `kind`.
fn written(kind: u16, put: impl FnOnce(&mut Messages)) -> Vec<u8> {
    let mut messages = socket::question(uapi::NFT_MSG_GETSETELEM, 0, INET);
    put(&mut messages);
    let value = attributes_of(messages.as_bytes()).nested(kind).expect("it is there");
    value.get(uapi::NFTA_DATA_VALUE).expect("its value").to_vec()
}

#[test]
fn keys_read_back() {
    for (family, address) in [(Family::V4, "192.0.2.1"), (Family::V6, "2001:db8::1")] {
        for wildcard in [true, false] {
            let kind = SetKind::Targets { wildcard };
            let set = Set { kind, family };
            let address = address.parse().expect("a test address");
            let key = Key::Port {
                address: set.key_address().map(|_| address),
                protocol: Protocol::Sctp,
                port: NonZeroU16::MAX,
            };
            let bytes = written(uapi::NFTA_SET_ELEM_KEY, |messages| put_key(messages, &key));
            assert_eq!(read_key(set, &bytes), Some(key));
            for len in 0..bytes.len() {
                assert_eq!(read_key(set, &bytes[..len]), None, "{len} bytes");
            }
        }
    }
}

#[test]
fn targets_read_back_and_odd_lengths_do_not() {
    for text in ["10.1.2.3:80", "[2001:db8::1]:65535"] {
        let target = text.parse().expect("a test address");
        let data = Data::Target(target);
        let bytes = written(uapi::NFTA_SET_ELEM_DATA, |messages| put_data(messages, &data));
        assert_eq!(read_target(&bytes), Some(target));
    }
    for len in [0, 3, 4, 7, 9, 19, 21] {
        assert_eq!(read_target(&vec![1; len]), None, "{len} bytes");
    }
}
