//! Instructions of eBPF, as far as the hook needs them: their bytes, and their text as the kernel's verifier
//! and bpftool write it.

use std::fmt;

/// A register of 64 bits. A call changes R0 to R5; R6 to R9 survive it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    R0 = 0,
    R1 = 1,
    R2 = 2,
    R3 = 3,
    R4 = 4,
    R6 = 6,
    R7 = 7,
}

/// One instruction. A distance counts slots from the next instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instruction {
    Move(Register, Register),
    Set(Register, i32),
    /// Takes two slots.
    SetWide(Register, u64),
    Add(Register, i32),
    /// Swaps the two low bytes where the machine is little-endian, and clears the rest.
    NetworkOrder16(Register),
    /// Loads 32 bits from R6 and this offset.
    Load(Register, i16),
    /// Loads a byte.
    LoadByte(Register, i16),
    /// Loads 16 bits.
    LoadHalf(Register, i16),
    /// Stores 32 bits at R6 and this offset.
    Store(i16, Register),
    Call(i32),
    Jump(i16),
    JumpIf(Condition, i16),
    Exit,
}

/// When a jump is made; numbers are compared without sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Is(Register, i32),
    IsNot(Register, i32),
    Differ(Register, Register),
    Same(Register, Register),
    Above(Register, i32),
}

/// The size of a slot in bytes.
pub(super) const SLOT: usize = 8;

impl Instruction {
    /// How many slots it takes.
    pub(super) const fn slots(self) -> usize {
        if matches!(self, Self::SetWide(..)) { 2 } else { 1 }
    }

    /// Its bytes, as the kernel of this machine reads them.
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        use Register::{R0, R6};
        let mut slot = |code, to, from, offset, number| encode(out, code, to, from, offset, number);
        match self {
            Self::Move(to, from) => slot(0xbf, to, from, 0, 0),
            Self::Set(to, number) => slot(0xb7, to, R0, 0, number),
            Self::SetWide(to, number) => {
                slot(0x18, to, R0, 0, number as i32);
                slot(0, R0, R0, 0, (number >> 32) as i32);
            }
            Self::Add(to, number) => slot(0x07, to, R0, 0, number),
            Self::NetworkOrder16(to) => slot(0xdc, to, R0, 0, 16),
            Self::Load(to, offset) => slot(0x61, to, R6, offset, 0),
            Self::LoadByte(to, offset) => slot(0x71, to, R6, offset, 0),
            Self::LoadHalf(to, offset) => slot(0x69, to, R6, offset, 0),
            Self::Store(offset, from) => slot(0x63, R6, from, offset, 0),
            Self::Call(helper) => slot(0x85, R0, R0, 0, helper),
            Self::Jump(distance) => slot(0x05, R0, R0, distance, 0),
            Self::JumpIf(Condition::Is(one, number), distance) => {
                slot(0x15, one, R0, distance, number);
            }
            Self::JumpIf(Condition::IsNot(one, number), distance) => {
                slot(0x55, one, R0, distance, number);
            }
            Self::JumpIf(Condition::Differ(one, other), distance) => {
                slot(0x5d, one, other, distance, 0);
            }
            Self::JumpIf(Condition::Same(one, other), distance) => {
                slot(0x1d, one, other, distance, 0);
            }
            Self::JumpIf(Condition::Above(one, number), distance) => {
                slot(0x25, one, R0, distance, number);
            }
            Self::Exit => slot(0x95, R0, R0, 0, 0),
        }
    }
}

/// Appends a slot: `struct bpf_insn` of linux/bpf.h, whose bit fields are in the order of the machine.
fn encode(out: &mut Vec<u8>, code: u8, to: Register, from: Register, offset: i16, number: i32) {
    let (to, from) = (to as u8, from as u8);
    let registers = if cfg!(target_endian = "little") { to | from << 4 } else { to << 4 | from };
    out.extend([code, registers]);
    out.extend(offset.to_ne_bytes());
    out.extend(number.to_ne_bytes());
}

impl fmt::Display for Register {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "r{}", *self as u8)
    }
}

impl fmt::Display for Instruction {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Move(to, from) => write!(out, "{to} = {from}"),
            Self::Set(to, number) => write!(out, "{to} = {number}"),
            Self::SetWide(to, number) => write!(out, "{to} = {number:#x} ll"),
            Self::Add(to, number) => write!(out, "{to} += {number}"),
            Self::NetworkOrder16(to) => write!(out, "{to} = be16 {to}"),
            Self::Load(to, offset) => write!(out, "{to} = *(u32 *)(r6 +{offset})"),
            Self::LoadByte(to, offset) => write!(out, "{to} = *(u8 *)(r6 +{offset})"),
            Self::LoadHalf(to, offset) => write!(out, "{to} = *(u16 *)(r6 +{offset})"),
            Self::Store(offset, from) => write!(out, "*(u32 *)(r6 +{offset}) = {from}"),
            Self::Call(helper) => write!(out, "call {helper}"),
            Self::Jump(distance) => write!(out, "goto pc{distance:+}"),
            Self::JumpIf(condition, distance) => write!(out, "if {condition} goto pc{distance:+}"),
            Self::Exit => write!(out, "exit"),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(one, number) => write!(out, "{one} == {number:#x}"),
            Self::IsNot(one, number) => write!(out, "{one} != {number:#x}"),
            Self::Differ(one, other) => write!(out, "{one} != {other}"),
            Self::Same(one, other) => write!(out, "{one} == {other}"),
            Self::Above(one, number) => write!(out, "{one} > {number:#x}"),
        }
    }
}
