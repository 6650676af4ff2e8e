//! A change of the table as the nft(8) script that makes it.

use std::fmt;

use super::{
    Chain, Data, Digest, Element, HOSTPORTS, MASQUERADE_PREFIX, POSTROUTING, Place, Rule, Set,
    TABLE, dispatch, jump_to,
};

/// What one command adds to a sound table, and takes out of it; prints as an nft(8) script, which `nft -f`
/// carries out in one transaction.
///
/// Two things nft cannot say: whose an element is, beside its comment (`repair --adopt` reads it), and
/// that an element be given a millisecond to live instead of being deleted.
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

/// A rule of a base chain that leads to chains of a network or a mark bit.
pub(crate) struct Jump {
    pub(crate) chain: &'static str,
    pub(crate) rule: Rule,
    /// Whether it goes before all others of its chain.
    pub(crate) first: bool,
}

impl Difference {
    fn network_policies(&self) -> impl Iterator<Item = Digest> {
        self.chains.iter().filter_map(|chain| Digest::of_chain(&chain.name))
    }

    /// The sets of the chains.
    pub(crate) fn sets(&self) -> impl Iterator<Item = Set> {
        self.network_policies().flat_map(Set::of_network_policy)
    }

    /// What leads to the chains, in the order in which it has to be added.
    pub(crate) fn jumps(&self) -> Vec<Jump> {
        let masquerading = |chain: &&Chain| chain.name.starts_with(MASQUERADE_PREFIX);
        let masquerading = self.chains.iter().filter(masquerading).map(jump_to);
        let has = |name: &str| self.chains.iter().any(|chain| chain.name == name);
        let [specific, wildcard] = dispatch(self.network_policies(), has);
        let last = |chain| move |rule| Jump { chain, rule, first: false };
        // Each goes before the one that was put first before it.
        let specific = specific.into_iter().rev();
        let specific = specific.map(|rule| Jump { chain: HOSTPORTS, rule, first: true });
        let wildcard = wildcard.into_iter().map(last(HOSTPORTS));
        masquerading.map(last(POSTROUTING)).chain(specific).chain(wildcard).collect()
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
        for Jump { chain, rule, first } in self.jumps() {
            let verb = if first { "insert" } else { "add" };
            writeln!(out, "{verb} rule inet {TABLE} {chain} {rule}")?;
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
