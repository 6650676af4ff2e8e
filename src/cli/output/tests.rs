use super::*;

#[test]
fn ages_are_those_of_kubectl() {
    // The cases of k8s.io/apimachinery/pkg/util/duration.
    let (minute, hour, day) = (60, 3_600, 86_400);
    for (seconds, text) in [
        (0, "0s"),
        (70, "70s"),
        (119, "119s"),
        (2 * minute, "2m"),
        (3 * minute + 9, "3m9s"),
        (10 * minute, "10m"),
        (3 * hour - 1, "179m"),
        (3 * hour, "3h"),
        (3 * hour + 9 * minute, "3h9m"),
        (8 * hour, "8h"),
        (2 * day - 1, "47h"),
        (2 * day, "2d"),
        (2 * day + 3 * hour, "2d3h"),
        (8 * day, "8d"),
        (2 * 365 * day - 1, "729d"),
        (2 * 365 * day + 3 * day, "2y3d"),
        (8 * 365 * day, "8y"),
    ] {
        assert_eq!(age(seconds), text);
    }
}

#[test]
fn timestamps_are_those_of_date() {
    // date -u -d @… +%FT%TZ
    for (seconds, text) in [
        (0, "1970-01-01T00:00:00Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (1_700_000_000, "2023-11-14T22:13:20Z"),
        (1_709_251_199, "2024-02-29T23:59:59Z"),
        (4_107_542_400, "2100-03-01T00:00:00Z"),
    ] {
        assert_eq!(timestamp(seconds), text);
    }
}

fn shown(colour: bool) -> String {
    let mut out = Vec::new();
    let rows = [["a".into(), Cell::styled("stale", BAD)], ["l\u{f6}nger".into(), "-".into()]];
    Screen { out: &mut out, format: Format::Table, colour, headers: true }
        .table("", ["NAME", "STATE"], rows.into_iter())
        .expect("memory takes it");
    String::from_utf8(out).expect("text")
}

#[test]
fn columns_are_aligned_with_and_without_colour() {
    assert_eq!(shown(false), "NAME    STATE\na       stale\nl\u{f6}nger  -\n");
    let coloured = shown(true);
    assert!(coloured.contains("\u{1b}[1m\u{1b}[31mstale\u{1b}[0m\n"), "{coloured:?}");
    let mut plain = String::new();
    for part in coloured.split('\u{1b}') {
        plain += part.split_once('m').filter(|_| part.starts_with('[')).map_or(part, |it| it.1);
    }
    assert_eq!(plain, shown(false));
}
