use super::*;
use crate::model::{Attachment, NamespaceId, Pod};

fn owner(container: &str, uid: Option<&str>) -> Owner {
    let id = NamespaceId { device: 4, inode: 1 };
    Owner {
        holder: Attachment::new("net", container, "eth0").expect("a valid name").into(),
        pod: uid.map(|uid| Pod {
            namespace: "default".into(),
            name: "web".into(),
            uid: uid.into(),
        }),
        netns: Some(Netns { path: "/run/netns/a".into(), id, seen_from: id }),
    }
}

#[test]
fn only_evidence_makes_a_holder_give_way() {
    let alive = |_: &Netns| false;
    let gone = |_: &Netns| true;
    let old = owner("old", Some("u1"));
    assert_eq!(standing(&old, &old, gone), Standing::Same);
    let recreated = standing(&owner("new", Some("u1")), &old, alive);
    assert!(matches!(recreated, Standing::Superseded(_)));
    assert_eq!(standing(&owner("new", Some("u2")), &old, alive), Standing::Holds);
    assert_eq!(standing(&owner("new", None), &owner("old", None), alive), Standing::Holds);
    // Empty UIDs are no evidence: podman sends none.
    let nameless = owner("old", Some(""));
    assert_eq!(standing(&owner("new", Some("")), &nameless, alive), Standing::Holds);
    assert!(matches!(standing(&owner("new", None), &old, gone), Standing::Superseded(_)));
    // The same sandbox on a second network.
    let mut second = old.clone();
    second.holder = Attachment::new("other", "old", "eth1").expect("a valid name").into();
    assert_eq!(standing(&second, &old, alive), Standing::Sibling);
    assert!(matches!(standing(&second, &old, gone), Standing::Superseded(_)));
    // Nothing is known of the namespace.
    let mut unknown = old;
    unknown.netns = None;
    assert_eq!(standing(&owner("new", None), &unknown, gone), Standing::Holds);
}
