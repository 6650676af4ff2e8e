//! A change of the table as the nft(8) script that makes it.

use std::fmt;

use super::{
    Chain, Digest, Dispatch, Element, HOSTPORTS, Key, MASQUERADE_PREFIX, POSTROUTING, Ruleset, Set,
    TABLE, dispatch, jump_to,
};

/// What one command does to the table; prints as an nft(8) script, which `nft -f` carries out in one
/// transaction.
///
/// Two things nft cannot say: whose an element is, beside its comment (`repair --adopt` reads it), and
/// that an element be given a millisecond to live instead of being deleted.
#[derive(Debug)]
pub enum Script {
    /// The table is built as a whole.
    Whole {
        /// What it is to be.
        table: Ruleset,
        /// Whether there is one that has to go.
        replaces: bool,
    },
    /// The table is sound.
    Difference(Difference),
}

/// What is added to a sound table, and taken out of it.
#[derive(Debug, Default)]
pub struct Difference {
    /// The chains that are not there yet. The sets of their network policies are not there either.
    pub chains: Vec<Chain>,
    /// What has to go.
    pub deleted: Vec<(Set, Key)>,
    /// What comes.
    pub added: Vec<Element>,
}

impl Difference {
    /// Whether nothing has to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.deleted.is_empty() && self.added.is_empty()
    }

    fn network_policies(&self) -> impl Iterator<Item = Digest> {
        self.chains.iter().filter_map(|chain| Digest::of_chain(&chain.name))
    }
}

impl fmt::Display for Script {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole { table, replaces } => {
                if *replaces {
                    writeln!(out, "table inet {TABLE}\ndelete table inet {TABLE}")?;
                }
                write!(out, "{table}")
            }
            Self::Difference(difference) => write!(out, "{difference}"),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.chains.is_empty() {
            write!(out, "table inet {TABLE} {{")?;
            for set in self.network_policies().flat_map(Set::of_network_policy) {
                write!(out, "{}", set.declaration())?;
            }
            for chain in &self.chains {
                write!(out, "\n{chain}")?;
            }
            writeln!(out, "}}")?;
        }
        for chain in self.chains.iter().filter(|chain| chain.name.starts_with(MASQUERADE_PREFIX)) {
            writeln!(out, "add rule inet {TABLE} {POSTROUTING} {}", jump_to(chain))?;
        }
        let has = |name: &str| self.chains.iter().any(|chain| chain.name == name);
        let Dispatch { specific, wildcard } = dispatch(self.network_policies(), has);
        // Each goes before the one that was put first before it.
        for rule in specific.iter().rev() {
            writeln!(out, "insert rule inet {TABLE} {HOSTPORTS} {rule}")?;
        }
        for rule in wildcard {
            writeln!(out, "add rule inet {TABLE} {HOSTPORTS} {rule}")?;
        }
        for (set, key) in &self.deleted {
            writeln!(out, "delete element inet {TABLE} {set} {{ {key} }}")?;
        }
        for element in &self.added {
            writeln!(out, "add element inet {TABLE} {} {{ {element} }}", element.set)?;
        }
        Ok(())
    }
}
