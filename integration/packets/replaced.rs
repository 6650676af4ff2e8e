//! A client that connects again from the same source port after its pod was replaced by one with
//! another address, while connection tracking still has the flow to the old pod.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use autoport::kernel::{Nft, Redirected};
use autoport::model::{HostPort, Mapping};
use autoport::ruleset::Traffic;
use nix::sys::socket::sockopt::{Linger, ReceiveTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, recv, sendto,
    setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::stage::bare;
use crate::stage::chain::{Attachment, Main, Network, PortMapping};
use crate::stage::netns::{Netns, ip, nft};
use crate::stage::node::{CLIENT, FIRST, Node, POD_PORT, Pod, address};
use crate::stage::operator::told;
use crate::stage::plugin::Plugin;
use crate::stage::probe::{Probe, Transport};
use crate::stage::view;

const PORT: u16 = 8080;
const SOURCE: u16 = 41000;

/// How long a client takes to try again.
const RETRY: Duration = Duration::from_secs(1);

fn probe(transport: Transport, to: &str) -> Probe {
    let client = CLIENT[usize::from(to.contains(':'))];
    let probe = Probe::new(transport, (address(to), PORT)).from(client, SOURCE);
    Probe { patience: RETRY / 4, ..probe }
}

/// Asks from the same port as always, again and again for as long as a client may.
fn answered_within_one_retry(node: &Node, probe: &Probe) -> Option<String> {
    let begun = Instant::now();
    loop {
        let answer = node.client_asks(probe);
        if answer.by().is_some() || begun.elapsed() > RETRY {
            return answer.by().map(str::to_owned);
        }
    }
}

/// The pods of each shape, one after the other.
const NAMES: [[&str; 3]; 2] = [["first", "second", "third"], ["fourth", "fifth", "sixth"]];

/// The mappings to try: on every address, and on one of each family.
fn shapes(transport: Transport) -> [Vec<PortMapping>; 2] {
    let mapping = || PortMapping::new(transport, PORT, POD_PORT);
    [vec![mapping()], FIRST.map(|to| mapping().on(to)).to_vec()]
}

fn web(node: &Node, name: &str, mappings: &[PortMapping]) -> (Pod, Attachment) {
    let blue = Network::new("blue", Main::Bridge, 1, Plugin::Autoport);
    node.attached(name, &blue, mappings.iter().cloned())
}

/// Replaces a pod that ends as in a power cut, without a word to its clients, by one with another address.
fn replace(node: &Node, pod: &mut (Pod, Attachment), name: &str) {
    let addresses = |pod: &Pod| [false, true].map(|v6| pod.address(v6));
    let (old, attachment) = &*pod;
    let before = addresses(old);
    old.netns.run(|| ip("link set eth0 down"));
    attachment.del().success();
    *pod = web(node, name, &attachment.mappings);
    assert_ne!(addresses(&pod.0), before);
}

/// Drops what the end of a connection would tell the other side.
const SILENCE: &str = "table inet silence {\n chain out {\n type filter hook output priority 0\n \
                       tcp flags & (fin | rst) != 0 drop\n }\n}";

/// Connects, and loses the connection as a client does that loses its power.
fn connect_and_forget(node: &Node, probe: &Probe) {
    node.client.run(|| {
        nft(SILENCE);
        let stream = probe.connect().expect("a connection");
        let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&stream, Linger, &at_once).expect("no lingering");
        drop(stream);
        nft("delete table inet silence");
    });
}

#[test]
fn a_tcp_client_reaches_the_new_pod() {
    let node = Node::new();
    for (mappings, names) in shapes(Transport::Tcp).into_iter().zip(NAMES) {
        let mut pod = web(&node, names[0], &mappings);
        for round in &names[1..] {
            for to in FIRST {
                connect_and_forget(&node, &probe(Transport::Tcp, to));
            }
            replace(&node, &mut pod, round);
            for to in FIRST {
                let answered = answered_within_one_retry(&node, &probe(Transport::Tcp, to));
                assert_eq!(answered.as_deref(), Some(*round), "{to} {mappings:?}");
            }
        }
        pod.1.del().success();
    }
}

/// Writes elements again that have counted connections.
type Restore<'a> = &'a dyn Fn(&Attachment);

/// An element that is written again has lost its count, and must not be taken for one that no client has used.
#[test]
fn a_tcp_client_of_a_table_that_was_built_again_reaches_the_new_pod() {
    let node = Node::new();
    let other = bare::attachment(&node, &bare::network("blue"), "other", 200);
    let other = other.mapping([PortMapping::new(Transport::Tcp, PORT + 100, POD_PORT)]);
    let restorers: [(&str, Restore<'_>); 4] = [
        ("the ADD of another", &|_| {
            nft("flush chain inet autoport prerouting");
            other.plugin_call("ADD").run().success();
        }),
        ("repair", &|_| {
            nft("flush map inet autoport ports4\nflush map inet autoport ports6");
            told(&["repair"]);
        }),
        ("its own ADD", &|own| {
            nft("flush map inet autoport ports4\nflush map inet autoport ports6");
            own.plugin_call("ADD").run().success();
        }),
        ("its own ADD with another port", &|own| {
            let mut more = own.clone();
            more.mappings.push(PortMapping::new(Transport::Tcp, PORT + 1, POD_PORT));
            more.plugin_call("ADD").run().success();
        }),
    ];
    for (number, (who, restore)) in restorers.into_iter().enumerate() {
        let mut pod = web(&node, &format!("old{number}"), &shapes(Transport::Tcp)[0]);
        for to in FIRST {
            connect_and_forget(&node, &probe(Transport::Tcp, to));
        }
        restore(&pod.1);
        let new = format!("new{number}");
        replace(&node, &mut pod, &new);
        for to in FIRST {
            let answered = answered_within_one_retry(&node, &probe(Transport::Tcp, to));
            assert_eq!(answered.as_deref(), Some(&*new), "{who}: {to}");
        }
        pod.1.del().success();
    }
}

/// To end connections, the kernel walks through its whole table of them. DEL of a port that no client has
/// used does not ask for that, unless the element expires before DEL has read its count: so DEL has several
/// tries.
#[test]
fn a_del_of_an_unused_tcp_port_ends_no_connections() {
    let node = Node::new();
    let pod = bare::attachment(&node, &bare::network("blue"), "pod", 5);
    let pod = pod.mapping([PortMapping::new(Transport::Tcp, PORT, POD_PORT)]);
    let asks_to_end = |is_used: bool| {
        bare::add(&node, &pod);
        if is_used {
            // The pod need not answer.
            let hasty = Probe::tcp(FIRST[0], PORT);
            node.client_asks(&Probe { patience: RETRY / 4, ..hasty });
        }
        let strace = ["strace", "-f", "-e", "trace=sendto", "-o", "/run/strace"];
        pod.plugin_call("DEL").under(&strace).run().success();
        let trace = fs::read_to_string("/run/strace").expect("a trace");
        trace.contains("NFNL_SUBSYS_CTNETLINK<<8")
    };
    // The table is there, so that the ADDs after the first find the element new.
    bare::add(
        &node,
        &bare::attachment(&node, &bare::network("blue"), "other", 6).mapping([PortMapping::new(
            Transport::Tcp,
            PORT + 1,
            POD_PORT,
        )]),
    );
    assert!(asks_to_end(true));
    assert!((0..20).any(|_| !asks_to_end(false)), "it always is asked");
}

#[test]
fn a_udp_client_reaches_the_new_pod() {
    let node = Node::new();
    for (mappings, names) in shapes(Transport::Udp).into_iter().zip(NAMES) {
        let mut pod = web(&node, names[0], &mappings);
        for round in &names[1..] {
            for to in FIRST {
                node.client_asks(&probe(Transport::Udp, to));
            }
            replace(&node, &mut pod, round);
            for to in FIRST {
                let answered = answered_within_one_retry(&node, &probe(Transport::Udp, to));
                assert_eq!(
                    answered.as_deref(),
                    Some(*round),
                    "{to} {mappings:?} {:#?}",
                    crate::stage::view::flows()
                );
            }
        }
        pod.1.del().success();
    }
}

/// A client that never stops asking may begin a flow at any moment of a replacement. (A connection of TCP
/// that begins within the kernel's timer tick after DEL is lost.)
#[test]
fn a_client_that_never_stops_asking_reaches_the_new_pod() {
    let node = Node::new();
    let names = (1..).map(|number| format!("web{number}"));
    let names: &mut dyn Iterator<Item = String> = &mut names.into_iter();
    for transport in [Transport::Udp] {
        for to in FIRST {
            let mut pod = web(&node, &names.next().expect("a name"), &shapes(transport)[0]);
            for round in names.take(3) {
                let done = AtomicBool::new(false);
                thread::scope(|scope| {
                    scope.spawn(|| {
                        let hasty =
                            Probe { patience: Duration::from_millis(5), ..probe(transport, to) };
                        node.client.run(|| {
                            while !done.load(Ordering::Relaxed) {
                                let _ = hasty.ask();
                            }
                        });
                    });
                    thread::sleep(Duration::from_millis(50));
                    replace(&node, &mut pod, &round);
                    done.store(true, Ordering::Relaxed);
                });
                let answered = answered_within_one_retry(&node, &probe(transport, to));
                assert_eq!(answered.as_deref(), Some(&*round), "{to} {}", transport.name());
            }
            pod.1.del().success();
        }
    }
}

/// A DEL or an ADD that comes late knows what was in force when it had the lock.
#[test]
fn what_has_changed_since_ends_nothing() {
    let node = Node::new();
    for (transport, to) in Transport::BOTH.into_iter().zip(FIRST) {
        let name = transport.name();
        let pod = web(&node, name, &shapes(transport)[0]);
        assert_eq!(node.client_asks(&probe(transport, to)).by(), Some(name));
        let flows = view::flows();
        let host = HostPort {
            protocol: name.parse().expect("a protocol"),
            address: address(if to.contains(':') { "::" } else { "0.0.0.0" }),
            port: PORT.try_into().expect("a port"),
        };
        let mapping = |target: SocketAddr| {
            let container_port = target.port().try_into().expect("a port");
            let mapping = Mapping { host, container_port, target: Some(target) };
            vec![Traffic { mappings: vec![mapping], ..Traffic::default() }]
        };
        let (own, other) =
            (pod.0.address(to.contains(':')), address(CLIENT[usize::from(to.contains(':'))]));
        let gone = mapping(SocketAddr::new(own, POD_PORT));
        let new = mapping(SocketAddr::new(other, POD_PORT));
        let change = Redirected { gone, new, ..Redirected::default() };
        Nft::open("").and_then(|mut nft| nft.end_flows(&change)).expect("asking the kernel");
        assert_eq!(view::flows(), flows, "{name}");
        pod.1.del().success();
    }
}

/// A raw socket for SCTP, which this needs no kernel with SCTP for.
fn raw(place: &Netns, own: IpAddr) -> OwnedFd {
    let family = if own.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    place.run(|| {
        let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Sctp)
            .expect("a raw socket");
        bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(own, 0))).expect("binding");
        setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(250)).expect("a timeout");
        socket
    })
}

/// The first packet of an association, from [`SOURCE`] to [`PORT`].
fn init() -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend([SOURCE, PORT].map(u16::to_be_bytes).concat());
    packet.extend([0; 8]);
    // INIT with its length, then tag, window, two numbers of streams, and the first number.
    packet.extend([1, 0, 0, 20, 0, 0, 0, 7, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let checksum = packet.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    });
    packet[8..12].copy_from_slice(&(!checksum).to_le_bytes());
    packet
}

/// Whether an INIT of the client gets to `pod`.
fn init_arrives(node: &Node, pod: &Pod, to: &str) -> bool {
    let v6 = to.contains(':');
    let listener = raw(&pod.netns, pod.address(v6));
    let client = raw(&node.client, address(CLIENT[usize::from(v6)]));
    let begun = Instant::now();
    while begun.elapsed() < RETRY {
        let to = SockaddrStorage::from(SocketAddr::new(address(to), 0));
        sendto(client.as_raw_fd(), &init(), &to, MsgFlags::empty()).expect("sending");
        if recv(listener.as_raw_fd(), &mut [0; 256], MsgFlags::empty()).is_ok() {
            return true;
        }
    }
    false
}

#[test]
fn an_sctp_client_reaches_the_new_pod() {
    let node = Node::new();
    // So that it is tracked before there is a host port.
    let _keeper = web(&node, "keeper", &[PortMapping::new(Transport::Tcp, 9999, POD_PORT)]);
    for (mappings, names) in shapes(Transport::Sctp).into_iter().zip(NAMES) {
        for to in FIRST {
            let client = raw(&node.client, address(CLIENT[usize::from(to.contains(':'))]));
            let to = SockaddrStorage::from(SocketAddr::new(address(to), 0));
            sendto(client.as_raw_fd(), &init(), &to, MsgFlags::empty()).expect("sending");
        }
        let mut pod = web(&node, names[0], &mappings);
        for to in FIRST {
            assert!(init_arrives(&node, &pod.0, to), "it sent before the pod was there: {to}");
        }
        for round in &names[1..] {
            replace(&node, &mut pod, round);
            for to in FIRST {
                assert!(init_arrives(&node, &pod.0, to), "{round}: {to} {mappings:?}");
            }
        }
        pod.1.del().success();
    }
}
