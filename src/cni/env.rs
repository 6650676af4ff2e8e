//! The `CNI_*` variables of a call, and what each must look like.

#![expect(clippy::unnecessary_debug_formatting, reason = "a variable may be no text")]

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::command::{ARGS, CONTAINER_ID, Command, IFNAME, NETNS, PATH, VARIABLES};
use super::error::Error;
use crate::model::{InvalidName, Pod, check_identifier, check_ifname};

/// The values of the `CNI_*` variables, as they came.
#[derive(Clone, Debug, Default)]
pub struct Env {
    values: BTreeMap<&'static str, OsString>,
}

/// Takes `std::env::vars_os()` or a table of a test; variables of other names are dropped.
impl FromIterator<(OsString, OsString)> for Env {
    fn from_iter<I: IntoIterator<Item = (OsString, OsString)>>(variables: I) -> Self {
        let known = |(name, value): (OsString, OsString)| {
            let variable = VARIABLES.into_iter().find(|variable| name == *variable)?;
            // libcni sets all of them on every call; to Go's skel, empty is unset.
            (!value.is_empty()).then_some((variable, value))
        };
        Self { values: variables.into_iter().filter_map(known).collect() }
    }
}

impl Env {
    /// Whether a runtime is calling: `CNI_COMMAND` is set and not empty.
    pub fn is_plugin_call(&self) -> bool {
        self.values.contains_key("CNI_COMMAND")
    }

    /// What a journal calls a command; `None` of one that only asks, and of none.
    pub fn title(&self) -> Option<String> {
        let asks = |command: &Command| matches!(command, Command::Status | Command::Version);
        let command = self.command().ok().filter(|command| !asks(command))?;
        let container = self.values.get(CONTAINER_ID).map(|id| format!(" of {}", id.display()));
        Some(format!("{command}{}", container.unwrap_or_default()))
    }

    /// The command, whatever the other variables hold.
    pub(super) fn command(&self) -> Result<Command, Error> {
        let found = match self.values.get("CNI_COMMAND") {
            None => "not set".to_owned(),
            Some(value) => match Command::ALL.into_iter().find(|it| *value == *it.to_string()) {
                Some(command) => return Ok(command),
                None => format!("{value:?}"),
            },
        };
        let names = Command::ALL.map(|command| command.to_string()).join(", ");
        let problem = format!("CNI_COMMAND is {found}, it must be one of {names}");
        Err(Error::Environment { problems: vec![problem] })
    }

    /// Checks everything that `command` needs.
    pub(super) fn parameters(&self, command: Command) -> Result<Parameters, Error> {
        let mut problems = Vec::new();
        let mut read = |variable: &'static str, rule: fn(&str) -> Result<(), InvalidName>| {
            if !command.needs().contains(&variable) {
                return String::new();
            }
            let problem = match self.values.get(variable).map(|value| (value, value.to_str())) {
                None => format!("{variable} is not set, {command} needs it"),
                // Nothing is ever looked up in it, so it may be any bytes a path may be.
                Some(_) if variable == PATH => return String::new(),
                Some((value, None)) => format!("{variable} is {value:?}, it must be UTF-8"),
                Some((_, Some(text))) => match rule(text) {
                    Ok(()) => return text.to_owned(),
                    Err(rule) => format!("{variable}: {rule}"),
                },
            };
            problems.push(problem);
            String::new()
        };
        let given = Parameters {
            container_id: read(CONTAINER_ID, |text| check_identifier("container ID", text)),
            netns: read(NETNS, |_| Ok(())),
            ifname: read(IFNAME, check_ifname),
        };
        read(PATH, |_| Ok(()));
        if problems.is_empty() { Ok(given) } else { Err(Error::Environment { problems }) }
    }

    /// The Pod that `CNI_ARGS` names, if it names one.
    ///
    /// Only a name is needed: podman sends one (its container's) without a namespace. Everything
    /// that is not understood is passed over, for ADD must not fail on an argument that is not
    /// ours; what could not stand in a path or a table comment is dropped with a warning.
    pub(super) fn pod(&self, warnings: &mut Vec<String>) -> Option<Pod> {
        let text = self.values.get(ARGS)?.to_string_lossy();
        let mut argument = |key: &str| {
            let mut pairs = text.split(';').filter_map(|pair| pair.split_once('='));
            let value = pairs.rfind(|(name, _)| *name == key)?.1;
            if value.is_empty() {
                return None;
            }
            if let Err(problem) = check_identifier("value", value) {
                warnings.push(format!("{key} in CNI_ARGS is ignored: {problem}"));
                return None;
            }
            Some(value.to_owned())
        };
        Some(Pod {
            name: argument("K8S_POD_NAME")?,
            namespace: argument("K8S_POD_NAMESPACE").unwrap_or_default(),
            uid: argument("K8S_POD_UID").unwrap_or_default(),
        })
    }
}

/// The checked variables of one call; empty where the command does not need them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters {
    pub(super) container_id: String,
    pub(super) netns: String,
    pub(super) ifname: String,
}

#[cfg(test)]
mod tests;
