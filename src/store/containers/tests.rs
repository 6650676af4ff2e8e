//! What agents write of containers, and what is not believed.

use super::*;
use crate::event::Silent;

fn container(name: &str, uninjected: Option<Lack>) -> Container {
    let pod = Pod { namespace: "games".into(), name: "game-0".into(), uid: "u1".into() };
    let (id, name) = (format!("{name}-0123456789abcdef"), name.to_owned());
    Container { id, name, pod, since: 1, variables: 8, uninjected }
}

/// A state directory.
struct Node {
    parent: tempfile::TempDir,
    store: Store,
}

impl Node {
    fn new() -> Self {
        let parent = tempfile::tempdir().expect("a directory");
        let store = Store::at(&parent.path().join("state"));
        Self { parent, store }
    }

    fn path(&self) -> std::path::PathBuf {
        self.parent.path().join("state/agent.containers")
    }

    fn write(&self, containers: &Containers) {
        let locked = self.store.lock(&mut Silent).expect("it is free");
        locked.write_containers(containers).expect("there is space");
    }
}

#[test]
fn those_without_variables_come_first() {
    let node = Node::new();
    assert_eq!(node.store.containers(), None, "there is no directory");
    let all = [container("main", None), container("late", Some(Lack::NoAgent))];
    let written = Containers::new(all.to_vec(), true).expect("a boot has an ID");
    node.write(&written);
    let found = node.store.containers().expect("it is of this boot");
    assert_eq!(found, written);
    assert_eq!((found.injected, found.uninjected, &found.containers[0]), (1, 1, &all[1]));
    let named: Vec<_> = found.uninjected().map(ToString::to_string).collect();
    assert_eq!(named, ["late (late-0123456) of games/game-0"]);
}

#[test]
fn of_many_containers_and_long_texts_only_a_part_is_written() {
    let node = Node::new();
    let worst = "\u{1}".repeat(TEXT_MAX + 1);
    let Container { mut pod, .. } = container("main", None);
    for text in [&mut pod.namespace, &mut pod.name, &mut pod.uid] {
        text.clone_from(&worst);
    }
    let (id, name) = (worst.clone(), worst);
    let one = Container { id, name, pod, since: u64::MAX, variables: usize::MAX, uninjected: None };
    let mut all = vec![one.clone(); LISTED_MAX];
    all.push(Container { uninjected: Some(Lack::Annotation), ..one });
    let written = Containers::new(all, true).expect("a boot has an ID");
    node.write(&written);
    assert_eq!(node.store.containers(), Some(written.clone()));
    assert_eq!((written.injected, written.uninjected), (LISTED_MAX, 1));
    assert_eq!((written.containers.len(), written.uninjected().count()), (LISTED_MAX, 1));
    let label = written.containers[0].label();
    assert!(label.chars().all(|it| !it.is_control()), "{label}");
}

#[test]
fn what_no_agent_wrote_in_this_boot_is_not_believed() {
    let node = Node::new();
    node.write(&Containers::new(Vec::new(), true).expect("a boot has an ID"));
    let good = std::fs::read_to_string(node.path()).expect("it was written");
    let of_boot = boot_id().expect("a boot has an ID");
    for odd in [
        String::new(),
        "[]".to_owned(),
        good[..good.len() / 2].to_owned(),
        good.replace("\"version\": 1", "\"version\": 99"),
        good.replace(&of_boot, "00000000-0000-0000-0000-000000000000"),
        good.replace("\"injected\": 0", "\"injected\": -1"),
        good.replace("[]", r#"[{"id": "x"}]"#),
        format!("{}{good}", " ".repeat(FILE_MAX)),
    ] {
        std::fs::write(node.path(), &odd).expect("it can be changed");
        assert_eq!(node.store.containers(), None, "{}", odd.trim());
    }
    let of_later = good.replace("\"complete\"", "\"further\": {\"key\": 1}, \"complete\"");
    std::fs::write(node.path(), of_later).expect("it can be changed");
    assert!(node.store.containers().is_some(), "a later version may add keys");
    std::fs::remove_file(node.path()).expect("it can be deleted");
    nix::unistd::mkfifo(&node.path(), nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    assert_eq!(node.store.containers(), None, "and it is not waited for");
    std::fs::remove_file(node.path()).expect("it can be deleted");
    let other = node.parent.path().join("other");
    std::fs::write(&other, good).expect("a file");
    std::os::unix::fs::symlink(other, node.path()).expect("a link");
    assert_eq!(node.store.containers(), None, "a link");
}

#[test]
fn without_a_connected_agent_the_time_is_told() {
    let of = |complete| Containers::new(Vec::new(), complete).expect("a boot has an ID");
    let agent = |connected, heartbeat_age| Agent { connected, heartbeat_age, bind_hook: None };
    assert_eq!(of(true).as_of(&agent(true, Some(10))), "");
    assert!(of(false).as_of(&agent(true, Some(10))).contains("still to be examined"));
    assert!(of(true).as_of(&agent(false, Some(75_900))).contains("as of 75 s ago"));
    assert!(of(true).as_of(&agent(false, None)).contains("unknown time"));
}
