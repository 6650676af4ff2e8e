//! Chains and sets of networks that have no host port any more.

use std::collections::BTreeSet;

use super::look::Look;
use super::message::Attributes;
use super::socket::Transaction;
use crate::kernel::uapi;
use crate::ruleset::{Digest, HOSTPORTS, Key, MASQUERADE_PREFIX, POSTROUTING, Ruleset, Set, TABLE};

/// Deletes the chains and sets that `look` saw and neither `everything` nor an element needs; says so in
/// words.
pub(super) fn remove(
    transaction: &mut Transaction,
    look: &Look,
    everything: &Ruleset,
    spared: &BTreeSet<(Set, Key)>,
) -> Option<String> {
    let is_needed = |name: &str| everything.networks.iter().any(|chain| chain.name == name);
    let used: BTreeSet<Digest> =
        look.elements.keys().filter_map(|(set, _)| set.network_policy()).collect();
    let is_unused = |digest: &Digest| !is_needed(&digest.chain()) && !used.contains(digest);
    let digests: Vec<Digest> = look.network_policies().filter(is_unused).collect();
    let goes = |name: &&str| match name.rsplit_once('_') {
        // Which mark bits the spared need is not known.
        Some(_) if name.starts_with(MASQUERADE_PREFIX) => spared.is_empty() && !is_needed(name),
        Some((_, digest)) => digests.iter().any(|unused| unused.to_string() == digest),
        None => false,
    };
    let chains: Vec<&str> = look.chains.keys().map(String::as_str).filter(goes).collect();
    delete_jumps(transaction, look, &chains);
    // A chain goes when it is empty and nothing leads to it: its rules may lead to another of these.
    for name in &chains {
        delete(transaction, uapi::NFT_MSG_DELRULE, name, &[(uapi::NFTA_RULE_CHAIN, &text(name))]);
    }
    for name in &chains {
        delete(transaction, uapi::NFT_MSG_DELCHAIN, name, &[(uapi::NFTA_CHAIN_NAME, &text(name))]);
    }
    for set in digests.into_iter().flat_map(Set::of_network_policy) {
        let name = set.to_string();
        delete(transaction, uapi::NFT_MSG_DELSET, &name, &[(uapi::NFTA_SET_NAME, &text(&name))]);
    }
    let (first, count) = (chains.first()?, chains.len());
    Some(format!("{count} chains without a host port, such as {first}, were left"))
}

/// Deletes the rules of the base chains that lead to one of `chains`.
fn delete_jumps(transaction: &mut Transaction, look: &Look, chains: &[&str]) {
    for from in [HOSTPORTS, POSTROUTING] {
        for rule in look.rules.get(from).into_iter().flatten() {
            let leads = |name: &&&str| rule.windows(name.len() + 1).any(|it| it == text(name));
            let handle = Attributes(rule).get(uapi::NFTA_RULE_HANDLE);
            if let Some((name, handle)) = chains.iter().find(leads).zip(handle) {
                let which: [(u16, &[u8]); 2] =
                    [(uapi::NFTA_RULE_CHAIN, &text(from)), (uapi::NFTA_RULE_HANDLE, handle)];
                delete(transaction, uapi::NFT_MSG_DELRULE, name, &which);
            }
        }
    }
}

fn delete(transaction: &mut Transaction, kind: u8, subject: &str, which: &[(u16, &[u8])]) {
    let message = transaction.message(kind, 0, format!("deleting {subject}"));
    message.put_text(uapi::NFTA_TABLE, TABLE);
    for (attribute, value) in which {
        message.put(*attribute, &[value]);
    }
}

fn text(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}
