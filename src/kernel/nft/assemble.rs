//! Tables, sets, chains and rules as the messages of a transaction.

use super::encode::Encoder;
use super::message::Messages;
use super::socket::{APPEND, CREATE, Transaction};
use super::{Look, elements};
use crate::kernel::uapi;
use crate::ruleset::{Chain, Difference, Rule, Set};

/// The transaction that makes a difference to the sound table that `look` saw.
pub(super) fn make(difference: &Difference, look: &Look, is_new: bool) -> Transaction {
    let mut transaction = Transaction::begin();
    if !difference.chains.is_empty() {
        let mut encoder = Encoder::new();
        add_sets(&mut transaction, &mut encoder, difference.sets());
        add_chains(&mut transaction, &mut encoder, &difference.chains);
        for (chain, leading, rule) in difference.entries() {
            let behind = leading.checked_sub(1).map(|last| look.handle(&chain, last));
            let flags = CREATE | if behind.is_some() { APPEND } else { 0 };
            add_rule(&mut transaction, &mut encoder, &chain, rule, flags);
            if let Some(handle) = behind {
                transaction.last().put(uapi::NFTA_RULE_POSITION, &[handle]);
            }
        }
    }
    elements::delete(&mut transaction, &difference.deleted);
    elements::expire(&mut transaction, &difference.expired);
    elements::add(&mut transaction, &difference.added, is_new);
    transaction
}

/// Gives the table or chain in the last message a comment.
pub(super) fn put_comment(message: &mut Messages, attribute: u16, comment: &str) {
    let comment = format!("{comment}\0");
    message.put_userdata(attribute, &[(uapi::NFTNL_UDATA_COMMENT, comment.as_bytes())]);
}

pub(super) fn add_sets(
    transaction: &mut Transaction,
    encoder: &mut Encoder,
    sets: impl Iterator<Item = Set>,
) {
    for (set, id) in sets.zip(1..) {
        transaction.append(encoder.set(set, id), CREATE, format!("adding set {set}"));
        if set == Set::GUARDED {
            // Keys in the byte order of the machine: otherwise nft(8) shows the names backwards.
            let order = (
                uapi::NFTNL_UDATA_SET_KEYBYTEORDER,
                &uapi::BYTEORDER_HOST_ENDIAN.to_ne_bytes()[..],
            );
            transaction.last().put_userdata(uapi::NFTA_SET_USERDATA, &[order]);
        }
    }
}

pub(super) fn add_chains(transaction: &mut Transaction, encoder: &mut Encoder, chains: &[Chain]) {
    for chain in chains {
        let subject = format!("adding chain {}", chain.name);
        transaction.append(encoder.chain(chain), CREATE, subject);
        if let Some(comment) = chain.comment() {
            put_comment(transaction.last(), uapi::NFTA_CHAIN_USERDATA, &comment);
        }
    }
    for chain in chains {
        for rule in &chain.rules {
            add_rule(transaction, encoder, &chain.name, rule, CREATE | APPEND);
        }
    }
}

fn add_rule(
    transaction: &mut Transaction,
    encoder: &mut Encoder,
    chain: &str,
    rule: &Rule,
    flags: u16,
) {
    let subject = format!("adding rule \"{rule}\" to chain {chain}");
    transaction.append(encoder.rule(chain, rule), flags, subject);
    if !rule.memo.is_empty() {
        let memo = (uapi::HOLDER, rule.memo.as_bytes());
        transaction.last().put_userdata(uapi::NFTA_RULE_USERDATA, &[memo]);
    }
}
