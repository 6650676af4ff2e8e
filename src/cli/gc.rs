//! `autoport gc`.

use std::io;

use autoport::app::{self, Collected, Judged};
use autoport::diagnosis::counted;

use super::arguments::Format;
use super::output::{Answer, Screen};
use super::{Failure, Store, now};

impl Answer for Collected {
    fn text(&self, out: &mut Screen<'_>) -> io::Result<()> {
        let dry = ["would remove", "would be removed"];
        let [verb, total] = if self.dry_run { dry } else { ["removed"; 2] };
        let all = out.format == Format::Wide;
        let shown = self.holders.iter().filter(|one| all || one.removed || one.failure.is_some());
        for Judged { short, host_ports, removed, reason, .. } in shown {
            let verb = if *removed { verb } else { "kept" };
            let held = host_ports
                .map_or(String::new(), |count| format!(" ({})", counted(count, "host port")));
            writeln!(out, "{verb} {short}{held}: {reason}")?;
        }
        writeln!(out, "{} {total}, {} kept", self.removed, self.kept)
    }
}

pub(super) fn run(dry_run: bool, store: &Store, screen: &mut Screen<'_>) -> Result<u8, Failure> {
    let Some(collected) = app::collect(store, dry_run, now(), &mut crate::Stderr)? else {
        let none = Collected { dry_run, ..Collected::default() };
        return screen.show_nothing(store, &none);
    };
    let status = screen.show(&collected)?;
    let failed = collected.holders.into_iter().find_map(|one| one.failure);
    collected.failure.or(failed).map_or(Ok(status), |error| Err(error.into()))
}
