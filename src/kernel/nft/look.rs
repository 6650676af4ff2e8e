//! What the kernel holds, as far as one command has to know.

use std::collections::BTreeMap;

use nix::libc::{EINVAL, ENODATA, ENOENT};
use serde::Serialize;

use super::elements::Seen;
use super::message::{Attributes, Body, Messages};
use super::socket::{self, DUMP, Transaction};
use super::{Error, INET, Nft, elements};
use crate::kernel::uapi;
use crate::ruleset::{self, Chain, Digest, Identity, Key, LAYOUT, Place, Set, TABLE};

/// What a listing is about, in an error.
const WHAT: &str = "its table";

/// How many elements are asked for at once. Each answer takes a few KiB of the receive buffer
/// (`net.core.rmem_default`, 208 KiB) until it is read.
const PER_VOLLEY: usize = 32;

/// The table, as its comment describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum Table {
    /// There is none.
    #[default]
    Absent,
    /// There is one by our name that is not ours.
    Foreign,
    /// Ours.
    Ours(Identity),
}

/// Which elements a look is about.
#[derive(Clone, Copy, Debug)]
pub enum Extent<'a> {
    /// Those at these places, and at those that they cover.
    Places(&'a [Place]),
    /// All there are.
    Everything,
}

/// What one look at the kernel showed.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// The table.
    pub table: Table,
    /// The number that the kernel gave it: that of no other table, nor of one built later.
    pub(super) handle: Vec<u8>,
    /// The generation of the node's tables before everything was looked at. Each transaction makes a new one.
    pub(super) generation: Option<u32>,
    /// Whether somebody has set the flag that takes all its chains out of their hooks.
    pub dormant: bool,
    /// The elements that were asked for and are there.
    pub elements: BTreeMap<Place, Seen>,
    /// Where an element is whose key autoport never writes, if all were asked for.
    pub(super) odd: Option<Set>,
    /// The chains, as the kernel encodes them.
    pub(super) chains: BTreeMap<String, Vec<u8>>,
    /// The rules by chain, likewise.
    pub(super) rules: BTreeMap<String, Vec<Vec<u8>>>,
}

impl Look {
    pub(super) fn rule_count(&self, chain: &str) -> usize {
        self.rules.get(chain).map_or(0, Vec::len)
    }

    /// The transaction that deletes this table, and none that is built later, if it is meant.
    pub(super) fn removal(&self, is_meant: bool, subject: &str) -> Transaction {
        let mut transaction = Transaction::begin();
        if is_meant {
            let message = transaction.message(uapi::NFT_MSG_DELTABLE, 0, subject.to_owned());
            message.put(uapi::NFTA_TABLE_HANDLE, &[&self.handle]);
        }
        transaction
    }

    /// Refuses a table that this binary must not touch.
    pub(super) fn permit(&self, expected: &Identity) -> Result<(), Error> {
        match &self.table {
            Table::Ours(found) if expected.is_of_another_boot(found) => Ok(()),
            Table::Ours(found) if found.layout > LAYOUT => {
                Err(Error::NewerLayout { found: found.layout })
            }
            Table::Ours(found) if found.instance != expected.instance => {
                Err(Error::OtherInstance {
                    found: found.instance.clone(),
                    expected: expected.instance.clone(),
                })
            }
            Table::Ours(_) | Table::Absent | Table::Foreign => Ok(()),
        }
    }

    /// Compares the table with what a change that needs `chains` expects; says why it has to be built again, if it
    /// has to.
    ///
    /// Rules are counted here and compared by CHECK: a rule can be deleted, flushed or replaced,
    /// and the last needs somebody who means it.
    pub(super) fn flaw(
        &self,
        expected: &Identity,
        chains: &[Chain],
    ) -> Result<Option<String>, Error> {
        self.permit(expected)?;
        Ok(match &self.table {
            Table::Absent => Some("it was missing".to_owned()),
            Table::Foreign => Some("it was not made by autoport".to_owned()),
            Table::Ours(found) if expected.is_of_another_boot(found) => Some(
                "it was built in an earlier boot, saved, and loaded again (by nftables.service or \
                 netfilter-persistent, say)"
                    .to_owned(),
            ),
            Table::Ours(found) if found.layout < LAYOUT => {
                Some(format!("it had the older layout {}", found.layout))
            }
            Table::Ours(_) if self.dormant => Some("it was dormant".to_owned()),
            Table::Ours(_) => self.damage(chains),
        })
    }

    /// Names the first chain that has not as many rules as it should have. What that number is, is
    /// known of the base chains and of those in `chains`; every other chain says it itself.
    fn damage(&self, chains: &[Chain]) -> Option<String> {
        let base = ruleset::base_chains();
        if let Some(absent) = base.iter().find(|chain| !self.chains.contains_key(&chain.name)) {
            return Some(format!("chain {} was missing", absent.name));
        }
        let base = base.iter().map(|chain| (chain.name.as_str(), self.rules_due(chain)));
        let needed = chains
            .iter()
            .filter(|chain| self.chains.contains_key(&chain.name))
            .map(|chain| (chain.name.as_str(), chain.rules.len()));
        let others = self.counts("").map(|(name, (rules, _))| (name, rules));
        let counted = base.chain(needed).chain(others).find_map(|(name, expected)| {
            let found = self.rule_count(name);
            (found != expected).then(|| format!("chain {name} had {found} of {expected} rules"))
        });
        counted.or_else(|| self.intruder())
    }

    /// The handle of the rule `number` of a chain. No rule has the handle 0, which stands for one that is not there:
    /// the kernel refuses it, and the next look sees what there is.
    pub(super) fn handle(&self, chain: &str, number: usize) -> &[u8] {
        let rule = self.rules.get(chain).and_then(|rules| rules.get(number));
        rule.and_then(|rule| Attributes(rule).get(uapi::NFTA_RULE_HANDLE)).unwrap_or(&[0; 8])
    }

    /// How many rules `chain` has to have, which every table has: with the entries of others.
    pub(super) fn rules_due(&self, chain: &Chain) -> usize {
        let entries = self.counts(&chain.name).map(|(_, (_, entries))| entries);
        chain.rules.len() + entries.sum::<usize>()
    }

    /// What each chain says of the number of its rules, and of its entries in the chain `from`.
    fn counts(&self, from: &str) -> impl Iterator<Item = (&str, (usize, usize))> {
        self.chains.iter().filter_map(move |(name, seen)| {
            let comment =
                Attributes(seen).usertext(uapi::NFTA_CHAIN_USERDATA, uapi::NFTNL_UDATA_COMMENT)?;
            Some((name.as_str(), Chain::counts_in(comment, from)?))
        })
    }

    /// The network policies that have their chains in the table.
    pub(super) fn network_policies(&self) -> impl Iterator<Item = Digest> + Clone {
        self.chains.keys().filter_map(|name| Digest::of_chain(name))
    }

    /// Those of `places` that are there or not, and those that they cover.
    fn covered(&self, places: &[Place]) -> Vec<Place> {
        let leads = |place: &&Place| place.0.network_policy().is_none();
        let hosts = places.iter().filter(leads).filter_map(ruleset::host_at);
        let of_claim = |host| {
            let held = self.network_policies().map(move |digest| ruleset::held_at(&host, digest));
            held.chain(ruleset::places_of(&host))
        };
        let mut all: Vec<_> = hosts.flat_map(of_claim).chain(places.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Names a chain that sees packets, or could be led to, and is not ours.
    fn intruder(&self) -> Option<String> {
        let base = ruleset::base_chains();
        let ours = |name: &str| base.iter().any(|chain| chain.name == name);
        self.chains.iter().find_map(|(name, seen)| {
            // A network that has no pod now keeps its chains.
            let hooked = Attributes(seen).get(uapi::NFTA_CHAIN_HOOK).is_some();
            let alien = !ours(name) && (hooked || !ruleset::is_of_network(name));
            alien.then(|| format!("chain {name} was not made by autoport"))
        })
    }
}

impl Nft {
    /// Looks at the table, its chains and rules, and the elements that `extent` is about.
    ///
    /// # Errors
    /// [`Error::Socket`], [`Error::NoTables`], [`Error::Question`], [`Error::Restless`].
    pub fn look(&mut self, extent: Extent<'_>) -> Result<Look, Error> {
        let generation = match extent {
            Extent::Everything => self.socket.generation(),
            Extent::Places(_) => None,
        };
        let mut look = Look { generation, ..self.look_at_table()? };
        if look.table == Table::Absent {
            return Ok(look);
        }
        self.look_at_chains(TABLE, &mut look)?;
        match extent {
            Extent::Places(places) => look.elements = self.seen_at(&look.covered(places))?,
            Extent::Everything => {
                let own: Vec<Digest> = look.network_policies().collect();
                for set in Set::common().chain(own.into_iter().flat_map(Set::of_network_policy)) {
                    for listed in self.every_element(set)? {
                        match listed {
                            Some((key, seen)) => drop(look.elements.insert((set, key), seen)),
                            None => look.odd = Some(set),
                        }
                    }
                }
            }
        }
        Ok(look)
    }

    /// What there is at `places`.
    pub(crate) fn seen_at(&mut self, places: &[Place]) -> Result<BTreeMap<Place, Seen>, Error> {
        let mut found = BTreeMap::new();
        for volley in places.chunks(PER_VOLLEY) {
            let mut questions = Messages::default();
            for place in volley {
                elements::question(&mut questions, place);
            }
            let mut refused = None;
            let mut answered = 0;
            self.socket.ask(&questions, |answer| {
                let Some(place) = volley.get(answer.number as usize) else { return };
                answered += 1;
                match answer.body {
                    Body::Object(attributes) => {
                        let read = elements::read_all(place.0, attributes).flatten();
                        found.extend(read.map(|(_, seen)| (*place, seen)));
                    }
                    Body::Refused(ENOENT) | Body::Done => {}
                    Body::Refused(errno) => refused = Some(errno),
                }
            })?;
            // An element about which nothing was said is not an absent one.
            let silence = (answered < volley.len()).then_some(ENODATA);
            if let Some(errno) = refused.or(silence) {
                return Err(Error::question("an element", errno));
            }
        }
        Ok(found)
    }

    /// Lists every element of `set`.
    pub(super) fn every_element(&mut self, set: Set) -> Result<Vec<Option<(Key, Seen)>>, Error> {
        self.socket.list(&elements::listing(set), WHAT, |_, attributes, found| {
            found.extend(elements::read_all(set, attributes));
        })
    }

    /// Lists the chains and rules of `table`.
    pub(super) fn look_at_chains(&mut self, table: &str, look: &mut Look) -> Result<(), Error> {
        let chains = self.list(table, uapi::NFT_MSG_GETCHAIN, uapi::NFTA_CHAIN_NAME)?;
        look.chains = chains.into_iter().collect();
        for (chain, rule) in self.list(table, uapi::NFT_MSG_GETRULE, uapi::NFTA_RULE_CHAIN)? {
            look.rules.entry(chain).or_default().push(rule);
        }
        Ok(())
    }

    /// Lists the rules or chains of a table, each with its chain's name, which is its attribute `name`.
    fn list(&mut self, table: &str, kind: u16, name: u16) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let mut question = socket::question(kind, DUMP, INET);
        question.put_text(uapi::NFTA_TABLE, table);
        self.socket.list(&question, WHAT, |_, attributes, found| {
            if let Some(name) = chain_in(table, attributes, name) {
                found.push((name.to_owned(), attributes.0.to_vec()));
            }
        })
    }

    fn look_at_table(&mut self) -> Result<Look, Error> {
        let mut question = socket::question(uapi::NFT_MSG_GETTABLE, 0, INET);
        question.put_text(uapi::NFTA_TABLE_NAME, TABLE);
        match self.socket.ask_one(&question, "table inet autoport", read_table) {
            Err(error) if error.refusal() == Some(ENOENT) => Ok(Look::default()),
            // What nfnetlink says when nobody answers for tables, and it has tried to load who would.
            Err(error) if error.refusal() == Some(EINVAL) => Err(Error::NoTables),
            found => Ok(found?.unwrap_or_default()),
        }
    }
}

/// Whose table it is, whether it is dormant, and its handle.
pub(super) fn read_table(attributes: Attributes<'_>) -> Look {
    let identity = attributes.usertext(uapi::NFTA_TABLE_USERDATA, uapi::NFTNL_UDATA_COMMENT);
    let flags = attributes.u32(uapi::NFTA_TABLE_FLAGS).unwrap_or(0);
    Look {
        table: identity.and_then(Identity::parse).map_or(Table::Foreign, Table::Ours),
        handle: attributes.get(uapi::NFTA_TABLE_HANDLE).unwrap_or_default().to_vec(),
        dormant: flags & uapi::NFT_TABLE_F_DORMANT != 0,
        ..Look::default()
    }
}

/// The name of a chain of `table`, from the attribute that has it: the kernel may list other tables', too.
pub(super) fn chain_in<'a>(table: &str, attributes: Attributes<'a>, name: u16) -> Option<&'a str> {
    let own = attributes.text(uapi::NFTA_TABLE)? == table;
    own.then(|| attributes.text(name))?
}
