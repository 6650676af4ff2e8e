//! The second table, `inet autoport_offload`, read and changed over netlink. The kernel may lack what it needs,
//! and an interface may disappear at any time, so it never goes into the transaction of the first table.

use std::collections::BTreeSet;

use nftnl::MsgType;
use nix::libc::ENOENT;

use super::encode::Encoder;
use super::look::Look;
use super::message::Attributes;
use super::socket::{self, CREATE, DUMP, EXCL, Transaction};
use super::{Error, INET, Nft, add_chains, add_sets, compare, elements, put_comment};
use crate::kernel::route::exists;
use crate::kernel::uapi;
use crate::ruleset::{Data, Element, FLOWTABLE, OFFLOAD_TABLE, Offload, Place};

/// What a listing is about, in an error.
const WHAT: &str = "its flowtable";

/// Newer kernels keep the names of interfaces that are gone, and use an interface of such a name when it appears
/// (seen on 7.2). To ask for each takes time, so an ADD does where so many more names are there, and has all of
/// them removed.
const REVIEWED: usize = 128;

/// What the kernel has of the second table.
#[derive(Debug, Default)]
pub struct Offloading {
    /// Why it offloads nothing, if so.
    pub flaw: Option<String>,
    /// The interfaces of the flowtable.
    pub devices: BTreeSet<String>,
    elements: BTreeSet<Place>,
}

impl Offloading {
    /// Names what differs from `wanted`, and would not if every interface existed.
    pub fn differences(&self, wanted: &Offload) -> Vec<String> {
        if let Some(flaw) = self.flaw.as_ref().filter(|_| !wanted.is_empty()) {
            return vec![flaw.clone()];
        }
        let absent = wanted.devices.difference(&self.devices).filter(|name| exists(name));
        let absent = absent.map(|name| format!("interface {name} is not in the flowtable"));
        let surplus = self.devices.difference(&wanted.devices).filter(|name| exists(name));
        let surplus =
            surplus.map(|name| format!("interface {name} of the flowtable has no record"));
        let lost = wanted.elements.keys().filter(|place| !self.elements.contains(place));
        let lost = lost.map(|(set, key)| format!("element {key} of {set} is missing"));
        absent.chain(surplus).chain(lost).collect()
    }
}

fn begin() -> Transaction {
    Transaction::begin_in("table inet autoport_offload")
}

/// Puts a message about the flowtable, or one interface of it.
fn put(transaction: &mut Transaction, (kind, flags): (u16, u16), device: Option<&str>) {
    let subject = match device {
        Some(device) => format!("interface {device} of the flowtable"),
        None => "the flowtable (module nf_flow_table)".to_owned(),
    };
    let message = transaction.message(kind, flags, subject);
    message.put_text(uapi::NFTA_FLOWTABLE_TABLE, OFFLOAD_TABLE);
    message.put_text(uapi::NFTA_FLOWTABLE_NAME, FLOWTABLE);
    message.nest(uapi::NFTA_FLOWTABLE_HOOK, |hook| {
        hook.put(uapi::NFTA_FLOWTABLE_HOOK_NUM, &[&uapi::NF_NETDEV_INGRESS.to_be_bytes()]);
        hook.put(uapi::NFTA_FLOWTABLE_HOOK_PRIORITY, &[&uapi::NF_IP_PRI_FILTER.to_be_bytes()]);
        if let Some(device) = device {
            hook.nest(uapi::NFTA_FLOWTABLE_HOOK_DEVS, |devices| {
                devices.put_text(uapi::NFTA_DEVICE_NAME, device);
            });
        }
    });
}

const ADD: (u16, u16) = (uapi::NFT_MSG_NEWFLOWTABLE, CREATE);

impl Nft {
    /// Has established connections to what is in `more` offloaded as well. Where there is no flowtable, or not
    /// as it should be, all of `everything` is built.
    ///
    /// # Errors
    /// [`Error::Refused`]: the kernel cannot, among others. Connections take the usual way then.
    pub fn offload<E: From<Error>>(
        &mut self,
        more: &Offload,
        everything: impl FnOnce() -> Result<Offload, E>,
    ) -> Result<(), E> {
        let Some(devices) = self.flowtable()? else {
            // It is tried before all records are read.
            self.build_offload()?;
            return Ok(self.offload_exactly(&everything()?).map(drop)?);
        };
        let is_due = !devices.is_empty() && devices.len().is_multiple_of(REVIEWED);
        if is_due && devices.iter().any(|name| !exists(name)) {
            return Ok(self.offload_exactly(&everything()?).map(drop)?);
        }
        self.await_expiry(more.elements.keys().copied().collect())?;
        let mut transaction = begin();
        for device in more.devices.difference(&devices).filter(|name| exists(name)) {
            put(&mut transaction, ADD, Some(device));
        }
        elements::ensure(&mut transaction, &more.elements.values().collect::<Vec<_>>());
        match self.socket.commit(transaction) {
            Err(Error::Refused { .. }) => Ok(self.offload_exactly(&everything()?).map(drop)?),
            committed => Ok(committed?),
        }
    }

    /// Has new connections to what is in `less` offloaded no longer. The interface of a pod leaves the flowtable
    /// when the main plugin deletes it, and its connections with it; to take it out before would have this
    /// process wait for a grace period of the kernel's. After the last pod the table goes.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Unanswered`].
    pub fn unoffload(&mut self, less: &Offload) -> Result<(), Error> {
        let Some(devices) = self.flowtable()? else { return Ok(()) };
        if devices.difference(&less.devices).all(|name| !exists(name)) {
            return self.remove_offload().map(drop);
        }
        let places: Vec<Place> = less.elements.keys().copied().collect();
        let present: Vec<Place> = self.staying_at(&places)?;
        let mut transaction = begin();
        let expired: Vec<_> = present.iter().map(|place| (*place, Data::None)).collect();
        elements::expire(&mut transaction, &expired);
        self.socket.commit(transaction)?;
        // A kernel before 6.12 ignores that.
        let mut transaction = begin();
        elements::delete(&mut transaction, &self.staying_at(&present)?);
        self.socket.commit(transaction)
    }

    fn staying_at(&mut self, places: &[Place]) -> Result<Vec<Place>, Error> {
        let seen = self.seen_at(places)?.into_iter();
        Ok(seen.filter(|(_, seen)| !seen.expiring).map(|(place, _)| place).collect())
    }

    /// Makes the second table that of `wanted`, and changes nothing that is right already; gives the number of
    /// transactions that took. Interfaces that do not exist are passed over.
    ///
    /// # Errors
    /// As for [`Self::offload`].
    pub fn offload_exactly(&mut self, wanted: &Offload) -> Result<u32, Error> {
        if wanted.is_empty() {
            return self.remove_offload().map(u32::from);
        }
        let (mut seen, mut made) = (self.offloading()?, 0);
        if seen.flaw.is_some() {
            self.build_offload()?;
            (seen, made) = (Offloading::default(), 1);
        }
        let surplus: Vec<Place> =
            seen.elements.iter().filter(|it| !wanted.elements.contains_key(it)).copied().collect();
        let missing: Vec<&Element> =
            wanted.elements.values().filter(|it| !seen.elements.contains(&it.place())).collect();
        self.await_expiry(missing.iter().map(|element| element.place()).collect())?;
        let mut transaction = begin();
        elements::delete(&mut transaction, &surplus);
        elements::ensure(&mut transaction, &missing);
        made += u32::from(!transaction.is_empty());
        self.socket.commit(transaction)?;
        for device in seen.devices.difference(&wanted.devices) {
            made += self.change_device((uapi::NFT_MSG_DELFLOWTABLE, 0), device)?;
        }
        for device in wanted.devices.difference(&seen.devices).filter(|name| exists(name)) {
            made += self.change_device(ADD, device)?;
        }
        Ok(made)
    }

    /// Adds or deletes one interface, each in a transaction of its own: one that is gone fails it as a whole.
    fn change_device(&mut self, kind: (u16, u16), device: &str) -> Result<u32, Error> {
        let mut transaction = begin();
        put(&mut transaction, kind, Some(device));
        match self.socket.commit(transaction) {
            Err(error) if error.refusal() == Some(ENOENT) && !exists(device) => Ok(0),
            committed => committed.map(|()| 1),
        }
    }

    /// Deletes the second table; says whether there was one.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Unanswered`].
    pub fn remove_offload(&mut self) -> Result<bool, Error> {
        let is_there = self.is_dormant()?.is_some();
        let mut transaction = begin();
        if is_there {
            let message = transaction.message(uapi::NFT_MSG_DELTABLE, 0, "the table".to_owned());
            message.put_text(uapi::NFTA_TABLE_NAME, OFFLOAD_TABLE);
        }
        self.socket.commit(transaction).map(|()| is_there)
    }

    /// Reads the second table back.
    ///
    /// # Errors
    /// As for [`Self::look`].
    pub fn offloading(&mut self) -> Result<Offloading, Error> {
        let flawed = |flaw: &str| Offloading { flaw: Some(flaw.to_owned()), ..<_>::default() };
        let Some(is_dormant) = self.is_dormant()? else {
            return Ok(flawed("table inet autoport_offload is missing"));
        };
        let Some(devices) = self.flowtable()? else {
            return Ok(flawed("flowtable established of table inet autoport_offload is missing"));
        };
        let mut look = Look::default();
        self.look_at_chains(OFFLOAD_TABLE, &mut look)?;
        let dormant = is_dormant.then(|| "table inet autoport_offload is dormant".to_owned());
        let mut encoder = Encoder::of(OFFLOAD_TABLE);
        let flaw = dormant.or_else(|| {
            let mut chains = Offload::chains().into_iter();
            chains.find_map(|chain| compare::check_chain(&chain, &look, &mut encoder))
        });
        let mut elements = BTreeSet::new();
        for set in Offload::sets() {
            let listed = self.every_element(set)?.into_iter().flatten();
            elements.extend(listed.filter(|(_, it)| !it.expiring).map(|(key, _)| (set, key)));
        }
        Ok(Offloading { flaw, devices, elements })
    }

    /// Whether the second table is dormant; `None` where there is none.
    fn is_dormant(&mut self) -> Result<Option<bool>, Error> {
        let mut question = socket::question(uapi::NFT_MSG_GETTABLE, 0, INET);
        question.put_text(uapi::NFTA_TABLE_NAME, OFFLOAD_TABLE);
        let read = |attributes: Attributes<'_>| {
            let flags = attributes.u32(uapi::NFTA_TABLE_FLAGS).unwrap_or(0);
            flags & uapi::NFT_TABLE_F_DORMANT != 0
        };
        match self.socket.ask_one(&question, WHAT, read) {
            Err(error) if error.refusal() == Some(ENOENT) => Ok(None),
            found => found,
        }
    }

    /// The interfaces of the flowtable; `None` where there is none.
    ///
    /// Listed: an answer to a question about one flowtable is cut to a page, which has room for 180 interfaces.
    fn flowtable(&mut self) -> Result<Option<BTreeSet<String>>, Error> {
        let mut question = socket::question(uapi::NFT_MSG_GETFLOWTABLE, DUMP, INET);
        question.put_text(uapi::NFTA_FLOWTABLE_TABLE, OFFLOAD_TABLE);
        let found = self.socket.list(&question, WHAT, |_, attributes, found| {
            let text = |part| attributes.text(part);
            let is_ours = text(uapi::NFTA_FLOWTABLE_TABLE) == Some(OFFLOAD_TABLE)
                && text(uapi::NFTA_FLOWTABLE_NAME) == Some(FLOWTABLE);
            let hook = attributes.nested(uapi::NFTA_FLOWTABLE_HOOK).unwrap_or_default();
            let devices = hook.nested(uapi::NFTA_FLOWTABLE_HOOK_DEVS).unwrap_or_default();
            let names = devices.iter().map(|device| String::from_utf8_lossy(device.payload));
            found.extend(is_ours.then(|| {
                names.map(|name| name.trim_end_matches('\0').to_owned()).collect::<BTreeSet<_>>()
            }));
        })?;
        Ok(found.into_iter().next())
    }

    /// Builds the second table again, without interfaces and elements.
    pub(super) fn build_offload(&mut self) -> Result<(), Error> {
        let (mut transaction, mut encoder) = (begin(), Encoder::of(OFFLOAD_TABLE));
        transaction.append(encoder.table(MsgType::Add), CREATE, "the old table".to_owned());
        transaction.append(encoder.table(MsgType::Del), 0, "the old table".to_owned());
        transaction.append(encoder.table(MsgType::Add), CREATE | EXCL, "the table".to_owned());
        put_comment(transaction.last(), uapi::NFTA_TABLE_USERDATA, Offload::COMMENT);
        put(&mut transaction, ADD, None);
        add_sets(&mut transaction, &mut encoder, Offload::sets());
        add_chains(&mut transaction, &mut encoder, &Offload::chains());
        self.socket.commit(transaction)
    }
}
