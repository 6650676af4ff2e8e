//! Who holds host ports: the attachment of a container, or a pod on the node's own network.

use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What the CNI specification identifies by network name, container ID and interface name
/// (SPEC section 2, "CNI operations"). Displayed with a [`short_id`], and with `{:#}` in full.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    network: String,
    container_id: String,
    ifname: String,
}

impl Attachment {
    /// Puts a checked attachment together.
    ///
    /// # Errors
    /// [`InvalidName`] when a part breaks the rules that libcni applies to it.
    pub fn new(network: &str, container_id: &str, ifname: &str) -> Result<Self, InvalidName> {
        check_identifier("network name", network)?;
        check_identifier("container ID", container_id)?;
        check_ifname(ifname)?;
        Ok(Self {
            network: network.to_owned(),
            container_id: container_id.to_owned(),
            ifname: ifname.to_owned(),
        })
    }

    /// The `name` of the network configuration.
    pub fn network(&self) -> &str {
        &self.network
    }

    /// `CNI_CONTAINERID`.
    pub fn container_id(&self) -> &str {
        &self.container_id
    }

    /// `CNI_IFNAME`.
    pub fn ifname(&self) -> &str {
        &self.ifname
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, container_id, ifname } = self;
        let id = if out.alternate() { container_id } else { short_id(container_id) };
        write!(out, "{network}/{id}/{}", ifname.escape_debug())
    }
}

/// As much of a container ID of 64 hexadecimal digits as podman and crictl print, 12 digits; any other ID as it is.
pub fn short_id(id: &str) -> &str {
    let is_hash = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hash { &id[..12] } else { id }
}

/// A part of an attachment's name that libcni would refuse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: {rule}")]
pub struct InvalidName {
    /// The part: "network name", "container ID" and so on.
    pub what: &'static str,
    /// Its value.
    pub value: String,
    /// The rule that the value breaks.
    pub rule: &'static str,
}

/// Checks a network name or container ID against the expression of libcni's `utils`,
/// `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`. There is no limit on the length.
///
/// # Errors
/// [`InvalidName`], naming `what`.
pub fn check_identifier(what: &'static str, value: &str) -> Result<(), InvalidName> {
    let tail_ok = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let valid = value.starts_with(|first: char| first.is_ascii_alphanumeric())
        && value.bytes().all(tail_ok);
    if valid {
        return Ok(());
    }
    let rule = "it must start with a letter or digit and go on with letters, digits, '_', '.', '-'";
    Err(InvalidName { what, value: value.to_owned(), rule })
}

/// Checks an identifier that becomes a file name, for which 200 bytes are left.
///
/// # Errors
/// [`InvalidName`], naming `what`.
pub fn check_short(what: &'static str, value: &str) -> Result<(), InvalidName> {
    check_identifier(what, value)?;
    if value.len() <= 200 {
        return Ok(());
    }
    let rule = "it must not be longer than 200 bytes";
    Err(InvalidName { what, value: value.to_owned(), rule })
}

/// Checks an interface name the way the kernel's `dev_valid_name` does.
///
/// # Errors
/// [`InvalidName`].
pub fn check_ifname(value: &str) -> Result<(), InvalidName> {
    let valid = (1..=15).contains(&value.len())
        && value != "."
        && value != ".."
        && !value.contains(|c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace());
    if valid {
        return Ok(());
    }
    let rule = "it must be 1 to 15 bytes, not '.' or '..', without '/', ':' and white space";
    Err(InvalidName { what: "interface name", value: value.to_owned(), rule })
}

/// The Kubernetes Pod behind an attachment, where the runtime told us (`CNI_ARGS`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[derive(derive_more::Display)]
#[display("{}{}{}", namespace.escape_debug(), if namespace.is_empty() { "" } else { "/" },
    name.escape_debug())]
pub struct Pod {
    /// `K8S_POD_NAMESPACE`; empty where the runtime sends none (podman).
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_UID`; empty where the runtime sends none (CRI-O before 1.24, podman).
    pub uid: String,
}

/// The identity of a Linux namespace: device and inode of its nsfs file (namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceId {
    /// `st_dev` of the nsfs.
    pub device: u64,
    /// `st_ino`, the number that `readlink /proc/self/ns/net` shows.
    pub inode: u64,
}

/// A container's network namespace, as it was seen when its ports were recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Netns {
    /// `CNI_NETNS`.
    pub path: String,
    /// The namespace at that path when the ports were recorded.
    pub id: NamespaceId,
    /// The mount namespace in which the path was looked up. In another one the same path says
    /// nothing about this container.
    pub seen_from: NamespaceId,
}

/// A pod on the node's own network. It has no attachment; its UID names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct HostPod(String);

impl HostPod {
    /// Names the pod with this UID.
    ///
    /// # Errors
    /// [`InvalidName`] when the UID is no identifier, or longer than 200 bytes.
    pub fn new(uid: &str) -> Result<Self, InvalidName> {
        check_short("pod UID", uid)?;
        Ok(Self(uid.to_owned()))
    }

    /// Its UID.
    pub fn uid(&self) -> &str {
        &self.0
    }
}

/// What a set of host ports belongs to, and what its record is named after.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged, try_from = "HolderFields")]
#[derive(derive_more::From)]
pub enum Holder {
    /// One network interface of a container.
    Attachment(Attachment),
    /// A pod on the node's own network. The evidence that it is gone is never a namespace.
    HostPod {
        /// The pod.
        #[serde(rename = "hostPod")]
        pod: HostPod,
    },
}

impl fmt::Display for Holder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attachment(attachment) => attachment.fmt(out),
            Self::HostPod { pod } => write!(out, "host network, UID {}", pod.uid()),
        }
    }
}

/// The fields of either kind, before they are checked.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HolderFields {
    network: Option<String>,
    container_id: Option<String>,
    ifname: Option<String>,
    host_pod: Option<String>,
}

impl TryFrom<HolderFields> for Holder {
    type Error = Box<dyn Error>;

    fn try_from(fields: HolderFields) -> Result<Self, Box<dyn Error>> {
        let HolderFields { network, container_id, ifname, host_pod } = fields;
        match (network, container_id, ifname, host_pod) {
            (Some(network), Some(container_id), Some(ifname), None) => {
                Ok(Attachment::new(&network, &container_id, &ifname)?.into())
            }
            (None, None, None, Some(uid)) => Ok(HostPod::new(&uid)?.into()),
            _ => Err("it needs network, containerId and ifname, or hostPod alone".into()),
        }
    }
}

impl Holder {
    /// Whether both are the same interface in the same network, of whatever container: where a pod
    /// finds its numbers again after its sandbox was re-created.
    pub fn is_same_place(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Attachment(one), Self::Attachment(other)) => {
                one.network == other.network && one.ifname == other.ifname
            }
            _ => self == other,
        }
    }
}

/// The owner of host ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// The attachment or host-network pod that holds the ports.
    #[serde(flatten)]
    pub holder: Holder,
    /// The Pod, on Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
    /// The network namespace, if it could be examined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<Netns>,
}

impl Owner {
    /// An owner without a known pod and namespace.
    pub fn bare(holder: impl Into<Holder>) -> Self {
        Self { holder: holder.into(), pod: None, netns: None }
    }

    /// The attachment; `None` for a pod on the node's own network.
    pub const fn attachment(&self) -> Option<&Attachment> {
        match &self.holder {
            Holder::Attachment(attachment) => Some(attachment),
            Holder::HostPod { .. } => None,
        }
    }

    /// The ID of the container (on Kubernetes: of the sandbox) that the ports lead to.
    pub fn container_id(&self) -> Option<&str> {
        self.attachment().map(Attachment::container_id)
    }

    /// The UID of the pod, where one is known: runtimes may send an empty one.
    pub fn uid(&self) -> Option<&str> {
        match &self.holder {
            Holder::HostPod { pod } => Some(pod.uid()),
            Holder::Attachment(_) => {
                self.pod.as_ref().map(|pod| pod.uid.as_str()).filter(|uid| !uid.is_empty())
            }
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.pod, &self.holder) {
            (Some(pod), holder) => {
                write!(out, "pod {pod} (")?;
                holder.fmt(out)?;
                out.write_str(")")
            }
            (None, Holder::Attachment(attachment)) => {
                out.write_str("container ")?;
                attachment.fmt(out)
            }
            (None, Holder::HostPod { pod }) => write!(out, "host-network pod {}", pod.uid()),
        }
    }
}
