//! Rules of other programs as steps, and what they come to for a packet that is known in part.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::does::Does;
use super::packet::{Byte, CLIENTS_PORTS, Packet};
use super::set::{Set, compare, equals, within};
use crate::kernel::netlink::message::address;
use crate::kernel::uapi;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Link(usize),
    Network(usize),
    Transport(usize),
    Meta(u32),
    Connection(u32, Option<u8>),
    /// The flags of the question, and which result.
    Route(u32, u32),
    /// What `xt_conntrack` takes for the state.
    State,
    /// A bit for the type of an address: of the source, or of the destination.
    Type(bool),
    /// A number below this one.
    Random(u32),
    Unknown,
}

/// A mark as it is computed: `(mark & keep) ^ flip`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    Packet {
        keep: u32,
        flip: u32,
    },
    Connection {
        keep: u32,
        flip: u32,
    },
    /// To the connection's: the bits that it loses, and those of the packet's that it gets.
    Save {
        lose: u32,
        get: u32,
    },
    /// To the packet's, likewise.
    Restore {
        lose: u32,
        get: u32,
    },
}

/// A step of a rule. Registers are counted in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Load {
        from: Source,
        len: usize,
        to: usize,
    },
    Constant {
        value: Vec<u8>,
        to: usize,
    },
    Mask {
        from: usize,
        to: usize,
        mask: Vec<u8>,
        flip: Vec<u8>,
    },
    /// Reverses the bytes of each number of `size` bytes.
    Swap {
        from: usize,
        to: usize,
        len: usize,
        size: usize,
    },
    /// `NFT_CMP_*`.
    Compare {
        at: usize,
        how: u32,
        with: Vec<u8>,
    },
    Range {
        at: usize,
        first: Vec<u8>,
        last: Vec<u8>,
        inverted: bool,
    },
    /// Some of the ports, source or destination, is in one of the runs.
    Ports {
        source: bool,
        destination: bool,
        runs: Vec<RangeInclusive<u16>>,
        inverted: bool,
    },
    /// The element's data goes to a register; that of a map of verdicts is what the rule does.
    Lookup {
        set: Arc<Set>,
        name: String,
        at: usize,
        inverted: bool,
        to: Option<usize>,
    },
    /// The registers with a mark for the packet, or for its connection.
    SetMark {
        at: usize,
        of_connection: bool,
    },
    Marks(Marks),
    Untracked,
    /// A condition that is not understood.
    Perhaps(String),
    /// Another destination, from these registers.
    Translate {
        address: Option<usize>,
        port: Option<usize>,
    },
    Does(Does),
}

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtherRule {
    pub steps: Vec<Step>,
    /// How the rule is found: its handle, or its text.
    pub name: String,
}

/// What a rule comes to for a packet.
#[derive(Debug, Default)]
pub struct Meeting {
    /// What it may do; nothing where it is not for the packet.
    pub does: Vec<Does>,
    /// Whether the rule may not be for the packet.
    pub may_skip: bool,
    /// What of the rule is not understood.
    pub doubt: Option<String>,
    /// The packet afterwards, where the rule changes it.
    pub after: Option<Packet>,
}

const REGISTERS: usize = 80;

struct Machine<'a> {
    packet: &'a Packet,
    registers: [Byte; REGISTERS],
    /// Where a number is that is random, and below which.
    random: Option<(usize, u32)>,
    meeting: Meeting,
}

impl OtherRule {
    /// What it comes to for `packet`.
    pub fn meet(&self, packet: &Packet) -> Meeting {
        let meeting = Meeting::default();
        let mut machine =
            Machine { packet, registers: [Byte::Unknown; REGISTERS], random: None, meeting };
        for step in &self.steps {
            match machine.step(step) {
                Some(false) => return Meeting::default(),
                Some(true) => {}
                None => {
                    machine.meeting.may_skip = true;
                    if machine.meeting.doubt.is_none() {
                        machine.meeting.doubt = doubt(step);
                    }
                }
            }
            if !machine.meeting.does.is_empty() {
                return machine.meeting;
            }
        }
        machine.meeting.does.push(Does::Nothing);
        machine.meeting
    }

    /// Whether it is for certain ports only.
    pub(super) fn is_for_ports(&self) -> bool {
        let is_of_port = |step: &Step| {
            matches!(
                step,
                Step::Load { from: Source::Transport(2), .. }
                    | Step::Ports { destination: true, .. }
            )
        };
        self.steps.iter().any(is_of_port)
    }
}

/// What is not understood of a step.
fn doubt(step: &Step) -> Option<String> {
    if let Step::Lookup { name, .. } = step {
        return Some(format!("set {name}"));
    }
    if let Step::Perhaps(what) = step { Some(what.clone()) } else { None }
}

impl Machine<'_> {
    /// Whether the rule goes on after it; `None` where that is not known.
    fn step(&mut self, step: &Step) -> Option<bool> {
        match step {
            Step::Load { from, len, to } => self.load(from, *len, *to),
            Step::Constant { value, to } => self.put(*to, value.iter().copied().map(Byte::Known)),
            Step::Mask { from, to, mask, flip } => {
                let masked = |byte: Byte, mask: u8, flip: u8| match (byte, mask) {
                    (_, 0) => Byte::Known(flip),
                    (byte, u8::MAX) if flip == 0 => byte,
                    (byte, mask) => byte.known().map(|byte| byte & mask ^ flip).into(),
                };
                let bytes = self.read(*from, mask.len()).to_vec();
                let pairs = mask.iter().zip(flip);
                let masked =
                    bytes.iter().zip(pairs).map(|(byte, (mask, flip))| masked(*byte, *mask, *flip));
                self.put(*to, masked.collect::<Vec<_>>().into_iter());
            }
            Step::Swap { from, to, len, size } => {
                let bytes = self.read(*from, *len).to_vec();
                let swapped = bytes.chunks(*size).flat_map(|number| number.iter().rev().copied());
                self.put(*to, swapped.collect::<Vec<_>>().into_iter());
            }
            Step::Compare { at, how, with } => return self.compare(*at, *how, with),
            Step::Range { at, first, last, inverted } => {
                let is_in = within(self.read(*at, first.len()), first, last)?;
                return Some(is_in != *inverted);
            }
            Step::Ports { source, destination, runs, inverted } => {
                return Some(self.ports(*source, *destination, runs)? != *inverted);
            }
            Step::Lookup { set, at, inverted, to, .. } => {
                return self.look_up(set, *at, *inverted, *to);
            }
            Step::SetMark { at, of_connection } => {
                let bytes: Option<Vec<u8>> =
                    self.read(*at, 4).iter().map(|byte| byte.known()).collect();
                let mark = bytes.and_then(|bytes| Some(u32::from_ne_bytes(bytes.try_into().ok()?)));
                let after = self.after();
                *(if *of_connection { &mut after.connection_mark } else { &mut after.mark }) = mark;
            }
            Step::Marks(marks) => self.marks(*marks),
            Step::Untracked => self.after().is_tracked = Some(false),
            Step::Perhaps(_) => return None,
            Step::Translate { address, port } => {
                let to = self.target(*address, *port);
                self.meeting.does.push(Does::Translate(to));
            }
            Step::Does(does) => self.meeting.does.push(does.clone()),
        }
        Some(true)
    }

    fn after(&mut self) -> &mut Packet {
        self.meeting.after.get_or_insert_with(|| self.packet.clone())
    }

    fn now(&self) -> &Packet {
        self.meeting.after.as_ref().unwrap_or(self.packet)
    }

    fn marks(&mut self, marks: Marks) {
        let (packet, connection) = (self.now().mark, self.now().connection_mark);
        let mixed = |old: Option<u32>, lose: u32, new: Option<u32>, get: u32| {
            let old = if lose == u32::MAX { Some(0) } else { old };
            Some((old? & !lose) ^ (new? & get))
        };
        let computed = |old: Option<u32>, keep: u32, flip: u32| {
            let old = if keep == 0 { Some(0) } else { old };
            Some((old? & keep) ^ flip)
        };
        let after = self.after();
        match marks {
            Marks::Packet { keep, flip } => after.mark = computed(packet, keep, flip),
            Marks::Connection { keep, flip } => {
                after.connection_mark = computed(connection, keep, flip);
            }
            Marks::Save { lose, get } => {
                after.connection_mark = mixed(connection, lose, packet, get);
            }
            Marks::Restore { lose, get } => after.mark = mixed(packet, lose, connection, get),
        }
    }

    fn read(&self, at: usize, len: usize) -> &[Byte] {
        let at = at.min(REGISTERS);
        &self.registers[at..(at + len).min(REGISTERS)]
    }

    fn put(&mut self, to: usize, bytes: impl Iterator<Item = Byte>) {
        for (slot, byte) in self.registers.iter_mut().skip(to).zip(bytes) {
            *slot = byte;
        }
    }

    fn load(&mut self, from: &Source, len: usize, to: usize) {
        let packet = self.now();
        let known = |bytes: Option<Vec<u8>>| -> Vec<Byte> {
            bytes.map_or_else(
                || vec![Byte::Unknown; 16],
                |bytes| bytes.into_iter().map(Byte::Known).collect(),
            )
        };
        let number = |number: Option<u32>| known(number.map(|it| it.to_ne_bytes().to_vec()));
        let mut random = None;
        let bytes: Vec<Byte> = match from {
            Source::Network(at) => (*at..at + len).map(|at| packet.network(at)).collect(),
            Source::Transport(at) => (*at..at + len).map(|at| packet.transport(at)).collect(),
            Source::Link(at) => {
                let kind = packet.ether_type().to_be_bytes();
                let byte =
                    |at: usize| Byte::from(at.checked_sub(12).and_then(|at| kind.get(at).copied()));
                (*at..at + len).map(byte).collect()
            }
            Source::Meta(key) => known(packet.meta(*key)),
            Source::Connection(key, direction) => known(packet.connection(*key, *direction)),
            Source::Route(flags, result) => known(packet.route(*flags, *result)),
            Source::State => number(packet.x_state()),
            Source::Type(of_source) => {
                let kind = if *of_source { packet.source_type } else { packet.destination_type };
                number(kind.and_then(|kind| 1_u32.checked_shl(kind)))
            }
            Source::Random(below) => {
                random = Some((to, *below));
                vec![Byte::Unknown; 4]
            }
            Source::Unknown => vec![Byte::Unknown; 16],
        };
        // What a register has behind the value is 0.
        let padding = bytes.len().next_multiple_of(4) - bytes.len();
        self.put(to, bytes.into_iter().chain(std::iter::repeat_n(Byte::Known(0), padding)));
        self.random = random;
    }

    fn compare(&self, at: usize, how: u32, with: &[u8]) -> Option<bool> {
        let known = self.read(at, with.len());
        let order = || compare(known, with);
        match how {
            uapi::NFT_CMP_EQ => equals(known, with),
            uapi::NFT_CMP_NEQ => equals(known, with).map(|equal| !equal),
            uapi::NFT_CMP_LT => order().map(std::cmp::Ordering::is_lt),
            uapi::NFT_CMP_LTE => order().map(std::cmp::Ordering::is_le),
            uapi::NFT_CMP_GT => order().map(std::cmp::Ordering::is_gt),
            uapi::NFT_CMP_GTE => order().map(std::cmp::Ordering::is_ge),
            _ => None,
        }
    }

    fn ports(&self, source: bool, destination: bool, runs: &[RangeInclusive<u16>]) -> Option<bool> {
        let tuple = self.packet.tuple;
        let asked = [(source, tuple.source_port), (destination, tuple.destination_port)];
        let mut certain = true;
        for (_, port) in asked.into_iter().filter(|(is_asked, _)| *is_asked) {
            match port {
                Some(port) if runs.iter().any(|run| run.contains(&port)) => return Some(true),
                Some(_) => {}
                None if runs.iter().all(|run| *run.end() < CLIENTS_PORTS) => {}
                None => certain = false,
            }
        }
        certain.then_some(false)
    }

    fn look_up(&mut self, set: &Set, at: usize, inverted: bool, to: Option<usize>) -> Option<bool> {
        let found = set.find(self.read(at, set.key_len));
        let all = self.random.is_some_and(|(random, below)| {
            random == at && found.elements.len() >= below as usize && found.elements.len() > 1
        });
        let is_sure = !found.may_miss || all;
        let Some(to) = to else {
            let is_in =
                if found.elements.is_empty() { Some(false) } else { is_sure.then_some(true) };
            return is_in.map(|is_in| is_in != inverted);
        };
        if found.elements.is_empty() {
            return Some(false);
        }
        let verdicts = found.elements.iter().filter_map(|element| element.verdict.clone());
        self.meeting.does.extend(verdicts);
        let data =
            |element: &super::set::Element| element.data.iter().copied().map(Byte::Known).collect();
        let mut data = found.elements.iter().map(|element| data(element));
        let mut common: Vec<Byte> = data.next().unwrap_or_default();
        for other in data {
            for (byte, other) in common.iter_mut().zip(other) {
                if *byte != other {
                    *byte = Byte::Unknown;
                }
            }
        }
        self.put(to, common.into_iter());
        if is_sure { Some(true) } else { None }
    }

    fn target(&self, at: Option<usize>, port: Option<usize>) -> String {
        let known = |at: usize, len: usize| -> Option<Vec<u8>> {
            self.read(at, len).iter().map(|byte| byte.known()).collect()
        };
        let len = if self.packet.family == crate::model::Family::V4 { 4 } else { 16 };
        let to = at.and_then(|at| address(&known(at, len)?));
        let port = port.and_then(|at| Some(u16::from_be_bytes(known(at, 2)?.try_into().ok()?)));
        target(to, port)
    }
}

/// A destination in words, where address or port may be unknown.
pub(super) fn target(address: Option<IpAddr>, port: Option<u16>) -> String {
    match (address, port) {
        (Some(address), Some(port)) => SocketAddr::new(address, port).to_string(),
        (Some(address), None) => address.to_string(),
        (None, Some(port)) => format!("port {port}"),
        (None, None) => "another address".to_owned(),
    }
}
