//! docs/cli.md has exactly the commands, options and arguments that there are.

#![expect(clippy::disallowed_methods, reason = "a test reads the project's own files")]

#[path = "../src/cli/arguments.rs"]
mod arguments;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::{Arg, Command, CommandFactory as _, Parser as _};

/// A command, or nothing where all have it, and how an option or argument of its is written.
type Row = (String, String);

fn spelled(arg: &Arg) -> String {
    if arg.is_positional() {
        return arg.get_value_names().map_or(String::new(), <[_]>::concat);
    }
    let long = arg.get_long().unwrap_or_else(|| panic!("{} has no long name", arg.get_id()));
    let takes_value = arg.get_action().takes_values();
    let value =
        arg.get_value_names().filter(|_| takes_value).map(|names| format!(" {}", names.concat()));
    let short = arg.get_short().map(|short| format!(" -{short}"));
    format!("--{long}{}{}", value.unwrap_or_default(), short.unwrap_or_default())
}

fn in_code() -> BTreeSet<Row> {
    let mut root = arguments::Cli::command();
    root.build();
    let own = |command: &Command, name: &str| {
        let args = command.get_arguments().filter(|arg| name.is_empty() || !is_everybodys(arg));
        args.map(|arg| (name.to_owned(), spelled(arg))).collect::<Vec<_>>()
    };
    let mut rows: BTreeSet<Row> = own(&root, "").into_iter().collect();
    for command in root
        .get_subcommands()
        .filter(|command| command.get_name() != "help" && !command.is_hide_set())
    {
        rows.insert((command.get_name().to_owned(), String::new()));
        rows.extend(own(command, command.get_name()));
        assert!(command.get_about().is_some(), "{} has no --help", command.get_name());
    }
    rows
}

fn is_everybodys(arg: &Arg) -> bool {
    arg.is_global_set() || arg.get_id() == "help" || arg.get_id() == "version"
}

/// The sections `## autoport COMMAND`, and the rows of the first tables in them: ``| `--option VALUE`,
/// `-o` | …``. Before the first section is what all commands have.
fn in_document() -> BTreeSet<Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
    let text = fs::read_to_string(path).expect("docs/cli.md");
    let mut rows = BTreeSet::new();
    let (mut command, mut in_first_table, mut is_command) = (String::new(), false, true);
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            let name = title.strip_prefix("autoport ");
            is_command = name.is_some();
            name.unwrap_or_default().clone_into(&mut command);
            if is_command {
                rows.insert((command.clone(), String::new()));
            }
            in_first_table = true;
        } else if rows.is_empty() && line.starts_with("| option of every command") {
            in_first_table = true;
        } else if let Some(row) = line.strip_prefix("| `").filter(|_| is_command && in_first_table)
        {
            let row = row.replace("\\|", "\u{1}");
            let first = row.split('|').next().unwrap_or_default().replace('\u{1}', "|");
            let words = first.replace(['`', ','], "");
            // What is no option or argument is a field of an answer.
            if words.starts_with("--") || words.chars().next().is_some_and(char::is_uppercase) {
                rows.insert((command.clone(), words.trim().to_owned()));
            }
        } else if line.is_empty()
            && rows.iter().any(|(of, what)| *of == command && !what.is_empty())
        {
            in_first_table = false;
        }
    }
    rows
}

#[test]
fn the_document_names_what_there_is_and_nothing_else() {
    let (code, document) = (in_code(), in_document());
    let missing: Vec<_> = code.difference(&document).collect();
    let invented: Vec<_> = document.difference(&code).collect();
    assert!(
        missing.is_empty() && invented.is_empty(),
        "missing: {missing:?}, invented: {invented:?}"
    );
    assert!(code.len() > 20, "what was compared? {code:?}");
}

/// The words of an example, as a shell reads them, up to a comment or redirection.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
            continue;
        }
        for word in part.split("  ").next().unwrap_or_default().split_whitespace() {
            words.push(word.to_owned());
        }
    }
    words.into_iter().take_while(|word| word != "<" && word != ">").collect()
}

#[test]
fn every_command_has_examples_that_it_accepts() {
    for command in arguments::Cli::command().get_subcommands().filter(|it| !it.is_hide_set()) {
        let (name, help) = (command.get_name(), command.get_after_help());
        let text = help.map(ToString::to_string).unwrap_or_default();
        let examples = text.strip_prefix("Examples:\n").unwrap_or_else(|| panic!("{name}: {text}"));
        for line in examples.lines() {
            let words = words(line.trim());
            assert_eq!(&words[..2], ["autoport", name], "{line}");
            let parsed = arguments::Cli::try_parse_from(&words);
            assert!(parsed.is_ok(), "{line}: {}", parsed.err().expect("an error"));
        }
    }
}

#[test]
fn the_definitions_hold_together() {
    arguments::Cli::command().debug_assert();
}
