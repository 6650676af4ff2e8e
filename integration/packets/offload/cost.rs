//! What the second table costs an ADD.

use std::time::{Duration, Instant};

use super::bridged;
use crate::stage::bare::tcp;
use crate::stage::chain::{Main, Network};
use crate::stage::node::Node;
use crate::stage::plugin::Plugin;
use crate::stage::strace::trace;

/// The least time of some ADDs of one port, and the messages that one sends.
fn adds(node: &Node, network: &Network, first: u16) -> (Duration, usize) {
    let mut least = Duration::MAX;
    let mut sent = 0;
    for number in first..first + 8 {
        let pod = node.pod(&format!("pod{number}"));
        let mut attachment = pod.in_network(network).mapping([tcp(number)]);
        attachment.attach_main();
        if number == first + 7 {
            let calls = trace(&attachment, "ADD");
            sent = calls.iter().filter(|call| call.contains("sendto(")).count();
            break;
        }
        let began = Instant::now();
        attachment.plugin_call("ADD").run().success();
        least = least.min(began.elapsed());
    }
    (least, sent)
}

#[test]
#[ignore = "needs a kernel with nf_flow_table: make test-kernels"]
#[expect(clippy::print_stdout, reason = "the figures are of interest")]
fn an_add_sends_four_messages_more() {
    let node = Node::new();
    let plain = Network::new("plain", Main::Bridge, 2, Plugin::Autoport);
    let (time, sent) = adds(&node, &plain, 8000);
    let (offloaded, more) = adds(&node, &bridged(), 9000);
    println!("way: ADD of one port takes {time:?}, with offload {offloaded:?}");
    assert_eq!(more, sent + 4, "the interface, the flowtable, the elements, the transaction");
}
