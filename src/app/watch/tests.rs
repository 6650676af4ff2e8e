use super::*;

#[test]
fn damage_without_pause_is_restored_ever_more_rarely_but_within_a_second() {
    let mut pace = Pace::default();
    let mut now = Instant::now();
    assert_eq!(pace.left(now), Duration::ZERO, "the first look is due at once");
    let mut pauses = Vec::new();
    for _ in 0..12 {
        pace.looked(now, true);
        pauses.push(pace.left(now));
        now += pace.left(now);
        assert_eq!(pace.left(now), Duration::ZERO);
    }
    assert_eq!(pauses[0], SHORTEST_PAUSE);
    assert!(pauses.is_sorted() && pauses[11] == LONGEST_PAUSE, "{pauses:?}");
    assert!(LONGEST_PAUSE + BURST < Duration::from_secs(1));
    now += CALM + Duration::from_millis(1);
    pace.looked(now, true);
    assert_eq!(pace.left(now), SHORTEST_PAUSE, "calm has returned");
}

/// What another program does beside our elements is looked at, and delays no restoration.
#[test]
fn looks_that_restore_nothing_do_not_lengthen_the_pause() {
    let mut pace = Pace::default();
    let mut now = Instant::now();
    for _ in 0..100 {
        pace.looked(now, false);
        now += pace.left(now);
    }
    assert_eq!(pace.pause, SHORTEST_PAUSE);
}
