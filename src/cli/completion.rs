//! `autoport completion`, and what its scripts ask: the words that can come next.

use std::io;
use std::time::Duration;

use autoport::app::{self, Listing};
use autoport::event::Silent;
use clap::{Arg, Command, CommandFactory as _};

use super::Store;
use super::arguments::{Cli, Shell};
use super::holders::name_of;
use super::output::Screen;
use super::rows::{self, Row};

/// A shell does not wait for long.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) fn print(shell: Shell, out: &mut Screen<'_>) -> io::Result<u8> {
    let script = match shell {
        Shell::Bash => include_str!("completion/autoport.bash"),
        Shell::Zsh => include_str!("completion/_autoport"),
        Shell::Fish => include_str!("completion/autoport.fish"),
    };
    write!(out, "{script}").map(|()| 0)
}

/// Prints what can stand for the last of `words`, a line each. Nothing that goes wrong is told: a person who
/// presses a key cannot do anything about it.
pub(super) fn complete(
    words: &[String],
    store: Option<&Store>,
    out: &mut Screen<'_>,
) -> io::Result<u8> {
    let listing = || {
        let store = store?.clone().waiting(PATIENCE);
        app::list(&store, &mut Silent).ok().flatten()
    };
    for word in candidates(words, listing) {
        writeln!(out, "{word}")?;
    }
    Ok(0)
}

fn candidates(words: &[String], listing: impl FnOnce() -> Option<Listing>) -> Vec<String> {
    let mut root = Cli::command();
    root.build();
    let (last, before) = words.split_last().map_or(("", &[][..]), |(last, rest)| (last, rest));
    let mut place = Place { command: &root, option: None, positionals: 0 };
    for word in before {
        place.take(word);
    }
    let mut found = place.next(last, listing);
    found.retain(|word| word.starts_with(last));
    found.sort();
    found.dedup();
    found
}

/// Where in a command line one is.
struct Place<'a> {
    command: &'a Command,
    /// The option whose value comes next.
    option: Option<&'a Arg>,
    /// How many arguments there were that are no options.
    positionals: usize,
}

impl Place<'_> {
    fn take(&mut self, word: &str) {
        if self.option.take().is_some() || word == "=" {
            return;
        }
        let is_named = |arg: &&Arg| match word.strip_prefix("--") {
            Some(long) => arg.get_long() == Some(long),
            None => arg.get_short().is_some_and(|short| word == format!("-{short}")),
        };
        if word.starts_with('-') {
            let named = self.command.get_arguments().find(is_named);
            self.option = named.filter(|arg| arg.get_action().takes_values());
        } else if let Some(command) = self.command.find_subcommand(word) {
            self.command = command;
        } else {
            self.positionals += 1;
        }
    }

    fn next(&self, word: &str, listing: impl FnOnce() -> Option<Listing>) -> Vec<String> {
        let visible = |command: &&Command| !command.is_hide_set();
        if let Some(option) = self.option {
            return values(option, listing);
        }
        if word.starts_with('-') {
            let longs = self.command.get_arguments().filter_map(Arg::get_long);
            return longs.map(|long| format!("--{long}")).collect();
        }
        if self.command.has_subcommands() {
            let commands = self.command.get_subcommands().filter(visible);
            return commands.map(|command| command.get_name().to_owned()).collect();
        }
        let mut positionals = self.command.get_positionals();
        let argument = positionals.nth(self.positionals).or_else(|| {
            let last = self.command.get_positionals().last();
            last.filter(|last| last.get_num_args().is_some_and(|range| range.max_values() > 1))
        });
        argument.map_or_else(Vec::new, |argument| values(argument, listing))
    }
}

/// What can stand for an argument, by what it can be: one of a few words, or something that there is.
fn values(argument: &Arg, listing: impl FnOnce() -> Option<Listing>) -> Vec<String> {
    let possible = argument.get_possible_values();
    if !possible.is_empty() {
        return possible.iter().map(|value| value.get_name().to_owned()).collect();
    }
    let name = argument.get_value_names().map(<[_]>::concat).unwrap_or_default();
    let is = |kind: &str| name.contains(kind);
    if !["POD", "PORT", "NAMESPACE", "NAME"].into_iter().any(is) {
        return Vec::new();
    }
    let Some(listing) = listing() else { return Vec::new() };
    let pods = || listing.attachments.iter().filter_map(|one| one.owner.pod.as_ref());
    let mut found = Vec::new();
    match &*name {
        "NAMESPACE" => found.extend(pods().map(|pod| pod.namespace.clone())),
        "NAME" => found.extend(listing.reservations.iter().map(|one| one.name.clone())),
        // What is to be reserved is not there yet.
        name if name.starts_with("PORT[-LAST][/PROTO]") => {}
        name => {
            if name.contains("POD") {
                let names = listing.attachments.iter().map(|one| name_of(&one.owner));
                found.extend(names.map(|name| name.trim_start_matches("container ").to_owned()));
            }
            if name.contains("PORT") {
                let rows = listing.attachments.iter().flat_map(|one| rows::of(one, &[]));
                let numbers = name == "PORT[-LAST]";
                let written =
                    |row: Row| if numbers { row.host.port.to_string() } else { row.spot() };
                found.extend(rows.filter(|row| row.host.is_wildcard()).map(written));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests;
