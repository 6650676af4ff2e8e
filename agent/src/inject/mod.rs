//! What a container is told about its pod's host ports: from the pod's records to the changes that the
//! runtime makes. No I/O.

mod declared;

use std::collections::BTreeSet;
use std::path::PathBuf;

use autoport::cni::{self, ENV, MOUNT, PORTS, PodAnnotations, asking, requires_variables};
use autoport::model::{Dialect, Record};
use autoport::publication::{Entry, Publication};

use self::declared::Declared;
use crate::nri::message::{Adjustment, Container, Mount, Pod, Variable};

/// Where containers find the files `ports.env` and `ports.json`.
pub const DIRECTORY: &str = "/run/autoport/pod";

/// What is known of a pod besides its event.
#[derive(Debug, Default)]
pub struct Known {
    /// What its sandbox holds, and what it holds itself on the node's network.
    pub records: Vec<Record>,
    /// The directory of its published files on the node.
    pub directory: Option<PathBuf>,
    /// The systems whose annotations are read.
    pub aliases: BTreeSet<Dialect>,
}

impl Known {
    /// What is known if `records` are all that the pod holds, by its UID: those of an earlier sandbox are not
    /// this one's.
    pub fn of(pod: &Pod, mut records: Vec<Record>, directory: Option<PathBuf>) -> Self {
        records.retain(|record| record.owner.container_id().is_none_or(|id| id == pod.id));
        Self { records, directory, aliases: every_alias() }
    }
}

/// The changes of one container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Injection {
    pub adjustment: Adjustment,
    /// The names of the container's own variables that are replaced.
    pub replaced: Vec<String>,
}

/// Why a container must not be created.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{0}; correct it in the Pod, or remove it")]
    Annotation(String),
    #[error(
        "the Pod asks for host ports by annotation {annotation} and holds none, so container \
         {container:?} is not created; the network configuration needs autoport with the capability \
         io.kubernetes.cri.pod-annotations, which `autoport doctor` checks on the node; then delete \
         the Pod"
    )]
    NoPorts { annotation: String, container: String },
}

impl From<cni::Error> for Refusal {
    fn from(error: cni::Error) -> Self {
        Self::Annotation(error.to_string())
    }
}

/// Every system whose annotations the plugin can read.
pub fn every_alias() -> BTreeSet<Dialect> {
    [Dialect::KubeWharf, Dialect::Bcs].into()
}

/// Whether the pod may ask for host ports or their variables. Then it waits rather than that it runs without.
pub fn asks(pod: &Pod) -> bool {
    pod.annotations.contains_key(ENV) || asks_by(&pod.annotations)
}

/// Whether these annotations ask for host ports.
pub fn asks_by(annotations: &PodAnnotations) -> bool {
    asking(annotations, &every_alias()).next().is_some()
}

/// Finds what `container` is told; `None` if nothing.
///
/// # Errors
/// When the pod asks for something that it cannot be told: it waits, and does not run without.
pub fn inject(
    pod: &Pod,
    container: &Container,
    known: &Known,
) -> Result<Option<Injection>, Refusal> {
    let is_required = requires_variables(pod.annotations.get(ENV).map(String::as_str))?;
    let mounts = mounts(pod)?;
    let published = Publication::of(&known.records);
    // Files are published only where the node has chosen a port.
    let directory = known.directory.as_ref().filter(|_| published.is_some());
    let told = if is_required { Publication::of_all(&known.records) } else { published };
    let Some(told) = told else {
        return match missing(pod, known, is_required) {
            Some(annotation) => {
                let container = container.name.clone();
                Err(Refusal::NoPorts { annotation: annotation.to_owned(), container })
            }
            None => Ok(None),
        };
    };
    let declared = Declared::of(container);
    let is_its = |entry: &Entry| declared.counts(entry);
    let variables = told.variables_for(&is_its);
    let env: Vec<_> = variables.into_iter().map(|(name, value)| Variable { name, value }).collect();
    let replaced = replaced(container, &env);
    let mounts = directory.filter(|_| mounts && is_free(container));
    let mounts = mounts.and_then(|directory| mount(directory)).into_iter().collect();
    Ok(Some(Injection { adjustment: Adjustment { mounts, env }, replaced }))
}

/// Whether the container lacks a variable that it should have.
pub fn lacks(container: &Container, told: &Injection) -> bool {
    told.adjustment.env.iter().any(|variable| {
        let named = |text: &Vec<u8>| {
            text.strip_prefix(variable.name.as_bytes()).is_some_and(|rest| rest.starts_with(b"="))
        };
        !container.env.iter().any(named)
    })
}

/// The annotation by which the pod asks for what it does not have.
fn missing(pod: &Pod, known: &Known, is_required: bool) -> Option<&'static str> {
    let mut asked = asking(&pod.annotations, &known.aliases);
    match asked.next() {
        // Fixed host ports only: a patched kubelet, or BCS's webhook, has chosen them.
        Some(key) if !known.records.is_empty() => {
            (key == PORTS && asked.next().is_none()).then_some(PORTS)
        }
        Some(key) => Some(key),
        None => is_required.then_some(ENV),
    }
}

fn mounts(pod: &Pod) -> Result<bool, Refusal> {
    match pod.annotations.get(MOUNT).map(|value| value.trim()) {
        None | Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(value) => {
            Err(cni::Error::annotation(MOUNT, value, "it must be \"true\" or \"false\"").into())
        }
    }
}

/// Whether the container has no mount of its own there, which would be hidden.
fn is_free(container: &Container) -> bool {
    container.mounts.iter().all(|mount| mount.destination.trim_end_matches('/') != DIRECTORY)
}

fn mount(directory: &std::path::Path) -> Option<Mount> {
    let options = ["rbind", "ro", "nosuid", "nodev", "noexec"];
    Some(Mount {
        destination: DIRECTORY.to_owned(),
        kind: "bind".to_owned(),
        source: directory.to_str()?.to_owned(),
        options: options.map(str::to_owned).to_vec(),
    })
}

/// The variables of the container that have a name of `ours`.
fn replaced(container: &Container, ours: &[Variable]) -> Vec<String> {
    let names: BTreeSet<&[u8]> = ours.iter().map(|variable| variable.name.as_bytes()).collect();
    let name = |text: &Vec<u8>| text.split(|byte| *byte == b'=').next().map(<[u8]>::to_vec);
    let own: BTreeSet<Vec<u8>> = container.env.iter().filter_map(name).collect();
    let both = own.iter().filter(|name| names.contains(name.as_slice()));
    both.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

#[cfg(test)]
pub(crate) mod tests;
