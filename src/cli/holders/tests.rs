use autoport::model::{Attachment, HostPod};

use super::*;

#[test]
fn every_holder_has_a_name() {
    let host_pod = Owner::bare(HostPod::new("uid-1").expect("a UID"));
    assert_eq!(name_of(&host_pod), "host-network pod uid-1");
    let hash = "0123456789abcdef".repeat(4);
    let container = Owner::bare(Attachment::new("blue", &hash, "eth0").expect("a name"));
    assert_eq!(name_of(&container), "container 0123456789ab");
}
