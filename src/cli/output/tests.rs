use super::*;

#[test]
fn ages_have_one_unit() {
    let cases = [(0, "0s"), (119, "119s"), (120, "2m"), (7_199, "119m"), (7_200, "2h")];
    for (seconds, text) in cases.into_iter().chain([(172_799, "47h"), (172_800, "2d")]) {
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
    Screen { out: &mut out, format: Format::Table, colour }
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
