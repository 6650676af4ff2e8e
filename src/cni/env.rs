//! The `CNI_*` variables of a call, and what each must look like.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::command::{ARGS, CONTAINER_ID, Command, IFNAME, NETNS, PATH, Problem, VARIABLES};
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

    /// The command, whatever the other variables hold.
    pub(super) fn command(&self) -> Result<Command, Error> {
        let problem = match self.values.get("CNI_COMMAND") {
            None => Problem::NoCommand,
            Some(value) => match Command::ALL.into_iter().find(|command| value == command.name()) {
                Some(command) => return Ok(command),
                None => Problem::UnknownCommand(value.clone()),
            },
        };
        Err(Error::Environment { problems: vec![problem] })
    }

    /// Checks everything that `command` needs.
    pub(super) fn parameters(&self, command: Command) -> Result<Parameters, Error> {
        let mut problems = Vec::new();
        let mut read = |variable, rule: fn(&str) -> Result<(), InvalidName>| {
            if !command.needs().contains(&variable) {
                return String::new();
            }
            self.value(variable, command, rule).unwrap_or_else(|problem| {
                problems.push(problem);
                String::new()
            })
        };
        let given = Parameters {
            container_id: read(CONTAINER_ID, |text| check_identifier("container ID", text)),
            netns: read(NETNS, |_| Ok(())),
            ifname: read(IFNAME, check_ifname),
        };
        // Nothing is ever looked up in it, so it may be any bytes a path may be.
        if command.needs().contains(&PATH) && !self.values.contains_key(PATH) {
            problems.push(Problem::Missing { variable: PATH, command });
        }
        if problems.is_empty() { Ok(given) } else { Err(Error::Environment { problems }) }
    }

    fn value(
        &self,
        variable: &'static str,
        command: Command,
        rule: fn(&str) -> Result<(), InvalidName>,
    ) -> Result<String, Problem> {
        let value = self.values.get(variable).ok_or(Problem::Missing { variable, command })?;
        let text =
            value.to_str().ok_or_else(|| Problem::NotUtf8 { variable, value: value.clone() })?;
        rule(text).map_err(|rule| Problem::BadName { variable, rule })?;
        Ok(text.to_owned())
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
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Env {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn pod(args: &str) -> (Option<Pod>, usize) {
        let mut warnings = Vec::new();
        (env(&[("CNI_ARGS", args)]).pod(&mut warnings), warnings.len())
    }

    #[test]
    fn every_missing_variable_is_named_at_once() {
        let cases = [
            (Command::Add, "CNI_CONTAINERID CNI_NETNS CNI_IFNAME CNI_PATH"),
            (Command::Check, "CNI_CONTAINERID CNI_NETNS CNI_IFNAME CNI_PATH"),
            (Command::Del, "CNI_CONTAINERID CNI_IFNAME CNI_PATH"),
            (Command::Gc, "CNI_PATH"),
        ];
        let empty = env(&[("CNI_CONTAINERID", ""), ("CNI_NETNS", ""), ("CNI_ARGS", "")]);
        for (command, missing) in cases {
            let message = empty.parameters(command).expect_err("nothing is set").to_string();
            for variable in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"] {
                assert_eq!(message.contains(variable), missing.contains(variable), "{message}");
            }
        }
        for command in [Command::Status, Command::Version] {
            assert_eq!(
                empty.parameters(command).expect("nothing is needed"),
                Parameters::default()
            );
        }
    }

    #[test]
    fn commands_are_exact() {
        for command in Command::ALL {
            let found = env(&[("CNI_COMMAND", command.name())]).command().expect("a command");
            assert_eq!(found, command);
        }
        for bad in ["add", "ADD ", "UPDATE", "ADD\n"] {
            let env = env(&[("CNI_COMMAND", bad)]);
            let message = env.command().expect_err(bad).to_string();
            assert!(message.contains(&format!("{bad:?}")), "{message}");
            assert!(env.is_plugin_call());
        }
        assert!(!env(&[("CNI_COMMAND", ""), ("PATH", "/bin")]).is_plugin_call());
    }

    #[test]
    fn malformed_values_are_named_together() {
        let bytes = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        let env: Env = [
            ("CNI_CONTAINERID".into(), "../../etc".into()),
            ("CNI_NETNS".into(), bytes(b"/run/\xff")),
            ("CNI_IFNAME".into(), "eth0/1".into()),
            ("CNI_PATH".into(), bytes(b"/opt/\xff")),
        ]
        .into_iter()
        .collect();
        let message =
            env.parameters(Command::Add).expect_err("all but CNI_PATH are bad").to_string();
        for part in ["\"../../etc\"", "CNI_NETNS is \"/run/\\xFF\"", "\"eth0/1\""] {
            assert!(message.contains(part), "{message}");
        }
        assert!(!message.contains("CNI_PATH"), "{message}");
    }

    #[test]
    fn long_container_ids_are_fine() {
        let id = "f".repeat(4000);
        let pairs = [("CNI_CONTAINERID", &*id), ("CNI_IFNAME", "eth0"), ("CNI_PATH", "/x")];
        assert_eq!(env(&pairs).parameters(Command::Del).expect("a legal ID").container_id, id);
    }

    #[test]
    fn pods_are_found_in_any_order() {
        let containerd = "K8S_POD_UID=0-1;K8S_POD_INFRA_CONTAINER_ID=abc;IgnoreUnknown=1;\
                          K8S_POD_NAME=web;K8S_POD_NAMESPACE=default";
        let found = pod(containerd).0.expect("a pod");
        assert_eq!((found.to_string(), &*found.uid), ("default/web".to_owned(), "0-1"));
        let podman = pod("IgnoreUnknown=1;K8S_POD_NAME=web").0.expect("a name is enough");
        assert_eq!((&*podman.namespace, &*podman.name, &*podman.uid), ("", "web", ""));
        for nothing in ["", "K8S_POD_NAME", "K8S_POD_NAME=", "a=b=c;;=;", "K8S_POD_UID=1"] {
            assert_eq!(pod(nothing), (None, 0), "{nothing}");
        }
    }

    #[test]
    fn pod_names_that_could_escape_are_dropped() {
        assert_eq!(pod("K8S_POD_NAME=a\nb"), (None, 1));
        let (found, warnings) = pod("K8S_POD_NAME=a;K8S_POD_UID=../../etc;K8S_POD_NAMESPACE=\"");
        assert_eq!(warnings, 2);
        assert_eq!(found.map(|pod| pod.namespace + &pod.uid), Some(String::new()));
    }
}
