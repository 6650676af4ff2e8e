//! The commands that are cut short, for which pods, and what the runtime does next.

use std::fmt;

/// What the pod asks for, and where it is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) mappings: u16,
    pub(crate) dual: bool,
    /// Whether the node chooses the numbers, out of a range with no more than these.
    pub(crate) chosen: bool,
    /// Whether the state directory is on a disk.
    pub(crate) synced: bool,
}

impl Case {
    pub(crate) const fn of(mappings: u16, dual: bool) -> Self {
        Self { mappings, dual, chosen: false, synced: false }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stack = if self.dual { "dual-stack" } else { "IPv4" };
        let chosen = if self.chosen { " chosen" } else { "" };
        let synced = if self.synced { " synced" } else { "" };
        write!(out, "{}{chosen} {stack}{synced}", self.mappings)
    }
}

/// The command that is cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    /// The first that happens on the node.
    FirstAdd,
    /// With more mappings than before.
    GrowingAdd,
    /// With fewer.
    ShrinkingAdd,
    /// With some of them elsewhere.
    ChangingAdd,
    /// Under another configuration of the network.
    ReconfiguredAdd,
    /// Of a pod whose earlier sandbox has the ports.
    TakingOverAdd,
    Del,
    Gc,
    Repair,
}

impl Command {
    pub(crate) const REPEATED: [Self; 5] = [
        Self::GrowingAdd,
        Self::ShrinkingAdd,
        Self::ChangingAdd,
        Self::ReconfiguredAdd,
        Self::TakingOverAdd,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::FirstAdd => "first ADD",
            Self::GrowingAdd => "growing ADD",
            Self::ShrinkingAdd => "shrinking ADD",
            Self::ChangingAdd => "changing ADD",
            Self::ReconfiguredAdd => "reconfigured ADD",
            Self::TakingOverAdd => "taking over ADD",
            Self::Del => "DEL",
            Self::Gc => "GC",
            Self::Repair => "repair",
        }
    }
}

/// What the runtime does about a command that was cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follow {
    /// DEL, as the specification says.
    Delete,
    /// The same ADD, and then DEL.
    Again,
    /// GC that does not name the pod.
    Sweep,
}
