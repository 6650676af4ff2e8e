use super::*;
use crate::event::Silent;

#[test]
fn what_no_agent_wrote_in_this_boot_is_not_believed() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::at(&dir.path().join("state"));
    assert_eq!(store.guarded(), None, "there is no directory");
    let written = Guarded::new(Err("no cgroups".into())).expect("a boot has an ID");
    let write = |guarded: Option<&Guarded>| {
        let locked = store.lock(&mut Silent).expect("it is free");
        locked.write_guarded(guarded).expect("there is space");
    };
    write(Some(&written));
    assert_eq!(store.guarded(), Some(written.clone()));
    write(Some(&Guarded { boot_id: "another".into(), ..written.clone() }));
    assert_eq!(store.guarded(), None);
    write(Some(&written));
    write(None);
    assert_eq!(store.guarded(), None);
    std::fs::write(store.dir().join(AGENT_GUARD), "{").expect("it is ours");
    assert_eq!(store.guarded(), None);
}
