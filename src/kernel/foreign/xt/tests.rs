use super::*;

#[test]
fn ports_and_ranges_of_multiport() {
    let mut info = [0_u8; 48];
    (info[0], info[1]) = (1, 3);
    for (index, port) in [80_u16, 8000, 8010].into_iter().enumerate() {
        info[2 + 2 * index..4 + 2 * index].copy_from_slice(&port.to_ne_bytes());
    }
    info[32 + 1] = 1;
    assert_eq!(multiport(&info), Some(vec![80..=80, 8000..=8010]));
    for cut in 0..8 {
        assert_eq!(multiport(&info[..cut]), None, "{cut}");
    }
    info[0] = 0;
    assert_eq!(multiport(&info), None, "source ports");
}
