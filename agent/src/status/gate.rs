//! Whether a Pod's program listens, as the condition has it: each look counts, and one alone changes little.

use std::time::{Duration, Instant};

/// The pause between two looks while something is about to change.
const SOON: Duration = Duration::from_secs(1);

/// The same for a program that listens, or that does not for long: kubelet's own period.
const LATER: Duration = Duration::from_secs(10);

/// After so many looks at a Pod that does not listen, it is looked at less often.
const PATIENT: u32 = 60;

/// So many looks in a row must differ from the condition that has been true before, as with kubelet's probes.
const IN_A_ROW: u32 = 3;

/// What a Pod's condition has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub listens: bool,
    /// Which port lacks a listener; empty where none does.
    pub message: String,
}

/// The looks at one Pod.
#[derive(Clone, Debug)]
pub struct Gate {
    verdict: Option<Verdict>,
    /// Whether it has ever listened.
    was_open: bool,
    /// How many looks in a row have differed from the verdict.
    against: u32,
    /// How many looks there were since the verdict.
    looks: u32,
    due: Option<Instant>,
}

impl Gate {
    /// That of a Pod that carries this condition.
    pub fn new(carried: Option<bool>) -> Self {
        let listens = carried == Some(true);
        let verdict = listens.then(|| Verdict { listens, message: String::new() });
        Self { verdict, was_open: listens, against: 0, looks: 0, due: None }
    }

    /// What the condition should have; `None` before the first look.
    pub fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }

    pub fn is_due(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| due <= now)
    }

    /// A look has found this. Gives whether the verdict has changed.
    pub fn look(&mut self, found: Verdict, now: Instant) -> bool {
        self.looks = self.looks.saturating_add(1);
        let listened = self.verdict.as_ref().map(|verdict| verdict.listens);
        self.against = if listened == Some(found.listens) { 0 } else { self.against + 1 };
        let needed = if self.was_open { IN_A_ROW } else { 1 };
        let changes = self.against >= needed;
        if changes {
            self.was_open |= found.listens;
            (self.against, self.looks) = (0, 0);
            self.verdict = Some(found);
        }
        let is_calm =
            self.verdict.as_ref().is_some_and(|verdict| verdict.listens) || self.looks > PATIENT;
        let pause = if is_calm && self.against == 0 { LATER } else { SOON };
        self.due = Some(now + pause);
        changes
    }
}
