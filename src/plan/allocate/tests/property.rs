//! Random sequences of claims and releases against a map of who holds what.

use super::*;

type Model = BTreeMap<(Protocol, u16), usize>;

fn below(random: &mut fastrand::Rng, bound: u64) -> u16 {
    random.u64(..bound) as u16
}

fn requests(random: &mut fastrand::Rng) -> Vec<Request> {
    let (t, u, s) = (Protocol::Tcp, Protocol::Udp, Protocol::Sctp);
    let protocols: [&[Protocol]; 5] = [&[t], &[t], &[u], &[t, u], &[s]];
    (0..=below(random, 3))
        .map(|_| {
            let protocols = protocols[usize::from(below(random, 5))];
            let count = 1 + below(random, 8).saturating_sub(4);
            let range = (below(random, 4) == 0).then(|| "game".to_owned());
            Request { range, ..block(count, protocols) }
        })
        .collect()
}

fn of_range(scene: &Scene, request: &Request, number: u16) -> bool {
    let parts = scene.policy.range(request.range_name()).expect("a known range");
    let last = number + request.count.get() - 1;
    let inside = parts.iter().any(|part| part.contains(port(number)) && part.contains(port(last)));
    let kept = |port| scene.policy.excluded.iter().any(|range| range.contains(port));
    inside && !(number..=last).any(|number| kept(port(number)))
}

/// The first number past the cursor that nobody has.
fn next_free(scene: &Scene, protocol: Protocol) -> Option<u16> {
    let single = tcp(1);
    let all: Vec<u16> = (100..=159).filter(|one| of_range(scene, &single, *one)).collect();
    let cursor = scene.cursors.get(&None).map_or(0, |last| last.get());
    let start = all.iter().position(|number| *number > cursor).unwrap_or_default();
    let free = |number: &&u16| !scene.state.contains_key(&(protocol, **number));
    all[start..].iter().chain(&all[..start]).find(free).copied()
}

fn run(seed: u64, allocation: Allocation) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut scene = Scene::new(&[range(100, 129), range(140, 159)]);
    scene.policy.allocation = allocation;
    scene.policy.excluded = vec![range(110, 111)];
    scene.policy.named_ranges.insert("game".into(), named(&[range(120, 125), range(700, 709)]));
    let (mut model, mut alive) = (Model::new(), Vec::new());
    let (mut given, mut refused) = (0, 0);
    for step in 0..2000 {
        if !alive.is_empty() && below(&mut random, 100) < 45 {
            let victim = alive.swap_remove(usize::from(below(&mut random, 64)) % alive.len());
            model.retain(|_, owner| *owner != victim);
            scene.state.retain(|spot, _| model.contains_key(spot));
            continue;
        }
        scene.seed = random.u64(..);
        let requests = requests(&mut random);
        let answer = scene.ask(&requests);
        assert_eq!(answer.outcome, scene.ask(&requests).outcome, "the same inputs, step {step}");
        let granted = match answer.outcome {
            Ok(granted) => granted,
            Err(exhausted) => {
                refused += 1;
                assert!(exhausted.to_string().starts_with("OutOfHostPort"));
                if let ([request], 1) = (&*requests, requests[0].count.get()) {
                    let free = |number: u16| {
                        let taken = |one: &Protocol| model.contains_key(&(*one, number));
                        !request.protocols.iter().any(taken)
                    };
                    let left = (1..800).find(|one| of_range(&scene, request, *one) && free(*one));
                    assert_eq!(left, None, "refused though one was free, step {step}");
                }
                continue;
            }
        };
        given += 1;
        assert!(granted.grants.iter().map(|grant| &grant.request).eq(&requests), "all or nothing");
        if let ([request], Allocation::Sequential) = (&*requests, allocation)
            && *request == block(1, &request.protocols)
            && request.protocols.len() == 1
        {
            let next = next_free(&scene, request.protocols[0]);
            assert_eq!(Some(granted.grants[0].port.get()), next, "ring order, step {step}");
        }
        for Grant { request, port } in &granted.grants {
            assert!(of_range(&scene, request, port.get()), "{port} for {request}, step {step}");
            for spot in spots(request, *port) {
                let before = model.insert((spot.protocol, spot.port.get()), step);
                assert_eq!(before, None, "an overlap at {spot:?}, step {step}");
                scene.state.insert((spot.protocol, spot.port.get()), Held);
            }
        }
        scene.cursors.extend(granted.cursors);
        alive.push(step);
    }
    assert!(given > 300 && refused > 50, "{given} given, {refused} refused");
}

#[test]
fn random_sequences_keep_the_rules() {
    for seed in 1..=3 {
        run(seed, Allocation::Sequential);
        run(seed, Allocation::Random);
    }
}

#[test]
fn a_number_comes_back_after_all_others() {
    let mut scene = Scene::new(&[range(100, 149)]).with([120, 121], Held);
    let mut last_given = BTreeMap::new();
    for step in 0..500 {
        // Every claim is released at once.
        let granted = scene.ask(&[tcp(1)]).outcome.expect("there is room");
        scene.cursors.extend(granted.cursors);
        if let Some(before) = last_given.insert(granted.grants[0].port, step) {
            assert_eq!(step - before, 48);
        }
    }
    assert_eq!(last_given.len(), 48);
}

/// What a stable choice rests on: other pods, cursors and seeds do not move a number that is free.
#[test]
fn stable_numbers_depend_on_names_alone() {
    let mut random = fastrand::Rng::with_seed(1);
    let mut homes = BTreeSet::new();
    for step in 0..300 {
        let mut scene = Scene::new(&[range(100, 399), range(40, 59)]);
        scene.policy.allocation = Allocation::Stable;
        scene.policy.named_ranges.insert("game".into(), named(&[range(700, 799)]));
        scene.pod = Some(pod(&format!("web-{step}")));
        let requests = requests(&mut random);
        let alone = scene.ask(&requests).outcome.expect("an empty node");
        assert!(alone.cursors.is_empty());
        homes.insert(alone.grants[0].port);
        let own: BTreeSet<_> =
            alone.grants.iter().flat_map(|grant| spots(&grant.request, grant.port)).collect();
        for number in (40..60).chain(100..400).chain(700..800) {
            for protocol in Protocol::ALL {
                let is_own = own.contains(&Spot { protocol, address: None, port: port(number) });
                // The pod's predecessor has released its own, or is gone without a DEL.
                let others = [Held, Recent, Busy, Availability::Free][random.usize(..4)];
                let stands = if is_own { Recent } else { others };
                scene.state.insert((protocol, number), stands);
            }
        }
        scene.seed = random.u64(..);
        scene = scene.last(100 + below(&mut random, 300));
        if requests.len() == 1 || step % 2 == 0 {
            assert_eq!(
                scene.ask(&requests).outcome.map(|it| it.grants),
                Ok(alone.grants),
                "{step}"
            );
        }
    }
    assert!(homes.len() > 150, "they are spread: {}", homes.len());
}
