//! The rules of iptables-legacy, which netlink does not show, from the text of iptables-legacy-save.

use std::iter::Peekable;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::SplitWhitespace;

use ipnetwork::IpNetwork;

use crate::kernel::{
    ChainName, Does, Hook, Hooked, Marks, OtherChain, OtherRule, Others, Source, Space, Step, back,
    masked, some_bit,
};
use crate::model::Family;

/// Where the built-in chains are: the table, its priority, and that of `nat` behind routing.
const TABLES: [(&str, i32); 5] =
    [("raw", -300), ("mangle", -150), ("nat", -100), ("filter", 0), ("security", 50)];

const HOOKS: [(&str, Hook); 5] = [
    ("PREROUTING", Hook::Prerouting),
    ("INPUT", Hook::Input),
    ("FORWARD", Hook::Forward),
    ("OUTPUT", Hook::Output),
    ("POSTROUTING", Hook::Postrouting),
];

/// `NFT_META_*` and `NFT_CT_*`, which the rules of nftables name by the same numbers.
const MARK: u32 = 3;
const IIFNAME: u32 = 6;
const OIFNAME: u32 = 7;
const L4PROTO: u32 = 16;
const CT_DIRECTION: u32 = 1;
const CT_MARK: u32 = 3;
const CT_SRC: u32 = 8;
const CT_DST: u32 = 9;
const CT_SRC_PORT: u32 = 11;
const CT_DST_PORT: u32 = 12;
const EQUAL: u32 = 0;
const DIFFERS: u32 = 1;

/// Reads what iptables-legacy-save, or ip6tables-legacy-save, printed into `others`.
pub(super) fn read(family: Family, text: &str, others: &mut Others) {
    let space = match family {
        Family::V4 => Space::Ip,
        Family::V6 => Space::Ip6,
    };
    let mut table = "";
    let name = |table: &str, chain: &str| ChainName {
        space,
        table: format!("{table} (iptables-legacy)"),
        chain: chain.to_owned(),
    };
    for line in text.lines() {
        if let Some(begins) = line.strip_prefix('*') {
            table = begins.trim();
        } else if let Some(chain) = line.strip_prefix(':') {
            let mut words = chain.split_whitespace();
            let (chain, policy) = (words.next().unwrap_or_default(), words.next());
            let hooked = hooked(table, chain, policy == Some("DROP"));
            others.chains.insert(name(table, chain), OtherChain { hooked, rules: Vec::new() });
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let (chain, rest) = rule.split_once(' ').unwrap_or((rule, ""));
            if let Some(chain) = others.chains.get_mut(&name(table, chain)) {
                chain.rules.push(read_rule(family, rest));
            }
        }
    }
}

fn hooked(table: &str, chain: &str, drops: bool) -> Option<Hooked> {
    let (_, hook) = HOOKS.iter().find(|(name, _)| *name == chain)?;
    let (kind, priority) = TABLES.iter().find(|(name, _)| *name == table)?;
    let is_late = *kind == "nat" && matches!(hook, Hook::Input | Hook::Postrouting);
    let priority = if is_late { 100 } else { *priority };
    let kind = if *kind == "nat" { "nat" } else { "filter" }.to_owned();
    Some(Hooked { kind, hook: *hook, priority, drops, devices: Vec::new() })
}

type Words<'a> = Peekable<SplitWhitespace<'a>>;

fn read_rule(family: Family, rule: &str) -> OtherRule {
    let text = unquoted(rule);
    let mut words = text.split_whitespace().peekable();
    let (mut steps, mut module) = (Vec::new(), "");
    while let Some(word) = words.next() {
        let (word, is_so) =
            if word == "!" { (words.next().unwrap_or_default(), false) } else { (word, true) };
        match word {
            "-m" => {
                module = words.next().unwrap_or_default();
                let known = [
                    "tcp",
                    "udp",
                    "sctp",
                    "multiport",
                    "comment",
                    "addrtype",
                    "conntrack",
                    "state",
                    "mark",
                    "connmark",
                    "iprange",
                    "rpfilter",
                    "nfacct",
                ];
                if !known.contains(&module) {
                    steps.push(Step::Perhaps(format!("match {module}")));
                } else if module == "rpfilter" {
                    steps.extend(reverse_path(&mut words));
                }
            }
            "-j" | "-g" => {
                let target = words.next().unwrap_or_default();
                steps.extend(acting(word == "-g", target, &mut words));
                break;
            }
            _ => match condition(family, module, word, is_so, &mut words) {
                Some(more) => steps.extend(more),
                None => steps.push(Step::Perhaps(word.to_owned())),
            },
        }
    }
    OtherRule { steps, name: format!("rule {rule}") }
}

fn reverse_path(words: &mut Words<'_>) -> Vec<Step> {
    let (mut is_so, mut is_loose) = (true, false);
    while let Some(word) = words.next_if(|word| word.starts_with("--")) {
        is_so &= word != "--invert";
        is_loose |= word == "--loose";
    }
    if is_loose { vec![Step::Perhaps("match rpfilter --loose".to_owned())] } else { back(is_so) }
}

/// The steps of one option, whose values are the next words; `None` where it is not understood.
fn condition(
    family: Family,
    module: &str,
    word: &str,
    is_so: bool,
    words: &mut Words<'_>,
) -> Option<Vec<Step>> {
    if word == "--syn" {
        return Some(masked(Source::Transport(13), is_so, &[0x17], &[2]));
    }
    let value = words.next_if(|value| word == "--comment" || !value.starts_with('-'))?;
    let ports = |source, destination| {
        let runs: Option<Vec<_>> = value.split(',').map(run).collect();
        Some(vec![Step::Ports { source, destination, runs: runs?, inverted: !is_so }])
    };
    let (source, destination) = if family == Family::V4 { (12, 16) } else { (8, 24) };
    match word {
        "-s" => address(Source::Network(source), value, is_so),
        "-d" => address(Source::Network(destination), value, is_so),
        "-i" => Some(interface(IIFNAME, value, is_so)),
        "-o" => Some(interface(OIFNAME, value, is_so)),
        "-p" if value == "all" => Some(Vec::new()),
        "-p" => Some(masked(Source::Meta(L4PROTO), is_so, &[0xff], &[protocol(value)?])),
        "--dport" | "--dports" | "--destination-ports" => ports(false, true),
        "--sport" | "--sports" | "--source-ports" => ports(true, false),
        "--ports" => ports(true, true),
        "--tcp-flags" => {
            let with = tcp_flags(words.next()?)?;
            Some(masked(Source::Transport(13), is_so, &[tcp_flags(value)?], &[with]))
        }
        "--ctstate" | "--state" => Some(some_bit(Source::State, is_so, states(value)?)),
        word if word.starts_with("--ctorig") || word.starts_with("--ctrepl") => {
            of_tuple(word, value, is_so)
        }
        "--ctdir" => {
            let with = u8::from(value == "REPLY");
            Some(masked(Source::Connection(CT_DIRECTION, None), is_so, &[0xff], &[with]))
        }
        "--mark" => {
            let (with, mask) = mark(value)?;
            let of_packet = module == "mark";
            let from =
                if of_packet { Source::Meta(MARK) } else { Source::Connection(CT_MARK, None) };
            Some(masked(from, is_so, &mask.to_ne_bytes(), &with.to_ne_bytes()))
        }
        "--dst-type" => Some(some_bit(Source::Type(false), is_so, types(value)?)),
        "--src-type" => Some(some_bit(Source::Type(true), is_so, types(value)?)),
        "--src-range" => range(source, value, is_so),
        "--dst-range" => range(destination, value, is_so),
        "--comment" | "--nfacct-name" => Some(Vec::new()),
        _ => {
            // Its values are not known: they end where the next option begins.
            while words.next_if(|word| !word.starts_with('-') && *word != "!").is_some() {}
            None
        }
    }
}

/// What a connection looked like when it began, or what its answer looks like.
fn of_tuple(word: &str, value: &str, is_so: bool) -> Option<Vec<Step>> {
    let port = |key, direction| {
        let run = run(value)?;
        let [first, last] = [run.start(), run.end()].map(|port| port.to_be_bytes().to_vec());
        let load = Step::Load { from: Source::Connection(key, Some(direction)), len: 2, to: 0 };
        Some(vec![load, Step::Range { at: 0, first, last, inverted: !is_so }])
    };
    let of_connection =
        |key, direction| address(Source::Connection(key, Some(direction)), value, is_so);
    match word {
        "--ctorigsrc" => of_connection(CT_SRC, 0),
        "--ctorigdst" => of_connection(CT_DST, 0),
        "--ctreplsrc" => of_connection(CT_SRC, 1),
        "--ctrepldst" => of_connection(CT_DST, 1),
        "--ctorigsrcport" => port(CT_SRC_PORT, 0),
        "--ctorigdstport" => port(CT_DST_PORT, 0),
        "--ctreplsrcport" => port(CT_SRC_PORT, 1),
        "--ctrepldstport" => port(CT_DST_PORT, 1),
        _ => None,
    }
}

/// The steps of a target, whose options are the rest of the rule.
fn acting(is_goto: bool, target: &str, words: &mut Words<'_>) -> Vec<Step> {
    let option = |name: &str| {
        let mut rest = words.clone();
        rest.find(|word| *word == name)?;
        Some(rest.next().unwrap_or_default())
    };
    let does = match target {
        "ACCEPT" => Does::Accept,
        "DROP" | "REJECT" => Does::Drop,
        "RETURN" => Does::Return,
        "DNAT" => {
            Does::Translate(option("--to-destination").unwrap_or("another address").to_owned())
        }
        "REDIRECT" => Does::Translate("a port of this node".to_owned()),
        "MASQUERADE" | "SNAT" => Does::Masquerade,
        "NOTRACK" => return vec![Step::Untracked],
        "CT" if option("--notrack").is_some() => return vec![Step::Untracked],
        "CT" | "LOG" | "NFLOG" | "TRACE" | "TCPMSS" | "CLASSIFY" | "DSCP" | "TOS" | "CHECKSUM"
        | "AUDIT" | "SET" | "TEE" => return Vec::new(),
        "MARK" | "CONNMARK" => {
            let set = option("--set-xmark").or_else(|| option("--set-mark")).and_then(mark);
            let mask = |name| option(name).and_then(number).unwrap_or(u32::MAX);
            let (of_connection, of_packet) = (mask("--ctmask"), mask("--nfmask"));
            let marks = match (target, set) {
                ("MARK", Some((flip, mask))) => Some(Marks::Packet { keep: !mask, flip }),
                (_, Some((flip, mask))) => Some(Marks::Connection { keep: !mask, flip }),
                _ if option("--save-mark").is_some() => {
                    Some(Marks::Save { lose: of_connection, get: of_packet })
                }
                _ if option("--restore-mark").is_some() => {
                    Some(Marks::Restore { lose: of_packet, get: of_connection })
                }
                _ => None,
            };
            return vec![marks.map_or_else(|| Step::Does(unknown(target)), Step::Marks)];
        }
        "NFQUEUE" | "QUEUE" | "TPROXY" | "SYNPROXY" | "TTL" | "HL" | "NETMAP" | "ECN" | "HMARK" => {
            unknown(target)
        }
        chain if is_goto => Does::Goto(chain.to_owned()),
        chain => Does::Jump(chain.to_owned()),
    };
    vec![Step::Does(does)]
}

fn unknown(target: &str) -> Does {
    Does::Unknown(format!("target {target}"))
}

fn address(from: Source, value: &str, is_so: bool) -> Option<Vec<Step>> {
    let network: IpNetwork = value.parse().ok()?;
    let bytes = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    Some(masked(from, is_so, &bytes(network.mask()), &bytes(network.network())))
}

fn range(header: usize, value: &str, is_so: bool) -> Option<Vec<Step>> {
    let bytes = |text: &str| match text.parse().ok()? {
        IpAddr::V4(address) => Some(address.octets().to_vec()),
        IpAddr::V6(address) => Some(address.octets().to_vec()),
    };
    let (first, last) = value.split_once('-')?;
    let (first, last) = (bytes(first)?, bytes(last)?);
    let load = Step::Load { from: Source::Network(header), len: first.len(), to: 0 };
    Some(vec![load, Step::Range { at: 0, first, last, inverted: !is_so }])
}

/// The name of an interface, or how it begins.
fn interface(key: u32, name: &str, is_so: bool) -> Vec<Step> {
    let mut with = name.trim_end_matches('+').as_bytes().to_vec();
    if !name.ends_with('+') {
        with.push(0);
    }
    let how = if is_so { EQUAL } else { DIFFERS };
    vec![Step::Load { from: Source::Meta(key), len: 16, to: 0 }, Step::Compare { at: 0, how, with }]
}

fn protocol(text: &str) -> Option<u8> {
    let named = [
        ("tcp", 6),
        ("udp", 17),
        ("icmp", 1),
        ("ipv6-icmp", 58),
        ("sctp", 132),
        ("esp", 50),
        ("ah", 51),
        ("gre", 47),
        ("udplite", 136),
        ("dccp", 33),
        ("ipip", 94),
        ("igmp", 2),
    ];
    let named = named.iter().find(|(name, _)| *name == text).map(|(_, number)| *number);
    named.or_else(|| text.parse().ok())
}

fn tcp_flags(text: &str) -> Option<u8> {
    let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG"];
    text.split(',').try_fold(0, |flags, name| match name {
        "NONE" => Some(flags),
        "ALL" => Some(0x3f),
        _ => Some(flags | 1 << names.iter().position(|known| *known == name)?),
    })
}

fn states(text: &str) -> Option<u32> {
    text.split(',').try_fold(0, |states, name| {
        let bit = match name {
            "INVALID" => 0,
            "ESTABLISHED" => 1,
            "RELATED" => 2,
            "NEW" => 3,
            "SNAT" => 6,
            "DNAT" => 7,
            "UNTRACKED" => 8,
            _ => return None,
        };
        Some(states | 1 << bit)
    })
}

fn types(text: &str) -> Option<u32> {
    let names = [
        "UNSPEC",
        "UNICAST",
        "LOCAL",
        "BROADCAST",
        "ANYCAST",
        "MULTICAST",
        "BLACKHOLE",
        "UNREACHABLE",
        "PROHIBIT",
    ];
    text.split(',').try_fold(0, |types, name| {
        Some(types | 1 << names.iter().position(|known| *known == name)?)
    })
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// `0x1/0xf`
fn mark(text: &str) -> Option<(u32, u32)> {
    match text.split_once('/') {
        Some((mark, of)) => Some((number(mark)?, number(of)?)),
        None => Some((number(text)?, u32::MAX)),
    }
}

/// The rule with `_` for each text in quotes, in which backslashes and quotes are behind a backslash.
fn unquoted(rule: &str) -> String {
    let rule = rule.replace(r"\\", "").replace(r#"\""#, "");
    rule.split('"').step_by(2).collect::<Vec<_>>().join("_")
}

fn run(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

#[cfg(test)]
mod tests;
