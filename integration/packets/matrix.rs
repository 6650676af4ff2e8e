//! The connectivity matrix: which client reaches a host port at which address, and which source
//! address the pod sees. One node has mappings of every kind. The table contains the expected
//! result of each question, over TCP and UDP.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::thread;

use crate::stage::chain::{Main, Network, PortMapping};
use crate::stage::node::{CLIENT, FIRST, Node, POD_PORT, Pod, SECOND, address};
use crate::stage::plugin::Plugin;
use crate::stage::probe::{Answer, Probe, Transport, source_towards};

/// How many questions are asked at a time.
const ASKERS: usize = 8;

/// Held without host IP, by the pod `any`.
pub(crate) const ANY: u16 = 8080;
/// Held three times: on the first address by `first`, on the second by `second`, on 127.0.0.1 and
/// `::1` by `local`.
pub(crate) const SHARED: u16 = 8081;
/// Held on 0.0.0.0 by `local`.
pub(crate) const ANY_V4: u16 = 8082;
/// Held on `::` by `second`.
pub(crate) const ANY_V6: u16 = 8083;
/// Held on 127.0.0.1 and `::1` only, by `local`.
pub(crate) const LOOPBACK_ONLY: u16 = 8084;
/// Held on the node's first address only, by `first`.
pub(crate) const FIRST_ONLY: u16 = 8085;

/// Where a question comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// Outside the node.
    Client,
    /// The node itself, with the source address that the kernel chooses.
    Node,
    /// The node itself, with its first address as the source.
    NodeBound,
    /// The pod of that name. `neighbour` shares the holders' network, `stranger` has another one.
    Pod(&'static str),
}

/// Which address it goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    First,
    Second,
    /// 127.0.0.1 or `::1`.
    Loopback,
    /// 127.0.0.5.
    OtherLoopback,
    /// The node's address in the holders' network.
    Gateway,
    /// The node's address in the stranger's network.
    OtherGateway,
}

/// The families a row speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Families {
    Both,
    V4,
    V6,
}

/// The source address a pod must see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The one the question was sent from.
    Kept,
    /// The node's address in the pod's network: masqueraded.
    Gateway,
}

/// What must come of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    Reached(&'static str, Source),
    Refused,
    /// Never what we want. Some peers do it.
    Silence,
}

/// A row of the table.
pub(crate) struct Case {
    pub(crate) from: Asker,
    pub(crate) to: To,
    pub(crate) port: u16,
    families: Families,
    expect: Expect,
}

const fn case(from: Asker, to: To, port: u16, families: Families, expect: Expect) -> Case {
    Case { from, to, port, families, expect }
}

use Asker::{Client, NodeBound, Pod as InPod};
use Expect::{Reached, Refused};
use Families::{Both, V4, V6};
use Source::{Gateway as Masqueraded, Kept};

/// What must hold for every port mapping plugin.
pub(crate) const CASES: &[Case] = &[
    // A mapping without host IP answers on every address of the node.
    case(Client, To::First, ANY, Both, Reached("any", Kept)),
    case(Client, To::Second, ANY, Both, Reached("any", Kept)),
    case(Client, To::Gateway, ANY, Both, Reached("any", Kept)),
    case(Asker::Node, To::First, ANY, Both, Reached("any", Kept)),
    case(Asker::Node, To::Second, ANY, Both, Reached("any", Kept)),
    case(Asker::Node, To::Gateway, ANY, Both, Reached("any", Kept)),
    case(Asker::Node, To::Loopback, ANY, V4, Reached("any", Masqueraded)),
    case(Asker::Node, To::Loopback, ANY, V6, Refused),
    case(Asker::Node, To::OtherLoopback, ANY, V4, Reached("any", Masqueraded)),
    case(NodeBound, To::Loopback, ANY, V4, Reached("any", Kept)),
    case(InPod("any"), To::First, ANY, Both, Reached("any", Masqueraded)),
    case(InPod("any"), To::Second, ANY, Both, Reached("any", Masqueraded)),
    case(InPod("any"), To::Gateway, ANY, Both, Reached("any", Masqueraded)),
    case(InPod("neighbour"), To::First, ANY, Both, Reached("any", Masqueraded)),
    case(InPod("neighbour"), To::Gateway, ANY, Both, Reached("any", Masqueraded)),
    case(InPod("stranger"), To::First, ANY, Both, Reached("any", Kept)),
    case(InPod("stranger"), To::OtherGateway, ANY, Both, Reached("any", Kept)),
    case(InPod("stranger"), To::Gateway, ANY, Both, Reached("any", Kept)),
    // One port, three addresses, three pods.
    case(Client, To::First, SHARED, Both, Reached("first", Kept)),
    case(Client, To::Second, SHARED, Both, Reached("second", Kept)),
    case(Client, To::Gateway, SHARED, Both, Refused),
    case(Asker::Node, To::First, SHARED, Both, Reached("first", Kept)),
    case(Asker::Node, To::Second, SHARED, Both, Reached("second", Kept)),
    case(Asker::Node, To::Gateway, SHARED, Both, Refused),
    case(Asker::Node, To::Loopback, SHARED, V4, Reached("local", Masqueraded)),
    case(Asker::Node, To::Loopback, SHARED, V6, Refused),
    case(Asker::Node, To::OtherLoopback, SHARED, V4, Refused),
    case(NodeBound, To::Loopback, SHARED, Both, Reached("local", Kept)),
    case(InPod("first"), To::First, SHARED, Both, Reached("first", Masqueraded)),
    case(InPod("first"), To::Second, SHARED, Both, Reached("second", Masqueraded)),
    case(InPod("first"), To::Gateway, SHARED, Both, Refused),
    case(InPod("neighbour"), To::Second, SHARED, Both, Reached("second", Masqueraded)),
    case(InPod("stranger"), To::Second, SHARED, Both, Reached("second", Kept)),
    case(InPod("stranger"), To::OtherGateway, SHARED, Both, Refused),
    // 0.0.0.0 and :: are every address of one family.
    case(Client, To::First, ANY_V4, V4, Reached("local", Kept)),
    case(Client, To::Second, ANY_V4, V4, Reached("local", Kept)),
    case(Client, To::First, ANY_V4, V6, Refused),
    case(Asker::Node, To::Second, ANY_V4, V4, Reached("local", Kept)),
    case(Asker::Node, To::Loopback, ANY_V4, V4, Reached("local", Masqueraded)),
    case(Asker::Node, To::Loopback, ANY_V4, V6, Refused),
    case(Client, To::First, ANY_V6, V6, Reached("second", Kept)),
    case(Client, To::Second, ANY_V6, V6, Reached("second", Kept)),
    case(Client, To::First, ANY_V6, V4, Refused),
    case(Asker::Node, To::Second, ANY_V6, V6, Reached("second", Kept)),
    case(Asker::Node, To::Loopback, ANY_V6, Both, Refused),
    // Loopback only: a port that must not show outside.
    case(Client, To::First, LOOPBACK_ONLY, Both, Refused),
    case(Client, To::Gateway, LOOPBACK_ONLY, Both, Refused),
    case(Asker::Node, To::First, LOOPBACK_ONLY, Both, Refused),
    case(Asker::Node, To::OtherLoopback, LOOPBACK_ONLY, V4, Refused),
    case(Asker::Node, To::Loopback, LOOPBACK_ONLY, V4, Reached("local", Masqueraded)),
    case(NodeBound, To::Loopback, LOOPBACK_ONLY, Both, Reached("local", Kept)),
    case(InPod("local"), To::First, LOOPBACK_ONLY, Both, Refused),
    case(InPod("neighbour"), To::Gateway, LOOPBACK_ONLY, Both, Refused),
    // One address only.
    case(Client, To::First, FIRST_ONLY, Both, Reached("first", Kept)),
    case(Client, To::Second, FIRST_ONLY, Both, Refused),
    case(Asker::Node, To::Second, FIRST_ONLY, Both, Refused),
    case(Asker::Node, To::Loopback, FIRST_ONLY, Both, Refused),
    case(InPod("neighbour"), To::Second, FIRST_ONLY, Both, Refused),
    case(InPod("stranger"), To::First, FIRST_ONLY, Both, Reached("first", Kept)),
];

/// Everything about one question that an answer may depend on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) main: Main,
    pub(crate) bridge_calls_iptables: bool,
    pub(crate) transport: Transport,
    pub(crate) v6: bool,
    pub(crate) from: Asker,
    pub(crate) to: To,
    pub(crate) port: u16,
}

impl fmt::Display for Question {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { main, from, to, port, .. } = self;
        let family = if self.v6 { "v6" } else { "v4" };
        let calls = u8::from(self.bridge_calls_iptables);
        let transport = self.transport.name();
        write!(out, "{main:?}, nf-call={calls}: {from:?} -> {to:?}:{port}/{transport} {family}")
    }
}

/// What a plugin does where it is known not to do what the table says; `None` elsewhere.
pub(crate) type Deviation = fn(&Question, Expect) -> Option<Expect>;

/// A node on which the holders of all those ports run, with a neighbour and a stranger.
struct Stage {
    node: Node,
    main: Main,
    networks: [Network; 2],
    pods: Vec<Pod>,
}

impl Stage {
    fn new(plugin: Plugin, main: Main) -> Self {
        let node = Node::new();
        let networks =
            [Network::new("blue", main, 1, plugin), Network::new("green", main, 2, plugin)];
        let on = |port, hosts: &[&str]| {
            hosts.iter().flat_map(|host| PortMapping::both(port, POD_PORT, host)).collect()
        };
        let plan: [(&str, usize, Vec<Vec<PortMapping>>); 6] = [
            ("any", 0, vec![on(ANY, &[""])]),
            ("first", 0, vec![on(SHARED, &FIRST), on(FIRST_ONLY, &FIRST)]),
            ("second", 0, vec![on(SHARED, &SECOND), on(ANY_V6, &["::"])]),
            (
                "local",
                0,
                vec![
                    on(SHARED, &["127.0.0.1", "::1"]),
                    on(ANY_V4, &["0.0.0.0"]),
                    on(LOOPBACK_ONLY, &["127.0.0.1", "::1"]),
                ],
            ),
            ("neighbour", 0, vec![]),
            ("stranger", 1, vec![]),
        ];
        let attach = |(name, network, mappings): (&str, usize, Vec<Vec<PortMapping>>)| {
            let pod = node.pod(name);
            node.add(&mut pod.in_network(&networks[network]).mapping(mappings.concat()));
            pod
        };
        let pods = plan.into_iter().map(attach).collect();
        Self { node, main, networks, pods }
    }

    fn pod(&self, name: &str) -> &Pod {
        self.pods.iter().find(|pod| pod.name == name).expect("the table names pods of the stage")
    }

    fn address(&self, to: To, v6: bool) -> IpAddr {
        let family = usize::from(v6);
        address(match to {
            To::First => FIRST[family],
            To::Second => SECOND[family],
            To::Loopback => ["127.0.0.1", "::1"][family],
            To::OtherLoopback => "127.0.0.5",
            To::Gateway => return address(&self.networks[0].gateway()[family]),
            To::OtherGateway => return address(&self.networks[1].gateway()[family]),
        })
    }

    /// The source address of a question before any translation.
    fn sender(&self, question: &Question) -> IpAddr {
        let family = usize::from(question.v6);
        match question.from {
            Client => address(CLIENT[family]),
            Asker::Node => {
                let to = self.address(question.to, question.v6);
                source_towards(SocketAddr::new(to, question.port))
            }
            NodeBound => address(FIRST[family]),
            InPod(name) => {
                let asking = self.pod(name);
                asking.address(question.v6)
            }
        }
    }

    fn ask(&self, question: &Question, expect: Expect) -> Answer {
        let to = SocketAddr::new(self.address(question.to, question.v6), question.port);
        let mut probe = Probe::new(question.transport, to);
        if expect == Expect::Silence {
            probe = probe.in_vain();
        }
        match question.from {
            Client => self.node.client_asks(&probe),
            Asker::Node => probe.ask(),
            NodeBound => {
                probe.from = Some(SocketAddr::new(self.sender(question), 0));
                probe.ask()
            }
            InPod(name) => self.pod(name).asks(&probe),
        }
    }

    fn answer(&self, question: &Question, expect: Expect) -> Answer {
        match expect {
            Refused => Answer::Refused,
            Expect::Silence => Answer::Silence,
            Reached(by, source) => Answer::Reached {
                by: by.to_owned(),
                source: match source {
                    Kept => self.sender(question),
                    Masqueraded => self.address(To::Gateway, question.v6),
                },
            },
        }
    }

    /// Asks, and says what was wrong with the answer.
    fn mistake(&self, asked: &(Question, Expect), deviation: Deviation) -> Option<String> {
        let (question, expect) = asked;
        let expect = deviation(question, *expect).unwrap_or(*expect);
        let want = self.answer(question, expect);
        let got = self.ask(question, expect);
        (want != got).then(|| format!("{question}: wanted {want}, got {got}"))
    }

    fn questions(&self, bridge_calls_iptables: bool) -> Vec<(Question, Expect)> {
        let mut questions = Vec::new();
        for case in CASES {
            for transport in Transport::BOTH {
                for v6 in [false, true] {
                    if case.families == if v6 { V4 } else { V6 } {
                        continue;
                    }
                    let Case { from, to, port, .. } = *case;
                    let main = self.main;
                    let question =
                        Question { main, bridge_calls_iptables, transport, v6, from, to, port };
                    questions.push((question, case.expect));
                }
            }
        }
        questions
    }
}

/// Asks every question of the table on one node, and fails with every wrong answer.
pub(crate) fn run(plugin: Plugin, main: Main, deviation: Deviation) {
    let stage = Stage::new(plugin, main);
    let mut wrong = Vec::new();
    for bridge_calls_iptables in [false, true] {
        stage.node.bridges_call_iptables(bridge_calls_iptables);
        let questions = stage.questions(bridge_calls_iptables);
        // Waiting for silence is what takes long, and it can be done side by side.
        let ask = |part: &[(Question, Expect)]| {
            part.iter().filter_map(|asked| stage.mistake(asked, deviation)).collect::<Vec<_>>()
        };
        wrong.extend(thread::scope(|scope| {
            let parts = questions.chunks(questions.len().div_ceil(ASKERS));
            let asking: Vec<_> = parts.map(|part| scope.spawn(move || ask(part))).collect();
            asking
                .into_iter()
                .flat_map(|it| it.join().expect("an asker panicked"))
                .collect::<Vec<_>>()
        }));
    }
    assert!(wrong.is_empty(), "{} wrong answers:\n{}", wrong.len(), wrong.join("\n"));
}
