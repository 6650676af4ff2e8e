//! The ports that a container declares, as kubelet passes them to the runtime.

use serde::Deserialize;

use autoport::model::{Dialect, Protocol};
use autoport::publication::{Entry, Origin};

use crate::nri::message::Container;

/// Set by kubelet on each container that declares ports.
const ANNOTATION: &str = "io.kubernetes.container.ports";

/// What is declared, each with its protocol.
pub(super) struct Declared(Vec<(u16, Protocol)>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    #[serde(default)]
    container_port: u16,
    #[serde(default)]
    protocol: String,
}

impl Declared {
    /// A container about which kubelet says nothing, or nothing that can be read, declares none.
    pub(super) fn of(container: &Container) -> Self {
        let text = container.annotations.get(ANNOTATION);
        let ports: Option<Vec<Port>> = text.and_then(|text| serde_json::from_str(text).ok());
        let port = |port: Port| {
            let protocol = port.protocol.parse().unwrap_or(Protocol::Tcp);
            (port.container_port, protocol)
        };
        Self(ports.unwrap_or_default().into_iter().map(port).collect())
    }

    /// Whether `PORT`, `PORT0` and so on of the container count this entry. `KubeWharf`'s kubelet counts the
    /// ports that the container declares. A port that is mapped to itself cannot be declared, because its
    /// number is not known before: it is counted in every container.
    pub(super) fn counts(&self, entry: &Entry) -> bool {
        !entry.dialects.contains(&Dialect::KubeWharf)
            || entry.origin == Origin::Passthrough
            || self.0.is_empty()
            || self.0.iter().any(|(port, protocol)| {
                let offset = port.checked_sub(entry.container_port.get());
                offset.is_some_and(|offset| offset < entry.count.get())
                    && entry.protocols.contains(protocol)
            })
    }
}
