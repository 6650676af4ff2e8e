//! Rules as the expressions of the kernel's virtual machine.
//!
//! Registers: nft(8) numbers a key's parts in words of 32 bits from `NFT_REG32_00`; the kernel
//! names every fourth of them by its older 128-bit name when it lists a rule. The same names are
//! used here, so that what is sent equals what is listed.

use ipnetwork::IpNetwork;
use nftnl::nftnl_sys as sys;

use super::encode::{Encoder, Raw, Value, address_words, c_string};
use crate::kernel::uapi;
use crate::model::Family;
use crate::ruleset::{Rule, Set, Side, Term};

const fn nfproto(family: Family) -> u32 {
    match family {
        Family::V4 => uapi::NFPROTO_IPV4 as u32,
        Family::V6 => uapi::NFPROTO_IPV6 as u32,
    }
}

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
        for term in &rule.0 {
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
            Term::ToLocalAddress => self.local_destination(),
            Term::Family(family) => self.family(*family),
            Term::Within(side, network) => self.within(*side, network),
            Term::In(set) => self.lookup(*set, None),
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
        let (mut address, mut mask) = match network {
            IpNetwork::V4(v4) => (v4.network().octets().to_vec(), v4.mask().octets().to_vec()),
            IpNetwork::V6(v6) => (v6.network().octets().to_vec(), v6.mask().octets().to_vec()),
        };
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
        self.compare(uapi::NFT_CMP_EQ, &address);
    }

    /// Loads the key of `set` and looks it up.
    fn lookup(&mut self, set: Set, result: Option<u32>) {
        if set == Set::GUARDED {
            self.meta(uapi::NFT_META_IIFNAME, 0);
        } else {
            self.port_key(set);
        }
        let mut lookup = Raw::new(c"lookup", [(sys::NFTNL_EXPR_LOOKUP_SREG, uapi::NFT_REG_1)]);
        if let Some(register) = result {
            lookup = lookup.with(sys::NFTNL_EXPR_LOOKUP_DREG, Value::Number(register));
        }
        self.expressions
            .push(lookup.with(sys::NFTNL_EXPR_LOOKUP_SET, Value::Name(c_string(&set.to_string()))));
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
