//! `autoport list`.

use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use autoport::app;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::arguments::Format;
use super::holders::{Holders, name_of};
use super::output::{Answer, BAD, Cell, Screen, age};
use super::rows::{self, Row};
use super::{Failure, SIGNALS, Store, arguments, asked_to_end, note, nothing_recorded};

impl Answer for Holders {
    fn text(&self, out: &mut Screen<'_>) -> io::Result<()> {
        let all = out.format == Format::Wide;
        let mut lines: Vec<(Row, [Cell; 3])> = Vec::new();
        let mut add =
            |rows: Vec<Row>, state: &dyn Fn() -> Cell, seconds: Option<u64>, holder: &str| {
                for row in rows::arranged(rows, all) {
                    lines.push((row, [state(), Cell::or_dash(seconds.map(age)), holder.into()]));
                }
            };
        for one in &self.attachments {
            let state = || Cell::styled(one.state, one.style);
            let holder = name_of(&one.record.owner);
            add(rows::of(&one.record, &[]), &state, one.age_seconds, &holder);
        }
        for one in &self.reservations {
            add(rows::bare(&one.of.hosts), &|| "-".into(), one.age_seconds, &one.of.to_string());
        }
        for one in &self.unreadable {
            add(rows::bare(&one.hosts), &|| Cell::styled("unreadable", BAD), None, &one.name);
        }
        lines.sort_by_key(|(row, _)| (row.host.port, row.host.protocol, row.host.address));
        let names = ["HOST PORT", "TARGET", "NAME", "CHOICE", "STATE", "AGE", "HOLDER"];
        let lines = lines.into_iter().map(|(row, [state, age, holder])| {
            let [host, target, name, choice] = row.cells();
            [host, target, name, choice, state, age, holder]
        });
        out.table("", names, lines)
    }
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
    Ok(listing.into())
}
