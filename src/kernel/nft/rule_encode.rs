//! Rules as the expressions of the kernel's virtual machine.
//!
//! Registers: nft(8) numbers a key's parts in words of 32 bits from `NFT_REG32_00`; the kernel
//! names every fourth of them by its older 128-bit name when it lists a rule. The same names are
//! used here, so that what is sent equals what is listed.

use std::ffi::CStr;

use ipnetwork::IpNetwork;
use nftnl::nftnl_sys as sys;

use super::encode::{Encoder, Raw, address_words};
use super::message::{number_of, octets};
use crate::kernel::uapi;
use crate::model::Family;
use crate::ruleset::{FLOWTABLE, Rule, Set, Side, Term};

/// The register that begins `words` words of 32 bits after the first.
const fn register(words: u32) -> u32 {
    match words % 4 {
        0 => uapi::NFT_REG_1 + words / 4,
        _ => uapi::NFT_REG32_00 + words,
    }
}

impl Encoder {
    /// A rule of `chain`.
    pub(super) fn rule(&mut self, chain: &str, rule: &Rule) -> &[u8] {
        let mut encoding = RuleEncoding { expressions: Vec::new(), family: None };
        for term in &rule.terms {
            encoding.term(term);
        }
        self.expressions(chain, &encoding.expressions)
    }
}

struct RuleEncoding {
    expressions: Vec<Raw>,
    /// The family that the rule has already made sure of.
    family: Option<Family>,
}

impl RuleEncoding {
    fn term(&mut self, term: &Term) {
        match term {
            Term::ToOtherAddress => self.other_destination(),
            Term::Family(family) => self.family(*family),
            Term::Within(side, network) => self.within(*side, network),
            Term::In(set) => self.lookup(*set, None),
            Term::Translated => {
                self.ct_has(uapi::NFT_CT_STATUS, uapi::IPS_SRC_NAT | uapi::IPS_DST_NAT);
            }
            Term::FromEstablishedClient => {
                self.ct_has(uapi::NFT_CT_STATUS, uapi::IPS_DST_NAT);
                self.ct_has(uapi::NFT_CT_STATE, uapi::NF_CT_STATE_ESTABLISHED);
                self.ct(uapi::NFT_CT_DIRECTION);
                self.equals(&[uapi::IP_CT_DIR_ORIGINAL]);
            }
            Term::Offload => {
                let name = format!("{FLOWTABLE}\0");
                let table = (sys::NFTNL_EXPR_FLOW_TABLE_NAME, name.as_bytes());
                self.push(c"flow_offload", &[], &[table]);
            }
            Term::MarkHas(bit) => {
                self.meta(uapi::NFT_META_MARK, 0);
                self.bitwise(&(1_u32 << bit).to_ne_bytes(), &[0; 4]);
                self.equals(&(1_u32 << bit).to_ne_bytes());
            }
            Term::MarkSet(bit) => self.mark(!(1 << bit), 1 << bit),
            Term::MarkClear(bit) => self.mark(!(1 << bit), 0),
            Term::Dnat(set) => self.dnat(*set),
            Term::Masquerade => self.push(c"masq", &[], &[]),
            Term::Drop => self.verdict(uapi::NF_DROP, None),
            Term::Accept => self.verdict(uapi::NF_ACCEPT, None),
            Term::Return => self.verdict(uapi::NFT_RETURN, None),
            Term::Jump(chain) => self.verdict(uapi::NFT_JUMP, Some(chain)),
            Term::Goto(chain) => self.verdict(uapi::NFT_GOTO, Some(chain)),
        }
    }

    fn push(&mut self, name: &'static CStr, numbers: &[(u32, u32)], bytes: &[(u32, &[u8])]) {
        self.expressions.push(Raw::new(name, numbers, bytes));
    }

    fn meta(&mut self, key: u32, words: u32) {
        let to = (sys::NFTNL_EXPR_META_DREG, register(words));
        self.push(c"meta", &[(sys::NFTNL_EXPR_META_KEY, key), to], &[]);
    }

    fn ct(&mut self, key: u32) {
        let to = (sys::NFTNL_EXPR_CT_DREG, uapi::NFT_REG_1);
        self.push(c"ct", &[(sys::NFTNL_EXPR_CT_KEY, key), to], &[]);
    }

    /// Goes on only where what is tracked of the connection has one of these bits.
    fn ct_has(&mut self, key: u32, bits: u32) {
        self.ct(key);
        self.bitwise(&bits.to_ne_bytes(), &[0; 4]);
        self.compare(uapi::NFT_CMP_NEQ, &[0; 4]);
    }

    /// Goes on only where the first register has this value.
    fn equals(&mut self, data: &[u8]) {
        self.compare(uapi::NFT_CMP_EQ, data);
    }

    fn compare(&mut self, operation: u32, data: &[u8]) {
        let numbers =
            [(sys::NFTNL_EXPR_CMP_SREG, uapi::NFT_REG_1), (sys::NFTNL_EXPR_CMP_OP, operation)];
        self.push(c"cmp", &numbers, &[(sys::NFTNL_EXPR_CMP_DATA, data)]);
    }

    fn bitwise(&mut self, mask: &[u8], xor: &[u8]) {
        let numbers = [
            (sys::NFTNL_EXPR_BITWISE_SREG, uapi::NFT_REG_1),
            (sys::NFTNL_EXPR_BITWISE_DREG, uapi::NFT_REG_1),
            (sys::NFTNL_EXPR_BITWISE_LEN, mask.len() as u32),
        ];
        let operands = [(sys::NFTNL_EXPR_BITWISE_MASK, mask), (sys::NFTNL_EXPR_BITWISE_XOR, xor)];
        self.push(c"bitwise", &numbers, &operands);
    }

    fn payload(&mut self, base: u32, offset: u32, len: u32, words: u32) {
        let numbers = [
            (sys::NFTNL_EXPR_PAYLOAD_DREG, register(words)),
            (sys::NFTNL_EXPR_PAYLOAD_BASE, base),
            (sys::NFTNL_EXPR_PAYLOAD_OFFSET, offset),
            (sys::NFTNL_EXPR_PAYLOAD_LEN, len),
        ];
        self.push(c"payload", &numbers, &[]);
    }

    fn other_destination(&mut self) {
        let numbers = [
            (sys::NFTNL_EXPR_FIB_DREG, uapi::NFT_REG_1),
            (sys::NFTNL_EXPR_FIB_RESULT, uapi::NFT_FIB_RESULT_ADDRTYPE),
            (sys::NFTNL_EXPR_FIB_FLAGS, uapi::NFTA_FIB_F_DADDR),
        ];
        self.push(c"fib", &numbers, &[]);
        self.compare(uapi::NFT_CMP_NEQ, &uapi::RTN_LOCAL.to_ne_bytes());
    }

    fn family(&mut self, family: Family) {
        if self.family != Some(family) {
            self.family = Some(family);
            self.meta(uapi::NFT_META_NFPROTO, 0);
            self.equals(&[number_of(family)]);
        }
    }

    /// Loads the first bytes of an address from the packet into the first register.
    fn address(&mut self, side: Side, family: Family, bytes: u32) {
        let offset = match (family, side) {
            (Family::V4, Side::Source) => 12,
            (Family::V4, Side::Destination) => 16,
            (Family::V6, Side::Source) => 8,
            (Family::V6, Side::Destination) => 24,
        };
        self.payload(uapi::NFT_PAYLOAD_NETWORK_HEADER, offset, bytes, 0);
    }

    fn within(&mut self, side: Side, network: &IpNetwork) {
        let family = Family::of(&network.ip());
        self.family(family);
        let (mut address, mut mask) = (octets(network.network()), octets(network.mask()));
        // As nft does it, so that CHECK knows a table that was saved and loaded again by nft: of a
        // prefix that ends with a byte only those bytes are compared.
        if network.prefix().is_multiple_of(8) {
            mask.truncate(usize::from(network.prefix() / 8));
            address.truncate(mask.len());
        }
        self.address(side, family, mask.len() as u32);
        if mask.iter().any(|byte| *byte != u8::MAX) {
            self.bitwise(&mask, &vec![0; mask.len()]);
        }
        self.equals(&address);
    }

    /// Loads the key of `set` and looks it up.
    fn lookup(&mut self, set: Set, result: Option<u32>) {
        if set == Set::GUARDED {
            self.meta(uapi::NFT_META_IIFNAME, 0);
        } else {
            self.port_key(set);
        }
        let to = result.map(|register| (sys::NFTNL_EXPR_LOOKUP_DREG, register));
        let from = (sys::NFTNL_EXPR_LOOKUP_SREG, uapi::NFT_REG_1);
        let numbers: Vec<_> = [from].into_iter().chain(to).collect();
        let name = format!("{set}\0");
        self.push(c"lookup", &numbers, &[(sys::NFTNL_EXPR_LOOKUP_SET, name.as_bytes())]);
    }

    fn port_key(&mut self, set: Set) {
        self.family(set.family);
        let mut words = 0;
        if let Some(side) = set.key_address() {
            words = address_words(set.family);
            self.address(side, set.family, 4 * words);
        }
        self.meta(uapi::NFT_META_L4PROTO, words);
        // Destination port: bytes 2 and 3 of the TCP, UDP and SCTP headers alike.
        self.payload(uapi::NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, words + 1);
    }

    fn dnat(&mut self, set: Set) {
        self.lookup(set, Some(uapi::NFT_REG_1));
        let numbers = [
            (sys::NFTNL_EXPR_NAT_TYPE, uapi::NFT_NAT_DNAT),
            (sys::NFTNL_EXPR_NAT_FAMILY, number_of(set.family).into()),
            (sys::NFTNL_EXPR_NAT_REG_ADDR_MIN, uapi::NFT_REG_1),
            (sys::NFTNL_EXPR_NAT_REG_PROTO_MIN, register(address_words(set.family))),
        ];
        self.push(c"nat", &numbers, &[]);
    }

    fn mark(&mut self, mask: u32, xor: u32) {
        self.meta(uapi::NFT_META_MARK, 0);
        self.bitwise(&mask.to_ne_bytes(), &xor.to_ne_bytes());
        let from = (sys::NFTNL_EXPR_META_SREG, uapi::NFT_REG_1);
        self.push(c"meta", &[(sys::NFTNL_EXPR_META_KEY, uapi::NFT_META_MARK), from], &[]);
    }

    fn verdict(&mut self, verdict: i32, chain: Option<&str>) {
        let numbers = [
            (sys::NFTNL_EXPR_IMM_DREG, uapi::NFT_REG_VERDICT),
            (sys::NFTNL_EXPR_IMM_VERDICT, verdict.cast_unsigned()),
        ];
        let chain = chain.map(|chain| format!("{chain}\0"));
        let chain = chain.as_ref().map(|chain| (sys::NFTNL_EXPR_IMM_CHAIN, chain.as_bytes()));
        self.push(c"immediate", &numbers, chain.as_slice());
    }
}
