//! The program of the port guard: from the guarded ports and their holders to instructions. No I/O.
//!
//! It is of the type `BPF_PROG_TYPE_CGROUP_SOCK`, which the kernel runs when a socket has got its port and before
//! `bind` returns. It sees a `struct bpf_sock`, with the port that the programs of the bind hook have given, and
//! the kernel takes the port back where it refuses.

use autoport::model::Protocol;

use super::assembler::{Assembler, Label, Point, Program, TooLong};
use super::instruction::Register::{R0, R1, R2, R3, R7};
use super::instruction::{Condition, Instruction};
use super::program::{in_netns, in_run};

/// The family of a socket; the numbers are those of `enum bpf_attach_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4 = 12,
    V6 = 13,
}

pub(super) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// `BPF_PROG_TYPE_CGROUP_SOCK`.
const CGROUP_SOCK: u32 = 9;

impl From<Family> for Point {
    fn from(family: Family) -> Self {
        Self { kind: CGROUP_SOCK, at: family as u32, name: "autoport_guard" }
    }
}

/// Ports that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    pub first: u16,
    pub count: u16,
}

/// Ports of one protocol that the processes below a cgroup may bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Held {
    pub(super) protocol: Protocol,
    /// The number of the cgroup.
    pub(super) cgroup: u64,
    pub(super) run: Run,
}

/// What is refused, and to whom it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Guarded {
    /// At least one: the verifier takes no instruction that is never reached.
    pub(super) runs: Vec<Run>,
    /// Sorted.
    pub(super) held: Vec<Held>,
}

/// The fields of `struct bpf_sock` (linux/bpf.h).
mod field {
    pub(super) const PROTOCOL: i16 = 12;
    /// In the order of the machine.
    pub(super) const PORT: i16 = 44;
}

/// `bpf_get_current_ancestor_cgroup_id`, of Linux 5.7, and `bpf_set_retval`, of Linux 5.18.
const ANCESTOR: i32 = 123;
const SET_RETVAL: i32 = 187;

const EADDRINUSE: i32 = 98;

/// How deep below the root the cgroup of a pod can be. The kernel counts from its own root: a node that is a
/// container does not see how far away that is.
const DEPTH: i32 = 12;

/// The program for processes in the network namespace with this cookie. It refuses with EADDRINUSE if the kernel
/// lets it choose, or else with EPERM.
///
/// # Errors
/// [`TooLong`].
pub(super) fn refusal(guarded: &Guarded, netns: u64, chooses: bool) -> Result<Program, TooLong> {
    let mut code = Assembler::default();
    let [is_guarded, is_held, refuse, permit] = [(); 4].map(|()| code.label());
    in_netns(&mut code, netns, permit);
    code.push(Instruction::Load(R2, field::PORT));
    for run in &guarded.runs {
        let other = code.label();
        in_run(&mut code, run.first, run.count, other);
        code.jump(is_guarded);
        code.place(other);
    }
    code.jump(permit);
    code.place(is_guarded);
    code.push(Instruction::Load(R3, field::PROTOCOL));
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let next = code.label();
        code.jump_if(Condition::IsNot(R3, protocol.number().into()), next);
        for held in guarded.held.iter().filter(|held| held.protocol == protocol) {
            let other = code.label();
            in_run(&mut code, held.run.first, held.run.count, other);
            code.push(Instruction::SetWide(R7, held.cgroup));
            code.jump(is_held);
            code.place(other);
        }
        code.jump(refuse);
        code.place(next);
    }
    code.jump(permit);
    if !guarded.held.is_empty() {
        code.place(is_held);
        below_cgroup(&mut code, permit);
    }
    code.place(refuse);
    if chooses {
        code.push(Instruction::Set(R1, -EADDRINUSE));
        code.push(Instruction::Call(SET_RETVAL));
    }
    code.push(Instruction::Set(R0, 0));
    code.push(Instruction::Exit);
    code.place(permit);
    code.push(Instruction::Set(R0, 1));
    code.push(Instruction::Exit);
    code.finish()
}

/// Goes to `permit` if the process is in the cgroup of R7, or below.
fn below_cgroup(code: &mut Assembler, permit: Label) {
    for level in 1..=DEPTH {
        code.push(Instruction::Set(R1, level));
        code.push(Instruction::Call(ANCESTOR));
        code.jump_if(Condition::Same(R0, R7), permit);
    }
}
