//! A kernel without `nf_tables`. `make test-kernels` boots one that cannot load the module.

use crate::stage::bare::{attachment, network, run, tcp};
use crate::stage::node::Node;
use crate::stage::view::{index, records};

#[test]
#[ignore = "needs a kernel without nf_tables: make test-kernels"]
fn whoever_asks_is_told_what_is_missing() {
    let node = Node::new();
    let web = attachment(&node, &network("blue"), "web", 5).mapping([tcp(8080)]);
    let status = run(&web, "STATUS");
    assert!(status.failure(50).stdout.contains("modprobe nf_tables"), "{status}");
    let outcome = web.plugin_call("ADD").run();
    assert!(outcome.failure(110).message().contains("modprobe nf_tables"), "{outcome}");
    assert_eq!((records(), index()), (Vec::new(), Vec::new()), "what was not granted");
    web.plugin_call("DEL").run().success();
}
