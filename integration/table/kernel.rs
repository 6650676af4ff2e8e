//! Behaviour that depends on the kernel, as `nft monitor` and strace(1) see it. The test knows from
//! the kernel's release what to expect; the plugin never reads the release, but tries and checks
//! the result. Each test prints what it found in a line that begins with `way:`; `make
//! test-kernels` collects them.

#![expect(clippy::print_stdout, reason = "what was found is printed")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use nix::libc::MSG_DONTWAIT;
use rtnetlink::sys::Socket;
use rtnetlink::sys::protocols::NETLINK_NETFILTER;

use crate::stage::bare::{add, attachment, network, tcp, udp};
use crate::stage::netns::{PATH, nft, settle, sysctl};
use crate::stage::node::{CLIENT, FIRST, Node, address};
use crate::stage::strace::trace;
use crate::stage::view::{self, elements, udp_flows};

/// The first two numbers of the kernel's release.
fn kernel() -> (u32, u32) {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let mut numbers = text.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    (numbers.next().expect("a first number"), numbers.next().expect("a second"))
}

/// The events of table changes, from `nft monitor`.
struct Monitor {
    process: Child,
    lines: Receiver<String>,
}

impl Monitor {
    fn start() -> Self {
        let mut process = Command::new("nft")
            .arg("monitor")
            .env("PATH", PATH)
            .stdout(Stdio::piped())
            .spawn()
            .expect("nft can be started");
        let output = BufReader::new(process.stdout.take().expect("a pipe"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|l| sender.send(l))
        });
        let own = Self { process, lines };
        // It says nothing when it is ready.
        for _ in 0..600 {
            nft("add table inet begin\ndelete table inet begin");
            if own.lines.recv_timeout(Duration::from_millis(100)).is_ok() {
                return own;
            }
        }
        panic!("nft monitor tells nothing");
    }

    /// What it told about elements of our table up to now.
    fn told(self) -> Vec<String> {
        nft("add table inet end");
        let patience = Duration::from_mins(1);
        let next = || self.lines.recv_timeout(patience).expect("it tells of the last table");
        let all: Vec<_> = std::iter::repeat_with(next)
            .take_while(|line| !line.contains("table inet end"))
            .collect();
        all.into_iter().filter(|line| line.contains("element inet autoport")).collect()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Since 6.12 an element that is there can be given another timeout. Before, the kernel takes that,
/// and changes nothing.
#[test]
fn what_is_released_expires_where_it_can_and_is_deleted_elsewhere() {
    let node = Node::new();
    let keeper = attachment(&node, &network("blue"), "keeper", 6).mapping([tcp(9999)]);
    add(&node, &keeper);
    let kept = elements();
    let web = attachment(&node, &network("blue"), "web", 5).mapping([tcp(8080), udp(8080)]);
    add(&node, &web);
    let released = elements().len() - kept.len();
    assert_eq!(released, 8, "each port in a map and a set of each family");

    let monitor = Monitor::start();
    let trace = trace(&web, "DEL");
    settle();
    let told = monitor.told();
    assert_eq!(elements(), kept);

    let begins = |word: &str| told.iter().filter(|line| line.starts_with(word)).count();
    let (expired, deleted) = (begins("add element"), begins("delete element"));
    let is_deletion = |line: &&String| line.contains("sendto(") && line.contains("DELSETELEM");
    let asked = trace.iter().filter(is_deletion).count();
    println!("way: released elements: {expired} of {released} expired, {deleted} were deleted");
    if kernel() >= (6, 12) {
        assert_eq!((expired, deleted, asked), (released, 0, 0), "{told:#?}\n{trace:#?}");
        assert!(told.iter().all(|line| line.contains("timeout")), "{told:#?}");
    } else {
        assert_eq!((expired, deleted, asked), (0, released, 1), "{told:#?}\n{trace:#?}");
    }
}

/// Since 5.8 the kernel lists only the flows that are asked for (`CTA_FILTER`). The plugin looks at
/// each all the same.
#[test]
fn flows_are_narrowed_by_the_kernel() {
    const OTHERS: u16 = 500;
    let node = Node::new();
    // Half a minute is not enough for a slow machine.
    sysctl("net/netfilter/nf_conntrack_udp_timeout", "3600");
    let keeper = attachment(&node, &network("blue"), "keeper", 6).mapping([tcp(9999)]);
    add(&node, &keeper);
    node.client.run(|| {
        let socket = UdpSocket::bind((address(CLIENT[0]), 0)).expect("an address of the client");
        for port in (20000..20000 + OTHERS).chain([8080]) {
            socket.send_to(b"?", (address(FIRST[0]), port)).expect("a way to the node");
        }
    });
    let others = || view::flows().iter().filter(|flow| flow.contains(" dport=20")).count();
    assert_eq!(others(), usize::from(OTHERS));
    assert_eq!(udp_flows(FIRST[0], 8080).len(), 1);

    let web = attachment(&node, &network("blue"), "web", 5).mapping([udp(8080)]);
    let trace = trace(&web, "ADD");
    let listed: usize = trace.iter().map(|line| line.matches("IPCTNL_MSG_CT_NEW").count()).sum();
    println!("way: flows: {listed} listed of {}", OTHERS + 1);
    if kernel() >= (5, 8) {
        assert_eq!(listed, 1, "{trace:#?}");
    } else {
        // strace leaves out what is too much.
        assert!(listed > 1, "{trace:#?}");
    }
    assert_eq!(udp_flows(FIRST[0], 8080), [""; 0]);
    assert_eq!(others(), usize::from(OTHERS));
}

/// Since 6.10 the kernel acknowledges the begin and the end of a batch, too. The plugin asks for one
/// acknowledgement, of the last message between them.
#[test]
fn one_message_of_a_transaction_is_acknowledged() {
    let node = Node::new();
    let web = attachment(&node, &network("blue"), "web", 5).mapping([tcp(8080)]);
    let trace = trace(&web, "ADD");
    let sent = trace.iter().position(|line| line.contains("NFNL_MSG_BATCH_BEGIN"));
    let (sent, after) = trace.split_at(sent.expect("a transaction") + 1);
    let asked = sent.last().expect("it is there").matches("NLM_F_ACK").count();
    let until_quiet = after.iter().take_while(|line| !line.contains("EAGAIN"));
    let given: usize = until_quiet.map(|line| line.matches("NLMSG_ERROR").count()).sum();
    let batch = node.here.run(acknowledgements_of_an_empty_batch);
    println!("way: acknowledgements: {asked} asked for, {given} given; of begin and end {batch}");
    assert_eq!((asked, given), (1, 1), "{trace:#?}");
    assert_eq!(batch, if kernel() >= (6, 10) { 2 } else { 0 });
}

/// How many of `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END` the kernel acknowledges if asked to.
fn acknowledgements_of_an_empty_batch() -> usize {
    const NLM_F_REQUEST: u16 = 1;
    const NLM_F_ACK: u16 = 4;
    const NFNL_SUBSYS_NFTABLES: u8 = 10;
    let socket = Socket::new(NETLINK_NETFILTER).expect("a netlink socket");
    let mut batch = Vec::new();
    for (message, number) in [(16_u16, 1_u32), (17, 2)] {
        batch.extend(20_u32.to_ne_bytes());
        batch.extend(message.to_ne_bytes());
        batch.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        batch.extend(number.to_ne_bytes());
        batch.extend([0, 0, 0, 0, 0, 0, 0, NFNL_SUBSYS_NFTABLES]);
    }
    socket.send(&batch, 0).expect("the kernel takes it");
    let answer = || socket.recv(&mut Vec::with_capacity(4096), MSG_DONTWAIT);
    std::iter::repeat_with(answer).take_while(Result::is_ok).count()
}
