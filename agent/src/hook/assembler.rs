//! A program with labels, which jumps name before they are placed.

use std::fmt;

use super::instruction::{Condition, Instruction, SLOT};

/// A place in a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(usize);

/// An instruction whose jump is not resolved yet.
enum Line {
    Plain(Instruction),
    Jump(Label),
    JumpIf(Condition, Label),
}

/// A program that is being written.
#[derive(Default)]
pub(super) struct Assembler {
    lines: Vec<Line>,
    /// How many slots there are.
    slots: usize,
    /// The slot of each label, once it is placed.
    labels: Vec<Option<usize>>,
}

/// A program as the kernel takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program(Vec<Instruction>);

/// What the kernel runs a program for: `enum bpf_prog_type` and `enum bpf_attach_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) kind: u32,
    pub(super) at: u32,
    /// What the kernel shows of the program's owner, at most 15 bytes.
    pub(super) name: &'static str,
}

/// A jump is longer than 32,767 slots, or leads to no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the program is too long")]
pub struct TooLong;

impl Assembler {
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The next instruction is at `label`.
    pub(super) fn place(&mut self, label: Label) {
        self.labels[label.0] = Some(self.slots);
    }

    pub(super) fn push(&mut self, instruction: Instruction) {
        self.slots += instruction.slots();
        self.lines.push(Line::Plain(instruction));
    }

    pub(super) fn jump(&mut self, to: Label) {
        self.slots += 1;
        self.lines.push(Line::Jump(to));
    }

    pub(super) fn jump_if(&mut self, condition: Condition, to: Label) {
        self.slots += 1;
        self.lines.push(Line::JumpIf(condition, to));
    }

    /// Resolves the jumps.
    ///
    /// # Errors
    /// [`TooLong`].
    pub(super) fn finish(self) -> Result<Program, TooLong> {
        let mut next = 0;
        let mut program = Vec::with_capacity(self.lines.len());
        for line in self.lines {
            next += if let Line::Plain(instruction) = &line { instruction.slots() } else { 1 };
            let distance = |label: Label| {
                let place = self.labels[label.0].ok_or(TooLong)?;
                // The verifier rejects loops of older kernels, and nothing here needs one.
                i16::try_from(place.checked_sub(next).ok_or(TooLong)?).map_err(|_| TooLong)
            };
            program.push(match line {
                Line::Plain(instruction) => instruction,
                Line::Jump(label) => Instruction::Jump(distance(label)?),
                Line::JumpIf(condition, label) => Instruction::JumpIf(condition, distance(label)?),
            });
        }
        Ok(Program(program))
    }
}

impl Program {
    /// Its length in slots, as the kernel counts instructions.
    pub fn slots(&self) -> usize {
        self.0.iter().map(|instruction| instruction.slots()).sum()
    }

    /// Its bytes, as the kernel of this machine reads them.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.slots() * SLOT);
        self.0.iter().for_each(|instruction| instruction.encode(&mut bytes));
        bytes
    }
}

/// A listing: the number of each slot, and what is in it.
impl fmt::Display for Program {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut slot = 0;
        for instruction in &self.0 {
            writeln!(out, "{slot:4}: {instruction}")?;
            slot += instruction.slots();
        }
        Ok(())
    }
}
