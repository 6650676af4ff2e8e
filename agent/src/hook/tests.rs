use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use autoport::model::Protocol;

use super::*;

mod kernel;
mod refusals;

const NETNS: u64 = 0x1_0000_0001;

fn redirect(protocol: Protocol, named: u16, given: u16, count: u16) -> Redirect {
    Redirect { protocol, named, given, count }
}

fn plan(redirects: &[Redirect]) -> Plan {
    Plan { redirects: redirects.to_vec(), earlier: Vec::new(), getsockname: true }
}

/// A system call as a program sees it.
#[derive(Clone, Copy)]
struct Asked {
    address: IpAddr,
    port: u16,
    /// The number in the IP header, or that of MPTCP.
    protocol: u32,
    netns: u64,
}

impl Asked {
    fn tcp(port: u16) -> Self {
        Self { address: Ipv4Addr::LOCALHOST.into(), port, protocol: 6, netns: NETNS }
    }

    fn udp(port: u16) -> Self {
        Self { protocol: 17, ..Self::tcp(port) }
    }

    /// The port after the program has run on a machine of these tests.
    fn through(self, call: Call, plan: &Plan) -> u16 {
        let code = program(call, plan, NETNS).expect("it is short").bytes();
        let mut context = [0_u8; 72];
        match self.address {
            IpAddr::V4(address) => context[4..8].copy_from_slice(&address.octets()),
            IpAddr::V6(address) => context[8..24].copy_from_slice(&address.octets()),
        }
        context[24..26].copy_from_slice(&self.port.to_be_bytes());
        context[36..40].copy_from_slice(&self.protocol.to_ne_bytes());
        let (permits, _) = run(&code, &mut context, self.netns, &[]);
        assert_eq!(permits, 1, "the call is permitted");
        u16::from_be_bytes([context[24], context[25]])
    }
}

/// Runs a program as the kernel does, by its bytes, for a process in these cgroups, the outermost first. Gives what it
/// returns, and the error that it chooses. The kernel's own runs are in tests/node.
fn run(code: &[u8], context: &mut [u8], netns: u64, cgroups: &[u64]) -> (u64, i32) {
    let (mut registers, mut next, mut chosen) = ([0_u64; 11], 0_usize, 0);
    loop {
        let slot = &code[next * 8..next * 8 + 8];
        let (to, from) = (usize::from(slot[1] & 15), usize::from(slot[1] >> 4));
        let offset = i16::from_ne_bytes([slot[2], slot[3]]);
        let number = i32::from_ne_bytes([slot[4], slot[5], slot[6], slot[7]]);
        let wide = i64::from(number) as u64;
        next += 1;
        let at = usize::try_from(offset).unwrap_or_default();
        let mut jump =
            |is_so| next = if is_so { next.wrapping_add_signed(offset.into()) } else { next };
        match slot[0] {
            0xbf => registers[to] = registers[from],
            0xb7 => registers[to] = wide,
            0x18 => {
                let high = &code[next * 8 + 4..next * 8 + 8];
                let high = u32::from_ne_bytes([high[0], high[1], high[2], high[3]]);
                registers[to] = u64::from(number as u32) | u64::from(high) << 32;
                next += 1;
            }
            0x07 => registers[to] = registers[to].wrapping_add(wide),
            0xdc => registers[to] = u64::from((registers[to] as u16).to_be()),
            0x61 | 0x69 | 0x71 => {
                let size = [4, 2, 1][usize::from(slot[0] - 0x61) / 8];
                let mut bytes = [0_u8; 8];
                bytes[..size].copy_from_slice(&context[at..at + size]);
                registers[to] = u64::from_le_bytes(bytes);
            }
            0x63 => context[at..at + 4].copy_from_slice(&(registers[from] as u32).to_ne_bytes()),
            0x85 if number == 122 => registers[0] = netns,
            0x85 if number == 123 => {
                let level = usize::try_from(registers[1]).expect("a level");
                registers[0] = cgroups.get(level).copied().unwrap_or_default();
            }
            0x85 if number == 187 => (registers[0], chosen) = (0, registers[1] as i32),
            0x05 => jump(true),
            0x15 => jump(registers[to] == wide),
            0x55 => jump(registers[to] != wide),
            0x1d => jump(registers[to] == registers[from]),
            0x5d => jump(registers[to] != registers[from]),
            0x25 => jump(registers[to] > wide),
            0x95 => break,
            code => panic!("{code:#x} is none of ours"),
        }
    }
    (registers[0], chosen)
}

#[test]
fn a_bind_gets_the_host_port() {
    let plan = plan(&[
        redirect(Protocol::Tcp, 8080, 20417, 1),
        redirect(Protocol::Tcp, 9000, 20100, 10),
        redirect(Protocol::Udp, 53, 20418, 1),
    ]);
    for call in [Call::Bind4, Call::Bind6] {
        for (asked, given) in [
            (Asked::tcp(8080), 20417),
            (Asked::tcp(9000), 20100),
            (Asked::tcp(9009), 20109),
            (Asked::udp(53), 20418),
            (Asked { protocol: 262, ..Asked::tcp(8080) }, 20417),
            (Asked { address: Ipv6Addr::UNSPECIFIED.into(), ..Asked::tcp(8080) }, 20417),
            // All else is left alone.
            (Asked::tcp(0), 0),
            (Asked::tcp(8081), 8081),
            (Asked::tcp(8999), 8999),
            (Asked::tcp(9010), 9010),
            (Asked::tcp(20417), 20417),
            (Asked::tcp(53), 53),
            (Asked::udp(8080), 8080),
            (Asked { protocol: 132, ..Asked::tcp(8080) }, 8080),
            (Asked { netns: NETNS + 1, ..Asked::tcp(8080) }, 8080),
            (Asked { netns: 1, ..Asked::tcp(8080) }, 8080),
        ] {
            assert_eq!(asked.through(call, &plan), given, "{call:?} {}", asked.port);
        }
    }
}

#[test]
fn clients_reach_the_pods_servers_at_loopback_addresses_only() {
    let plan =
        plan(&[redirect(Protocol::Tcp, 8080, 20417, 1), redirect(Protocol::Udp, 53, 20418, 1)]);
    let four = [
        ("127.0.0.1", true),
        ("127.9.8.7", true),
        ("0.0.0.0", true),
        ("192.0.2.1", false),
        ("0.0.0.1", false),
    ];
    let six = [
        ("::1", true),
        ("::", true),
        ("::ffff:127.0.0.1", true),
        ("::ffff:0.0.0.0", true),
        ("::ffff:192.0.2.1", false),
        ("::fffe:127.0.0.1", false),
        ("::2", false),
        ("1::1", false),
        ("0:0:1::1", false),
        ("::1:ffff:127.0.0.1", false),
        ("fe80::1", false),
    ];
    for (calls, addresses) in [
        ([Call::Connect4, Call::Sendmsg4, Call::Recvmsg4], &four[..]),
        ([Call::Connect6, Call::Sendmsg6, Call::Recvmsg6], &six),
    ] {
        for (address, is_loopback) in addresses {
            let address: IpAddr = address.parse().expect("an address");
            let through = |call, asked| Asked { address, ..asked }.through(call, &plan);
            let given = if *is_loopback { [20417, 20418] } else { [8080, 53] };
            assert_eq!(through(calls[0], Asked::tcp(8080)), given[0], "{address}");
            assert_eq!(through(calls[1], Asked::udp(53)), given[1], "{address}");
            let named = if *is_loopback { 53 } else { 20418 };
            assert_eq!(through(calls[2], Asked::udp(20418)), named, "{address}");
        }
    }
}

#[test]
fn a_program_is_told_the_port_that_it_has_named() {
    let plan = plan(&[redirect(Protocol::Tcp, 9000, 20100, 10)]);
    for call in [Call::Getsockname4, Call::Getsockname6] {
        let address = "192.0.2.1".parse().expect("an address");
        assert_eq!(Asked { address, ..Asked::tcp(20109) }.through(call, &plan), 9009);
        assert_eq!(Asked { protocol: 262, ..Asked::tcp(20100) }.through(call, &plan), 9000);
        assert_eq!(Asked::tcp(9000).through(call, &plan), 9000);
    }
}

#[test]
fn only_what_is_needed_is_attached() {
    let tcp = redirect(Protocol::Tcp, 8080, 20417, 1);
    let without = Plan { getsockname: false, ..plan(&[tcp]) };
    let number = |plan: &Plan| Call::needed(plan).len();
    assert_eq!(number(&without), 4);
    assert_eq!(number(&plan(&[tcp])), 6);
    assert_eq!(number(&plan(&[tcp, redirect(Protocol::Udp, 53, 20418, 1)])), 10);
    assert_eq!(number(&plan(&[])), 0);
}

/// What programs that are attached one after the other make of a bind.
fn chain(notes: &[Note], named: u16) -> u16 {
    let through = |port, note: &Note| Asked::tcp(port).through(Call::Bind4, &note.plan());
    notes.iter().fold(named, through)
}

#[test]
fn the_last_programs_count_although_the_earlier_ones_stay() {
    let sandbox = |http, game| {
        vec![redirect(Protocol::Tcp, 8080, http, 1), redirect(Protocol::Tcp, 9000, game, 10)]
    };
    let mut notes: Vec<Note> = Vec::new();
    // Other numbers, exchanged ones, the first ones, and the number that a program names.
    for (http, game) in
        [(20417, 20500), (20418, 20600), (20600, 20418), (20417, 20500), (9000, 20000)]
    {
        let before = notes.last().cloned();
        let note = Note::after(before, sandbox(http, game), false).expect("the same items");
        let note = Note::parse(&note.bytes()).expect("it is read again");
        notes.push(note);
        assert_eq!([chain(&notes, 8080), chain(&notes, 9003)], [http, game + 3], "{notes:?}");
    }
}

#[test]
fn programs_with_other_items_cannot_be_followed() {
    let one = redirect(Protocol::Tcp, 8080, 20417, 1);
    let noted = Note::after(None, vec![one], true).expect("nothing is noted");
    let after = |redirects, getsockname| Note::after(Some(noted.clone()), redirects, getsockname);
    assert!(after(vec![one, redirect(Protocol::Tcp, 9090, 20418, 1)], true).is_ok());
    assert_eq!(after(vec![redirect(Protocol::Tcp, 9090, 20418, 1)], true), Err(Differs));
    assert_eq!(after(vec![redirect(Protocol::Udp, 8080, 20417, 1)], true), Err(Differs));
    assert_eq!(after(vec![one], false), Err(Differs));
    assert_eq!(Note::parse(br#"{"version": 2}"#), None);
}

#[test]
fn a_note_is_in_force_while_all_its_programs_are_attached() {
    let one = redirect(Protocol::Tcp, 8080, 20417, 1);
    let note = Note::after(None, vec![one], false).expect("nothing is noted");
    let ids = |call: Call| vec![call as u32, 100 + call as u32];
    assert!(!note.is_in_force(&[one], false, ids), "it may have been interrupted");
    let calls = Call::needed(&note.plan());
    let note = note.attached(calls.into_iter().map(|call| (call, 100 + call as u32)));
    assert!(note.is_in_force(&[one], false, ids));
    assert!(!note.is_in_force(&[one], true, ids));
    assert!(!note.is_in_force(&[Redirect { given: 20418, ..one }], false, ids));
    let all_but_one = |call: Call| if call == Call::Bind6 { vec![9] } else { ids(call) };
    assert!(!note.is_in_force(&[one], false, all_but_one));
}

#[test]
fn the_longest_program_is_within_reach() {
    let most = MOST as u16;
    let runs = (0..most).map(|at| redirect(Protocol::Tcp, 10 * at, 30000 + 2 * at, 2)).collect();
    let note = Note::after(None, runs, false).expect("nothing is noted");
    let moved = |one: &Redirect| Redirect { given: one.given + 600, ..*one };
    let next = note.plan().redirects.iter().map(moved).collect();
    let note = Note::after(Some(note), next, false).expect("the same items");
    let code = program(Call::Bind4, &note.plan(), NETNS).expect("it is within reach");
    assert!(code.slots() < 4096, "{}", code.slots());
    assert!(note.bytes().len() < 64 * 1024, "{}", note.bytes().len());
}

#[test]
fn the_listing_shows_every_instruction() {
    let plan =
        plan(&[redirect(Protocol::Tcp, 8080, 20417, 1), redirect(Protocol::Udp, 9000, 20100, 10)]);
    let listing = |call| program(call, &plan, NETNS).expect("it is short").to_string();
    assert_eq!(listing(Call::Bind4), include_str!("bind4.txt"));
    assert_eq!(listing(Call::Connect6), include_str!("connect6.txt"));
}

mod records {
    use autoport::model::{ContainerPort, Grant, Request};
    use std::num::NonZeroU16;

    use super::*;

    fn grant(
        name: &str,
        named: Option<u16>,
        port: u16,
        count: u16,
        protocols: &[Protocol],
    ) -> Grant {
        let port_of = |number| NonZeroU16::new(number).expect("a port");
        let container_port =
            named.map_or(ContainerPort::Same, |named| ContainerPort::From(port_of(named)));
        let request = Request::new(protocols.to_vec(), container_port);
        let request = Request { name: Some(name.to_owned()), count: port_of(count), ..request };
        Grant { request, port: port_of(port) }
    }

    const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

    #[test]
    fn each_protocol_of_an_item_is_redirected() {
        let grants = vec![
            grant("dns", Some(53), 20000, 1, &BOTH),
            grant("media", None, 20001, 1, &BOTH),
            grant("rtp", Some(9000), 20010, 10, &BOTH[1..]),
            grant("same", Some(20002), 20002, 1, &BOTH[..1]),
        ];
        let expected = vec![
            redirect(Protocol::Tcp, 53, 20000, 1),
            redirect(Protocol::Udp, 53, 20000, 1),
            redirect(Protocol::Udp, 9000, 20010, 10),
        ];
        assert_eq!(redirects(&grants), Ok(expected));
    }

    #[test]
    fn a_port_that_could_be_meant_twice_is_refused() {
        let auto = grant("game", None, 20417, 1, &BOTH[..1]);
        let error = redirects(&[grant("web", Some(20417), 20500, 1, &BOTH), auto.clone()]);
        let text = error.expect_err("it can be meant twice").to_string();
        assert!(text.contains("game=auto/tcp") && text.contains("web=20417/tcp+udp"), "{text}");
        assert!(redirects(&[grant("web", Some(20417), 20500, 1, &BOTH[1..]), auto]).is_ok());
    }

    #[test]
    fn more_than_the_limit_are_refused() {
        let item = |at| grant("p", Some(1 + at), 30000 + at, 1, &BOTH[..1]);
        let many = |count: u16| redirects(&(0..count).map(item).collect::<Vec<_>>());
        assert!(many(MOST as u16).is_ok());
        assert_eq!(many(MOST as u16 + 1), Err(Unclear::TooMany { count: MOST + 1 }));
    }
}
