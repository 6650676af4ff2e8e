//! What is known of containers, by the runtime's events alone.

use super::*;
use crate::inject::tests::http;

const NOW: u64 = 1_700_000_000;

fn pod(annotations: &[(&str, &str)]) -> Pod {
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let annotations = annotations.iter().map(own).collect();
    let (namespace, name) = ("games".to_owned(), "game-0".to_owned());
    Pod { id: "s1".into(), uid: "u1".into(), namespace, name, annotations, ..Pod::default() }
}

fn container(id: &str, name: &str) -> Container {
    let (id, name) = (id.to_owned(), name.to_owned());
    Container { id, name, pod_sandbox_id: "s1".into(), state: 3, ..Container::default() }
}

/// What is known of a pod with a port.
fn holding() -> Known {
    Known { records: vec![http()], ..Known::default() }
}

/// What is written: each container with the reason why it has no variables, and since when.
fn written(injected: &Injected) -> Vec<(String, Option<Lack>, u64)> {
    let written = injected.as_written().expect("a boot has an ID");
    written.containers.into_iter().map(|one| (one.id, one.uninjected, one.since)).collect()
}

/// An agent that has just connected and found these.
fn found(containers: Vec<Container>, seen: Seen, earlier: Option<Containers>) -> Injected {
    let mut injected = Injected::default();
    injected.synchronize(vec![pod(&[])], containers, seen, earlier);
    injected
}

#[test]
fn a_container_without_variables_is_known_until_it_ends() {
    let told = inject::inject(&pod(&[]), &container("c2", "side"), &holding());
    let told = told.expect("it can be told").expect("there is a port").adjustment.env;
    let env = told.iter().map(|it| format!("{}={}", it.name, it.value).into_bytes()).collect();
    let ended = Container { state: 4, ..container("c3", "setup") };
    let with = Container { env, ..container("c2", "side") };
    let all = vec![container("c1", "main"), with, ended];
    let mut injected = found(all, Seen::RunningUnreported, None);
    assert!(!injected.as_written().expect("a boot has an ID").complete);
    let reported = injected.examine(&holding(), NOW);
    assert_eq!(reported.iter().map(|one| &*one.container).collect::<Vec<_>>(), ["main"]);
    let both = [("c1".to_owned(), Some(Lack::NoAgent), NOW), ("c2".to_owned(), None, NOW)];
    assert_eq!(written(&injected), both);
    let file = injected.as_written().expect("a boot has an ID");
    assert!(file.complete && file.containers.iter().all(|one| one.variables == told.len()));

    // The agent that comes next knows since when, and does not report what another does.
    let all = vec![container("c1", "main")];
    let mut next = found(all, Seen::Running, Some(file));
    assert!(next.examine(&holding(), NOW + 60).is_empty());
    assert_eq!(written(&next), both[..1]);

    // kubelet restarts it, and removes the old one later.
    next.end_container("c1");
    assert_eq!(written(&next), []);
    next.told(&pod(&[]), &container("c4", "main"), 8, NOW + 70);
    next.end_container("c1");
    assert_eq!(written(&next), [("c4".to_owned(), None, NOW + 70)]);
    next.end_sandbox("s1");
    assert_eq!(written(&next), []);
}

#[test]
fn who_answered_its_creation_decides() {
    for (seen, lack) in [(Seen::Told, None), (Seen::Untold, Some(Lack::NoAgent))] {
        let mut injected = Injected::default();
        injected.put_off(&pod(&[]), &container("c1", "main"), seen);
        assert!(injected.due().is_some() && injected.examine(&holding(), NOW).is_empty());
        assert_eq!(written(&injected), [("c1".to_owned(), lack, NOW)]);
    }
    let mut injected = Injected::default();
    injected.put_off(&pod(&[]), &container("c1", "main"), Seen::Untold);
    injected.end_container("c1");
    assert!(injected.next().is_none(), "it ended before");
    injected.put_off(&pod(&[]), &container("c1", "main"), Seen::Untold);
    injected.examine(&Known::default(), NOW);
    assert_eq!(written(&injected), [], "its pod has no port");
}

#[test]
fn a_pod_that_asks_and_has_nothing_is_told_from_one_with_a_wrong_annotation() {
    let asking = ("autoport.cni/ports", "http=8080");
    for (annotation, lack) in
        [(asking, Lack::NoPorts), (("autoport.cni/mount", "no"), Lack::Annotation)]
    {
        let mut injected = Injected::default();
        let (pods, containers) = (vec![pod(&[annotation])], vec![container("c1", "main")]);
        injected.synchronize(pods, containers, Seen::RunningUnreported, None);
        let reported = injected.examine(&Known::default(), NOW);
        assert!(reported[0].refusal.is_some());
        assert_eq!(written(&injected), [("c1".to_owned(), Some(lack), NOW)]);
        // The other agent has rejected such a one.
        injected = Injected::default();
        injected.put_off(&pod(&[annotation]), &container("c2", "main"), Seen::Told);
        injected.examine(&Known::default(), NOW);
        assert_eq!(written(&injected), []);
    }
}

#[test]
fn a_pod_is_waited_for_until_it_has_a_container() {
    let record = Record { created: NOW, ..http() };
    let later = Record { created: NOW - YOUNG - 1, ..http() };
    let fixed = Record { grants: Vec::new(), ..record.clone() };
    let mut injected = Injected::default();
    assert!(injected.is_awaited_by(std::slice::from_ref(&record), NOW));
    assert!(!injected.is_awaited_by(&[later, fixed], NOW), "nothing is expected of these");
    injected.told(&pod(&[]), &container("c1", "setup"), 8, NOW);
    assert!(!injected.is_awaited_by(std::slice::from_ref(&record), NOW));
    injected.end_container("c1");
    assert!(injected.is_awaited_by(&[record], NOW), "the next container comes soon");
}
