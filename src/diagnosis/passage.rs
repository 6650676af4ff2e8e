//! What the chains of other programs do with a packet: whether they drop it, translate it first, or keep it
//! from connection tracking. What is not understood is never taken for nothing.

use std::ops::RangeInclusive;

use crate::kernel::{ChainName, Does, Hook, Hooked, OtherRule, Others, Packet, Space, Tuple};

/// Chains that call each other deeper than the kernel allows.
const DEPTH: usize = 16;

/// More rules than this are not followed for one packet.
const RULES_MAX: usize = 2_000_000;

/// `NF_IP_PRI_CONNTRACK`: what comes before it sees no connections.
const CONNTRACK: i32 = -200;

/// `NF_IP_PRI_NAT_DST`, where all nat chains of the hook are, whatever their own priorities.
pub(super) const DSTNAT: i32 = -100;

/// `NF_IP_PRI_NAT_SRC`.
pub(super) const SRCNAT: i32 = 100;

/// What becomes of a packet in a chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Passage {
    #[default]
    Passes,
    /// It passes only if a rule accepts it that is not understood: the policy of this chain drops.
    Depends(String),
    /// This rule may drop it, or does something that is not understood.
    Perhaps(String),
    /// This rule, or the policy of this chain, drops it.
    Drops(String),
}

impl Passage {
    /// In words, about `what`.
    pub(super) fn about(&self, what: &str) -> String {
        match self {
            Self::Passes => format!("no chain drops {what}"),
            Self::Depends(at) => {
                format!("{at} drops everything except what some of its rules accept")
            }
            Self::Perhaps(at) => format!("{at} may drop {what}"),
            Self::Drops(at) => format!("{at} drops {what}"),
        }
    }
}

/// A rule that gives packets another destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) to: String,
    /// From the base chain to the one with the rule.
    pub(super) via: Vec<ChainName>,
    /// The rule in the last of them.
    pub(super) rule: String,
    pub(super) is_certain: bool,
}

/// What became of a packet.
#[derive(Clone, Debug, Default)]
pub(super) struct Walked {
    /// What stands in its way, worst first, with the base chain.
    pub(super) obstacle: Option<(ChainName, Passage)>,
    pub(super) taken: Option<Taken>,
    /// The rule that keeps it from connection tracking, and whether that is certain.
    pub(super) untracked: Option<(String, bool)>,
    /// Whether its source may be replaced.
    pub(super) is_masqueraded: bool,
}

/// Which chains are asked.
#[derive(Clone, Debug)]
pub(super) struct Stage<'a> {
    pub(super) hook: Hook,
    /// Of a bridge, instead of IP.
    pub(super) of_bridge: bool,
    /// The nat chains, or the others.
    pub(super) nat: bool,
    pub(super) priorities: RangeInclusive<i32>,
    /// For `ingress` and `egress`.
    pub(super) device: Option<&'a str>,
}

impl Stage<'_> {
    /// All chains of a hook of IP but those that translate.
    pub(super) const fn of(hook: Hook) -> Self {
        let priorities = i32::MIN..=i32::MAX;
        Self { hook, of_bridge: false, nat: false, priorities, device: None }
    }

    fn has(&self, name: &ChainName, hooked: &Hooked, packet: &Packet) -> bool {
        let is_on = |device: &str| hooked.devices.iter().any(|own| own == device);
        hooked.hook == self.hook
            && (name.space == Space::Bridge) == self.of_bridge
            && name.space.has(packet.family)
            && (hooked.kind == "nat") == self.nat
            && self.priorities.contains(&hooked.priority)
            && self.device.is_none_or(is_on)
    }
}

/// The base chains that are asked in `stage`, in their order.
pub(super) fn bases<'a>(
    others: &'a Others,
    stage: &Stage<'_>,
    packet: &Packet,
) -> Vec<(&'a ChainName, &'a Hooked)> {
    let chains = others.chains.iter();
    let bases = chains.filter_map(|(name, chain)| Some((name, chain.hooked.as_ref()?)));
    let mut bases: Vec<_> =
        bases.filter(|(name, hooked)| stage.has(name, hooked, packet)).collect();
    bases.sort_by_key(|(_, hooked)| hooked.priority);
    bases
}

/// Follows `packet` through the chains of `stage`, as far as it may get.
pub(super) fn walk(others: &Others, stage: &Stage<'_>, packet: &mut Packet) -> Walked {
    let mut seen = Walked::default();
    for (name, hooked) in bases(others, stage, packet) {
        let is_early = matches!(stage.hook, Hook::Prerouting | Hook::Output | Hook::Ingress)
            && hooked.priority < CONNTRACK
            || stage.of_bridge;
        let mut walker = Walker::new(others);
        let mut here = if is_early { without_connection(packet) } else { packet.clone() };
        if stage.of_bridge {
            // Bridges may track connections by themselves.
            here.state = None;
        }
        let passage = walker.base(name, hooked, here);
        if let Some(end) = walker.end {
            (packet.mark, packet.is_tracked) = (end.mark, end.is_tracked);
            if !is_early {
                packet.connection_mark = end.connection_mark;
                // What has a connection already keeps it.
                packet.is_tracked = Some(true);
            }
        }
        seen.is_masqueraded |= walker.masquerades;
        if is_early && packet.is_tracked != Some(true) {
            let is_certain = packet.is_tracked == Some(false);
            seen.untracked = seen.untracked.or(walker.untracks.map(|at| (at, is_certain)));
        }
        seen.taken = seen.taken.or(walker.taken);
        if passage != Passage::Passes && seen.obstacle.is_none() {
            seen.obstacle = Some((name.clone(), passage.clone()));
        }
        if seen.taken.is_some() {
            return seen;
        }
        if let Passage::Drops(_) = passage {
            seen.obstacle = Some((name.clone(), passage));
            return seen;
        }
    }
    seen
}

/// The packet as chains see it that come before connection tracking.
fn without_connection(packet: &Packet) -> Packet {
    Packet {
        state: Some(Packet::INVALID),
        status: None,
        is_answer: None,
        connection_mark: None,
        original: Tuple::default(),
        answer: Tuple::default(),
        ..packet.clone()
    }
}

struct Walker<'a> {
    others: &'a Others,
    /// The chains from the base to where it is.
    via: Vec<ChainName>,
    left: usize,
    drops: Option<(String, Option<String>)>,
    unknown: Option<String>,
    /// The packet where it may have left the chain, as far as all ways agree.
    end: Option<Packet>,
    /// The first rule that may be for the packet, or not.
    doubt: Option<String>,
    taken: Option<Taken>,
    untracks: Option<String>,
    masquerades: bool,
}

fn merge(one: &mut Option<Packet>, other: &Packet) {
    match one {
        Some(one) => one.merge(other),
        None => *one = Some(other.clone()),
    }
}

impl<'a> Walker<'a> {
    const fn new(others: &'a Others) -> Self {
        Self {
            others,
            via: Vec::new(),
            left: RULES_MAX,
            drops: None,
            unknown: None,
            end: None,
            doubt: None,
            taken: None,
            untracks: None,
            masquerades: false,
        }
    }

    fn base(&mut self, name: &ChainName, hooked: &Hooked, packet: Packet) -> Passage {
        let fell = self.chain(name, packet);
        let by_policy = fell.is_some() && hooked.drops;
        if let Some(packet) = fell.filter(|_| !hooked.drops) {
            merge(&mut self.end, &packet);
        }
        let passes = self.end.is_some() || self.taken.is_some();
        if let Some(taken) = &mut self.taken {
            taken.is_certain =
                self.end.is_none() && self.drops.is_none() && !by_policy && self.unknown.is_none();
        }
        let because = |at: String, what: Option<String>| match what {
            Some(what) => format!("{at} ({what})"),
            None => at,
        };
        if let Some(what) = self.unknown.take() {
            return Passage::Perhaps(what);
        }
        match (self.drops.take(), by_policy) {
            (None, false) => Passage::Passes,
            (Some((at, _)), _) if !passes => Passage::Drops(at),
            (None, true) if !passes => Passage::Drops(name.to_string()),
            (Some((at, what)), false) => Passage::Perhaps(because(at, what)),
            (_, true) => Passage::Depends(because(name.to_string(), self.doubt.take())),
        }
    }

    /// The packet where it returns from the chain, if it may.
    fn chain(&mut self, name: &ChainName, packet: Packet) -> Option<Packet> {
        let Some(chain) = self.others.chains.get(name).filter(|_| self.via.len() < DEPTH) else {
            return Some(packet);
        };
        self.via.push(name.clone());
        let (mut here, mut out) = (packet, None);
        for rule in &chain.rules {
            let Some(budget) = self.left.checked_sub(1) else {
                self.unknown.get_or_insert(format!("{name} has too many rules"));
                break;
            };
            self.left = budget;
            match self.rule(name, rule, &here, &mut out) {
                None => {}
                Some(Some(next)) => here = next,
                Some(None) => {
                    self.via.pop();
                    return out;
                }
            }
        }
        self.via.pop();
        merge(&mut out, &here);
        out
    }

    /// The packet behind a rule, if it may get there; the outer `None` where the rule is not for it.
    #[expect(clippy::option_option, reason = "not touched, and not let through, are two things")]
    fn rule(
        &mut self,
        name: &ChainName,
        rule: &OtherRule,
        here: &Packet,
        out: &mut Option<Packet>,
    ) -> Option<Option<Packet>> {
        let meeting = rule.meet(here);
        if meeting.does.is_empty() {
            return None;
        }
        let at = || format!("{name}, {}", rule.name);
        let matters = meeting.does.iter().any(|does| *does != Does::Nothing);
        let is_sure = !meeting.may_skip && meeting.does.len() == 1;
        if !is_sure && matters && self.doubt.is_none() {
            self.doubt = meeting.doubt.as_ref().map(|what| format!("{what} of {}", rule.name));
        }
        let after = meeting.after.as_ref().unwrap_or(here);
        if after.is_tracked != here.is_tracked {
            self.untracks.get_or_insert_with(at);
        }
        let mut next = meeting.may_skip.then(|| here.clone());
        for does in &meeting.does {
            match does {
                Does::Nothing => merge(&mut next, after),
                Does::Accept => merge(&mut self.end, after),
                Does::Masquerade => {
                    self.masquerades = true;
                    merge(&mut self.end, after);
                }
                Does::Drop => {
                    self.drops.get_or_insert_with(|| (at(), meeting.doubt.clone()));
                }
                Does::Return => merge(out, after),
                Does::Jump(chain) | Does::Goto(chain) => {
                    let chain = ChainName { chain: chain.clone(), ..name.clone() };
                    if let Some(back) = self.chain(&chain, after.clone()) {
                        let is_goto = matches!(does, Does::Goto(_));
                        merge(if is_goto { &mut *out } else { &mut next }, &back);
                    }
                }
                Does::Translate(to) => {
                    let (to, via, rule) = (to.clone(), self.via.clone(), rule.name.clone());
                    self.taken.get_or_insert(Taken { to, via, rule, is_certain: true });
                }
                Does::Unknown(what) => {
                    self.unknown.get_or_insert_with(|| format!("{} ({what})", at()));
                    merge(&mut next, after);
                }
            }
        }
        Some(next)
    }
}
