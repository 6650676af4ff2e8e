//! A change of the table as the nft(8) script that makes it.

use std::fmt;

use super::{Chain, Data, Digest, Element, Place, Rule, Set, TABLE, base_chains};

/// What one command adds to a sound table, and takes out of it; prints as an nft(8) script, which `nft -f`
/// carries out in one transaction.
///
/// nft cannot say three things: the attachment that an element belongs to, the policy that a rule belongs to
/// (`repair --adopt` reads both), and that an element expires after a millisecond instead of being deleted.
#[derive(Debug, Default)]
pub struct Difference {
    /// The chains that are not there yet. The sets of their network policies are not there either.
    pub chains: Vec<Chain>,
    /// What has to be deleted.
    pub deleted: Vec<Place>,
    /// What has to go and may expire, with what it leads to.
    pub expired: Vec<(Place, Data)>,
    /// What comes.
    pub added: Vec<Element>,
}

impl Difference {
    fn network_policies(&self) -> impl Iterator<Item = Digest> {
        self.chains.iter().filter_map(|chain| Digest::of_chain(&chain.name))
    }

    /// The sets of the chains.
    pub(crate) fn sets(&self) -> impl Iterator<Item = Set> {
        self.network_policies().flat_map(Set::of_network_policy)
    }

    /// The rules that lead to the chains, each with its own chain and the number of the leading rules there:
    /// the order in which each is put before all but these.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (String, usize, &Rule)> {
        base_chains().into_iter().flat_map(|base| {
            let chains = self.chains.iter().rev();
            let entries = chains.flat_map(|chain| chain.entries_in(&base.name).rev());
            let entries: Vec<&Rule> = entries.collect();
            entries.into_iter().map(move |rule| (base.name.clone(), base.leading, rule))
        })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.chains.is_empty() {
            write!(out, "table inet {TABLE} {{")?;
            for set in self.sets() {
                write!(out, "{}", set.declaration())?;
            }
            for chain in &self.chains {
                write!(out, "\n{chain}")?;
            }
            writeln!(out, "}}")?;
        }
        for (chain, leading, rule) in self.entries() {
            match leading.checked_sub(1) {
                Some(last) => writeln!(out, "add rule inet {TABLE} {chain} index {last} {rule}")?,
                None => writeln!(out, "insert rule inet {TABLE} {chain} {rule}")?,
            }
        }
        let expired = self.expired.iter().map(|(place, _)| place);
        for (set, key) in self.deleted.iter().chain(expired) {
            writeln!(out, "delete element inet {TABLE} {set} {{ {key} }}")?;
        }
        for element in &self.added {
            writeln!(out, "add element inet {TABLE} {} {{ {element} }}", element.set)?;
        }
        Ok(())
    }
}
