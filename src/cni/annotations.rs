//! The pod's annotations, as the runtime passes them (capability
//! `io.kubernetes.cri.pod-annotations`): those that ask for ports.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use super::error::Error;
use super::json::Object;
use super::number;
use super::text::{escape, is_near, quote};

/// The capability that brings them (containerd since 1.5, CRI-O since 1.29).
pub(super) const CAPABILITY: &str = "io.kubernetes.cri.pod-annotations";

/// What is before the slash of our own keys.
const OURS: &str = "autoport.cni/";

/// Which ports of the pod are wanted.
pub const PORTS: &str = "autoport.cni/ports";

/// From which of the node's named ranges.
pub const RANGE: &str = "autoport.cni/range";

/// How the numbers are chosen, instead of the configuration's `allocation`.
pub const ALLOCATION: &str = "autoport.cni/allocation";

/// Whether the pod waits for its variables, which the node agent sets: `required`.
pub const ENV: &str = "autoport.cni/env";

/// Whether the node agent mounts the published files: `true` or `false`.
pub const MOUNT: &str = "autoport.cni/mount";

/// Whether a pod on the node's network gets its host ports by the bind hook of the node agent.
pub const BIND: &str = "autoport.cni/bind";

/// The switch of `KubeWharf`.
pub(super) const KUBEWHARF: &str = "pod.kubewharf.kubernetes.io/autoport";

/// The switch of BCS. With a dot and a container port behind it, it is how the BCS webhook says
/// that it has chosen a host port.
pub(super) const BCS: &str = "randhostport.webhook.bkbcs.tencent.com";

/// Which ports BCS is to serve.
pub(super) const BCS_PORTS: &str = "ports.randhostport.webhook.bkbcs.tencent.com";

/// Present with whatever value: the container listens on the chosen number.
const BCS_CONTAINER_PORT: &str = "randcontainerport.randhostport.webhook.bkbcs.tencent.com";

/// A pod's annotations, as a program has them that is no plugin.
pub type PodAnnotations = BTreeMap<String, String>;

/// The annotations that matter here.
#[derive(Debug, Default)]
pub(super) struct Annotations {
    texts: BTreeMap<&'static str, String>,
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
        let keys = all.entries().iter().map(|(key, _)| key.as_str());
        Self::of(keys, |key| all.get(key).map(|field| field.string()))
    }

    /// Finds them among `keys`, whose values are read by `text`.
    pub(super) fn of<'a>(
        keys: impl Iterator<Item = &'a str> + Clone,
        text: impl Fn(&str) -> Option<Result<String, Error>>,
    ) -> Result<Self, Error> {
        refuse_near_misses(keys.clone(), &text)?;
        let mut texts = BTreeMap::new();
        for key in [PORTS, RANGE, ALLOCATION, ENV, BIND, KUBEWHARF, BCS, BCS_PORTS] {
            if let Some(text) = text(key) {
                texts.insert(key, text?);
            }
        }
        let chosen = |key: &str| {
            key.strip_prefix(BCS)?.strip_prefix('.')?;
            number::port(&text(key)?.ok()?)
        };
        Ok(Self {
            texts,
            bcs_container_port: keys.clone().any(|key| key == BCS_CONTAINER_PORT),
            bcs_chosen: keys.filter_map(chosen).collect(),
        })
    }

    /// The value of one that has a constant here.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.texts.get(key).map(String::as_str)
    }

    /// Whether none of them could ask for anything.
    pub(super) fn is_silent(&self) -> bool {
        self.texts.keys().all(|key| [BCS_PORTS, ENV, BIND].contains(key))
    }
}

/// Whether the value of [`ENV`], if the pod has one, says that it waits for its variables.
///
/// # Errors
/// [`Error::Invalid`].
pub fn requires_variables(value: Option<&str>) -> Result<bool, Error> {
    match value.map(str::trim) {
        None => Ok(false),
        Some("required") => Ok(true),
        Some(value) => Err(Error::annotation(ENV, value, "it must be \"required\"")),
    }
}

/// How the programs of a pod on the node's network get the host ports in place of those that they name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BindHook {
    /// Whether they are told the ports that they name, where they ask for the address of a socket.
    pub getsockname: bool,
}

/// What the value of [`BIND`] asks for, if the pod has one. On a network of its own a pod needs nothing.
///
/// # Errors
/// [`Error::Invalid`].
pub fn bind_hook(value: Option<&str>) -> Result<Option<BindHook>, Error> {
    let Some(value) = value else { return Ok(None) };
    let words: Vec<_> = value.split(',').map(str::trim).collect();
    match words[..] {
        ["redirect"] => Ok(Some(BindHook::default())),
        ["redirect", "getsockname"] => Ok(Some(BindHook { getsockname: true })),
        _ => {
            let allowed = "it must be \"redirect\" or \"redirect,getsockname\"";
            Err(Error::annotation(BIND, value, allowed))
        }
    }
}

/// A pod whose request is misspelt would start without its ports, and nobody would know why.
fn refuse_near_misses<'a>(
    keys: impl Iterator<Item = &'a str>,
    text: impl Fn(&str) -> Option<Result<String, Error>>,
) -> Result<(), Error> {
    for key in keys {
        let Some(rest) = key.strip_prefix(OURS).filter(|rest| rest.len() <= LONGEST) else {
            continue;
        };
        let is_near = |ours: &&str| key != *ours && is_near(rest, &ours[OURS.len()..], 1);
        let near = [PORTS, RANGE, ALLOCATION, ENV, MOUNT, BIND].into_iter().find(is_near);
        if let Some(ours) = near {
            return Err(Error::Unsupported {
                key: format!("annotation {}", escape(key)),
                value: text(key).transpose()?.map_or("null".to_owned(), |text| quote(&text)),
                remedy: format!("did you mean {ours}?"),
            });
        }
    }
    Ok(())
}

/// Comparing is quadratic, and nobody misspells by that much.
const LONGEST: usize = 16;
