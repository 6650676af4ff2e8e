use super::*;

fn host(protocol: Protocol, address: &str, port: u16) -> HostPort {
    HostPort {
        protocol,
        address: address.parse().expect("an address"),
        port: port.try_into().expect("a port"),
    }
}

/// A `struct inet_diag_msg` as the kernel makes it.
fn message(address: &str, port: u16, only_v6: Option<u8>) -> Vec<u8> {
    let mut bytes = vec![0; uapi::INET_DIAG_MSG];
    bytes[uapi::INET_DIAG_STATE] = uapi::TCP_LISTEN;
    bytes[uapi::INET_DIAG_SPORT..][..2].copy_from_slice(&port.to_be_bytes());
    match address.parse().expect("an address") {
        IpAddr::V4(v4) => bytes[uapi::INET_DIAG_SRC..][..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes[uapi::INET_DIAG_SRC..][..16].copy_from_slice(&v6.octets()),
    }
    bytes[uapi::INET_DIAG_UID..][..4].copy_from_slice(&101_u32.to_ne_bytes());
    bytes[uapi::INET_DIAG_INODE..][..4].copy_from_slice(&23_411_u32.to_ne_bytes());
    if let Some(flag) = only_v6 {
        bytes.extend_from_slice(&5_u16.to_ne_bytes());
        bytes.extend_from_slice(&uapi::INET_DIAG_SKV6ONLY.to_ne_bytes());
        bytes.extend_from_slice(&[flag, 0, 0, 0]);
    }
    bytes
}

fn listener(address: &str, only_v6: Option<u8>) -> Listener {
    let family = Family::of(&address.parse().expect("an address"));
    let mut read = Listener::read(Protocol::Tcp, family, &message(address, 53, only_v6));
    read.pop().expect("a listener")
}

#[test]
fn what_meets_what() {
    let cases = [
        // Listener, only IPv6, the claims that meet it, the claims that do not.
        ("127.0.0.53", None, &["0.0.0.0", "127.0.0.53"][..], &["::", "127.0.0.1"][..]),
        ("0.0.0.0", None, &["0.0.0.0", "192.0.2.1"], &["::", "2001:db8::1"]),
        ("::", Some(0), &["::", "0.0.0.0", "192.0.2.1", "2001:db8::1"], &[]),
        ("::", None, &["::", "0.0.0.0"], &[]),
        ("::", Some(1), &["::", "2001:db8::1"], &["0.0.0.0", "192.0.2.1"]),
        ("::1", Some(0), &["::", "::1"], &["0.0.0.0", "2001:db8::1"]),
        ("::ffff:192.0.2.1", Some(0), &["0.0.0.0", "192.0.2.1"], &["::", "192.0.2.2"]),
        ("::ffff:0.0.0.0", Some(0), &["0.0.0.0", "192.0.2.1"], &["::", "::1"]),
    ];
    for (address, only_v6, met, unmet) in cases {
        let listener = listener(address, only_v6);
        for claim in met {
            assert!(listener.meets(&host(Protocol::Tcp, claim, 53), &[]), "{address} {claim}");
        }
        for claim in unmet {
            assert!(!listener.meets(&host(Protocol::Tcp, claim, 53), &[]), "{address} {claim}");
        }
        assert!(!listener.meets(&host(Protocol::Udp, met[0], 53), &[]), "{address}: protocol");
        assert!(!listener.meets(&host(Protocol::Tcp, met[0], 54), &[]), "{address}: port");
    }
}

/// With `hostAddresses` a wildcard answers on few addresses.
#[test]
fn a_narrow_claim_meets_who_listens_where_it_answers() {
    let within = ["192.0.2.0/24", "2001:db8::1/128"].map(|it| it.parse().expect("a network"));
    let cases = [
        // Listener, only IPv6, whether the claims on 0.0.0.0 and [::] meet it.
        ("127.0.0.53", None, [false, false]),
        ("192.0.2.1", None, [true, false]),
        ("0.0.0.0", None, [true, false]),
        ("::", Some(0), [true, true]),
        ("::", Some(1), [false, true]),
        ("2001:db8::1", Some(0), [false, true]),
        ("2001:db8::2", Some(0), [false, false]),
        ("::ffff:192.0.2.1", Some(0), [true, false]),
        ("::ffff:198.51.100.1", Some(0), [false, false]),
    ];
    for (address, only_v6, expected) in cases {
        let listener = listener(address, only_v6);
        let meets =
            |claim, within: &[IpNetwork]| listener.meets(&host(Protocol::Tcp, claim, 53), within);
        assert_eq!(["0.0.0.0", "::"].map(|claim| meets(claim, &within)), expected, "{address}");
        assert!(!meets("0.0.0.0", &within[1..]), "{address}: it answers in no IPv4 network");
    }
}

#[test]
fn a_listener_says_what_an_operator_can_look_for() {
    let mut found = listener("::", Some(0));
    assert_eq!(found.to_string(), "[::]:53/tcp (uid 101, socket:[23411])");
    found.inode = 0;
    assert_eq!(found.to_string(), "[::]:53/tcp (a socket of the kernel's own)");
    assert_eq!(Process::of(&found, Duration::MAX), None);
}

#[test]
fn half_a_message_is_none() {
    let whole = message("127.0.0.1", 53, Some(1));
    for cut in 0..whole.len() {
        let read = Listener::read(Protocol::Tcp, Family::V4, &whole[..cut]);
        assert_eq!(read.len(), usize::from(cut >= uapi::INET_DIAG_MSG), "{cut}");
    }
    let unbound = message("0.0.0.0", 0, None);
    assert_eq!(Listener::read(Protocol::Tcp, Family::V4, &unbound), []);
}

/// The kernel's SCTP shows sockets that have the port as one end of a connection.
#[test]
fn what_is_connected_does_not_listen() {
    const ESTABLISHED: u8 = 1;
    let mut bytes = message("192.0.2.1", 53, None);
    bytes[uapi::INET_DIAG_STATE] = ESTABLISHED;
    for protocol in Protocol::ALL {
        assert_eq!(Listener::read(protocol, Family::V4, &bytes), [], "{protocol}");
    }
}

/// As the kernel shows an SCTP socket that is bound to two addresses, when a client has come.
#[test]
fn an_sctp_socket_listens_on_every_address_that_it_is_bound_to() {
    let mut bytes = message("::ffff:192.0.2.1", 53, Some(0));
    let length = u16::try_from(4 + 2 * uapi::SOCKADDR_STORAGE).expect("it is small");
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&uapi::INET_DIAG_LOCALS.to_ne_bytes());
    for text in ["192.0.2.2", "2001:db8::1"] {
        let mut sockaddr = vec![0; uapi::SOCKADDR_STORAGE];
        let (family, at, octets) = match text.parse().expect("an address") {
            IpAddr::V4(v4) => (uapi::AF_INET, uapi::SIN_ADDR, v4.octets().to_vec()),
            IpAddr::V6(v6) => (uapi::AF_INET6, uapi::SIN6_ADDR, v6.octets().to_vec()),
        };
        sockaddr[..2].copy_from_slice(&u16::from(family).to_ne_bytes());
        sockaddr[at..][..octets.len()].copy_from_slice(&octets);
        bytes.extend(sockaddr);
    }
    let listeners = Listener::read(Protocol::Sctp, Family::V6, &bytes);
    let addresses: Vec<_> = listeners.iter().map(|it| it.address.to_string()).collect();
    assert_eq!(addresses, ["192.0.2.2", "2001:db8::1"]);
    for cut in uapi::INET_DIAG_MSG..bytes.len() {
        Listener::read(Protocol::Sctp, Family::V6, &bytes[..cut]);
    }
}

#[test]
fn the_question_is_a_whole_request() {
    let port = NonZeroU16::new(0x1234);
    let bytes = question(Protocol::Udp, Family::V6, port).as_bytes().to_vec();
    assert_eq!(bytes.len(), 16 + 56);
    assert_eq!(bytes[..4], 72_u32.to_ne_bytes());
    assert_eq!(bytes[16..20], [10, 17, 0, 0]);
    assert_eq!(bytes[20..24], (1_u32 << 7).to_ne_bytes());
    assert_eq!(bytes[24..26], [0x12, 0x34]);
}
