use super::*;

#[test]
fn ports_and_ranges_of_multiport() {
    let mut info = [0_u8; 48];
    (info[0], info[1]) = (1, 3);
    for (index, port) in [80_u16, 8000, 8010].into_iter().enumerate() {
        info[2 + 2 * index..4 + 2 * index].copy_from_slice(&port.to_ne_bytes());
    }
    info[32 + 1] = 1;
    let ports = |source, destination, inverted| {
        Some(vec![Step::Ports { source, destination, runs: vec![80..=80, 8000..=8010], inverted }])
    };
    assert_eq!(multiport(&info), ports(false, true, false));
    for cut in 0..48 {
        assert_eq!(multiport(&info[..cut]), None, "{cut}");
    }
    (info[0], info[47]) = (2, 1);
    assert_eq!(multiport(&info), ports(true, true, true));
    info[0] = 3;
    assert_eq!(multiport(&info), None, "no such sort");
}

#[test]
fn what_is_not_known_of_a_match_is_not_understood() {
    for (name, revision) in [("recent", 0), ("conntrack", 1), ("set", 4), ("statistic", 0)] {
        assert_eq!(matching(name, revision, &[0; 200], Family::V4), None, "{name}");
    }
    assert_eq!(
        acting("NFQUEUE", 0, &[0; 8]),
        [Step::Does(Does::Unknown("target NFQUEUE".to_owned()))]
    );
}
