//! Why host ports would not work on this node: facts that are gathered without changing anything, and
//! what follows from them.
//!
//! [`Facts`] is all that is asked of the world; everything else decides, and does no I/O.

mod agent;
mod child;
mod conflist;
mod facts;
mod followed;
mod legacy;
mod machine;
mod network;
mod node_files;
mod passage;
mod ports;
mod records;
mod trace;

use std::fmt;

use serde::Serialize;

pub use agent::NO_NRI_SOCKET;
pub use facts::{Facts, NRI_SOCKET};
use facts::{Seen, Unseen};
pub use followed::{Followed, follow};
pub use records::offloaded;
pub use trace::{Fate, Probe, Query, Trace, probe};

/// What one check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// It could not be seen.
    Unseen,
    /// It may keep somebody from a host port.
    Warning,
    /// It does.
    Failed,
}

/// A line of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding<S = State> {
    /// What was looked at.
    pub check: &'static str,
    pub state: S,
    pub text: String,
    pub remedy: Option<String>,
}

/// The findings so far.
#[derive(Default)]
struct Report {
    findings: Vec<Finding>,
    check: &'static str,
    /// How many findings there were before this check.
    before: usize,
}

impl Report {
    /// Begins a check: what is found from now on is its.
    fn check(&mut self, name: &'static str) {
        (self.check, self.before) = (name, self.findings.len());
    }

    fn add(&mut self, state: State, text: impl Into<String>, remedy: Option<String>) {
        self.findings.push(Finding { check: self.check, state, text: text.into(), remedy });
    }

    fn ok(&mut self, text: impl Into<String>) {
        self.add(State::Ok, text, None);
    }

    fn warning(&mut self, text: impl Into<String>, remedy: impl Into<String>) {
        self.add(State::Warning, text, Some(remedy.into()));
    }

    fn failed(&mut self, text: impl Into<String>, remedy: impl Into<String>) {
        self.add(State::Failed, text, Some(remedy.into()));
    }

    fn unseen(&mut self, text: impl Into<String>) {
        self.add(State::Unseen, text, Some(who_sees_it().to_owned()));
    }

    /// Whether this check has found nothing.
    fn is_clean(&self) -> bool {
        self.findings.len() == self.before
    }

    /// Ends a check that says something also where all is well.
    fn or_ok(&mut self, text: impl Into<String>) {
        if self.is_clean() {
            self.ok(text);
        }
    }

    /// What was seen. That it was `hidden` is a finding, and that it could not be looked at one of
    /// state `bad`.
    fn see<'a, T>(
        &mut self,
        seen: &'a Seen<T>,
        hidden: &str,
        bad: State,
        remedy: &str,
    ) -> Option<&'a T> {
        match seen {
            Ok(seen) => return Some(seen),
            Err(Unseen::Hidden) => self.unseen(hidden),
            Err(Unseen::Failed(why)) => self.add(bad, why, Some(remedy.to_owned())),
        }
        None
    }
}

/// What to do where this process may not see something: root does not see everything in a container.
fn who_sees_it() -> &'static str {
    if nix::unistd::geteuid().is_root() { "run it as root on the node" } else { "run it as root" }
}

/// Everything that is to say about a node.
pub fn findings(facts: &Facts, followed: &followed::Outcome) -> Vec<Finding> {
    let mut report = Report::default();
    let networks = conflist::networks(facts);
    machine::kernel(facts, &mut report);
    machine::plugin(facts, &mut report);
    node_files::judge(facts, &mut report);
    conflist::judge(facts, &networks, &mut report);
    records::judge(facts, &mut report);
    let configs = conflist::configs(facts, &networks);
    let ranges = ports::ranges(&configs);
    agent::judge(facts, &configs, &mut report);
    ports::judge(facts, &configs, &ranges, &mut report);
    network::judge(facts, &ranges, &mut report);
    followed::judge(followed, &mut report);
    report.findings
}

/// How many there are.
pub fn counted(number: usize, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

/// Some of many, as a sentence has room for.
fn some_of<T: fmt::Display>(all: &[T]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<String> = all.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = all.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests;
