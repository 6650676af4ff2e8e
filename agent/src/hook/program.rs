//! The programs of the hook: from the redirects of a pod to instructions. No I/O.
//!
//! Each is of the type `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`, which the kernel runs before it uses the address of a
//! system call. It sees a `struct bpf_sock_addr` and may change the address and the port in it. It always
//! permits the call.

use autoport::model::Protocol;

use super::assembler::{Assembler, Label, Point, Program, TooLong};
use super::instruction::Register::{R0, R1, R2, R3, R4, R6};
use super::instruction::{Condition, Instruction};
use super::redirect::Redirect;

/// The system call that a program changes; the numbers are those of `enum bpf_attach_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    Bind4 = 8,
    Bind6 = 9,
    Connect4 = 10,
    Connect6 = 11,
    Sendmsg4 = 14,
    Sendmsg6 = 15,
    Recvmsg4 = 19,
    Recvmsg6 = 20,
    Getsockname4 = 31,
    Getsockname6 = 32,
}

/// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`.
const CGROUP_SOCK_ADDR: u32 = 18;

impl From<Call> for Point {
    fn from(call: Call) -> Self {
        Self { kind: CGROUP_SOCK_ADDR, at: call as u32, name: "autoport_bind" }
    }
}

/// What is redirected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What programs are to get, at most [`MOST`](super::redirect::MOST).
    pub redirects: Vec<Redirect>,
    /// What programs attached earlier give in place of what was asked for, as redirects from there.
    pub earlier: Vec<Redirect>,
    /// Whether programs are told the port that they asked for.
    pub getsockname: bool,
}

/// The fields of `struct bpf_sock_addr` (linux/bpf.h).
mod field {
    pub(super) const IP4: i16 = 4;
    pub(super) const IP6: i16 = 8;
    /// In network byte order, in the first two bytes of four.
    pub(super) const PORT: i16 = 24;
    pub(super) const PROTOCOL: i16 = 36;
}

/// `bpf_get_netns_cookie`, of Linux 5.7; it needs no licence of the GPL.
const GET_NETNS_COOKIE: i32 = 122;

/// `IPPROTO_MPTCP`. Some calls are seen with the protocol of the whole connection, others with that of a part.
const MPTCP: i32 = 262;

/// The first byte of 127.0.0.0/8.
const LOOPBACK4: i32 = 127;

impl Call {
    /// Those that the plan needs.
    pub fn needed(plan: &Plan) -> Vec<Self> {
        use Call::{
            Bind4, Bind6, Connect4, Connect6, Getsockname4, Getsockname6, Recvmsg4, Recvmsg6,
            Sendmsg4, Sendmsg6,
        };
        if plan.redirects.is_empty() {
            return Vec::new();
        }
        let mut all = vec![Bind4, Bind6, Connect4, Connect6];
        if plan.redirects.iter().any(|redirect| redirect.protocol == Protocol::Udp) {
            all.extend([Sendmsg4, Sendmsg6, Recvmsg4, Recvmsg6]);
        }
        if plan.getsockname {
            all.extend([Getsockname4, Getsockname6]);
        }
        all
    }

    /// Whether it gives back the port that was asked for.
    const fn is_back(self) -> bool {
        use Call::{Getsockname4, Getsockname6, Recvmsg4, Recvmsg6};
        matches!(self, Recvmsg4 | Recvmsg6 | Getsockname4 | Getsockname6)
    }

    /// Whether it is about any address, as a server has it; otherwise about a loopback address.
    const fn is_about_any(self) -> bool {
        use Call::{Bind4, Bind6, Getsockname4, Getsockname6};
        matches!(self, Bind4 | Bind6 | Getsockname4 | Getsockname6)
    }

    const fn is_of_v6(self) -> bool {
        use Call::{Bind6, Connect6, Getsockname6, Recvmsg6, Sendmsg6};
        matches!(self, Bind6 | Connect6 | Sendmsg6 | Recvmsg6 | Getsockname6)
    }
}

/// The program for a call of processes in the network namespace with this cookie.
///
/// # Errors
/// [`TooLong`].
pub fn program(call: Call, plan: &Plan, netns: u64) -> Result<Program, TooLong> {
    let mut code = Assembler::default();
    let (store, end) = (code.label(), code.label());
    in_netns(&mut code, netns, end);
    if !call.is_about_any() {
        if call.is_of_v6() {
            loopback6(&mut code, end);
        } else {
            loopback4(&mut code, field::IP4, end);
        }
    }
    code.push(Instruction::Load(R2, field::PORT));
    code.push(Instruction::NetworkOrder16(R2));
    protocol(&mut code);
    let rules = rules(call, plan);
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let (mut of_it, next) =
            (rules.iter().filter(|rule| rule.protocol == protocol).peekable(), code.label());
        if of_it.peek().is_some() {
            code.jump_if(Condition::IsNot(R3, protocol.number().into()), next);
            of_it.for_each(|rule| apply(&mut code, *rule, store));
            code.jump(end);
        }
        code.place(next);
    }
    code.jump(end);
    code.place(store);
    code.push(Instruction::NetworkOrder16(R2));
    code.push(Instruction::Store(field::PORT, R2));
    code.place(end);
    code.push(Instruction::Set(R0, 1));
    code.push(Instruction::Exit);
    code.finish()
}

/// Goes to `end` in any other network namespace, which has all ports for itself. R6 is the context afterwards.
pub(super) fn in_netns(code: &mut Assembler, netns: u64, end: Label) {
    code.push(Instruction::Move(R6, R1));
    code.push(Instruction::Call(GET_NETNS_COOKIE));
    code.push(Instruction::SetWide(R1, netns));
    code.jump_if(Condition::Differ(R0, R1), end);
}

/// Goes to `other` unless the port in R2 is one of the run. Changes R4.
pub(super) fn in_run(code: &mut Assembler, first: u16, count: u16, other: Label) {
    if count == 1 {
        return code.jump_if(Condition::IsNot(R2, first.into()), other);
    }
    code.push(Instruction::Move(R4, R2));
    code.push(Instruction::Add(R4, -i32::from(first)));
    // Below the run it is negative, which is a large number without sign.
    code.jump_if(Condition::Above(R4, i32::from(count) - 1), other);
}

/// What is replaced by what, as redirects; the first that fits counts. Programs that were attached earlier run
/// before, so a port is mostly one that they give.
fn rules(call: Call, plan: &Plan) -> Vec<Redirect> {
    if !call.is_back() {
        return plan.earlier.iter().chain(&plan.redirects).copied().collect();
    }
    let back = |one: &Redirect| Redirect { named: one.given, given: one.named, ..*one };
    plan.redirects.iter().map(back).collect()
}

/// Goes to `end` unless the address is of 127.0.0.0/8, or 0.0.0.0, which connects to it too.
fn loopback4(code: &mut Assembler, at: i16, end: Label) {
    let is_loopback = code.label();
    code.push(Instruction::LoadByte(R2, at));
    code.jump_if(Condition::Is(R2, LOOPBACK4), is_loopback);
    code.push(Instruction::Load(R2, at));
    code.jump_if(Condition::IsNot(R2, 0), end);
    code.place(is_loopback);
}

/// Goes to `end` unless the address is `::1`, `::`, or an IPv4 one as above in IPv6.
fn loopback6(code: &mut Assembler, end: Label) {
    let (mapped, is_loopback) = (code.label(), code.label());
    let word = |place: i16| field::IP6 + 4 * place;
    for place in [0, 1] {
        code.push(Instruction::Load(R2, word(place)));
        code.jump_if(Condition::IsNot(R2, 0), end);
    }
    code.push(Instruction::Load(R2, word(2)));
    code.jump_if(Condition::IsNot(R2, 0), mapped);
    code.push(Instruction::Load(R2, word(3)));
    code.jump_if(Condition::Is(R2, 0), is_loopback);
    code.jump_if(Condition::Is(R2, 1_i32.to_be()), is_loopback);
    code.jump(end);
    code.place(mapped);
    code.push(Instruction::LoadHalf(R2, word(2)));
    code.jump_if(Condition::IsNot(R2, 0), end);
    code.push(Instruction::LoadHalf(R2, word(2) + 2));
    code.jump_if(Condition::IsNot(R2, 0xffff), end);
    loopback4(code, word(3), end);
    code.place(is_loopback);
}

fn protocol(code: &mut Assembler) {
    let is_part = code.label();
    code.push(Instruction::Load(R3, field::PROTOCOL));
    code.jump_if(Condition::IsNot(R3, MPTCP), is_part);
    code.push(Instruction::Set(R3, Protocol::Tcp.number().into()));
    code.place(is_part);
}

/// If the port in R2 is one of the redirect, changes it and goes to `store`. Otherwise changes no register but R4.
fn apply(code: &mut Assembler, redirect: Redirect, store: Label) {
    let Redirect { named, given, count, .. } = redirect;
    let other = code.label();
    in_run(code, named, count, other);
    if count == 1 {
        code.push(Instruction::Set(R2, given.into()));
    } else {
        code.push(Instruction::Add(R2, i32::from(given) - i32::from(named)));
    }
    code.jump(store);
    code.place(other);
}
