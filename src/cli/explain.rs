//! `autoport explain`.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::SystemTime;

use autoport::app::{self, Explained, Foreseen, NO_INSTANCE};
use autoport::cni::Env;
use autoport::publication::Publication;
use serde::Serialize;

use super::allocation::{Holder, Mapped};
use super::output::{Answer, Screen, Table, Text, Tone};
use super::status::Refusal;
use super::{Failure, Verdict, arguments, note};

/// What counts where the environment says nothing.
const ASSUMED: [(&str, &str); 4] = [
    ("CNI_CONTAINERID", "explain"),
    ("CNI_NETNS", "/run/netns/explain"),
    ("CNI_IFNAME", "eth0"),
    ("CNI_PATH", "/opt/cni/bin"),
];

/// What ADD would do.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Explanation {
    outcome: Outcome,
    error: Option<Refusal>,
    assumed: Vec<String>,
    /// What could not be looked at.
    unseen: Vec<String>,
    /// What ADD would write to its log.
    log: Vec<String>,
    granted: Option<Granted>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Granted,
    Refused,
    /// No host port is asked for: ADD prints prevResult.
    Nothing,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Granted {
    #[serde(flatten)]
    holder: Holder,
    host_ports: Vec<Mapped>,
    /// Whether the numbers are only an example.
    random: bool,
    /// What the attachment would give up.
    gives_up: Vec<Mapped>,
    superseded: Vec<Superseded>,
    record: PathBuf,
    route_localnet: Option<String>,
    published: Option<PathBuf>,
    variables: Option<String>,
    nft: Option<String>,
}

#[derive(Serialize)]
struct Superseded {
    #[serde(flatten)]
    holder: Holder,
    reason: &'static str,
}

impl From<Foreseen> for Granted {
    fn from(foreseen: Foreseen) -> Self {
        let Foreseen { wanted, before, giving_way, .. } = &foreseen;
        let mut gives_up = Vec::new();
        if let Some(before) = before {
            let kept = |at: usize| wanted.mappings.binary_search(&before.mappings[at]).is_ok();
            let all = Mapped::of(before).enumerate();
            gives_up.extend(all.filter(|(at, _)| !kept(*at)).map(|(_, mapped)| mapped));
        }
        let superseded = giving_way
            .iter()
            .map(|(owner, reason)| Superseded { holder: Holder::of(owner), reason });
        let published = foreseen.published.as_ref();
        Self {
            holder: Holder::of(&wanted.owner),
            host_ports: Mapped::of(wanted).collect(),
            random: foreseen.is_random,
            gives_up,
            superseded: superseded.collect(),
            record: foreseen.record.clone(),
            route_localnet: foreseen.opened_to_loopback.clone(),
            variables: published.map(|(_, publication)| Publication::to_env(publication)),
            published: published.map(|(directory, _)| directory.clone()),
            nft: foreseen.script.as_ref().map(ToString::to_string),
        }
    }
}

impl Answer for Explanation {
    fn text(&self, out: &mut Text<'_>) -> io::Result<()> {
        for (what, list) in
            [("assumed", &self.assumed), ("not seen", &self.unseen), ("log", &self.log)]
        {
            for line in list {
                out.paint(Tone::Doubtful, what)?;
                writeln!(out, ": {line}")?;
            }
        }
        match (&self.granted, &self.error) {
            (_, Some(error)) => {
                out.paint(Tone::Bad, "ADD would be rejected")?;
                writeln!(out, ": {}", error.text())
            }
            (None, None) => {
                writeln!(out, "ADD would only print prevResult: no host port is requested")
            }
            (Some(granted), None) => granted.text(out),
        }
    }
}

impl Granted {
    fn text(&self, out: &mut Text<'_>) -> io::Result<()> {
        write!(out, "ADD for {} ({}) ", self.holder.name(), self.holder.attachment())?;
        out.paint(Tone::Good, "would be granted")?;
        writeln!(out, ":\n")?;
        let mut table = Table::headed(["HOST PORT", "TARGET", "CHOICE"]);
        for mapped in &self.host_ports {
            table.row(mapped.cells());
        }
        table.write_after("  ", out)?;
        writeln!(out)?;
        if self.random {
            writeln!(out, "The numbers are chosen at random; ADD would choose different ones.")?;
        }
        for mapped in &self.gives_up {
            let [host, ..] = mapped.cells();
            writeln!(out, "{} would be released.", host.text())?;
        }
        for Superseded { holder, reason } in &self.superseded {
            let (name, attachment) = (holder.name(), holder.attachment());
            writeln!(out, "{name} ({attachment}) would lose all its host ports: {reason}.")?;
        }
        writeln!(out, "Record: {}", self.record.display())?;
        if let Some(interface) = &self.route_localnet {
            writeln!(out, "net.ipv4.conf.{interface}.route_localnet would be set to 1.")?;
        }
        if let Some((directory, variables)) = self.published.as_ref().zip(self.variables.as_ref()) {
            writeln!(out, "Its containers could read in {}:\n", directory.display())?;
            for line in variables.lines() {
                writeln!(out, "  {line}")?;
            }
            writeln!(out)?;
        }
        match self.nft.as_deref() {
            None => writeln!(out, "Nothing would be translated."),
            Some("") => writeln!(out, "The table would not change."),
            Some(script) => write!(out, "In the kernel, as for nft -f -:\n\n{script}"),
        }
    }
}

/// Only the script.
#[derive(Serialize)]
struct Script(String);

impl Answer for Script {
    fn text(&self, out: &mut Text<'_>) -> io::Result<()> {
        write!(out, "{}", self.0)
    }
}

pub(super) fn run(
    asked: &arguments::Explain,
    state_dir: Option<PathBuf>,
    screen: &mut Screen<'_>,
) -> Result<Verdict, Failure> {
    if io::stdin().is_terminal() {
        return Err(Failure::NoRequest);
    }
    let stdin = crate::read_stdin().map_err(Failure::Input)?;
    let is_list = |request: serde_json::Value| request.get("plugins").is_some();
    if serde_json::from_slice(&stdin).is_ok_and(is_list) {
        return Err(Failure::ConfigurationList);
    }
    let (env, assumed) = environment();
    let Explained { outcome, log, unseen } =
        app::explain(&env, &stdin, crate::read_node_file, SystemTime::now(), state_dir);
    let log = log.iter().map(ToString::to_string).collect();
    let mut explanation =
        Explanation { outcome: Outcome::Nothing, error: None, assumed, unseen, log, granted: None };
    match outcome {
        Ok(None) => {}
        Ok(Some(foreseen)) => {
            let granted = Granted::from(foreseen);
            if granted.nft.as_ref().is_some_and(|script| script.contains(NO_INSTANCE)) {
                explanation.assumed.push(format!("instance {NO_INSTANCE}; ADD would generate one"));
            }
            explanation.outcome = Outcome::Granted;
            explanation.granted = Some(granted);
        }
        Err(error) => {
            explanation.outcome = Outcome::Refused;
            explanation.error = Some(Refusal::from(&error));
        }
    }
    let refused = explanation.outcome == Outcome::Refused;
    if asked.nft {
        if let Some(error) = &explanation.error {
            note(format_args!("ADD would be rejected: {}", error.text()));
        }
        let script = explanation.granted.and_then(|granted| granted.nft);
        screen.show(&Script(script.unwrap_or_default()))?;
    } else {
        screen.show(&explanation)?;
    }
    Ok(if refused { Verdict::Unwell } else { Verdict::Well })
}

/// The variables of an ADD, and which of them nobody set.
fn environment() -> (Env, Vec<String>) {
    let mut variables: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let mut assumed = Vec::new();
    for (name, value) in ASSUMED {
        // To a plugin, empty is unset.
        if std::env::var_os(name).is_none_or(|value| value.is_empty()) {
            variables.retain(|(known, _)| known != name);
            variables.push((name.into(), value.into()));
            assumed.push(format!("{name}={value}"));
        }
    }
    variables.retain(|(known, _)| known != "CNI_COMMAND");
    variables.push(("CNI_COMMAND".into(), "ADD".into()));
    (variables.into_iter().collect(), assumed)
}
