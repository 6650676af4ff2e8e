//! Chains, sets and rules as libnftnl encodes them: the only unsafe code of this crate.
//!
//! This is the cold path, taken when a table, or a network's chains, have to be made. What
//! nftnl's safe types lack (maps, `fib`, registers beyond the first, lookups with a result) is
//! added here through its public pointers: one constructor for every expression, one for every
//! set. Raw pointers never leave the file.
//!
//! Registers: nft(8) numbers a key's parts in words of 32 bits from `NFT_REG32_00`; the kernel
//! names every fourth of them by its older 128-bit name when it lists a rule. The same names are
//! used here, so that what is sent equals what is listed.

#![expect(unsafe_code, reason = "libnftnl is a C library")]

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::NonNull;

use ipnetwork::IpNetwork;
use nftnl::expr::Expression;
use nftnl::nftnl_sys as sys;
use nftnl::set::{Set as NftnlSet, SetKey};
use nftnl::{MsgType, NlMsg, ProtoFamily, Table};

use crate::model::Family;
use crate::ruleset::{Chain, ChainType, DataKind, Hook, Rule, Set, Side, TABLE, Term};

/// `linux/netfilter/nf_tables.h`.
mod uapi {
    pub(super) const NFT_REG_VERDICT: u32 = 0;
    pub(super) const NFT_REG_1: u32 = 1;
    pub(super) const NFT_REG32_00: u32 = 8;
    pub(super) const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
    pub(super) const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
    pub(super) const NFT_CMP_EQ: u32 = 0;
    pub(super) const NFT_CMP_NEQ: u32 = 1;
    pub(super) const NFT_META_MARK: u32 = 3;
    pub(super) const NFT_META_IIF: u32 = 4;
    pub(super) const NFT_META_NFPROTO: u32 = 15;
    pub(super) const NFT_META_L4PROTO: u32 = 16;
    pub(super) const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
    pub(super) const NFTA_FIB_F_DADDR: u32 = 1 << 1;
    pub(super) const NFT_NAT_DNAT: u32 = 1;
    pub(super) const NFT_SET_MAP: u32 = 8;
    pub(super) const NF_DROP: i32 = 0;
    pub(super) const NFT_JUMP: i32 = -3;
    pub(super) const NFT_GOTO: i32 = -4;
    pub(super) const NFT_RETURN: i32 = -5;
    pub(super) const NFPROTO_IPV4: u32 = 2;
    pub(super) const NFPROTO_IPV6: u32 = 10;
    /// `RTN_LOCAL` of `linux/rtnetlink.h`.
    pub(super) const RTN_LOCAL: u32 = 2;
    /// The interface index of `lo` in every network namespace.
    pub(super) const LOOPBACK_IFINDEX: u32 = 1;
}

/// Type numbers by which nft(8) prints keys and data. They are nft's own: the kernel only keeps
/// them. A concatenation has six bits for each part.
mod datatype {
    pub(super) const VERDICT: u32 = 0xffff_ff00;
    pub(super) const IPV4_ADDR: u32 = 7;
    pub(super) const IPV6_ADDR: u32 = 8;
    pub(super) const INET_PROTO: u32 = 12;
    pub(super) const INET_SERVICE: u32 = 13;
    pub(super) const BITS: u32 = 6;
}

const fn nfproto(family: Family) -> u32 {
    match family {
        Family::V4 => uapi::NFPROTO_IPV4,
        Family::V6 => uapi::NFPROTO_IPV6,
    }
}

/// How many registers of 32 bits an address takes.
const fn address_words(family: Family) -> u32 {
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
    pub(super) fn new() -> Self {
        let name = CString::new(TABLE).expect("the table's name has no NUL in it");
        let scratch = vec![0; nftnl::nft_nlmsg_maxsize() as usize];
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
                Hook::Output => nftnl::Hook::Out,
                Hook::Postrouting => nftnl::Hook::PostRouting,
            };
            object.set_hook(hook, base.priority);
            object.set_type(match base.kind {
                ChainType::Filter => nftnl::ChainType::Filter,
                ChainType::Nat => nftnl::ChainType::Nat,
            });
            object.set_policy(nftnl::Policy::Accept);
        }
        write(&mut self.scratch, &object, MsgType::Add)
    }

    /// A rule at the end of `chain`.
    pub(super) fn rule(&mut self, chain: &Chain, rule: &Rule) -> &[u8] {
        let chain = nftnl::Chain::new(c_string(&chain.name), &self.table);
        let mut object = nftnl::Rule::new(&chain);
        for expression in lower(rule) {
            object.add_expr(&expression);
        }
        write(&mut self.scratch, &object, MsgType::Add)
    }

    /// A set or map without its elements. `id` must be unique in the transaction.
    pub(super) fn set(&mut self, set: Set, id: u32) -> &[u8] {
        let object = NftnlSet::<Untyped>::new_named(
            &c_string(set.name()),
            id,
            &self.table,
            ProtoFamily::Inet,
        );
        let (address, words) = match set.family {
            Family::V4 => (datatype::IPV4_ADDR, address_words(Family::V4)),
            Family::V6 => (datatype::IPV6_ADDR, address_words(Family::V6)),
        };
        let ports = datatype::INET_PROTO << datatype::BITS | datatype::INET_SERVICE;
        let (key_type, key_words) = match set.key_address() {
            Some(_) => (address << (2 * datatype::BITS) | ports, words + 2),
            None => (ports, 2),
        };
        let mut numbers =
            vec![(sys::NFTNL_SET_KEY_TYPE, key_type), (sys::NFTNL_SET_KEY_LEN, 4 * key_words)];
        match set.data() {
            DataKind::None => {}
            DataKind::Target => numbers.extend([
                (sys::NFTNL_SET_FLAGS, uapi::NFT_SET_MAP),
                (sys::NFTNL_SET_DATA_TYPE, address << datatype::BITS | datatype::INET_SERVICE),
                (sys::NFTNL_SET_DATA_LEN, 4 * (words + 1)),
            ]),
            DataKind::Verdict => numbers.extend([
                (sys::NFTNL_SET_FLAGS, uapi::NFT_SET_MAP),
                (sys::NFTNL_SET_DATA_TYPE, datatype::VERDICT),
            ]),
        }
        for (attribute, value) in numbers {
            // SAFETY: the pointer is `object`'s own and lives as long; setting a number copies it.
            unsafe { sys::nftnl_set_set_u32(object.as_ptr().as_ptr(), attribute as u16, value) };
        }
        if set.counts() {
            let counter = Raw { name: c"counter", values: Vec::new() }.allocate();
            // SAFETY: both pointers are valid; the set takes ownership of the expression and frees
            // it with itself.
            unsafe { sys::nftnl_set_add_expr(object.as_ptr().as_ptr(), counter.as_ptr()) };
        }
        write(&mut self.scratch, &object, MsgType::Add)
    }
}

fn c_string(name: &str) -> CString {
    CString::new(name).expect("names of chains and sets are made here, without NUL")
}

/// Lets libnftnl write a message and returns its bytes.
fn write<'a>(scratch: &'a mut [u8], object: &impl NlMsg, kind: MsgType) -> &'a [u8] {
    // SAFETY: `scratch` has the size that the trait asks for.
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

/// Any expression: its name and its attributes.
struct Raw {
    name: &'static CStr,
    values: Vec<(u32, Value)>,
}

/// The value of an expression's attribute.
enum Value {
    /// A number in host order.
    Number(u32),
    /// Bytes as they are in the packet.
    Bytes(Vec<u8>),
    /// A name.
    Name(CString),
}

impl Raw {
    fn new<const N: usize>(name: &'static CStr, numbers: [(u32, u32); N]) -> Self {
        let values = numbers.into_iter().map(|(kind, value)| (kind, Value::Number(value)));
        Self { name, values: values.collect() }
    }

    fn with(mut self, kind: u32, value: Value) -> Self {
        self.values.push((kind, value));
        self
    }

    fn allocate(&self) -> NonNull<sys::nftnl_expr> {
        // SAFETY: `name` is NUL-terminated and outlives the call. Every setter copies what it is
        // given, and the lengths are those of the slices. Whoever asked frees the expression, by
        // freeing the rule or set it is added to.
        unsafe {
            let expression = NonNull::new(sys::nftnl_expr_alloc(self.name.as_ptr()))
                .expect("libnftnl knows every expression named in this file, and memory suffices");
            for (kind, value) in &self.values {
                let (pointer, kind) = (expression.as_ptr(), *kind as u16);
                match value {
                    Value::Number(number) => sys::nftnl_expr_set_u32(pointer, kind, *number),
                    Value::Bytes(bytes) => {
                        let data = bytes.as_ptr().cast::<c_void>();
                        sys::nftnl_expr_set(pointer, kind, data, bytes.len() as u32);
                    }
                    Value::Name(name) => {
                        let text: *const c_char = name.as_ptr();
                        sys::nftnl_expr_set_str(pointer, kind, text);
                    }
                }
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

/// The register that begins `words` words of 32 bits after the first.
const fn register(words: u32) -> u32 {
    match words % 4 {
        0 => uapi::NFT_REG_1 + words / 4,
        _ => uapi::NFT_REG32_00 + words,
    }
}

/// The expressions of a rule.
fn lower(rule: &Rule) -> Vec<Raw> {
    let mut lowering = Lowering { expressions: Vec::new(), family: None };
    for term in &rule.0 {
        lowering.term(term);
    }
    lowering.expressions
}

struct Lowering {
    expressions: Vec<Raw>,
    /// The family that the rule has already made sure of.
    family: Option<Family>,
}

impl Lowering {
    fn term(&mut self, term: &Term) {
        match term {
            Term::NotFromLoopback => {
                self.meta(uapi::NFT_META_IIF, 0);
                self.compare(uapi::NFT_CMP_NEQ, &uapi::LOOPBACK_IFINDEX.to_ne_bytes());
            }
            Term::ToLocalAddress => self.local_destination(),
            Term::Family(family) => self.family(*family),
            Term::Within(side, network) => self.within(*side, network),
            Term::In(set) => self.lookup(*set, None),
            Term::VerdictMap(set) => self.lookup(*set, Some(uapi::NFT_REG_VERDICT)),
            Term::MarkHas(bit) => {
                self.meta(uapi::NFT_META_MARK, 0);
                self.bitwise(&(1_u32 << bit).to_ne_bytes(), &[0; 4]);
                self.compare(uapi::NFT_CMP_EQ, &(1_u32 << bit).to_ne_bytes());
            }
            Term::MarkSet(bit) => self.mark(!(1 << bit), 1 << bit),
            Term::MarkClear(bit) => self.mark(!(1 << bit), 0),
            Term::Dnat(set) => self.dnat(*set),
            Term::Masquerade => self.expressions.push(Raw::new(c"masq", [])),
            Term::Drop => self.verdict(uapi::NF_DROP, None),
            Term::Return => self.verdict(uapi::NFT_RETURN, None),
            Term::Jump(chain) => self.verdict(uapi::NFT_JUMP, Some(chain)),
            Term::Goto(chain) => self.verdict(uapi::NFT_GOTO, Some(chain)),
        }
    }

    fn meta(&mut self, key: u32, words: u32) {
        self.expressions.push(Raw::new(
            c"meta",
            [(sys::NFTNL_EXPR_META_KEY, key), (sys::NFTNL_EXPR_META_DREG, register(words))],
        ));
    }

    fn compare(&mut self, operation: u32, data: &[u8]) {
        let compare = Raw::new(
            c"cmp",
            [(sys::NFTNL_EXPR_CMP_SREG, uapi::NFT_REG_1), (sys::NFTNL_EXPR_CMP_OP, operation)],
        );
        self.expressions.push(compare.with(sys::NFTNL_EXPR_CMP_DATA, Value::Bytes(data.to_vec())));
    }

    fn bitwise(&mut self, mask: &[u8], xor: &[u8]) {
        let bitwise = Raw::new(
            c"bitwise",
            [
                (sys::NFTNL_EXPR_BITWISE_SREG, uapi::NFT_REG_1),
                (sys::NFTNL_EXPR_BITWISE_DREG, uapi::NFT_REG_1),
                (sys::NFTNL_EXPR_BITWISE_LEN, mask.len() as u32),
            ],
        );
        let bitwise = bitwise.with(sys::NFTNL_EXPR_BITWISE_MASK, Value::Bytes(mask.to_vec()));
        self.expressions
            .push(bitwise.with(sys::NFTNL_EXPR_BITWISE_XOR, Value::Bytes(xor.to_vec())));
    }

    fn payload(&mut self, base: u32, offset: u32, len: u32, words: u32) {
        self.expressions.push(Raw::new(
            c"payload",
            [
                (sys::NFTNL_EXPR_PAYLOAD_DREG, register(words)),
                (sys::NFTNL_EXPR_PAYLOAD_BASE, base),
                (sys::NFTNL_EXPR_PAYLOAD_OFFSET, offset),
                (sys::NFTNL_EXPR_PAYLOAD_LEN, len),
            ],
        ));
    }

    fn local_destination(&mut self) {
        self.expressions.push(Raw::new(
            c"fib",
            [
                (sys::NFTNL_EXPR_FIB_DREG, uapi::NFT_REG_1),
                (sys::NFTNL_EXPR_FIB_RESULT, uapi::NFT_FIB_RESULT_ADDRTYPE),
                (sys::NFTNL_EXPR_FIB_FLAGS, uapi::NFTA_FIB_F_DADDR),
            ],
        ));
        self.compare(uapi::NFT_CMP_EQ, &uapi::RTN_LOCAL.to_ne_bytes());
    }

    fn family(&mut self, family: Family) {
        if self.family != Some(family) {
            self.family = Some(family);
            self.meta(uapi::NFT_META_NFPROTO, 0);
            self.compare(uapi::NFT_CMP_EQ, &[nfproto(family) as u8]);
        }
    }

    /// Loads an address from the packet into the first register.
    fn address(&mut self, side: Side, family: Family) {
        let offset = match (family, side) {
            (Family::V4, Side::Source) => 12,
            (Family::V4, Side::Destination) => 16,
            (Family::V6, Side::Source) => 8,
            (Family::V6, Side::Destination) => 24,
        };
        self.payload(uapi::NFT_PAYLOAD_NETWORK_HEADER, offset, 4 * address_words(family), 0);
    }

    fn within(&mut self, side: Side, network: &IpNetwork) {
        let family = Family::of(&network.ip());
        self.family(family);
        self.address(side, family);
        let (address, mask) = match network {
            IpNetwork::V4(v4) => (v4.network().octets().to_vec(), v4.mask().octets().to_vec()),
            IpNetwork::V6(v6) => (v6.network().octets().to_vec(), v6.mask().octets().to_vec()),
        };
        if mask.iter().any(|byte| *byte != u8::MAX) {
            self.bitwise(&mask, &vec![0; mask.len()]);
        }
        self.compare(uapi::NFT_CMP_EQ, &address);
    }

    /// Loads the key of `set` and looks it up.
    fn lookup(&mut self, set: Set, result: Option<u32>) {
        self.family(set.family);
        let mut words = 0;
        if let Some(side) = set.key_address() {
            self.address(side, set.family);
            words = address_words(set.family);
        }
        self.meta(uapi::NFT_META_L4PROTO, words);
        // Destination port: bytes 2 and 3 of the TCP, UDP and SCTP headers alike.
        self.payload(uapi::NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, words + 1);
        let mut lookup = Raw::new(c"lookup", [(sys::NFTNL_EXPR_LOOKUP_SREG, uapi::NFT_REG_1)]);
        if let Some(register) = result {
            lookup = lookup.with(sys::NFTNL_EXPR_LOOKUP_DREG, Value::Number(register));
        }
        self.expressions
            .push(lookup.with(sys::NFTNL_EXPR_LOOKUP_SET, Value::Name(c_string(set.name()))));
    }

    fn dnat(&mut self, set: Set) {
        self.lookup(set, Some(uapi::NFT_REG_1));
        self.expressions.push(Raw::new(
            c"nat",
            [
                (sys::NFTNL_EXPR_NAT_TYPE, uapi::NFT_NAT_DNAT),
                (sys::NFTNL_EXPR_NAT_FAMILY, nfproto(set.family)),
                (sys::NFTNL_EXPR_NAT_REG_ADDR_MIN, uapi::NFT_REG_1),
                (sys::NFTNL_EXPR_NAT_REG_PROTO_MIN, register(address_words(set.family))),
            ],
        ));
    }

    fn mark(&mut self, mask: u32, xor: u32) {
        self.meta(uapi::NFT_META_MARK, 0);
        self.bitwise(&mask.to_ne_bytes(), &xor.to_ne_bytes());
        self.expressions.push(Raw::new(
            c"meta",
            [
                (sys::NFTNL_EXPR_META_KEY, uapi::NFT_META_MARK),
                (sys::NFTNL_EXPR_META_SREG, uapi::NFT_REG_1),
            ],
        ));
    }

    fn verdict(&mut self, verdict: i32, chain: Option<&String>) {
        let immediate = Raw::new(
            c"immediate",
            [
                (sys::NFTNL_EXPR_IMM_DREG, uapi::NFT_REG_VERDICT),
                (sys::NFTNL_EXPR_IMM_VERDICT, verdict.cast_unsigned()),
            ],
        );
        self.expressions.push(match chain {
            Some(chain) => immediate.with(sys::NFTNL_EXPR_IMM_CHAIN, Value::Name(c_string(chain))),
            None => immediate,
        });
    }
}
