//! What the operator forbids, whoever asks.

use std::num::NonZeroU16;

use crate::model::{HostPort, Mapping, Pod, PortPolicy, PortRange};

/// Why a claim is refused by policy. Code 104.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// The number is too low.
    #[error("host port {host} is below minPort, {min}; ask for another port")]
    BelowMinPort {
        /// What was asked for.
        host: HostPort,
        /// The lowest that is granted.
        min: NonZeroU16,
    },
    /// The number is excluded.
    #[error("host port {host} is kept free by excludePorts ({range}); ask for another port")]
    Excluded {
        /// What was asked for.
        host: HostPort,
        /// The entry of the list that has it.
        range: PortRange,
    },
    /// The pod's namespace may not ask by annotation.
    #[error(
        "pods {} may not ask for host ports by annotation ({annotation}); allowedNamespaces of \
         this node's configuration would have to name it",
        match namespace {
            Some(name) => format!("in namespace {name:?}"),
            None => "of unknown namespace".to_owned(),
        }
    )]
    Namespace {
        /// The annotation that asked.
        annotation: &'static str,
        /// The pod's namespace, if the runtime told it.
        namespace: Option<String>,
    },
}

/// Judges host ports that were asked for by number. Those that are chosen come out of a pool that
/// has no forbidden ones.
///
/// # Errors
/// [`Forbidden`], for the first.
pub fn permit_ports(mappings: &[Mapping], policy: &PortPolicy) -> Result<(), Forbidden> {
    for Mapping { host, .. } in mappings {
        if host.port < policy.min_port {
            return Err(Forbidden::BelowMinPort { host: *host, min: policy.min_port });
        }
        if let Some(range) = policy.excluded.iter().find(|range| range.contains(host.port)) {
            return Err(Forbidden::Excluded { host: *host, range: *range });
        }
    }
    Ok(())
}

/// Judges whether a pod may ask by `annotation`. Where not all namespaces may, one that the runtime
/// did not tell may not.
///
/// # Errors
/// [`Forbidden::Namespace`].
pub fn permit_namespace(
    annotation: Option<&'static str>,
    pod: Option<&Pod>,
    policy: &PortPolicy,
) -> Result<(), Forbidden> {
    let (Some(annotation), Some(allowed)) = (annotation, &policy.allowed_namespaces) else {
        return Ok(());
    };
    let namespace = pod.map(|pod| pod.namespace.clone()).filter(|name| !name.is_empty());
    if namespace.as_ref().is_some_and(|name| allowed.contains(name)) {
        return Ok(());
    }
    Err(Forbidden::Namespace { annotation, namespace })
}
