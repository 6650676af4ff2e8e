//! Which ports a Pod declares, as the plugin reads it: from the Pod's spec to a list as in the annotation
//! `autoport.cni/ports`. No I/O.

use std::num::NonZeroU16;

use autoport::cni::{Config, Error, NodeFiles, PodAnnotations, asking, read_annotations};
use autoport::model::{Dialect, HostPod, Pod, Protocol};
use autoport::store::Ports;
use k8s_openapi::api::core::v1;

/// Only what a static Pod has in the API carries it: the UID by which kubelet, and so the runtime, knows the Pod.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// More are not written: a Pod could fill the memory of the node, and nobody assigns so many.
const MOST: usize = 1024;

/// What a Pod declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    pub pod: Pod,
    /// An empty list if it declares nothing that counts.
    pub ports: Ports,
}

/// The Pod as the runtime knows it; `None` for one that is no Pod of a node.
pub fn identify(pod: &v1::Pod) -> Option<Pod> {
    let meta = &pod.metadata;
    // Anyone who may create Pods can write the annotation: no UID of another kind is taken from it.
    let of_kubelet =
        |uid: &&String| uid.len() == 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mirrored = meta.annotations.as_ref().and_then(|all| all.get(MIRROR));
    let uid = mirrored.map_or(meta.uid.as_ref(), |uid| Some(uid).filter(of_kubelet))?;
    HostPod::new(uid).ok()?;
    let (namespace, name) = (meta.namespace.clone()?, meta.name.clone()?);
    Some(Pod { namespace, name, uid: uid.clone() })
}

/// The ports that the Pod declares, if its annotations leave something to them; in the order of the spec. Those
/// of init containers do not count.
pub fn declared(pod: &v1::Pod) -> Option<Declared> {
    let (spec, annotations) = (pod.spec.as_ref()?, pod.metadata.annotations.as_ref()?);
    // No plugin is called for a Pod on the host network.
    let is_on_host = spec.host_network == Some(true);
    let pod = identify(pod).filter(|_| !is_on_host && needs_spec(annotations))?;
    // A list may name a port that has a host port, and is told so; without a list the others are meant.
    let names_ports = asking(annotations, &[Dialect::Bcs].into()).next().is_some();
    let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
    let ports = ports.filter(|port| names_ports || port.host_port.unwrap_or_default() == 0);
    let mut list: Vec<Port> = Vec::new();
    for port in ports.filter_map(Port::of) {
        let is_known = |name: &String| list.iter().any(|one| one.name.as_ref() == Some(name));
        let name = port.name.clone().filter(|name| !is_known(name));
        match list.iter_mut().find(|one| (one.number, one.protocol) == (port.number, port.protocol))
        {
            Some(one) if one.name.is_none() => one.name = name,
            Some(_) => {}
            None => list.push(Port { name, ..port }),
        }
        if list.len() > MOST {
            let reason = format!("Pod {pod} declares more than {MOST} ports");
            return Some(Declared { pod, ports: Ports::Rejected(reason) });
        }
    }
    let ports: Vec<String> = list.iter().map(Port::item).collect();
    Some(Declared { pod, ports: Ports::Declared(ports.join(", ")) })
}

/// Whether the plugin may need the spec. Not everything that it knows is known here, so it may go without.
fn needs_spec(annotations: &PodAnnotations) -> bool {
    let Ok((config, _)) = Config::read(None, &NodeFiles::default()) else { return false };
    let Ok(pod) = HostPod::new("any") else { return false };
    let mut ask = config.ask(pod.into());
    ask.ports.max_per_pod = NonZeroU16::MAX;
    let aliases = [Dialect::KubeWharf, Dialect::Bcs].into();
    let read = read_annotations(&mut ask, annotations, &aliases, &mut Vec::new());
    matches!(read, Err(Error::NeedsSpec { .. }))
}

/// A port of a container.
#[derive(Clone)]
struct Port {
    name: Option<String>,
    number: NonZeroU16,
    protocol: Protocol,
}

impl Port {
    fn of(port: &v1::ContainerPort) -> Option<Self> {
        let number = u16::try_from(port.container_port).ok().and_then(NonZeroU16::new)?;
        let protocol = port.protocol.as_deref().unwrap_or("TCP").parse().ok()?;
        let name = port.name.clone().filter(|name| is_name(name));
        Some(Self { name, number, protocol })
    }

    fn item(&self) -> String {
        let name = self.name.as_ref().map(|name| format!("{name}=")).unwrap_or_default();
        format!("{name}{}/{}", self.number, self.protocol)
    }
}

/// Whether a list can have the name. Kubernetes also permits a digit in front, and nothing else besides.
fn is_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.bytes().all(inner)
}

#[cfg(test)]
mod tests;
