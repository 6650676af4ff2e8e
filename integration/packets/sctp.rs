//! SCTP with real packets. Not every kernel supports it, so these tests are ignored by default;
//! `make test-kernels` runs them on kernels with SCTP, where each must pass.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, listen, socket,
};

use crate::stage::bare::tcp;
use crate::stage::chain::{Main, Network, PortMapping};
use crate::stage::echo::{Echo, Server};
use crate::stage::netns::Netns;
use crate::stage::node::{CLIENT, FIRST, Node, POD_PORT, SECOND, address};
use crate::stage::plugin::Plugin;
use crate::stage::probe::{Answer, Probe, Transport};
use crate::stage::view;

const PORT: u16 = 8080;

fn sctp(host_port: u16) -> PortMapping {
    PortMapping::new(Transport::Sctp, host_port, POD_PORT)
}

fn any() -> SocketAddr {
    (address("::"), POD_PORT).into()
}

/// Answers as `name` on `address` over SCTP, inside `place`.
fn answering(name: &str, place: &Netns, address: SocketAddr) -> Echo {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = place.run(|| {
        let socket = socket(AddressFamily::Inet6, SockType::Stream, flags, SockProtocol::Sctp)
            .expect("a kernel with SCTP");
        bind(socket.as_raw_fd(), &SockaddrStorage::from(address)).expect("the port is free");
        listen(&socket, Backlog::MAXCONN).expect("a bound socket can listen");
        socket
    });
    // To std a stream is a stream.
    Echo::serving(name, vec![Server::Stream(TcpListener::from(socket))])
}

fn blue() -> Network {
    Network::new("blue", Main::Bridge, 1, Plugin::Autoport)
}

#[test]
#[ignore = "needs a kernel with SCTP: make test-kernels"]
fn a_host_port_leads_to_its_pod_from_everywhere() {
    let node = Node::new();
    let blue = blue();
    let (web, _attachment) = node.attached("web", &blue, [sctp(PORT)]);
    let (neighbour, _other) = node.attached("neighbour", &blue, []);
    let _server = answering("sctp-web", &web.netns, any());
    let reached = |source: &str| Answer::reached("sctp-web", source);
    let gateway = blue.gateway();
    for (v6, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
        for to in [FIRST[v6], SECOND[v6]] {
            let probe = Probe::sctp(to, PORT);
            assert_eq!(node.client_asks(&probe), reached(CLIENT[v6]), "from outside to {to}");
            assert_eq!(web.asks(&probe), reached(&gateway[v6]), "from itself to {to}");
            assert_eq!(neighbour.asks(&probe), reached(&gateway[v6]), "from its bridge to {to}");
        }
        let own = Probe::sctp(FIRST[v6], PORT).ask();
        assert_eq!(own.by(), Some("sctp-web"), "from the node over {family}");
    }
    assert_eq!(Probe::sctp("127.0.0.1", PORT).ask(), reached(&gateway[0]), "over loopback");
}

#[test]
#[ignore = "needs a kernel with SCTP: make test-kernels"]
fn the_same_number_over_tcp_is_another_port() {
    let node = Node::new();
    let blue = blue();
    let (web, attachment) = node.attached("web", &blue, [sctp(PORT).on(FIRST[0])]);
    let _server = answering("sctp-web", &web.netns, any());
    let (_other, other) = node.attached("other", &blue, [tcp(PORT)]);
    let over_sctp = || node.client_asks(&Probe::sctp(FIRST[0], PORT));
    assert_eq!(over_sctp().by(), Some("sctp-web"));
    assert_eq!(node.client_asks(&Probe::sctp(SECOND[0], PORT)), Answer::Refused);
    assert_eq!(node.client_asks(&Probe::tcp(FIRST[0], PORT)).by(), Some("other"));
    attachment.del().success();
    assert_eq!(over_sctp(), Answer::Refused, "after DEL");
    assert_eq!(node.client_asks(&Probe::tcp(FIRST[0], PORT)).by(), Some("other"));
    other.del().success();
    view::assert_nothing_held();
}

#[test]
#[ignore = "needs a kernel with SCTP: make test-kernels"]
fn a_port_on_which_a_process_listens_is_refused() {
    let node = Node::new();
    let process = answering("process", &node.here, (address("::"), PORT).into());
    assert_eq!(node.client_asks(&Probe::sctp(FIRST[0], PORT)).by(), Some("process"));
    let pod = node.pod("web");
    for host in ["", FIRST[0], SECOND[0], FIRST[1]] {
        let mut web = pod.in_network(&blue()).mapping([sctp(PORT).on(host)]);
        let outcome = web.add();
        outcome.failure(103);
        assert!(outcome.message().contains(&format!("[::]:{PORT}/sctp (")), "{outcome}");
        web.main_call("DEL").run().success();
    }
    view::assert_nothing_held();
    drop(process);
}

/// A process of the node is connected to another host's SCTP port: its own number is free, as it is
/// for TCP.
#[test]
#[ignore = "needs a kernel with SCTP: make test-kernels"]
fn a_port_from_which_a_process_is_connected_is_granted() {
    let node = Node::new();
    let _outside = answering("outside", &node.client, any());
    let remote = SocketAddr::new(address(CLIENT[0]), POD_PORT);
    let probe = Probe::new(Transport::Sctp, remote).from(FIRST[0], PORT);
    let connection = probe.connect().expect("a connection");
    let (_web, _attachment) = node.attached("web", &blue(), [sctp(PORT)]);
    drop(connection);
}
