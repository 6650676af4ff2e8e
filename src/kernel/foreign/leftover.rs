//! What `portmap` has left of a container whose DEL never came to it: deleted here, because a rule that
//! stays wins over ours.
//!
//! It is found as portmap finds it: the chain of the iptables backend by a hash of the network's name and
//! the container ID, the rules of the nftables backend by their comment, the container ID. What iptables
//! writes in the older tables of the kernel is not seen.

use std::fmt::Write as _;

use nix::libc::{EBUSY, ENOENT};
use sha2::{Digest as _, Sha512};

use super::super::netlink::message::{Body, Messages};
use super::super::netlink::socket::{DUMP, REQUEST, Socket, Transaction, question};
use super::super::{ATTEMPTS, Error};
use super::portmap::{NAT, OWN, TOP};
use super::{Does, Space, Step, decode};
use crate::kernel::uapi;

/// The chains of the nftables backend that have a rule for each host port or pod.
const PER_POD: [&str; 3] = ["hostports", "hostip_hostports", "masquerading"];

/// How nft(8) marks a comment inside the user data of a rule.
const COMMENT: u8 = 0;

/// What portmap made for one container.
#[derive(Clone, Debug)]
pub struct Leftover {
    container_id: String,
    chain: String,
}

/// A rule of it: its table, its chain, and the handle, which no other rule of the table ever gets.
type Rule = (Space, &'static str, String, [u8; 8]);

/// As found in the tables.
#[derive(Debug, Default)]
struct Found {
    rules: Vec<Rule>,
    /// The tables `nat` that have the container's chain.
    chains: Vec<Space>,
}

impl Leftover {
    /// That of a container in a network.
    pub fn of(network: &str, container_id: &str) -> Self {
        let mut chain = "CNI-DN-".to_owned();
        for byte in Sha512::new().chain_update(network).chain_update(container_id).finalize() {
            // Cannot fail.
            let _ = write!(chain, "{byte:02x}");
        }
        // As long as iptables lets a name be.
        chain.truncate(28);
        Self { container_id: container_id.to_owned(), chain }
    }

    /// The name of its chain in the table `nat` of iptables.
    pub fn chain(&self) -> &str {
        &self.chain
    }

    /// Deletes it, and says what that was; empty where there is nothing. Rules of other containers stay.
    ///
    /// # Errors
    /// [`Error::Socket`], [`Error::Question`], [`Error::Refused`], [`Error::Unanswered`],
    /// [`Error::Restless`].
    pub fn delete(&self) -> Result<String, Error> {
        let mut socket = Socket::open()?;
        let mut keeps_chain = false;
        for _ in 0..ATTEMPTS {
            let found = self.find(&mut socket)?;
            match socket.commit(self.deletion(&found, keeps_chain)) {
                Ok(()) => return Ok(self.describe(&found)),
                // A rule that portmap did not make refers to the chain: empty, it does nothing.
                Err(error) if error.refusal() == Some(EBUSY) => keeps_chain = true,
                // Another program was quicker.
                Err(error) if error.refusal() == Some(ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Restless)
    }

    fn find(&self, socket: &mut Socket) -> Result<Found, Error> {
        let mut questions = Messages::default();
        for space in [Space::Ip, Space::Ip6] {
            for (table, chain) in [(NAT, self.chain.as_str()), (OWN, PER_POD[0])] {
                questions.begin(uapi::NFT_MSG_GETCHAIN, REQUEST, &[space.number(), 0, 0, 0]);
                questions.put_text(uapi::NFTA_CHAIN_TABLE, table);
                questions.put_text(uapi::NFTA_CHAIN_NAME, chain);
            }
        }
        let mut there = [false; 4];
        socket.ask(&questions, |answer| {
            if let (Body::Object(_), Some(one)) =
                (answer.body, there.get_mut(answer.number as usize))
            {
                *one = true;
            }
        })?;
        let mut found = Found::default();
        for (space, [in_nat, in_own]) in
            [Space::Ip, Space::Ip6].into_iter().zip(there.as_chunks().0)
        {
            if *in_nat {
                found.chains.push(space);
                found.rules.extend(self.jumps(socket, space)?);
            }
            if *in_own {
                found.rules.extend(self.commented(socket, space)?);
            }
        }
        Ok(found)
    }

    /// The rules of the common chain that lead to the container's.
    fn jumps(&self, socket: &mut Socket, space: Space) -> Result<Vec<Rule>, Error> {
        let mut question = question(uapi::NFT_MSG_GETRULE, DUMP, space.number());
        question.put_text(uapi::NFTA_RULE_TABLE, NAT);
        question.put_text(uapi::NFTA_RULE_CHAIN, TOP);
        socket.list(&question, "portmap's rules", |_, rule, found| {
            let jump = Step::Does(Does::Jump(self.chain.clone()));
            let is_its = || decode::rule(space, rule, &|_| None).steps.contains(&jump);
            if rule.text(uapi::NFTA_RULE_CHAIN) == Some(TOP)
                && is_its()
                && let Some(handle) = rule.get(uapi::NFTA_RULE_HANDLE)
                && let Ok(handle) = handle.try_into()
            {
                found.push((space, NAT, TOP.to_owned(), handle));
            }
        })
    }

    /// The rules that have the container ID as a comment.
    fn commented(&self, socket: &mut Socket, space: Space) -> Result<Vec<Rule>, Error> {
        let mut question = question(uapi::NFT_MSG_GETRULE, DUMP, space.number());
        question.put_text(uapi::NFTA_RULE_TABLE, OWN);
        socket.list(&question, "portmap's rules", |_, rule, found| {
            let chain = rule.text(uapi::NFTA_RULE_CHAIN).unwrap_or_default();
            if PER_POD.contains(&chain)
                && rule.usertext(uapi::NFTA_RULE_USERDATA, COMMENT) == Some(&self.container_id)
                && let Some(handle) = rule.get(uapi::NFTA_RULE_HANDLE)
                && let Ok(handle) = handle.try_into()
            {
                found.push((space, OWN, chain.to_owned(), handle));
            }
        })
    }

    fn deletion(&self, found: &Found, keeps_chain: bool) -> Transaction {
        let mut transaction = Transaction::begin_in("the tables of portmap");
        for (space, table, chain, handle) in &found.rules {
            let subject = format!("the deletion of a rule of {space} {table} {chain}");
            let message = transaction.message_of(uapi::NFT_MSG_DELRULE, 0, space.number(), subject);
            message.put_text(uapi::NFTA_RULE_TABLE, table);
            message.put_text(uapi::NFTA_RULE_CHAIN, chain);
            message.put(uapi::NFTA_RULE_HANDLE, &[handle]);
        }
        for space in &found.chains {
            let subject = format!("the deletion of {space} {NAT} {}", self.chain);
            // The chain goes with its rules; without a handle, all rules of the chain go.
            let (kind, table, name) = if keeps_chain {
                (uapi::NFT_MSG_DELRULE, uapi::NFTA_RULE_TABLE, uapi::NFTA_RULE_CHAIN)
            } else {
                (uapi::NFT_MSG_DELCHAIN, uapi::NFTA_CHAIN_TABLE, uapi::NFTA_CHAIN_NAME)
            };
            let message = transaction.message_of(kind, 0, space.number(), subject);
            message.put_text(table, NAT);
            message.put_text(name, &self.chain);
        }
        transaction
    }

    fn describe(&self, found: &Found) -> String {
        let mut parts: Vec<String> = found
            .chains
            .iter()
            .map(|space| format!("chain {space} {NAT} {}", self.chain))
            .collect();
        let mut places: Vec<_> =
            found.rules.iter().map(|(space, table, chain, _)| (*space, *table, chain)).collect();
        places.sort_unstable();
        for same in places.chunk_by(|one, other| one == other) {
            let ((space, table, chain), count) = (same[0], same.len());
            let rules = if count == 1 { "rule" } else { "rules" };
            parts.push(format!("{count} {rules} of {space} {table} {chain}"));
        }
        parts.join(", ")
    }
}

/// Whether the table `nat` of iptables-legacy is in use in this network namespace, for IPv4 or IPv6.
/// Netlink does not show its rules.
#[expect(clippy::disallowed_methods, reason = "the files are the kernel's, and this is its door")]
pub fn has_legacy_nat() -> bool {
    let names = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];
    let mut names = names.into_iter().filter_map(|path| std::fs::read_to_string(path).ok());
    names.any(|names| names.lines().any(|name| name == NAT))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-512 of `test1234`, as in the tests of `pkg/utils/iptables.go` of the reference plugins.
    #[test]
    fn the_chain_has_the_name_that_portmap_gives_it() {
        let name = |network, container| Leftover::of(network, container).chain().to_owned();
        assert_eq!(name("test", "1234"), "CNI-DN-2bbe0c48b91a7d1b8a675");
    }
}
