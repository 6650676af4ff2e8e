use super::super::message::Messages;
use super::*;

const NEWRULE: u16 = 10 << 8 | 6;
const IP: u8 = 2;

/// The port of nft(8): its process ID.
const NFT: u32 = 4711;
const OURS: u32 = 0x7a70_0000 + 4711;

/// Whether somebody is to be told of one of `messages`, which the socket `port` sent.
fn heard(ours: &mut bool, messages: &Messages, port: u32) -> bool {
    let told = |answer| Answer { port, ..answer };
    answers(messages.as_bytes()).map(told).filter(|event| hear(ours, event)).count() > 0
}

/// What the kernel tells of a transaction from `port`, with one part per table.
fn concerns(ours: &mut bool, tables: &[(u8, &str)], port: u32) -> bool {
    let mut messages = Messages::default();
    for (family, table) in tables {
        messages.begin(NEWRULE, 0, &[*family, 0, 0, 0]);
        messages.put_text(uapi::NFTA_TABLE, table);
    }
    messages.begin(uapi::NFT_MSG_NEWGEN, 0, &[0; 4]);
    heard(ours, &messages, port)
}

#[test]
fn what_others_do_to_our_table_concerns_us_and_nothing_else_does() {
    let mut changed = false;
    let ours = (INET, TABLE);
    assert!(concerns(&mut changed, &[ours], NFT));
    assert!(concerns(&mut changed, &[(INET, "filter"), ours, (IP, "nat")], NFT));
    assert!(!concerns(&mut changed, &[ours], OURS), "our own ADD or DEL");
    assert!(!concerns(&mut changed, &[(INET, "filter")], NFT));
    assert!(!concerns(&mut changed, &[(IP, TABLE)], NFT), "of another family");
    assert!(!concerns(&mut changed, &[], NFT));
}

#[test]
fn what_was_told_in_several_datagrams_is_one_transaction() {
    let mut changed = false;
    let mut part = Messages::default();
    part.begin(NEWRULE, 0, &[INET, 0, 0, 0]);
    part.put_text(uapi::NFTA_TABLE, TABLE);
    assert!(!heard(&mut changed, &part, NFT));
    assert!(concerns(&mut changed, &[], NFT));
    assert!(!concerns(&mut changed, &[], NFT), "it was told once");
}
