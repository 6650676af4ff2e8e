//! The pod's annotations, as the runtime passes them (capability
//! `io.kubernetes.cri.pod-annotations`): those that ask for ports.

use std::num::NonZeroU16;

use super::error::Error;
use super::json::Object;
use super::number;
use super::text::escape;

/// The capability that brings them (containerd since 1.5, CRI-O since 1.29).
const CAPABILITY: &str = "io.kubernetes.cri.pod-annotations";

/// What is before the slash of our own keys.
const OURS: &str = "autoport.cni/";

/// Which ports of the pod are wanted.
pub(super) const PORTS: &str = "autoport.cni/ports";

/// From which of the node's named ranges.
pub(super) const RANGE: &str = "autoport.cni/range";

/// How the numbers are chosen, instead of the configuration's `allocation`.
pub(super) const ALLOCATION: &str = "autoport.cni/allocation";

/// The switch of `KubeWharf`.
pub(super) const KUBEWHARF: &str = "pod.kubewharf.kubernetes.io/autoport";

/// The switch of BCS. With a dot and a container port behind it, it is how the BCS webhook says
/// that it has chosen a host port.
pub(super) const BCS: &str = "randhostport.webhook.bkbcs.tencent.com";

/// Which ports BCS is to serve.
pub(super) const BCS_PORTS: &str = "ports.randhostport.webhook.bkbcs.tencent.com";

/// Present with whatever value: the container listens on the chosen number.
const BCS_CONTAINER_PORT: &str = "randcontainerport.randhostport.webhook.bkbcs.tencent.com";

/// The annotations that matter here.
#[derive(Debug, Default)]
pub(super) struct Annotations {
    pub(super) ports: Option<String>,
    pub(super) range: Option<String>,
    pub(super) allocation: Option<String>,
    pub(super) kubewharf: Option<String>,
    pub(super) bcs: Option<String>,
    pub(super) bcs_ports: Option<String>,
    /// Whether [`BCS_CONTAINER_PORT`] is there.
    pub(super) bcs_container_port: bool,
    /// The host ports that a BCS webhook says it has chosen.
    pub(super) bcs_chosen: Vec<NonZeroU16>,
}

impl Annotations {
    /// Finds them, wherever a runtime leaves them out. Those of others are not looked at, and a
    /// misspelt one of ours is an error.
    pub(super) fn read(conf: &Object<'_>) -> Result<Self, Error> {
        let Some(runtime) = conf.get("runtimeConfig") else { return Ok(Self::default()) };
        let Some(all) = runtime.object()?.get(CAPABILITY) else { return Ok(Self::default()) };
        let all = all.object()?;
        refuse_near_misses(&all)?;
        let text = |key: &str| all.get(key).map(|field| field.string()).transpose();
        let chosen = |(key, _): &(String, _)| {
            key.strip_prefix(BCS)?.strip_prefix('.')?;
            number::port(&all.get(key)?.string().ok()?)
        };
        Ok(Self {
            ports: text(PORTS)?,
            range: text(RANGE)?,
            allocation: text(ALLOCATION)?,
            kubewharf: text(KUBEWHARF)?,
            bcs: text(BCS)?,
            bcs_ports: text(BCS_PORTS)?,
            bcs_container_port: all.mentions(BCS_CONTAINER_PORT),
            bcs_chosen: all.entries().iter().filter_map(chosen).collect(),
        })
    }

    /// Whether none of them could ask for anything.
    pub(super) fn is_silent(&self) -> bool {
        let ours = [&self.ports, &self.range, &self.allocation];
        ours.into_iter().chain([&self.kubewharf, &self.bcs]).all(Option::is_none)
    }
}

/// A pod whose request is misspelt would start without its ports, and nobody would know why.
fn refuse_near_misses(all: &Object<'_>) -> Result<(), Error> {
    for (key, _) in all.entries() {
        let Some(rest) = key.strip_prefix(OURS).filter(|rest| rest.len() <= LONGEST) else {
            continue;
        };
        let plain = rest.replace(['_', '-'], "").to_ascii_lowercase();
        let near = [PORTS, RANGE, ALLOCATION].into_iter().find(|ours| {
            let distance = strsim::damerau_levenshtein(&plain, &ours[OURS.len()..]);
            key != ours && distance <= 1
        });
        if let Some(ours) = near {
            return Err(Error::Unsupported {
                key: format!("annotation {}", escape(key)),
                value: all.get(key).map_or("null".to_owned(), |field| field.shown()),
                remedy: format!("did you mean {ours}?"),
            });
        }
    }
    Ok(())
}

/// Comparing is quadratic, and nobody misspells by that much.
const LONGEST: usize = 16;
