//! Pods on the node's network, for which a node agent claims with the library's functions: no CNI plugin is called.

use std::path::Path;

use autoport::app;
use autoport::cni::{Config, NodeFiles};
use autoport::event::Silent;
use autoport::model::{Allocation, Ask, HostPod, Pod, Record, Request};
use autoport::store::Store;

use crate::stage::view::STATE;

/// Claims for the pod shop/web with this UID, at this second.
pub(crate) fn claims(uid: &str, requested: Vec<Request>, now: u64) -> Record {
    let (config, _) = Config::read(None, &NodeFiles::default()).expect("the defaults");
    let ask = Ask {
        holder: HostPod::new(uid).expect("a UID").into(),
        pod: Some(Pod { namespace: "shop".into(), name: "web".into(), uid: uid.into() }),
        netns: None,
        fixed: Vec::new(),
        requested,
        annotation: Some("autoport.cni/ports"),
        allocation: Allocation::Sequential,
        dialects: [].into(),
        pod_addresses: Vec::new(),
        host_interfaces: Vec::new(),
        ports: config.ports,
        policy: config.policy,
        advertise_addresses: Vec::new(),
        guard_except: Vec::new(),
        offload: Vec::new(),
    };
    let claimed = app::claim(&Store::at(Path::new(STATE)), ask, &|| true, now, &mut Silent);
    claimed.expect("there are ports").expect("some were asked for").record
}
