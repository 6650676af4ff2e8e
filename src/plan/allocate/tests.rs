use std::collections::BTreeSet;
use std::convert::Infallible;

use super::*;
use crate::model::{
    Allocation, Ask, ContainerPort, NamedRange, Pod, PortPolicy, PortRange, test_ports,
};

mod property;

fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).expect("a port is not 0")
}

fn range(first: u16, last: u16) -> PortRange {
    PortRange { first: port(first), last: port(last) }
}

fn named(ports: &[PortRange]) -> NamedRange {
    NamedRange { ports: ports.to_vec(), namespaces: None }
}

fn block(count: u16, protocols: &[Protocol]) -> Request {
    Request {
        name: None,
        protocols: protocols.to_vec(),
        container_port: ContainerPort::From(port(80)),
        count: port(count),
        address: None,
        range: None,
    }
}

fn pod(name: &str) -> Pod {
    Pod { namespace: "games".into(), name: name.into(), uid: String::new() }
}

fn tcp(count: u16) -> Request {
    block(count, &[Protocol::Tcp])
}

/// A node and a claim on it.
struct Scene {
    policy: PortPolicy,
    pod: Option<Pod>,
    cursors: Cursors,
    fixed: Vec<Mapping>,
    earlier: Vec<Option<Earlier>>,
    seed: u64,
    state: BTreeMap<(Protocol, u16), Availability>,
    /// What is held by somebody who is no more.
    gone: BTreeSet<u16>,
}

/// An answer, and what was asked for it.
struct Answer {
    outcome: Result<Granted, Exhausted>,
    looked: Vec<Spot>,
    examined: Vec<Spot>,
}

impl Scene {
    fn new(ranges: &[PortRange]) -> Self {
        Self {
            policy: test_ports(ranges),
            pod: None,
            cursors: Cursors::new(),
            fixed: Vec::new(),
            earlier: Vec::new(),
            seed: 1,
            state: BTreeMap::new(),
            gone: BTreeSet::new(),
        }
    }

    fn with(mut self, ports: impl IntoIterator<Item = u16>, availability: Availability) -> Self {
        for port in ports {
            for protocol in Protocol::ALL {
                self.state.insert((protocol, port), availability);
            }
        }
        self
    }

    fn last(mut self, number: u16) -> Self {
        self.cursors.insert(None, port(number));
        self
    }

    fn ask(&self, requests: &[Request]) -> Answer {
        let ask = Ask {
            pod: self.pod.clone(),
            fixed: self.fixed.clone(),
            requested: requests.to_vec(),
            allocation: self.policy.allocation,
            ..crate::model::test_ask(self.policy.clone())
        };
        let (earlier, cursors) = (&self.earlier, &self.cursors);
        let choice = Choice { ask: &ask, earlier, cursors, seed: self.seed };
        let (mut looked, mut examined) = (Vec::new(), Vec::new());
        let stands = |spot: &Spot| {
            let found = self.state.get(&(spot.protocol, spot.port.get()));
            found.copied().unwrap_or(Availability::Free)
        };
        let look = |spot: Spot, examine: bool| {
            looked.push(spot);
            let found = stands(&spot);
            if !examine || found != Held {
                return Ok::<_, Infallible>(found);
            }
            examined.push(spot);
            let gone = self.gone.contains(&spot.port.get());
            Ok(if gone { Availability::Free } else { Held })
        };
        let Ok(outcome) = allocate(&choice, look);
        Answer { outcome, looked, examined }
    }

    fn ports(&self, requests: &[Request]) -> Option<Vec<u16>> {
        let granted = self.ask(requests).outcome.ok()?;
        assert!(granted.grants.iter().map(|grant| &grant.request).eq(requests));
        Some(granted.grants.iter().map(|grant| grant.port.get()).collect())
    }
}

use Availability::{Busy, Held, Recent};

#[test]
fn kubewharf_vectors() {
    let big = || Scene::new(&[range(9200, 9499)]);
    let small = || Scene::new(&[range(9200, 9203)]).with([9201, 9202], Held).last(9202);
    let two = [tcp(1), tcp(1)];
    assert_eq!(big().with([9200, 9201], Held).last(9201).ports(&two), Some(vec![9202, 9203]));
    assert_eq!(big().with([9200, 9203], Held).last(9203).ports(&two), Some(vec![9204, 9205]));
    assert_eq!(small().ports(&two), Some(vec![9203, 9200]));
    assert_eq!(small().ports(&[tcp(1), tcp(1), tcp(1)]), None);
}

#[test]
fn the_ring_goes_on_past_the_cursor() {
    let scene = || Scene::new(&[range(100, 103)]);
    let cursor = |scene: Scene| {
        let granted = scene.ask(&[tcp(1)]).outcome.expect("there is room");
        (granted.grants[0].port.get(), granted.cursors[&None].get())
    };
    assert_eq!(cursor(scene()), (100, 100));
    assert_eq!(cursor(scene().last(101)), (102, 102));
    assert_eq!(cursor(scene().last(103)), (100, 100));
    assert_eq!(cursor(scene().last(99)), (100, 100));
    assert_eq!(cursor(scene().last(5000)), (100, 100));
    // A block leaves the cursor at its end.
    let granted = scene().ask(&[tcp(3)]).outcome.expect("there is room");
    assert_eq!(granted.cursors[&None], port(102));
    // In the order written, and each part once.
    let parts = || Scene::new(&[range(300, 301), range(100, 101)]);
    assert_eq!(parts().ports(&[tcp(1), tcp(1), tcp(1)]), Some(vec![300, 301, 100]));
    assert_eq!(parts().last(301).ports(&[tcp(1)]), Some(vec![100]));
    assert_eq!(parts().last(101).ports(&[tcp(1)]), Some(vec![300]));
}

#[test]
fn small_ranges_and_last_ports() {
    let one = || Scene::new(&[range(65535, 65535)]);
    assert_eq!(one().ports(&[tcp(1)]), Some(vec![65535]));
    assert_eq!(one().last(65535).ports(&[tcp(1)]), Some(vec![65535]));
    assert_eq!(one().with([65535], Held).ports(&[tcp(1)]), None);
    assert_eq!(one().ports(&[tcp(1), tcp(1)]), None);
    assert_eq!(one().ports(&[tcp(2)]), None);
    let last = Scene::new(&[range(100, 199)]).with((100..=199).filter(|one| *one != 142), Held);
    assert_eq!(last.ports(&[tcp(1)]), Some(vec![142]));
    // Holders outside of the range do not matter.
    assert_eq!(last.with([99, 200], Held).ports(&[tcp(1)]), Some(vec![142]));
    let nothing = one().ask(&[]).outcome.expect("nothing is asked for");
    assert_eq!((nothing.grants, nothing.cursors), (vec![], Cursors::new()));
}

#[test]
fn blocks_are_in_a_row_inside_one_range() {
    let ring = || Scene::new(&[range(100, 109)]);
    assert_eq!(ring().last(107).ports(&[tcp(3)]), Some(vec![100]));
    assert_eq!(ring().last(106).ports(&[tcp(3)]), Some(vec![107]));
    assert_eq!(ring().with([102, 106], Held).ports(&[tcp(3)]), Some(vec![103]));
    assert_eq!(ring().with([102, 105, 108], Held).ports(&[tcp(3)]), None);
    // Neighbours in number or in the list are still two ranges.
    let parts = Scene::new(&[range(100, 101), range(102, 104)]);
    assert_eq!(parts.ports(&[tcp(3)]), Some(vec![102]));
    assert_eq!(parts.ports(&[tcp(4)]), None);
    let mut gap = ring();
    gap.policy.excluded = vec![range(103, 104)];
    assert_eq!(gap.ports(&[tcp(4)]), Some(vec![105]));
    assert_eq!(gap.ports(&[tcp(6)]), None);
    // The long one gets room even if it comes last.
    let tight = Scene::new(&[range(100, 103), range(200, 200)]);
    assert_eq!(tight.ports(&[tcp(1), tcp(4)]), Some(vec![200, 100]));
}

#[test]
fn protocols_share_a_number_or_not() {
    let both = block(1, &[Protocol::Tcp, Protocol::Udp]);
    let mut scene = Scene::new(&[range(100, 103)]);
    scene.state.insert((Protocol::Udp, 100), Held);
    scene.state.insert((Protocol::Tcp, 101), Busy);
    assert_eq!(scene.ports(std::slice::from_ref(&both)), Some(vec![102]));
    assert_eq!(scene.ports(&[tcp(1)]), Some(vec![100]));
    let udp = block(1, &[Protocol::Udp]);
    assert_eq!(Scene::new(&[range(100, 101)]).ports(&[tcp(1), udp.clone()]), Some(vec![100, 101]));
    assert_eq!(Scene::new(&[range(100, 100)]).ports(&[tcp(1), udp]), Some(vec![100, 100]));
    assert_eq!(Scene::new(&[range(100, 100)]).ports(&[tcp(1), both]), None);
    let on = |address: &str| Request { address: address.parse().ok(), ..tcp(1) };
    let one = Scene::new(&[range(100, 100)]);
    assert_eq!(one.ports(&[on("192.0.2.1"), on("192.0.2.2")]), Some(vec![100, 100]));
    assert_eq!(one.ports(&[on("192.0.2.1"), tcp(1)]), None);
}

#[test]
fn bounds_are_kept() {
    let mut scene = Scene::new(&[range(100, 109)]);
    scene.policy.excluded = vec![range(102, 104), range(106, 109)];
    scene.policy.min_port = port(101);
    scene.policy.named_ranges.insert("game".into(), named(&[range(7000, 7001)]));
    assert_eq!(scene.ports(&[tcp(1), tcp(1)]), Some(vec![101, 105]));
    assert_eq!(scene.ports(&[tcp(1), tcp(1), tcp(1)]), None);
    let game = Request { range: Some("game".into()), ..tcp(1) };
    let granted = scene.ask(&[game.clone(), tcp(1)]).outcome.expect("there is room");
    let expected = Cursors::from([(Some("game".into()), port(7000)), (None, port(101))]);
    assert_eq!(granted.cursors, expected);
    let unknown = Request { range: Some("none".into()), ..tcp(1) };
    assert_eq!(scene.ports(&[unknown]), None);
    // What the claim asks for by number is not chosen.
    scene.fixed = HostPort::each(Protocol::Tcp, None, port(101))
        .map(|host| Mapping::towards(host, port(80), &[]))
        .collect();
    assert_eq!(scene.ports(&[tcp(1)]), Some(vec![105]));
    assert_eq!(scene.ports(&[tcp(1), tcp(1)]), None);
    assert_eq!(scene.ports(&[game.clone(), game]), Some(vec![7000, 7001]));
}

#[test]
fn worse_tiers_come_last() {
    let scene = || Scene::new(&[range(100, 103)]).with([100, 101], Recent).with([102], Held);
    assert_eq!(scene().ports(&[tcp(1)]), Some(vec![103]));
    let two = scene().ask(&[tcp(1), tcp(1)]);
    assert_eq!(two.outcome.expect("there is room").grants[1].port, port(100));
    assert!(two.examined.is_empty());
    let mut four = scene();
    let requests = [tcp(1), tcp(1), tcp(1), tcp(1)];
    assert_eq!(four.ports(&requests), None);
    four.gone.insert(102);
    let answer = four.ask(&requests);
    assert_eq!(answer.outcome.expect("the holder is gone").grants[3].port, port(102));
    assert_eq!(answer.examined.len(), 1);
    // A listener is never passed over.
    assert_eq!(four.with([102], Busy).ports(&requests), None);
}

#[test]
fn earlier_numbers_are_preferred() {
    let mut scene = Scene::new(&[range(100, 109)]).with([105], Recent).with([106], Held);
    scene.earlier = vec![None, Some(Earlier::Former(port(100)))];
    assert_eq!(scene.ports(&[tcp(1), tcp(1)]), Some(vec![101, 100]));
    for (former, expected) in [(104, 104), (106, 100), (110, 100), (109, 109)] {
        scene.earlier = vec![Some(Earlier::Former(port(former)))];
        assert_eq!(scene.ports(&[tcp(1)]), Some(vec![expected]), "{former}");
    }
    // A block that would leave the range is not the same block.
    scene.earlier = vec![Some(Earlier::Former(port(109)))];
    assert_eq!(scene.ports(&[tcp(2)]), Some(vec![100]));
    // What is held stays, wherever the range is now.
    for own in [106, 65535, 7] {
        scene.earlier = vec![Some(Earlier::Own(port(own)))];
        assert_eq!(scene.ports(&[tcp(1)]), Some(vec![own]));
    }
    assert_eq!(scene.ports(&[tcp(1), tcp(1)]), Some(vec![7, 100]));
    // What a request had before gives way if all do not fit otherwise.
    // It does not give way to the order asked.
    let mut ordered = Scene::new(&[range(100, 103)]).last(101);
    ordered.earlier = vec![Some(Earlier::Former(port(100)))];
    assert_eq!(ordered.ports(&[tcp(1), tcp(1), tcp(2)]), Some(vec![100, 101, 102]));
    let mut tight = Scene::new(&[range(100, 102)]);
    tight.earlier = vec![Some(Earlier::Former(port(101)))];
    assert_eq!(tight.ports(&[tcp(1), tcp(2)]), Some(vec![102, 100]));
    let granted = tight.ask(&[tcp(1), tcp(2)]).outcome.expect("there is room");
    assert_eq!(granted.cursors.len(), 1, "the next choice goes on from here");
}

#[test]
fn random_reaches_every_free_port_and_no_other() {
    let mut scene = Scene::new(&[range(100, 119)]).with([103, 110], Held).with([111], Busy);
    scene.policy.allocation = Allocation::Random;
    let mut counts = BTreeMap::new();
    for seed in 0..3400 {
        scene.seed = seed;
        let ports = scene.ports(&[tcp(1)]).expect("there is room");
        assert_eq!(scene.ports(&[tcp(1)]), Some(ports.clone()));
        *counts.entry(ports[0]).or_insert(0) += 1;
    }
    let free = (100..=119).filter(|number| ![103, 110, 111].contains(number));
    assert!(counts.keys().copied().eq(free));
    // 200 on average, with a standard deviation of 14.
    assert!(counts.values().all(|count| (130..=270).contains(count)), "{counts:?}");
    let granted = scene.ask(&[tcp(2), tcp(1)]).outcome.expect("there is room");
    assert!(granted.cursors.is_empty());
}

/// Whatever is asked for, every number is looked at a few times.
#[test]
fn a_full_range_costs_a_few_laps() {
    let free: BTreeSet<u16> = (0..100).map(|at| 20050 + at * 100).collect();
    let held = (20000..=29999).filter(|number| !free.contains(number));
    let mut scene = Scene::new(&[range(20000, 29999)]).with(held, Held);
    for (allocation, cursor) in [(Allocation::Sequential, 20050), (Allocation::Random, 20000)] {
        scene.policy.allocation = allocation;
        scene = scene.last(cursor);
        let hundred = vec![tcp(1); 100];
        let answer = scene.ask(&hundred);
        let granted = answer.outcome.expect("there is room");
        assert_eq!(granted.grants.iter().map(|one| one.port.get()).collect::<BTreeSet<_>>(), free);
        assert!(answer.looked.len() <= 10_000 && answer.examined.is_empty());
        assert!(scene.ask(&[tcp(1)]).looked.len() <= 10_000);
        for (requests, most) in
            [(vec![tcp(1); 128], 50_000), (vec![tcp(100)], 50_000), (vec![tcp(2); 64], 100_000)]
        {
            let asked = scene.ask(&requests);
            assert!(asked.looked.len() <= most, "{}", asked.looked.len());
            let exhausted = asked.outcome.expect_err("so many are not free");
            let held = exhausted.stand[&Held];
            assert_eq!((exhausted.size, held, exhausted.never), (10_000, 9_900, false));
        }
    }
    // Numbers that all were released a short while ago, as a namespace that churns leaves them.
    let churned = Scene::new(&[range(20000, 29999)]).with(20000..=29999, Recent);
    let answer = churned.ask(&vec![tcp(1); 128]);
    assert_eq!(answer.outcome.expect("there is room").grants[127].port, port(20127));
    assert!(answer.looked.len() <= 20_000, "{}", answer.looked.len());
}

/// One of a thousand holders is gone: it is found, though not by every claim.
#[test]
fn the_holder_that_is_gone_is_found_by_and_by() {
    let mut scene = Scene::new(&[range(20000, 20999)]).with(20000..=20999, Held);
    scene.gone.insert(20777);
    let found = (0..100).filter(|seed| {
        scene.seed = *seed;
        scene.ports(&[tcp(1)]) == Some(vec![20777])
    });
    assert!(found.count() > 10);
}

#[test]
fn exhaustion_says_what_is_there() {
    let scene = Scene::new(&[range(100, 103)]).with([100], Held).with([101], Busy);
    let many = vec![tcp(1); 3];
    let text = scene.ask(&many).outcome.expect_err("too many").to_string();
    assert_eq!(
        text,
        "OutOfHostPort: no tcp port is left in range default (100-103: 4 numbers to choose from, \
         1 held, 1 with a listener on the host, 2 taken by this claim itself); 3 requested in total"
    );
}

#[test]
fn what_can_never_fit_is_not_called_exhausted() {
    let scene = || Scene::new(&[range(100, 103)]).last(101);
    let never = |scene: &Scene, requests: &[Request]| {
        let exhausted = scene.ask(requests).outcome.expect_err("it does not fit");
        assert_eq!(exhausted.never, !exhausted.to_string().starts_with("OutOfHostPort"));
        exhausted.never
    };
    assert!(never(&scene(), &vec![tcp(1); 5]));
    assert!(never(&scene().with(100..=103, Held), &[tcp(5)]));
    assert!(!never(&scene().with([100], Held), &vec![tcp(1); 4]));
    // Whatever the cursor, two blocks fit into the empty range.
    assert_eq!(scene().ports(&[tcp(2), tcp(2)]), Some(vec![102, 100]));
    assert_eq!(scene().last(100).ports(&[tcp(2), tcp(2)]), Some(vec![100, 102]));
    assert!(!never(&scene().with([103], Busy), &[tcp(2), tcp(2)]));
    // What the operator excludes is never there, and what the claim names itself neither.
    let mut excluded = scene();
    excluded.policy.excluded = vec![range(101, 101)];
    assert!(never(&excluded, &[tcp(3)]));
    let text = excluded.ask(&[tcp(3)]).outcome.expect_err("two in a row").to_string();
    assert_eq!(
        text,
        "3 host ports are requested in total, and range default (100-103: 3 numbers to choose from) is \
         too small for them even when empty: it has no 3 tcp ports in a row; ask for fewer ports or \
         name a larger range"
    );
}

#[test]
fn a_stable_number_is_left_only_for_one_that_is_in_use() {
    let mut scene = Scene::new(&[range(100, 199)]);
    scene.policy.allocation = Allocation::Stable;
    scene.pod = Some(pod("web-0"));
    let request = |name: &str, count| Request { name: Some(name.into()), ..tcp(count) };
    let first = |scene: &Scene, request: &Request| {
        scene.ports(std::slice::from_ref(request)).expect("room")[0]
    };
    let home = first(&scene, &request("http", 1));
    assert_ne!(home, first(&scene, &request("admin", 1)), "each port has a number of its own");
    assert_eq!(
        home,
        first(&scene, &Request { container_port: ContainerPort::Same, ..request("http", 1) })
    );
    assert_ne!(
        first(&scene, &tcp(1)),
        first(&scene, &block(1, &[Protocol::Udp])),
        "by the protocol"
    );
    let next = if home == 199 { 100 } else { home + 1 };
    for (stands, expected) in [(Recent, home), (Busy, next), (Held, next)] {
        scene = scene.with([home], stands);
        assert_eq!(first(&scene, &request("http", 1)), expected, "{stands:?}");
    }
    scene.gone.insert(home);
    assert_eq!(first(&scene, &request("http", 1)), home, "its holder is gone");
    // An exclusion elsewhere moves nothing; a part before it does, which is why it is documented.
    scene.policy.excluded = vec![range(100, home - 1)];
    assert_eq!(first(&scene, &request("http", 1)), home);
    scene.pod = Some(pod("web-1"));
    assert_ne!(first(&scene, &request("http", 1)), home, "another replica");
}
