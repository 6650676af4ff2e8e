//! SCTP, which not every kernel has.

use super::*;

#[test]
#[ignore = "needs SCTP in the kernel: run by make test-kernels"]
fn a_bind_of_sctp_is_left_alone() {
    let mut scene = Scene::new();
    let pod = scene.pod("one", "http=8080/tcp+udp", "redirect");
    let [http] = scene.runs(&pod, ["HTTP"]);
    let mut actor = scene.actor("one");
    assert_eq!(actor.does("binds-sctp 127.0.0.1:8080"), "127.0.0.1:8080");
    assert_eq!(actor.does("listens 127.0.0.1:8080"), format!("127.0.0.1:{http}"));
}
