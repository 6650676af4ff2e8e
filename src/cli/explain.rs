//! `autoport explain`.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;

use autoport::app::{self, Explained, Foreseen, NO_INSTANCE, Superseded, Told};
use autoport::cni::{Env, PORTS};
use autoport::install;
use autoport::model::Offload;
use serde::Serialize;
use serde_json::{Value, json};

use super::arguments::{self, Format, Networks};
use super::holders::{name_of, with_times};
use super::output::{Answer, BAD, DOUBTFUL, GOOD, Screen};
use super::status::Refusal;
use super::{Failure, note, now, rows};

/// What counts where the environment says nothing.
const ASSUMED: [(&str, &str); 4] = [
    ("CNI_CONTAINERID", "explain"),
    ("CNI_NETNS", "/run/netns/explain"),
    ("CNI_IFNAME", "eth0"),
    ("CNI_PATH", "/opt/cni/bin"),
];

/// Besides, where there is no request.
const POD: (&str, &str) =
    ("CNI_ARGS", "K8S_POD_NAMESPACE=default;K8S_POD_NAME=explain;K8S_POD_UID=explain");

/// What ADD would do.
#[derive(Serialize)]
pub(super) struct Explanation {
    /// `granted`, `refused`, or `nothing`: no host port is asked for, ADD prints prevResult.
    outcome: &'static str,
    error: Option<Refusal>,
    assumed: Vec<String>,
    /// What could not be looked at.
    unseen: Vec<String>,
    /// What ADD would write to its log.
    log: Vec<String>,
    #[serde(serialize_with = "with_times")]
    granted: Option<Foreseen>,
    /// Whether only the script is printed.
    #[serde(skip)]
    is_script: bool,
}

impl Answer for Explanation {
    fn text(&self, out: &mut Screen<'_>) -> io::Result<()> {
        if self.is_script {
            let nft = self.granted.as_ref().and_then(|granted| granted.nft.as_deref());
            return write!(out, "{}", nft.unwrap_or_default());
        }
        for (what, list) in
            [("assumed", &self.assumed), ("not seen", &self.unseen), ("log", &self.log)]
        {
            for line in list {
                out.paint(DOUBTFUL, what)?;
                writeln!(out, ": {line}")?;
            }
        }
        match (&self.granted, &self.error) {
            (_, Some(error)) => {
                out.paint(BAD, "ADD would be rejected")?;
                writeln!(out, ": {}", error.text())
            }
            (None, None) => {
                writeln!(out, "ADD would only print prevResult: no host port is requested")
            }
            (Some(granted), None) => text_of(granted, out),
        }
    }

    fn is_well(&self) -> bool {
        self.error.is_none()
    }
}

fn text_of(granted: &Foreseen, out: &mut Screen<'_>) -> io::Result<()> {
    let Foreseen { record, record_file, before, superseded, .. } = granted;
    write!(out, "ADD for {} ({}) ", name_of(&record.owner), record.owner.holder)?;
    out.paint(GOOD, "would be granted")?;
    writeln!(out, ":\n")?;
    let rows = rows::arranged(rows::of(record, &[]), out.format == Format::Wide);
    let rows = rows.into_iter().map(|row| row.cells());
    out.table("  ", ["HOST PORT", "TARGET", "NAME", "CHOICE"], rows)?;
    writeln!(out)?;
    if granted.random {
        writeln!(out, "The numbers are chosen at random; ADD would choose different ones.")?;
    }
    for given_up in before.iter().flat_map(|before| &before.mappings) {
        if record.mappings.binary_search(given_up).is_err() {
            writeln!(out, "{} would be released.", given_up.host)?;
        }
    }
    for Superseded { owner, reason } in superseded {
        let (name, holder) = (name_of(owner), &owner.holder);
        writeln!(out, "{name} ({holder}) would lose all its host ports: {reason}.")?;
    }
    writeln!(out, "Record: {}", record_file.display())?;
    if let Some(interface) = &granted.route_localnet {
        writeln!(out, "net.ipv4.conf.{interface}.route_localnet would be set to 1.")?;
    }
    if let Some(Offload { uplinks, interfaces }) = &record.offload {
        let all: Vec<_> = uplinks.iter().chain(interfaces).map(String::as_str).collect();
        match &interfaces[..] {
            [] => writeln!(
                out,
                "Connections would not be offloaded: the pod has no veth on the node."
            )?,
            _ => writeln!(out, "Connections would be offloaded between {}.", all.join(", "))?,
        }
    }
    if let Some(Told { directory, publication, .. }) = &granted.published {
        writeln!(out, "Its containers could read in {}:\n", directory.display())?;
        for line in publication.to_env().lines() {
            writeln!(out, "  {line}")?;
        }
        writeln!(out)?;
    }
    match granted.nft.as_deref() {
        None => writeln!(out, "Nothing would be translated."),
        Some("") => writeln!(out, "The table would not change."),
        Some(script) => write!(out, "In the kernel, as for nft -f -:\n\n{script}"),
    }
}

pub(super) fn run(
    asked: &arguments::Explain,
    state_dir: Option<PathBuf>,
) -> Result<Explanation, Failure> {
    let stdin = match &asked.annotation {
        Some(annotation) => request(annotation, &asked.networks)?,
        None => read_request()?,
    };
    let only_script = asked.nft;
    let (env, mut assumed) = environment(asked.annotation.is_some());
    let Explained { outcome, log, unseen } =
        app::explain(&env, &stdin, crate::node_files, now(), state_dir);
    let (outcome, error, granted) = match outcome {
        Ok(None) => ("nothing", None, None),
        Ok(Some(foreseen)) => ("granted", None, Some(foreseen)),
        Err(error) => ("refused", Some(Refusal::from(&error)), None),
    };
    let nft = granted.as_ref().and_then(|granted| granted.nft.as_ref());
    if nft.is_some_and(|script| script.contains(NO_INSTANCE)) {
        assumed.push(format!("instance {NO_INSTANCE}; ADD would generate one"));
    }
    if let Some(error) = error.as_ref().filter(|_| only_script) {
        note(format_args!("ADD would be rejected: {}", error.text()));
    }
    let log = log.iter().map(ToString::to_string).collect();
    Ok(Explanation { outcome, error, assumed, unseen, log, granted, is_script: only_script })
}

fn read_request() -> Result<Vec<u8>, Failure> {
    if io::stdin().is_terminal() {
        return Err(Failure::Asked(
            "standard input is a terminal: run autoport explain < request.json, with the network \
             configuration that the runtime would pass to the plugin, or use --annotation"
                .to_owned(),
        ));
    }
    let stdin =
        crate::read_stdin().map_err(|error| Failure::System("read standard input", error))?;
    if stdin.iter().all(u8::is_ascii_whitespace) {
        return Err(Failure::Asked(
            "standard input is empty: run autoport explain < request.json, with the network configuration \
             that the runtime would pass to the plugin, or use --annotation"
                .to_owned(),
        ));
    }
    let is_list = |request: Value| request.get("plugins").is_some();
    if serde_json::from_slice(&stdin).is_ok_and(is_list) {
        return Err(Failure::Asked(
            "standard input is a network configuration list: pass the plugin's own object, with the \
             name and cniVersion of the list, prevResult and runtimeConfig"
                .to_owned(),
        ));
    }
    Ok(stdin)
}

/// What a runtime would pass for a pod with this annotation, in the network that has autoport.
fn request(annotation: &str, networks: &Networks) -> Result<Vec<u8>, Failure> {
    let network = install::network(&networks.conf_dir)?;
    let object = network.as_ref().map_or("{}", |(_, object)| object);
    let object: Value = serde_json::from_str(object).unwrap_or_default();
    let mut object = object.as_object().cloned().unwrap_or_default();
    let more = json!({
        "name": "explain",
        "cniVersion": "1.0.0",
        "type": "autoport",
        "runtimeConfig": { "io.kubernetes.cri.pod-annotations": { (PORTS): annotation } },
        "prevResult": {
            "cniVersion": "1.0.0",
            "interfaces": [{ "name": "eth0", "sandbox": "/run/netns/explain" }],
            "ips": [{ "address": "192.0.2.2/24", "interface": 0 }],
        },
    });
    object.extend(more.as_object().cloned().unwrap_or_default());
    Ok(Value::from(object).to_string().into_bytes())
}

/// The variables of an ADD, and which of them nobody set.
fn environment(has_pod: bool) -> (Env, Vec<String>) {
    let mut assumed = ASSUMED.to_vec();
    assumed.extend(has_pod.then_some(POD));
    // To a plugin, empty is unset.
    assumed.retain(|(name, _)| std::env::var_os(name).is_none_or(|value| value.is_empty()));
    // Of several values the last counts.
    let ours = [("CNI_COMMAND", "ADD")].into_iter().chain(assumed.iter().copied());
    let ours = ours.map(|(name, value)| (name.into(), value.into()));
    let env = std::env::vars_os().chain(ours).collect();
    (env, assumed.iter().map(|(name, value)| format!("{name}={value}")).collect())
}
