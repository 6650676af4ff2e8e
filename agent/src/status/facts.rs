//! What counts of a Pod as the API server has it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use autoport::cni::PodAnnotations;
use autoport::model;
use k8s_openapi::api::core::v1;

use super::{HOST_PORT, LISTENING, SERVICE, STATUS, hash};
use crate::inject::asks_by;
use crate::requests;

/// Of one Pod no more annotations are kept.
const MOST: usize = 1024;

/// A text that is no name of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoName;

/// What is known of a Pod.
#[expect(clippy::struct_excessive_bools, reason = "facts that do not depend on each other")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// As the runtime knows it.
    pub pod: model::Pod,
    /// As the API server knows it: another one for a static Pod.
    pub uid: String,
    /// Grows with each change of the object; 0 where it is unknown.
    pub version: u64,
    pub is_on_host: bool,
    /// Whether all of its containers have ended.
    pub has_ended: bool,
    /// Whether it asks for host ports by annotation.
    pub asks: bool,
    pub has_gate: bool,
    /// The addresses of its node.
    pub host_ips: Vec<IpAddr>,
    /// Its own address, which kubelet's probes use.
    pub address: Option<IpAddr>,
    /// The annotations of ours that it carries, each with its text as a number.
    pub carried: BTreeMap<String, u64>,
    /// The condition that it carries.
    pub listening: Option<bool>,
    /// The Service that is to have its ports; an error where the annotation is no name of one.
    pub service: Option<Result<String, NoName>>,
    pub is_ready: bool,
    /// Whether it is being deleted.
    pub is_ending: bool,
}

impl Facts {
    /// `None` for a Pod that is none of a node.
    pub fn of(object: &v1::Pod) -> Option<Self> {
        let pod = requests::identify(object)?;
        let (meta, spec) = (&object.metadata, object.spec.as_ref()?);
        let of_author = meta.annotations.as_ref();
        let status = object.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        let gates = spec.readiness_gates.iter().flatten();
        let conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
        let condition = |kind: &str| {
            let mut own = conditions.clone().filter(|condition| condition.type_ == kind);
            own.next().map(|condition| condition.status == "True")
        };
        Some(Self {
            pod,
            uid: meta.uid.clone()?,
            version: meta.resource_version.as_ref().and_then(|text| text.parse().ok()).unwrap_or(0),
            is_on_host: spec.host_network == Some(true),
            has_ended: matches!(phase, Some("Succeeded" | "Failed")),
            asks: of_author.is_some_and(asks_by),
            has_gate: gates.into_iter().any(|gate| gate.condition_type == LISTENING),
            host_ips: status.map(host_ips).unwrap_or_default(),
            address: status.and_then(|status| status.pod_ip.as_ref()?.parse().ok()),
            carried: of_author.map(carried).unwrap_or_default(),
            listening: condition(LISTENING),
            service: of_author.and_then(|all| all.get(SERVICE)).map(|name| service(name)),
            is_ready: condition("Ready") == Some(true),
            is_ending: meta.deletion_timestamp.is_some(),
        })
    }
}

/// The name of a Service, which is a part of a name in DNS.
fn service(text: &str) -> Result<String, NoName> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let name = text.trim();
    let is_name = !name.is_empty()
        && name.len() <= 63
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if is_name { Ok(name.to_owned()) } else { Err(NoName) }
}

/// An author can write more of them than a Pod can have ports.
fn carried(annotations: &PodAnnotations) -> BTreeMap<String, u64> {
    let is_ours = |key: &String| key == STATUS || key.starts_with(HOST_PORT);
    let ours = annotations.iter().filter(|(key, _)| is_ours(key));
    ours.take(MOST).map(|(key, text)| (key.clone(), hash(text))).collect()
}

/// Kubernetes before 1.29 has one of them only.
fn host_ips(status: &v1::PodStatus) -> Vec<IpAddr> {
    let all = status.host_ips.iter().flatten().map(|one| &one.ip);
    let mut found: Vec<IpAddr> = all.filter_map(|ip| ip.parse().ok()).collect();
    if found.is_empty() {
        found.extend(status.host_ip.as_ref().and_then(|ip| ip.parse::<IpAddr>().ok()));
    }
    found
}
