//! What the kernel holds, as far as one command has to know.

use std::collections::BTreeMap;
use std::io;

use nix::libc::ENOENT;

use super::elements::Seen;
use super::encode::Encoder;
use super::message::{Attributes, Body, Kind, Messages, attributes_of};
use super::socket::{DUMP, Listing, NFTABLES, REQUEST, Socket};
use super::{ATTEMPTS, Error, INET, Nft, elements};
use crate::ruleset::{
    self, Chain, Element, Identity, Key, LAYOUT, MASQUERADE_PREFIX, POSTROUTING, Ruleset, Set,
    TABLE,
};

/// `linux/netfilter/nf_tables.h`.
mod uapi {
    pub(super) const NFT_MSG_GETTABLE: u8 = 1;
    pub(super) const NFT_MSG_GETCHAIN: u8 = 4;
    pub(super) const NFT_MSG_GETRULE: u8 = 7;
    pub(super) const NFTA_TABLE_NAME: u16 = 1;
    pub(super) const NFTA_TABLE_FLAGS: u16 = 2;
    pub(super) const NFT_TABLE_F_DORMANT: u32 = 1;
    pub(super) const NFTA_TABLE_USERDATA: u16 = 6;
    pub(super) const NFTA_CHAIN_TABLE: u16 = 1;
    pub(super) const NFTA_CHAIN_NAME: u16 = 3;
    pub(super) const NFTA_RULE_TABLE: u16 = 1;
    pub(super) const NFTA_RULE_CHAIN: u16 = 2;
    /// How nft(8) marks a comment inside a table's user data.
    pub(super) const NFTNL_UDATA_TABLE_COMMENT: u8 = 0;
}

/// How many elements are asked for at once. Each answer takes a few KiB of the receive buffer
/// (`net.core.rmem_default`, 208 KiB) until it is read.
pub(super) const PER_VOLLEY: usize = 32;

/// The table, as its comment describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Table {
    /// There is none.
    Absent,
    /// There is one by our name that is not ours.
    Foreign,
    /// Ours.
    Ours(Identity),
}

/// What one look at the kernel showed.
#[derive(Clone, Debug)]
pub struct Look {
    /// The table.
    pub table: Table,
    /// Whether somebody has set the flag that takes all its chains out of their hooks.
    pub dormant: bool,
    /// The elements that were asked for and are there.
    pub elements: BTreeMap<(Set, Key), Seen>,
    /// The rules by chain, as the kernel encodes them.
    rules: BTreeMap<String, Vec<Vec<u8>>>,
}

/// How the table stands to what a change expects of it.
pub(super) enum Standing {
    /// It is sound; these chains have to be added first.
    Intact { missing: Vec<Chain> },
    /// It has to be built again, for this reason.
    Rebuild(String),
}

impl Look {
    /// The rules by chain, as the kernel encodes them.
    pub(super) const fn rules(&self) -> &BTreeMap<String, Vec<Vec<u8>>> {
        &self.rules
    }

    fn rule_count(&self, chain: &str) -> usize {
        self.rules.get(chain).map_or(0, Vec::len)
    }

    /// Refuses a table that this binary must not touch.
    pub(super) fn permit(&self, expected: &Identity) -> Result<(), Error> {
        match &self.table {
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

    /// Compares the table with what a change that needs `chains` expects.
    ///
    /// Rules are counted here and compared by CHECK: a rule can be deleted, flushed or replaced,
    /// and the last needs somebody who means it.
    pub(super) fn standing(
        &self,
        expected: &Identity,
        chains: &[Chain],
    ) -> Result<Standing, Error> {
        self.permit(expected)?;
        let reason = match &self.table {
            Table::Absent => Some("it was missing".to_owned()),
            Table::Foreign => Some("it was not made by autoport".to_owned()),
            Table::Ours(found) if found.layout < LAYOUT => {
                Some(format!("it had the older layout {}", found.layout))
            }
            Table::Ours(_) if self.dormant => Some("it was dormant".to_owned()),
            Table::Ours(_) => self.damage(chains),
        };
        if let Some(reason) = reason {
            return Ok(Standing::Rebuild(reason));
        }
        let missing = chains.iter().filter(|chain| self.rule_count(&chain.name) == 0);
        Ok(Standing::Intact { missing: missing.cloned().collect() })
    }

    /// Names the first chain that has not the rules it should have. A network's chain without any
    /// rule is not damage: it has not been needed yet, or it can be filled again.
    fn damage(&self, chains: &[Chain]) -> Option<String> {
        let masquerades = self.rules.keys().filter(|name| name.starts_with(MASQUERADE_PREFIX));
        let jumps = masquerades.count();
        let base = crate::ruleset::base_chains();
        let base = base.iter().map(|chain| match chain.name.as_str() {
            POSTROUTING => (chain, jumps),
            _ => (chain, chain.rules.len()),
        });
        let needed = chains
            .iter()
            .filter(|chain| self.rule_count(&chain.name) > 0)
            .map(|chain| (chain, chain.rules.len()));
        base.chain(needed).find_map(|(chain, expected)| {
            let found = self.rule_count(&chain.name);
            let name = &chain.name;
            (found != expected).then(|| format!("chain {name} had {found} of {expected} rules"))
        })
    }
}

impl Nft {
    /// Looks at the table, its rules, and the elements at `places`.
    ///
    /// # Errors
    /// [`Error::Socket`], [`Error::Question`], [`Error::Restless`].
    pub fn look(&mut self, places: &[(Set, Key)]) -> Result<Look, Error> {
        let (table, dormant) = table(&mut self.socket)?;
        let mut look = Look { table, dormant, elements: BTreeMap::new(), rules: BTreeMap::new() };
        if look.table == Table::Absent {
            return Ok(look);
        }
        for volley in places.chunks(PER_VOLLEY) {
            self.look_at(volley, &mut look.elements)?;
        }
        look.rules = self.list(uapi::NFT_MSG_GETRULE, |attributes| {
            (attributes.text(uapi::NFTA_RULE_TABLE)? == TABLE)
                .then(|| attributes.text(uapi::NFTA_RULE_CHAIN))?
        })?;
        Ok(look)
    }

    pub(super) fn look_at(
        &mut self,
        places: &[(Set, Key)],
        found: &mut BTreeMap<(Set, Key), Seen>,
    ) -> Result<(), Error> {
        let mut questions = Messages::default();
        for (place, number) in places.iter().zip(0..) {
            elements::question(&mut questions, place, number);
        }
        let mut refused = None;
        self.socket.ask(&questions, |answer| {
            let Some(place) = places.get(answer.number as usize) else { return };
            match answer.body {
                Body::Object(attributes) => {
                    found.insert(*place, elements::read(place.0, attributes));
                }
                Body::Refused(ENOENT) | Body::Done => {}
                Body::Refused(errno) => refused = Some(errno),
            }
        })?;
        refused.map_or(Ok(()), |errno| Err(question_error("an element", errno)))
    }

    /// Lists every element of the table.
    pub(super) fn every_element(&mut self) -> Result<BTreeMap<(Set, Key), Seen>, Error> {
        let mut all = BTreeMap::new();
        for set in Set::all() {
            let found = self.list_until_whole(&elements::listing(set), |attributes, found| {
                found.extend(elements::read_all(set, attributes));
            })?;
            all.extend(found.into_iter().map(|(key, seen): (Key, Seen)| ((set, key), seen)));
        }
        Ok(all)
    }

    /// Asks for a listing until it shows one state, and gathers what `read` finds in it; nothing
    /// where there is no such thing.
    fn list_until_whole<T>(
        &mut self,
        question: &Messages,
        mut read: impl FnMut(Attributes<'_>, &mut Vec<T>),
    ) -> Result<Vec<T>, Error> {
        for _ in 0..ATTEMPTS {
            let mut found = Vec::new();
            let listing = self.socket.list(question, |answer| {
                if let Body::Object(attributes) = answer.body {
                    read(attributes, &mut found);
                }
            })?;
            match listing {
                Listing::Whole => return Ok(found),
                Listing::Refused(ENOENT) => return Ok(Vec::new()),
                Listing::Refused(errno) => return Err(question_error("its table", errno)),
                Listing::Interrupted => {}
            }
        }
        Err(Error::Restless)
    }

    /// Lists the rules or chains of our table by the name that `name` finds in them.
    fn list(
        &mut self,
        message: u8,
        name: impl Fn(Attributes<'_>) -> Option<&str>,
    ) -> Result<BTreeMap<String, Vec<Vec<u8>>>, Error> {
        let mut question = Messages::default();
        question.begin(Kind { subsystem: NFTABLES, message }, REQUEST | DUMP, INET, 0);
        // NFTA_RULE_TABLE and NFTA_CHAIN_TABLE are the same number; where the kernel does not
        // filter by it, `name` does.
        question.put_text(uapi::NFTA_RULE_TABLE, TABLE);
        let parts = self.list_until_whole(&question, |attributes, found| {
            if let Some(name) = name(attributes) {
                found.push((name.to_owned(), attributes.0.to_vec()));
            }
        })?;
        let mut by_name: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
        for (name, part) in parts {
            by_name.entry(name).or_default().push(part);
        }
        Ok(by_name)
    }

    /// Compares the kernel with `expected`, a table that holds one record, and names the first
    /// difference. Other records' elements and chains do not matter.
    ///
    /// # Errors
    /// As for [`Self::look`].
    pub fn check(&mut self, expected: &Ruleset) -> Result<Option<String>, Error> {
        let places: Vec<_> = expected.elements.keys().copied().collect();
        let look = self.look(&places)?;
        if let Some(difference) = self.check_table(&look) {
            return Ok(Some(difference));
        }
        if let Some(difference) = expected.elements.values().find_map(|e| missing(&look, e)) {
            return Ok(Some(difference));
        }
        if matches!(&look.table, Table::Ours(found) if found.layout != LAYOUT) {
            return Ok(None);
        }
        let chains = self.list_chains()?;
        Ok(check_chains(expected, &chains, &look))
    }

    /// Why the table has to be built again to be that of `everything`, as far as `look` and its chains
    /// show.
    pub(super) fn damage(
        &mut self,
        look: &Look,
        everything: &Ruleset,
    ) -> Result<Option<String>, Error> {
        if let Standing::Rebuild(reason) = look.standing(&everything.identity, &[])? {
            return Ok(Some(reason));
        }
        let chains = self.list_chains()?;
        let foreign = chains.keys().find(|name| {
            let known = everything.chains().any(|chain| chain.name == **name);
            // A network that has no pod now keeps its chains.
            !known && !ruleset::is_of_network(name)
        });
        if let Some(name) = foreign {
            return Ok(Some(format!("chain {name} was not made by autoport")));
        }
        Ok(check_chains(everything, &chains, look))
    }

    fn list_chains(&mut self) -> Result<BTreeMap<String, Vec<Vec<u8>>>, Error> {
        self.list(uapi::NFT_MSG_GETCHAIN, |attributes| {
            (attributes.text(uapi::NFTA_CHAIN_TABLE)? == TABLE)
                .then(|| attributes.text(uapi::NFTA_CHAIN_NAME))?
        })
    }

    fn check_table(&self, look: &Look) -> Option<String> {
        match &look.table {
            Table::Absent => Some("table inet autoport is missing".to_owned()),
            Table::Foreign => Some("table inet autoport was not made by autoport".to_owned()),
            Table::Ours(found) if found.instance != self.identity.instance => {
                Some(format!("table inet autoport belongs to another store, {}", found.instance))
            }
            Table::Ours(_) if look.dormant => Some("table inet autoport is dormant".to_owned()),
            Table::Ours(_) => None,
        }
    }
}

fn missing(look: &Look, element: &Element) -> Option<String> {
    let Element { set, key, data, .. } = element;
    match look.elements.get(&element.place()) {
        None | Some(Seen { expiring: true, .. }) => {
            Some(format!("element {key} of {set} is missing"))
        }
        Some(Seen { data: Some(seen), .. }) if seen == data => None,
        Some(Seen { data: Some(seen), .. }) => {
            Some(format!("element {key} of {set} leads to {seen}, not {data}"))
        }
        Some(Seen { data: None, .. }) => {
            Some(format!("element {key} of {set} leads elsewhere than to {data}"))
        }
    }
}

fn check_chains(
    expected: &Ruleset,
    chains: &BTreeMap<String, Vec<Vec<u8>>>,
    look: &Look,
) -> Option<String> {
    let mut encoder = Encoder::new();
    expected.chains().find_map(|chain| check_chain(chain, chains, look, &mut encoder))
}

fn check_chain(
    chain: &Chain,
    chains: &BTreeMap<String, Vec<Vec<u8>>>,
    look: &Look,
    encoder: &mut Encoder,
) -> Option<String> {
    let name = &chain.name;
    let Some(seen) = chains.get(name).and_then(|found| found.first()) else {
        return Some(format!("chain {name} is missing"));
    };
    if !Attributes(seen).contains(attributes_of(encoder.chain(chain))) {
        return Some(format!("chain {name} has another type, hook, priority or policy"));
    }
    let none = Vec::new();
    let rules = look.rules.get(name).unwrap_or(&none);
    // Other networks' mark bits have jumps in here too, one per masquerading chain.
    if name == POSTROUTING {
        let absent = chain.rules.iter().find(|rule| {
            let expected = encoder.rule(chain, rule);
            !rules.iter().any(|seen| Attributes(seen).contains(attributes_of(expected)))
        });
        if let Some(rule) = absent {
            return Some(format!("rule \"{rule}\" of chain {name} is missing"));
        }
        let jumps = chains.keys().filter(|name| name.starts_with(MASQUERADE_PREFIX)).count();
        return (rules.len() != jumps)
            .then(|| format!("chain {name} has {} rules instead of {jumps}", rules.len()));
    }
    if rules.len() != chain.rules.len() {
        let (found, expected) = (rules.len(), chain.rules.len());
        return Some(format!("chain {name} has {found} rules instead of {expected}"));
    }
    chain.rules.iter().zip(rules).find_map(|(rule, seen)| {
        let expected = encoder.rule(chain, rule);
        let equal = Attributes(seen).contains(attributes_of(expected));
        (!equal).then(|| format!("a rule of chain {name} is not \"{rule}\""))
    })
}

fn question_error(what: &'static str, errno: i32) -> Error {
    Error::Question { what, source: io::Error::from_raw_os_error(errno) }
}

/// Asks one question that has one answer, and reads it; `None` when there is no such object.
fn ask_one<T>(
    socket: &mut Socket,
    message: u8,
    what: &'static str,
    body: impl FnOnce(&mut Messages),
    read: impl Fn(Attributes<'_>) -> T,
) -> Result<Option<T>, Error> {
    let mut question = Messages::default();
    question.begin(Kind { subsystem: NFTABLES, message }, REQUEST, INET, 0);
    body(&mut question);
    let mut answered = None;
    socket.ask(&question, |answer| {
        answered = Some(match answer.body {
            Body::Object(attributes) => Ok(Some(read(attributes))),
            Body::Refused(ENOENT) | Body::Done => Ok(None),
            Body::Refused(errno) => Err(question_error(what, errno)),
        });
    })?;
    let silence = || Err(question_error(what, nix::libc::ENODATA));
    answered.unwrap_or_else(silence)
}

fn table(socket: &mut Socket) -> Result<(Table, bool), Error> {
    let name = |question: &mut Messages| question.put_text(uapi::NFTA_TABLE_NAME, TABLE);
    let read = |attributes: Attributes<'_>| {
        let identity = attributes.get(uapi::NFTA_TABLE_USERDATA).and_then(read_comment);
        let flags = attributes.u32(uapi::NFTA_TABLE_FLAGS).unwrap_or(0);
        let table = identity.and_then(Identity::parse).map_or(Table::Foreign, Table::Ours);
        (table, flags & uapi::NFT_TABLE_F_DORMANT != 0)
    };
    let found = ask_one(socket, uapi::NFT_MSG_GETTABLE, "table inet autoport", name, read)?;
    Ok(found.unwrap_or((Table::Absent, false)))
}

fn read_comment(userdata: &[u8]) -> Option<&str> {
    let value = elements::read_userdata(userdata, uapi::NFTNL_UDATA_TABLE_COMMENT)?;
    std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
}

/// Gives the table in the last message a comment.
pub(super) fn put_table_comment(message: &mut Messages, comment: &str) {
    let header = [uapi::NFTNL_UDATA_TABLE_COMMENT, (comment.len() + 1) as u8];
    message.put(uapi::NFTA_TABLE_USERDATA, &[&header, comment.as_bytes(), &[0]]);
}
