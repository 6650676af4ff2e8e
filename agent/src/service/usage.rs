//! How much of the node's ranges is used, from the records.

use autoport::app::Listing;
use autoport::cni::Config;
use autoport::model::{PortRange, Protocol, Request};

use crate::config::Plugin;
use crate::metrics::{Metrics, Usage};

/// Counts it. A configuration that cannot be used is an error for the pods that ask.
pub(super) fn count(plugin: &Plugin, listing: &Listing, metrics: &Metrics) {
    if let Ok(config) = plugin.read() {
        metrics.usage(usage(&config, listing));
    }
}

/// What is held of each range of the configuration, in each protocol.
fn usage(config: &Config, listing: &Listing) -> Vec<Usage> {
    let ports = &config.ports;
    let named = ports.named_ranges.iter().map(|(name, range)| (name.as_str(), &*range.ports));
    let all = std::iter::once((Request::DEFAULT_RANGE, &*ports.ranges)).chain(named);
    all.flat_map(|(name, ranges)| of_range(name, ranges, &ports.excluded, listing)).collect()
}

fn of_range(
    name: &str,
    ranges: &[PortRange],
    excluded: &[PortRange],
    listing: &Listing,
) -> [Usage; 3] {
    let size: usize = ranges.iter().map(PortRange::size).sum();
    let shared =
        ranges.iter().flat_map(|range| excluded.iter().map(|other| common(*range, *other)));
    let excluded: usize = shared.sum();
    Protocol::ALL.map(|protocol| {
        let held = listing.held_in(ranges, protocol);
        let free = size.saturating_sub(held + excluded);
        Usage { range: name.to_owned(), protocol: protocol.to_string(), held, free }
    })
}

/// How many numbers are in both.
fn common(one: PortRange, other: PortRange) -> usize {
    let (first, last) = (one.first.max(other.first), one.last.min(other.last));
    (usize::from(last.get()) + 1).saturating_sub(first.get().into())
}

#[cfg(test)]
mod tests {
    use autoport::cni::NodeFiles;

    use super::*;

    #[test]
    fn excluded_numbers_are_not_free() {
        let file =
            br#"{"portRange": ["20000-20009", "20020-20029"], "excludePorts": ["20005-20024", "53"],
                        "namedRanges": {"game": "7000-7004"}}"#;
        let (config, _) = Config::read(Some(file), &NodeFiles::default()).expect("it is right");
        let all = usage(&config, &Listing::default());
        let free: Vec<_> = all.iter().map(|one| (&*one.range, &*one.protocol, one.free)).collect();
        assert_eq!(
            free[..4],
            [
                ("default", "tcp", 10),
                ("default", "udp", 10),
                ("default", "sctp", 10),
                ("game", "tcp", 5),
            ]
        );
    }
}
