//! Writes shell completions and man pages below a folder: `generate dist` makes `dist/completions` and
//! `dist/man`, for the plugin and the node agent. A program of its own, so that they do not carry it.
//! `generate dist TRIPLE NAME=VERSION...` also writes the licences and the list of what is linked.

#[path = "../../agent/src/arguments.rs"]
mod agent;
#[path = "../../src/cli/arguments.rs"]
mod arguments;
mod materials;

use std::fs;
use std::io;
use std::path::PathBuf;

use clap::{Arg, ArgAction, Command, CommandFactory as _};
use clap_complete::Shell;

/// What `autoport completion` prints: those that ask the program, and so know pods and ports.
const SCRIPTS: [(&str, &str); 3] = [
    ("autoport.bash", include_str!("../../src/cli/completion/autoport.bash")),
    ("_autoport", include_str!("../../src/cli/completion/_autoport")),
    ("autoport.fish", include_str!("../../src/cli/completion/autoport.fish")),
];

#[expect(clippy::disallowed_methods, reason = "the pages are its own")]
fn main() -> io::Result<()> {
    let mut words = std::env::args().skip(1);
    let folder = words.next().map(PathBuf::from);
    let usage = || io::Error::other("usage: generate FOLDER [TRIPLE NAME=VERSION...]");
    let folder = folder.ok_or_else(usage)?;
    if let Some(target) = words.next() {
        materials::write(&folder, &target, &words.collect::<Vec<_>>())?;
    }
    let [completions, man] = ["completions", "man"].map(|name| folder.join(name));
    for folder in [&completions, &man] {
        // What an earlier version had and this one has not.
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => fs::create_dir_all(folder)?,
        }
    }
    for (name, script) in SCRIPTS {
        fs::write(completions.join(name), script)?;
    }
    let mut agent = agent::Arguments::command();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut agent, "autoport-agent", &completions)?;
    }
    for command in [arguments::Cli::command(), agent] {
        // `help` has no page of its own: each command's page is what it would show.
        let mut command = command.disable_help_subcommand(true);
        command.build();
        clap_mangen::generate_to(with_synopsis(command), &man)?;
    }
    for page in fs::read_dir(&man)? {
        let path = page?.path();
        let text = fs::read_to_string(&path)?;
        fs::write(path, titled(&text))?;
    }
    Ok(())
}

/// The command and its subcommands with a usage that has each option's value: `clap_mangen` leaves the values out.
fn with_synopsis(command: Command) -> Command {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let words = command.get_arguments().filter(|argument| {
        let action = argument.get_action();
        !argument.is_hide_set()
            && !matches!(
                action,
                ArgAction::Help | ArgAction::HelpLong | ArgAction::HelpShort | ArgAction::Version
            )
    });
    let (places, options): (Vec<_>, Vec<_>) = words.partition(|argument| argument.is_positional());
    let usage = options
        .iter()
        .map(|option| option_in_usage(option))
        .chain(places.iter().map(ToString::to_string));
    let mut usage: Vec<_> = std::iter::once(name.to_owned()).chain(usage).collect();
    if command.has_subcommands() {
        usage.push("COMMAND".to_owned());
    }
    let usage = usage.join(" ");
    command.override_usage(usage).mut_subcommands(with_synopsis)
}

/// `[-n NAMESPACE]`, `[--watch]`.
fn option_in_usage(option: &Arg) -> String {
    let name = match (option.get_short(), option.get_long()) {
        (Some(short), _) => format!("-{short}"),
        (None, long) => format!("--{}", long.unwrap_or_default()),
    };
    let value = option.get_value_names().filter(|_| option.get_action().takes_values());
    let value = value.map_or(String::new(), |names| format!(" {}", names.join(" ")));
    let again = if matches!(option.get_action(), ArgAction::Append) { "..." } else { "" };
    if option.is_required_set() {
        format!("{name}{value}{again}")
    } else {
        format!("[{name}{value}]{again}")
    }
}

/// A page with the titles of man-pages(7), where clap has one for everything that is not an option.
fn titled(page: &str) -> String {
    page.replace(".SH EXTRA\nExamples:\n", ".SH EXAMPLES\n.nf\n")
        .replace(".SH EXTRA\nExit status: ", ".SH \"EXIT STATUS\"\n")
}
