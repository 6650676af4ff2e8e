//! What is said when a range has no room.

use std::fmt;

use crate::model::{PortRange, Wish};

/// No number was left for a wish. The text begins with the reason that `KubeWharf`'s kubelet gave
/// (`OutOfHostPort`), which alerts look for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// The wish that could not be granted.
    pub wish: Wish,
    /// How many numbers the claim asks for in all.
    pub asked: usize,
    /// The range in its parts.
    pub ranges: Vec<PortRange>,
    /// How many of its numbers may be chosen.
    pub size: usize,
    /// How many of those somebody holds.
    pub held: usize,
    /// How many somebody gave back a short while ago.
    pub recent: usize,
    /// How many a process of the host listens on.
    pub busy: usize,
    /// How many the claim has for itself, by number or for its other wishes.
    pub own: usize,
}

impl std::error::Error for Exhausted {}

impl fmt::Display for Exhausted {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wish, asked, size, .. } = self;
        let list = |items: Vec<String>, between: &str| items.join(between);
        let protocols = list(wish.protocols.iter().map(ToString::to_string).collect(), "+");
        let ranges = list(self.ranges.iter().map(ToString::to_string).collect(), ", ");
        write!(out, "OutOfHostPort: ")?;
        match wish.count.get() {
            1 => write!(out, "no {protocols} port is left")?,
            count => write!(out, "no {count} {protocols} ports in a row are left")?,
        }
        if let Some(name) = &wish.name {
            write!(out, " for {name}")?;
        }
        let (name, numbers) = (wish.range_name(), if *size == 1 { "number" } else { "numbers" });
        write!(out, " in range {name} ({ranges}: {size} {numbers} to choose from")?;
        let counts = [
            (self.held, "held"),
            (self.recent, "recently released"),
            (self.busy, "with a listener on the host"),
            (self.own, "taken by this claim itself"),
        ];
        for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
            write!(out, ", {count} {what}")?;
        }
        write!(out, "); {asked} asked for in all")
    }
}
