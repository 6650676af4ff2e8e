use std::time::Duration;

use super::*;
use crate::event::Silent;
use crate::model::{Attachment, Record, test_record};

#[test]
fn a_node_with_pods_is_looked_at_beside_other_readers() {
    let parent = tempfile::tempdir().expect("a directory");
    let store = Store::at(&parent.path().join("state")).waiting(Duration::from_secs(1));
    let owner = Owner::bare(Attachment::new("net", "c1", "eth0").expect("a valid name"));
    let locked = store.lock(&mut Silent).expect("locking");
    let boot_id = locked.instance().boot_id.clone();
    locked.save(&Record { boot_id, ..test_record(owner.clone()) }).expect("saving");
    drop(locked);
    let _reader = store.read(&mut Silent).expect("reading");
    for dry_run in [true, false] {
        let found = dismantle(&store, dry_run, &mut Silent).expect("nothing is in the way");
        assert_eq!(found, Dismantled { holders: vec![owner.clone()], ..Dismantled::default() });
    }
}
