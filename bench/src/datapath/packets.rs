//! Packets, counted or timed: what a connection through a host port takes, and one that is none of autoport's
//! business.
//!
//! The sockets of both ends belong to one thread, so that each packet is processed by its sender: nobody is woken
//! up. In the emulated machine of `scripts/kernels.sh` the clock counts instructions.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Instant;

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

use super::bed::{Bed, Path, Setup};
use super::load::{ANY, POD_PORT};
use crate::Bench;
use crate::node::Space;
use crate::plugins::Plugin;
use crate::raw::Row;
use crate::stats::median;

/// How long the emulated machine's clock takes for an instruction.
const NANOSECONDS: f64 = 4.0;

/// How often each node has its turn where instructions are counted, and in real time.
const TURNS: usize = 12;
const REAL_TURNS: usize = 300;

/// How many connections it makes in one, and what goes to and fro by each.
const CONNECTIONS: usize = 25;
const ROUNDS: u32 = 20;

/// Both ends of the way, in the pod.
struct Ends {
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Ends {
    fn open(pod: &Space) -> Self {
        pod.run(|| Self {
            tcp: TcpListener::bind((ANY, POD_PORT)).expect("the pod's TCP port is free"),
            udp: UdpSocket::bind((ANY, POD_PORT)).expect("the pod's UDP port is free"),
        })
    }
}

const fn mapped(plugin: Plugin) -> Setup {
    Setup::Mapped(plugin, 1)
}

/// Counts, in the emulated machine.
pub(crate) fn run(bench: &Bench) {
    let setups = [
        Setup::Service,
        mapped(Plugin::PortmapNftables),
        mapped(Plugin::Autoport),
        Setup::Offloaded,
        Setup::Offloaded,
        mapped(Plugin::Autoport),
        mapped(Plugin::PortmapNftables),
        Setup::Service,
    ];
    take_turns(bench, "packets", NANOSECONDS, &setups, bench.rounds(TURNS));
}

/// Takes the time, on this machine, whose kernel may have no flowtables.
pub(crate) fn time(bench: &Bench) {
    let setups = [
        Setup::Service,
        mapped(Plugin::PortmapNftables),
        mapped(Plugin::Autoport),
        mapped(Plugin::Autoport),
        mapped(Plugin::PortmapNftables),
        Setup::Service,
    ];
    take_turns(bench, "times", 1.0, &setups, bench.rounds(REAL_TURNS));
}

/// Puts the figures of all nodes, a number for each turn, into the file `name`.
fn take_turns(bench: &Bench, name: &str, unit: f64, setups: &[Setup], turns: usize) {
    let bed = |setup: &Setup| Bed::new(&bench.executables, *setup, Ends::open);
    let beds: Vec<Bed<Ends>> = setups.iter().map(bed).collect();
    let paths = [Path::HostPort, Path::Localhost, Path::Hairpin, Path::Routed];
    let mut samples: BTreeMap<(usize, usize, &str), Vec<f64>> = BTreeMap::new();
    for turn in 0..turns {
        for at in 0..beds.len() {
            let bed = if turn % 2 == 0 { at } else { beds.len() - 1 - at };
            for (path, way) in paths.iter().enumerate() {
                if setups[bed] == Setup::Service && *way != Path::Routed {
                    continue;
                }
                for (name, value) in measure(&beds[bed], *way) {
                    samples.entry((bed, path, name)).or_default().push(value / unit);
                }
            }
        }
    }
    bench.raw.begin(name);
    for (number, setup) in setups.iter().enumerate() {
        let plugin = match setup {
            Setup::Plain | Setup::Service => "service",
            Setup::Mapped(plugin, _) => plugin.id(),
            Setup::Offloaded => "offload",
        };
        for (path, way) in paths.iter().enumerate() {
            let own = samples.iter().filter(|((bed, of, _), _)| *bed == number && *of == path);
            let row = Row::new(name, plugin)
                .param("path", way.id())
                .param("again", setups[..number].contains(setup));
            let row = own.fold(row, |row, ((.., name), values)| row.samples(name, values.clone()));
            if !row.samples.is_empty() {
                bench.raw.put(&row);
            }
        }
    }
}

/// Has the connection end with one packet.
fn reset(client: &TcpStream) {
    let reset_on_close = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(client, sockopt::Linger, &reset_on_close).expect("SO_LINGER can be set");
}

/// The medians of one turn, in nanoseconds: of connect(2), of a byte there and back, of a datagram one way, and of
/// a whole connection with one request.
fn measure(bed: &Bed<Ends>, path: Path) -> [(&'static str, f64); 4] {
    let (mut connects, mut rounds, mut datagrams) = (Vec::new(), Vec::new(), Vec::new());
    let mut wholes = Vec::new();
    let (tcp, udp) = (&bed.server.tcp, &bed.server.udp);
    bed.from(path, |to| {
        let mut byte = [0];
        for _ in 0..CONNECTIONS {
            let began = Instant::now();
            let mut client = TcpStream::connect(to).unwrap_or_else(|error| panic!("{to}: {error}"));
            connects.push(began.elapsed().as_nanos() as f64);
            let (mut server, _) = tcp.accept().expect("it is connected");
            for socket in [&client, &server] {
                socket.set_nodelay(true).expect("TCP_NODELAY can be set");
            }
            let mut turn = || {
                client.write_all(&[1]).and_then(|()| server.read_exact(&mut byte))?;
                server.write_all(&[2]).and_then(|()| client.read_exact(&mut byte))
            };
            turn().expect("an established connection");
            let began = Instant::now();
            for _ in 0..ROUNDS {
                turn().expect("an established connection");
            }
            rounds.push((began.elapsed() / ROUNDS).as_nanos() as f64);
            reset(&client);
        }
        for _ in 0..CONNECTIONS {
            let began = Instant::now();
            let mut client = TcpStream::connect(to).unwrap_or_else(|error| panic!("{to}: {error}"));
            let (mut server, _) = tcp.accept().expect("it is connected");
            let asked = client.write_all(&[1]).and_then(|()| server.read_exact(&mut byte));
            let answered = server.write_all(&[2]).and_then(|()| client.read_exact(&mut byte));
            asked.and(answered).expect("an established connection");
            reset(&client);
            drop(client);
            wholes.push(began.elapsed().as_nanos() as f64);
        }
        let client = UdpSocket::bind((ANY, 0)).expect("a free port");
        client.connect(to).expect("a route");
        for _ in 0..CONNECTIONS {
            client.send(&[1]).expect("a datagram can be sent");
            let (_, from) = udp.recv_from(&mut byte).expect("it arrives");
            udp.send_to(&[2], from).expect("the answer can be sent");
            client.recv(&mut byte).expect("it arrives");
            let began = Instant::now();
            client.send(&[1]).expect("a datagram can be sent");
            datagrams.push(began.elapsed().as_nanos() as f64);
            udp.recv(&mut byte).expect("it arrives");
        }
    });
    bed.forget_flows();
    [
        ("connect", median(&connects)),
        ("round_trip", median(&rounds)),
        ("datagram", median(&datagrams)),
        ("whole", median(&wholes)),
    ]
}
