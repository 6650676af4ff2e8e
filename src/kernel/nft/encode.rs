//! Chains, sets and rules as libnftnl encodes them.
//!
//! This is the cold path, taken when a table, or a network's chains, have to be made. What
//! nftnl's safe types lack (maps, `fib`, registers beyond the first, lookups with a result) is
//! added here through its public pointers: one constructor for every expression, one for every
//! set. Raw pointers never leave the file.

#![expect(unsafe_code, reason = "libnftnl is a C library")]

use std::ffi::{CStr, CString, c_void};
use std::ptr::NonNull;

use nftnl::expr::Expression;
use nftnl::nftnl_sys as sys;
use nftnl::set::{Set as NftnlSet, SetKey};
use nftnl::{MsgType, NlMsg, ProtoFamily, Table};

use crate::model::Family;
use crate::ruleset::{Chain, Hook, Interface, Set, SetKind, TABLE};

/// `linux/netfilter/nf_tables.h`.
const NFT_SET_MAP: u32 = 0x8;
const NFT_SET_TIMEOUT: u32 = 0x10;

/// How many bytes an element that is made again has counted, in no packets: what it counted before is lost.
const LOST: u64 = 1;

/// Of a netlink message's header, a row of numbers of at most 32 bits (netlink(7)).
const ALIGNMENT: usize = align_of::<u32>();

/// Type numbers by which nft(8) prints keys and data. They are nft's own: the kernel only keeps
/// them. A concatenation has six bits for each part.
mod datatype {
    pub(super) const IPV4_ADDR: u32 = 7;
    pub(super) const IPV6_ADDR: u32 = 8;
    pub(super) const INET_PROTO: u32 = 12;
    pub(super) const INET_SERVICE: u32 = 13;
    pub(super) const IFNAME: u32 = 41;
    pub(super) const BITS: u32 = 6;
}

/// How many registers of 32 bits an address takes.
pub(super) const fn address_words(family: Family) -> u32 {
    match family {
        Family::V4 => 1,
        Family::V6 => 4,
    }
}

/// Encodes what a table consists of.
pub(super) struct Encoder {
    table: Table,
    scratch: Vec<u8>,
}

impl Encoder {
    /// That of [`TABLE`].
    pub(super) fn new() -> Self {
        Self::of(TABLE)
    }

    pub(super) fn of(table: &str) -> Self {
        let name = c_string(table);
        let scratch = vec![0; nftnl::nft_nlmsg_maxsize() as usize + ALIGNMENT];
        Self { table: Table::new(name, ProtoFamily::Inet), scratch }
    }

    /// The table, as a message of that `kind`.
    pub(super) fn table(&mut self, kind: MsgType) -> &[u8] {
        write(&mut self.scratch, &self.table, kind)
    }

    /// A chain without its rules.
    pub(super) fn chain(&mut self, chain: &Chain) -> &[u8] {
        let mut object = nftnl::Chain::new(c_string(&chain.name), &self.table);
        if let Some(base) = chain.base {
            let hook = match base.hook {
                Hook::Prerouting => nftnl::Hook::PreRouting,
                Hook::Input => nftnl::Hook::In,
                Hook::Forward => nftnl::Hook::Forward,
                Hook::Output => nftnl::Hook::Out,
                Hook::Postrouting => nftnl::Hook::PostRouting,
            };
            object.set_hook(hook, base.priority);
            let (nat, filter) = (nftnl::ChainType::Nat, nftnl::ChainType::Filter);
            object.set_type(if base.is_nat { nat } else { filter });
            object.set_policy(nftnl::Policy::Accept);
        }
        write(&mut self.scratch, &object, MsgType::Add)
    }

    /// A rule of `chain` that consists of `expressions`.
    pub(super) fn expressions(&mut self, chain: &str, expressions: &[Raw]) -> &[u8] {
        let chain = nftnl::Chain::new(c_string(chain), &self.table);
        let mut object = nftnl::Rule::new(&chain);
        for expression in expressions {
            object.add_expr(expression);
        }
        write(&mut self.scratch, &object, MsgType::Add)
    }

    /// A set or map without its elements. `id` must be unique in the transaction.
    pub(super) fn set(&mut self, set: Set, id: u32) -> &[u8] {
        let object = NftnlSet::<Untyped>::new_named(
            &c_string(&set.to_string()),
            id,
            &self.table,
            ProtoFamily::Inet,
        );
        let (address, words) = match set.family {
            Family::V4 => (datatype::IPV4_ADDR, address_words(Family::V4)),
            Family::V6 => (datatype::IPV6_ADDR, address_words(Family::V6)),
        };
        let ports = datatype::INET_PROTO << datatype::BITS | datatype::INET_SERVICE;
        let (key_type, key_words) = match (set.kind, set.key_address()) {
            (SetKind::Guarded, _) => (datatype::IFNAME, Interface::LEN as u32 / 4),
            (_, Some(_)) => (address << (2 * datatype::BITS) | ports, words + 2),
            (_, None) => (ports, 2),
        };
        let kind = if set.is_map() { NFT_SET_MAP } else { 0 };
        let mut numbers = vec![
            (sys::NFTNL_SET_KEY_TYPE, key_type),
            (sys::NFTNL_SET_KEY_LEN, 4 * key_words),
            (sys::NFTNL_SET_FLAGS, kind | NFT_SET_TIMEOUT),
        ];
        if set.is_map() {
            let data_type = address << datatype::BITS | datatype::INET_SERVICE;
            numbers.push((sys::NFTNL_SET_DATA_TYPE, data_type));
            numbers.push((sys::NFTNL_SET_DATA_LEN, 4 * (words + 1)));
        }
        for (attribute, value) in numbers {
            // SAFETY: the pointer is `object`'s own and lives as long; setting a number copies it.
            unsafe { sys::nftnl_set_set_u32(object.as_ptr().as_ptr(), attribute as u16, value) };
        }
        if set.is_map() {
            // An element that is added without a counter gets a copy.
            let lost = [(sys::NFTNL_EXPR_CTR_BYTES, &LOST.to_ne_bytes()[..])];
            let counter = Raw::new(c"counter", &[], &lost).allocate();
            // SAFETY: both pointers are valid; the set takes ownership of the expression and frees
            // it with itself.
            unsafe { sys::nftnl_set_add_expr(object.as_ptr().as_ptr(), counter.as_ptr()) };
        }
        write(&mut self.scratch, &object, MsgType::Add)
    }
}

fn c_string(name: &str) -> CString {
    CString::new(name).expect("names of tables, chains and sets are made here, without NUL")
}

/// Lets libnftnl write a message and returns its bytes.
fn write<'a>(scratch: &'a mut [u8], object: &impl NlMsg, kind: MsgType) -> &'a [u8] {
    let aligned = scratch.as_ptr().align_offset(ALIGNMENT);
    let scratch = &mut scratch[aligned..];
    // SAFETY: `scratch` has the size that the trait asks for, and begins where a header may. Nothing
    // that is encoded here comes near that size: a rule has a dozen expressions, and every name in
    // it is one of ours.
    unsafe { object.write(scratch.as_mut_ptr().cast::<c_void>(), 0, kind) };
    let len = scratch.first_chunk().map_or(0, |len| u32::from_ne_bytes(*len) as usize);
    &scratch[..len]
}

/// Stands for the key of any set; type and length are set by hand.
struct Untyped;

impl SetKey for Untyped {
    const TYPE: u32 = 0;
    const LEN: u32 = 0;

    fn data(&self) -> Box<[u8]> {
        Box::default()
    }
}

/// Any expression: its name and its attributes, as libnftnl keeps them.
pub(super) struct Raw {
    name: &'static CStr,
    values: Vec<(u32, Vec<u8>)>,
}

impl Raw {
    /// One with attributes that are numbers in the byte order of the machine, and others: bytes as they are
    /// in the packet, or names with their terminators.
    pub(super) fn new(name: &'static CStr, numbers: &[(u32, u32)], bytes: &[(u32, &[u8])]) -> Self {
        let numbers = numbers.iter().map(|(kind, number)| (*kind, number.to_ne_bytes().to_vec()));
        let bytes = bytes.iter().map(|(kind, bytes)| (*kind, bytes.to_vec()));
        Self { name, values: numbers.chain(bytes).collect() }
    }

    fn allocate(&self) -> NonNull<sys::nftnl_expr> {
        // SAFETY: `name` is NUL-terminated and outlives the call. The setter copies what it is given, and
        // the lengths are those of the slices. Whoever asked frees the expression, by freeing the rule or
        // set it is added to.
        unsafe {
            let expression = NonNull::new(sys::nftnl_expr_alloc(self.name.as_ptr()))
                .expect("libnftnl knows every expression named here, and memory suffices");
            for (kind, value) in &self.values {
                let (data, len) = (value.as_ptr().cast::<c_void>(), value.len() as u32);
                sys::nftnl_expr_set(expression.as_ptr(), *kind as u16, data, len);
            }
            expression
        }
    }
}

impl Expression for Raw {
    fn to_expr(&self, _: &nftnl::Rule<'_>) -> NonNull<sys::nftnl_expr> {
        self.allocate()
    }
}
