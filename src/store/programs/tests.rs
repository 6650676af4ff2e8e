use super::*;
use crate::event::Silent;

#[test]
fn the_programs_of_a_pod_are_listed_until_it_is_forgotten() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::at(&dir.path().join("state"));
    let pod = |uid| HostPod::new(uid).expect("a UID");
    assert_eq!(store.bind_programs(&pod("u1")), []);
    let locked = store.lock(&mut Silent).expect("it is free");
    let listing = "   0: r6 = r1\n".to_owned();
    let program = BindProgram { call: "bind4".into(), id: 7, instructions: 1, listing };
    for uid in ["u1", "u2"] {
        // Of the first one there is no record.
        locked.write_bind_programs(&pod(uid), vec![program.clone()]).expect("there is space");
    }
    assert_eq!(store.bind_programs(&pod("u1")), []);
    assert_eq!(store.bind_programs(&pod("u2")), [program]);
    std::fs::write(store.dir().join("programs/u2.json"), "{").expect("it is ours");
    assert_eq!(store.bind_programs(&pod("u2")), []);
}
