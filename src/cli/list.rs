//! `autoport list`.

use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use autoport::app;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::arguments::Format;
use super::holders::{Holders, Variables, name_of};
use super::output::{Answer, BAD, Cell, GOOD, Screen, age};
use super::rows::{self, Row};
use super::{Failure, SIGNALS, Store, arguments, asked_to_end, note, nothing_recorded};

impl Answer for Holders {
    fn text(&self, out: &mut Screen<'_>) -> io::Result<()> {
        let all = out.format == Format::Wide;
        let mut lines: Vec<(Row, [Cell; 4])> = Vec::new();
        let mut add =
            |rows: Vec<Row>, states: &dyn Fn() -> [Cell; 2], seconds: Option<u64>, holder: &str| {
                for row in rows::arranged(rows, all) {
                    let ([state, variables], age) = (states(), Cell::or_dash(seconds.map(age)));
                    lines.push((row, [state, variables, age, holder.into()]));
                }
            };
        for one in &self.attachments {
            let states = || [Cell::styled(one.state, one.style), variables(one.variables)];
            let holder = name_of(&one.record.owner);
            add(rows::of(&one.record, &[]), &states, one.age_seconds, &holder);
        }
        let none = || ["-".into(), "-".into()];
        for one in &self.reservations {
            add(rows::bare(&one.of.hosts), &none, one.age_seconds, &one.of.to_string());
        }
        let unreadable = || [Cell::styled("unreadable", BAD), "-".into()];
        for one in &self.unreadable {
            add(rows::bare(&one.hosts), &unreadable, None, &one.name);
        }
        lines.sort_by_key(|(row, _)| (row.host.port, row.host.protocol, row.host.address));
        if all {
            let names =
                ["HOST PORT", "TARGET", "NAME", "CHOICE", "STATE", "VARIABLES", "AGE", "HOLDER"];
            let lines = lines.into_iter().map(|(row, [state, variables, age, holder])| {
                let [host, target, name, choice] = row.cells();
                [host, target, name, choice, state, variables, age, holder]
            });
            return out.table("", names, lines);
        }
        let names = ["HOST PORT", "TARGET", "NAME", "CHOICE", "STATE", "AGE", "HOLDER"];
        let lines = lines.into_iter().map(|(row, [state, _, age, holder])| {
            let [host, target, name, choice] = row.cells();
            [host, target, name, choice, state, age, holder]
        });
        out.table("", names, lines)
    }
}

/// How many of a pod's containers have their variables, of how many.
fn variables(of: Option<Variables>) -> Cell {
    of.map_or_else(
        || "-".into(),
        |Variables { injected, uninjected }| {
            let style = if uninjected == 0 { GOOD } else { BAD };
            Cell::styled(format!("{injected} of {}", injected + uninjected), style)
        },
    )
}

/// How often the list is made to see whether it has changed.
const AGAIN: Duration = Duration::from_secs(1);

/// Prints the list, or prints it whenever it has changed.
pub(super) fn run(
    asked: &arguments::List,
    store: &Store,
    screen: &mut Screen<'_>,
) -> Result<u8, Failure> {
    screen.headers = !asked.no_headers;
    if !asked.watch {
        return Ok(screen.show(&listed(asked, store, true)?)?);
    }
    let stop = asked_to_end()?;
    let mut shown = None;
    loop {
        let holders = listed(asked, store, shown.is_none())?;
        let held = holders.held();
        if shown.as_ref() != Some(&held) {
            if shown.is_some() && matches!(screen.format, Format::Table | Format::Wide) {
                writeln!(screen)?;
            }
            screen.show(&holders)?;
            screen.out.flush()?;
            shown = Some(held);
        }
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(AGAIN).unwrap_or(PollTimeout::MAX)) {
            Ok(0) | Err(nix::Error::EINTR) => {}
            Ok(_) => return Ok(0),
            Err(errno) => return Err(Failure::System(SIGNALS, errno.into())),
        }
    }
}

/// What is to be listed; `tells` on standard error what is missing or cannot be read.
pub(super) fn listed(
    asked: &arguments::List,
    store: &Store,
    tells: bool,
) -> Result<Holders, Failure> {
    let listing = app::list(store, &mut crate::Stderr)?;
    if listing.is_none() {
        let nothing = nothing_recorded(store)?;
        if tells {
            note(nothing);
        }
    }
    let mut listing = listing.unwrap_or_default();
    for unreadable in listing.unreadable.iter().filter(|_| tells) {
        note(&unreadable.reason);
    }
    if let Some(pod) = &asked.pod {
        listing.narrow_to_name(pod)?;
    }
    if let Some(namespace) = &asked.namespace {
        listing.narrow_to_namespace(namespace);
    }
    if asked.port.is_some() || asked.protocol.is_some() {
        listing.keep_hosts(|host| {
            rows::is_among(asked.port, host)
                && asked.protocol.is_none_or(|protocol| protocol == host.protocol)
        });
    }
    let is_filtered = asked.pod.is_some()
        || asked.namespace.is_some()
        || asked.port.is_some()
        || asked.protocol.is_some();
    if tells && is_filtered && listing.is_empty() {
        note("no host port in use matches these options");
    }
    // What was so when an agent was last connected is for `show`, which says so.
    let is_current = store.agent().is_some_and(|agent| agent.connected);
    let known = store.containers().filter(|_| is_current);
    let known = known.map(|found| found.containers).unwrap_or_default();
    Ok(Holders::from(listing).with(&known))
}
