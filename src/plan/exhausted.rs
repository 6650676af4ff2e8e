//! What is said when a range has no room.

use std::fmt;

use super::choice::Availability;
use crate::model::{PortRange, Request};

/// No number was left for a request. The text begins with the reason that `KubeWharf`'s kubelet gave
/// (`OutOfHostPort`), which alerts look for, unless the claim would not fit into the empty range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// The request that could not be granted.
    pub request: Request,
    /// How many numbers the claim asks for in all.
    pub asked: usize,
    pub ranges: Vec<PortRange>,
    /// Whether the range could not serve the claim either if none of its numbers were in use.
    pub never: bool,
    /// How many of its numbers may be chosen.
    pub size: usize,
    /// How many of those are held.
    pub held: usize,
    /// How many were released a short while ago.
    pub recent: usize,
    /// How many a process of the host listens on.
    pub busy: usize,
    /// How many the claim has for itself, by number or for its other requests.
    pub own: usize,
}

impl std::error::Error for Exhausted {}

impl Exhausted {
    pub(super) fn new(request: Request, asked: usize, ranges: Vec<PortRange>, never: bool) -> Self {
        Self { request, asked, ranges, never, size: 0, held: 0, recent: 0, busy: 0, own: 0 }
    }

    /// Counts a number of the range, by how it stands and whether the claim has it itself.
    pub(super) fn count(&mut self, worst: Availability, own: bool) {
        self.size += 1;
        match worst {
            _ if own => self.own += 1,
            Availability::Free => {}
            Availability::Recent => self.recent += 1,
            Availability::Held => self.held += 1,
            Availability::Busy => self.busy += 1,
        }
    }
}

impl fmt::Display for Exhausted {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { request, asked, size, .. } = self;
        let list = |items: Vec<String>, between: &str| items.join(between);
        let protocols = list(request.protocols.iter().map(ToString::to_string).collect(), "+");
        let ranges = list(self.ranges.iter().map(ToString::to_string).collect(), ", ");
        let (name, numbers) = (request.range_name(), if *size == 1 { "number" } else { "numbers" });
        let range = format!("range {name} ({ranges}: {size} {numbers} to choose from");
        let of = request.name.as_ref().map_or(String::new(), |name| format!(" for {name}"));
        let ports = match request.count.get() {
            1 => format!("{protocols} port"),
            count => format!("{count} {protocols} ports in a row"),
        };
        if self.never {
            return write!(
                out,
                "{asked} host ports are asked for in all, and {range}) is too small for them even \
                 when empty: it has no {ports}{of}; ask for fewer ports or name a larger range"
            );
        }
        let verb = if request.count.get() == 1 { "is" } else { "are" };
        write!(out, "OutOfHostPort: no {ports} {verb} left{of} in {range}")?;
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
