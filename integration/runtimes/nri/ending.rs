//! Both agents of a node are asked to end at once while pods are created, as `kubectl delete pod` does. The node
//! has `"agent": "required"`.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::{PORTS, pid, same};
use crate::daemon::{Containerd, Release};
use crate::machine::wait_until;
use crate::stage::view::assert_nothing_held;

/// How many pods are created, and how many of them at a time.
const PODS: usize = 24;
const AT_ONCE: usize = 4;

/// How long kubelet pulls an image.
const PULL: Duration = Duration::from_millis(700);

/// How long there is no agent.
const AWAY: Duration = Duration::from_secs(2);

const AGENTS: [(&str, &[&str]); 2] = [("agent", &[]), ("standby", &["--standby"])];

/// How many pods were begun, and how many of them have a sandbox and no container.
#[derive(Default)]
struct Progress {
    next: AtomicUsize,
    pulling: AtomicUsize,
}

/// Creates pods as kubelet does, which repeats what was rejected; gives their sandboxes, and how many were rejected
/// at first.
fn create(node: &Containerd, progress: &Progress) -> (Vec<String>, usize) {
    let (mut sandboxes, mut rejected) = (Vec::new(), 0);
    loop {
        let number = progress.next.fetch_add(1, Ordering::SeqCst);
        if number >= PODS {
            return (sandboxes, rejected);
        }
        let pod = node.asking(&format!("pod-{number}"), &[(PORTS, "http=8080")]);
        let mut is_first = true;
        let sandbox = loop {
            let (ok, text) = node.cri("run", &pod.to_string());
            if ok {
                break text;
            }
            assert!(text.contains("no node agent is connected"), "{text}");
            rejected += usize::from(std::mem::replace(&mut is_first, false));
            thread::sleep(Duration::from_millis(100));
        };
        progress.pulling.fetch_add(1, Ordering::SeqCst);
        thread::sleep(PULL);
        progress.pulling.fetch_sub(1, Ordering::SeqCst);
        let container =
            node.does("create", &Containerd::request(&pod, &sandbox, "main", json!({})));
        let environment = node.environment(&container);
        assert!(environment.contains_key("AUTOPORT_HOST_PORT_HTTP"), "{number}: {environment:?}");
        sandboxes.push(sandbox);
    }
}

fn agents_that_end_together_leave_no_container_without_its_variables(release: Release) {
    let node = Containerd::with_agents(release, same);
    fs::write("/etc/cni/autoport.json", r#"{"agent": "required"}"#).expect("/etc/cni is ours");
    let both = AGENTS.map(|(name, options)| node.agent(name, options));
    let progress = Progress::default();
    let created = thread::scope(|scope| {
        let creators = [(); AT_ONCE].map(|()| scope.spawn(|| create(&node, &progress)));
        wait_until("sandboxes wait for their containers", || {
            let of = |count: &AtomicUsize| count.load(Ordering::SeqCst);
            of(&progress.next) > PODS / 3 && of(&progress.pulling) > 1
        });
        let pids = both.each_ref().map(|agent| fs::read_to_string(pid(agent.name)));
        let pids = pids.map(|pid| pid.expect("it runs"));
        node.machine.run("kill", &["-TERM", pids[0].trim(), pids[1].trim()]);
        let logs = both.map(|agent| {
            let name = agent.name;
            agent.reap();
            fs::read_to_string(super::log(name)).expect("its log")
        });
        node.machine.node.note(logs.join("---\n"));
        // The next Pod of a DaemonSet takes as long at least.
        thread::sleep(AWAY);
        let _next = AGENTS.map(|(name, options)| node.agent(name, options));
        creators.map(|creator| creator.join().expect("each pod has its variables"))
    });
    let rejected: usize = created.iter().map(|(_, rejected)| rejected).sum();
    node.machine.node.note(format!("{rejected} of {PODS} pods waited"));
    assert!(rejected > 0, "the agents were not away");
    let sandboxes: Vec<_> = created.iter().flat_map(|(sandboxes, _)| sandboxes).collect();
    node.ends(&sandboxes.iter().map(|sandbox| sandbox.as_str()).collect::<Vec<_>>());
    assert_nothing_held();
}

on_releases!(trixie Trixie, sid Sid: (agents_that_end_together_leave_no_container_without_its_variables));
