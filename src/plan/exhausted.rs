//! What is said when a range has no room.

use std::collections::BTreeMap;
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
    /// How many of those stand how, but for its own.
    pub stand: BTreeMap<Availability, usize>,
    /// How many the claim has for itself, by number or for its other requests.
    pub own: usize,
}

impl std::error::Error for Exhausted {}

impl fmt::Display for Exhausted {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { request, asked, size, .. } = self;
        let protocols = request.protocol_list();
        let ranges = self.ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
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
                "{asked} host ports are requested in total, and {range}) is too small for them even \
                 when empty: it has no {ports}{of}; ask for fewer ports or name a larger range"
            );
        }
        let verb = if request.count.get() == 1 { "is" } else { "are" };
        write!(out, "OutOfHostPort: no {ports} {verb} left{of} in {range}")?;
        let stand = |how| self.stand.get(&how).copied().unwrap_or_default();
        let counts = [
            (stand(Availability::Held), "held"),
            (stand(Availability::Recent), "recently released"),
            (stand(Availability::Busy), "with a listener on the host"),
            (self.own, "taken by this claim itself"),
        ];
        for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
            write!(out, ", {count} {what}")?;
        }
        write!(out, "); {asked} requested in total")
    }
}
