//! Why host ports would not work on this node: facts that are gathered without changing anything, and
//! what follows from them.
//!
//! [`Facts`] is all that is asked of the world; everything else decides, and does no I/O.

mod child;
mod conflist;
mod facts;
mod legacy;
mod machine;
mod network;
mod node_file;
mod passage;
mod ports;
mod records;
mod trace;

use std::fmt;

use serde::Serialize;

pub use facts::{Facts, Places};
pub use trace::{Fate, Query, Step, Trace, Way, probe};

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

impl fmt::Display for State {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Ok => "ok",
            Self::Unseen => "not seen",
            Self::Warning => "warning",
            Self::Failed => "failed",
        })
    }
}

/// A line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub state: State,
    pub text: String,
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, text: impl Into<String>) -> Self {
        Self { check, state: State::Ok, text: text.into(), remedy: None }
    }

    fn warning(check: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into());
        Self { check, state: State::Warning, text: text.into(), remedy }
    }

    fn failed(check: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into());
        Self { check, state: State::Failed, text: text.into(), remedy }
    }

    fn unseen(check: &'static str, text: impl Into<String>) -> Self {
        let remedy = Some("run it as root".to_owned());
        Self { check, state: State::Unseen, text: text.into(), remedy }
    }
}

/// Everything that is to say about a node.
#[must_use]
pub fn findings(facts: &Facts) -> Vec<Finding> {
    let networks = conflist::networks(facts);
    let mut findings = machine::findings(facts);
    findings.extend(node_file::findings(facts).unwrap_or_else(|unseen| vec![unseen]));
    findings.extend(conflist::findings(facts, &networks).unwrap_or_else(|unseen| vec![unseen]));
    findings.extend(records::findings(facts).unwrap_or_else(|unseen| vec![unseen]));
    let configs = conflist::configs(facts, &networks);
    let ranges = ports::ranges(&configs);
    findings.extend(ports::findings(facts, &configs, &ranges));
    findings.extend(network::findings(facts, &ranges));
    findings
}

/// How many there are.
#[must_use]
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
