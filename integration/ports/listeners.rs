//! Detection of listening sockets, compared with sockets that listen.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use autoport::kernel::{Listener, Listeners, Process};
use autoport::model::{HostPort, Protocol};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, listen, setsockopt,
    socket, sockopt,
};

use crate::stage::netns::{Netns, ip};

fn host(protocol: Protocol, address: &str, port: u16) -> HostPort {
    HostPort {
        protocol,
        address: address.parse().expect("an address"),
        port: port.try_into().expect("a port"),
    }
}

const TRANSPORTS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// Whether a socket listens where each claim would answer, determined in both ways.
fn busy(protocol: Protocol, port: u16, claims: &[&str]) -> Vec<bool> {
    let all = Listeners::of(&TRANSPORTS).expect("listing");
    let answer = |claim: &&str| {
        let host = host(protocol, claim, port);
        let near = Listeners::near(&[host]).expect("listing");
        assert_eq!(all.find(&host, &[]), near.find(&host, &[]), "{host}");
        all.find(&host, &[]).is_some()
    };
    claims.iter().map(answer).collect()
}

/// Listens on an IPv6 address, for IPv4 as well or not.
fn listen_v6(address: &str, port: u16, only_v6: bool) -> std::os::fd::OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet6, SockType::Stream, flags, None).expect("a socket");
    setsockopt(&fd, sockopt::Ipv6V6Only, &only_v6).expect("setting IPV6_V6ONLY");
    let address = std::net::SocketAddrV6::new(address.parse().expect("an address"), port, 0, 0);
    bind(fd.as_raw_fd(), &SockaddrIn6::from(address)).expect("binding");
    listen(&fd, Backlog::new(1).expect("a backlog")).expect("listening");
    fd
}

const CLAIMS: [&str; 6] = ["0.0.0.0", "127.0.0.1", "127.0.0.53", "::", "::1", "2001:db8::1"];

#[test]
fn nobody_listens_in_a_new_namespace() {
    let _here = Netns::isolate();
    assert_eq!(busy(Protocol::Tcp, 53, &CLAIMS), [false; 6]);
    let known = Listeners::of(&TRANSPORTS).expect("listing");
    assert_eq!(known.unknown(), []);
}

#[test]
fn a_wildcard_claim_meets_a_listener_on_any_address() {
    let _here = Netns::isolate();
    // As systemd-resolved does.
    let _tcp = TcpListener::bind("127.0.0.53:53").expect("listening");
    let _udp = UdpSocket::bind("127.0.0.53:53").expect("binding");
    for protocol in TRANSPORTS {
        let met = busy(protocol, 53, &CLAIMS);
        assert_eq!(met, [true, false, true, false, false, false], "{protocol}");
        assert_eq!(busy(protocol, 54, &CLAIMS), [false; 6]);
    }
}

#[test]
fn one_socket_may_serve_both_families() {
    let _here = Netns::isolate();
    let _both = listen_v6("::", 80, false);
    let _only_v6 = listen_v6("::", 81, true);
    let _mapped = listen_v6("::ffff:127.0.0.1", 82, false);
    let _one = listen_v6("::1", 83, false);
    assert_eq!(busy(Protocol::Tcp, 80, &CLAIMS), [true; 6]);
    assert_eq!(busy(Protocol::Tcp, 81, &CLAIMS), [false, false, false, true, true, true]);
    assert_eq!(busy(Protocol::Tcp, 82, &CLAIMS), [true, true, false, false, false, false]);
    assert_eq!(busy(Protocol::Tcp, 83, &CLAIMS), [false, false, false, true, true, false]);
    let _udp = UdpSocket::bind("[::]:80").expect("binding");
    assert_eq!(busy(Protocol::Udp, 80, &CLAIMS), [true; 6]);
}

/// A socket that is bound to an interface has the addresses of that.
#[test]
fn an_interface_narrows_a_listener() {
    let _here = Netns::isolate();
    ip(
        "link add eth1 type veth peer name eth2\naddr add 198.51.100.1/24 dev eth1\nlink set eth1 up",
    );
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Datagram, flags, None).expect("a socket");
    setsockopt(&fd, sockopt::BindToDevice, &"eth1".into()).expect("binding to an interface");
    bind(fd.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, 67)).expect("binding");
    assert_eq!(
        busy(Protocol::Udp, 67, &["0.0.0.0", "198.51.100.1", "192.0.2.1"]),
        [true, true, false]
    );
    let listeners = Listeners::of(&[Protocol::Udp]).expect("listing");
    let met = ["198.51.100.0/24", "192.0.2.0/24", "2001:db8::/32"].map(|within| {
        let within = within.parse().expect("a network");
        listeners.find(&host(Protocol::Udp, "0.0.0.0", 67), &[within]).is_some()
    });
    assert_eq!(met, [true, false, false]);
}

/// The number of an outgoing connection is free, whatever a bind would say.
#[test]
fn a_client_is_no_listener() {
    let _here = Netns::isolate();
    let server = TcpListener::bind("127.0.0.1:80").expect("listening");
    let client = TcpStream::connect("127.0.0.1:80").expect("connecting");
    let accepted = server.accept().expect("accepting").0;
    let number = client.local_addr().expect("an address").port();
    assert_eq!(busy(Protocol::Tcp, number, &CLAIMS), [false; 6]);
    let udp = UdpSocket::bind("127.0.0.1:0").expect("binding");
    let number = udp.local_addr().expect("an address").port();
    assert!(busy(Protocol::Udp, number, &["0.0.0.0"])[0], "not connected yet");
    udp.connect("127.0.0.1:80").expect("connecting");
    assert_eq!(busy(Protocol::Udp, number, &CLAIMS), [false; 6]);
    // A server that is gone leaves its connections behind.
    drop(server);
    // Another test may hold the socket a moment longer: between fork and exec, a child has all descriptors.
    let begun = Instant::now();
    while busy(Protocol::Tcp, 80, &CLAIMS) != [false; 6] {
        assert!(begun.elapsed() < Duration::from_secs(10), "the port stays busy");
    }
    drop(accepted);
}

#[test]
fn a_listener_is_named_with_its_process() {
    let here = Netns::isolate();
    let server = TcpListener::bind("127.0.0.1:80").expect("listening");
    let claim = host(Protocol::Tcp, "0.0.0.0", 80);
    let listeners = Listeners::near(&[claim]).expect("listing");
    let found: &Listener = listeners.find(&claim, &[]).expect("somebody listens");
    let link = std::fs::read_link(format!("/proc/self/fd/{}", server.as_raw_fd()));
    assert_eq!(link.expect("a link").to_str(), Some(&*format!("socket:[{}]", found.inode)));
    assert_eq!(found.uid, nix::unistd::geteuid().as_raw());
    // A child of another test has all descriptors of this program between fork and exec.
    let settled = |expected: Option<u32>| {
        let begun = Instant::now();
        loop {
            let process = Process::of(found, Duration::MAX);
            let is_so = process.as_ref().map(|process| process.pid) == expected;
            if is_so || begun.elapsed() > Duration::from_secs(10) {
                assert!(is_so, "{process:?} has it, not {expected:?}");
                return process;
            }
        }
    };
    let process = settled(Some(std::process::id())).expect("the test program");
    assert!(!process.command.is_empty(), "{process}");
    assert_eq!(Process::of(found, Duration::ZERO), None, "there is no time");
    drop(server);
    settled(None);
    // Those of another namespace are not this node's.
    let other = Netns::add("beside");
    let _there = other.run(|| TcpListener::bind("127.0.0.1:81").expect("listening"));
    assert_eq!(busy(Protocol::Tcp, 81, &CLAIMS), [false; 6]);
    drop(here);
}

#[test]
fn sctp_may_be_unknown() {
    let _here = Netns::isolate();
    let listeners = Listeners::of(&[Protocol::Sctp]).expect("listing");
    assert_eq!(listeners.find(&host(Protocol::Sctp, "0.0.0.0", 80), &[]), None);
}

/// A kernel with 2000 sockets shows them in well under the time of an ADD.
#[test]
#[expect(clippy::print_stdout, reason = "a figure to be seen with --nocapture")]
fn two_thousand_sockets_are_no_trouble() {
    let _here = Netns::isolate();
    let tcp: Vec<_> = (10_000..11_000)
        .map(|port| TcpListener::bind(("127.0.0.1", port)).expect("listening"))
        .collect();
    let udp: Vec<_> = (10_000..11_000)
        .map(|port| UdpSocket::bind(("127.0.0.1", port)).expect("binding"))
        .collect();
    let timed = |what: &str, work: &dyn Fn()| {
        let mut times: Vec<Duration> = (0..200)
            .map(|_| {
                let begun = Instant::now();
                work();
                begun.elapsed()
            })
            .collect();
        times.sort();
        println!("{what}: best {:?}, median {:?}", times[0], times[100]);
        times[0]
    };
    let all = timed("all of TCP and UDP", &|| drop(Listeners::of(&TRANSPORTS).expect("listing")));
    timed("all of TCP", &|| drop(Listeners::of(&[Protocol::Tcp]).expect("listing")));
    let both = TRANSPORTS.map(|protocol| host(protocol, "0.0.0.0", 10_500));
    timed("near one number, TCP and UDP", &|| drop(Listeners::near(&both).expect("listing")));
    timed("near one number, TCP", &|| drop(Listeners::near(&both[..1]).expect("listing")));
    let listeners = Listeners::of(&TRANSPORTS).expect("listing");
    let found = (10_000..11_000).filter(|port| {
        TRANSPORTS.iter().all(|p| listeners.find(&host(*p, "0.0.0.0", *port), &[]).is_some())
    });
    assert_eq!(found.count(), tcp.len().min(udp.len()));
    assert!(all < Duration::from_millis(100), "{all:?}");
}
