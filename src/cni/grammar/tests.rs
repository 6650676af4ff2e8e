use super::*;

const KEY: &str = "autoport.cni/ports";
const MOST: NonZeroU16 = NonZeroU16::new(128).expect("it is not 0");

fn requests(text: &str) -> Vec<String> {
    let items = parse(KEY, text, MOST, None).unwrap_or_else(|error| panic!("{text:?}: {error}"));
    items.iter().map(|item| item.request.to_string()).collect()
}

#[test]
fn what_is_written_is_what_is_requested_for() {
    let cases: [(&str, &[&str]); 10] = [
        ("8080", &["8080/tcp"]),
        ("http=8080", &["http=8080/tcp"]),
        (" http = 8080 , metrics=9090/TCP ", &["http=8080/tcp", "metrics=9090/tcp"]),
        ("game=7777/tcp+udp", &["game=7777/tcp+udp"]),
        ("game=7777/udp+tcp", &["game=7777/tcp+udp"]),
        ("rtp=10000-10099/udp", &["rtp=10000-10099/udp"]),
        ("media=auto/udp", &["media=auto/udp"]),
        ("auto", &["auto/tcp"]),
        ("a=1/sctp,b=65535", &["a=1/sctp", "b=65535/tcp"]),
        ("a=5/udp,b=1-10,c=11-12/udp", &["a=5/udp", "b=1-10/tcp", "c=11-12/udp"]),
    ];
    for (text, expected) in cases {
        assert_eq!(requests(text), expected, "{text:?}");
    }
    let blocks = parse(KEY, "rtp=10000-10099/udp", MOST, None).expect("a block");
    assert_eq!(blocks[0].request.count.get(), 100);
}

/// Each with the piece that is wrong.
#[test]
fn what_is_malformed_is_quoted() {
    let cases = [
        ("", "\"\""),
        ("   ", "\"   \""),
        ("http=8080,", "item 2"),
        (",http=8080", "item 1"),
        ("http=8080,,game=1", "item 2"),
        ("http=", "\"http=\""),
        ("=8080", "\"=8080\""),
        ("http=0", "\"0\""),
        ("http=65536", "\"65536\""),
        ("http=-1", "\"http=-1\""),
        ("http=80x80", "\"80x80\""),
        ("http=8080/", "\"http=8080/\""),
        ("http=8080/icmp", "\"icmp\""),
        ("http=8080/tcp+", "\"http=8080/tcp+\""),
        ("http=8080/tcp+tcp", "tcp"),
        ("rtp=10099-10000/udp", "10099-10000"),
        ("rtp=10000-", "10000-"),
        ("Http=8080", "\"Http\""),
        ("a_b=8080", "\"a_b\""),
        ("-a=8080", "\"-a\""),
        ("a=1,a=2", "\"a=2\""),
        ("a=1,b=1", "b=1"),
        ("a=1-10,b=5", "container port 5/tcp, as does item 1"),
        ("a=5/udp,b=20,c=1-10/tcp+udp", "container port 5/udp, as does item 1"),
        ("a=1,b=10-20,c=30,d=2-10", "container port 10/tcp, as does item 2"),
    ];
    for (text, piece) in cases {
        let error = match parse(KEY, text, MOST, None) {
            Ok(_) => panic!("{text:?} was taken"),
            Err(error) => error.to_string(),
        };
        assert!(error.contains(KEY), "{text:?}: {error}");
        assert!(error.contains(piece), "{text:?} does not name {piece}: {error}");
    }
}

#[test]
fn an_error_points_at_the_spot_and_shows_a_right_one() {
    let error =
        parse(KEY, "http=8080, game=7777/tpc", MOST, None).err().map(|error| error.to_string());
    let error = error.expect("tpc is no protocol");
    for part in ["\"tpc\"", "character 22", "item 2", "\"game=7777/tpc\"", "as in \""] {
        assert!(error.contains(part), "{part} is missing: {error}");
    }
}

#[test]
fn the_list_is_bounded() {
    let list = |count: usize| (1..=count).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    assert_eq!(requests(&list(128)).len(), 128);
    // What comes after is not even read.
    for many in [list(129), format!("{}!", list(50_000)), ",".repeat(128)] {
        let error = parse(KEY, &many, MOST, None).expect_err("too many");
        assert!(matches!(error, Error::TooMany { most: MOST, .. }), "{error}");
    }
    assert!(
        parse(KEY, &",".repeat(127), MOST, None).expect_err("empty").to_string().contains("empty")
    );
    let error = parse(KEY, &list(129), MOST, None).expect_err("too many").to_string();
    assert!(error.contains("lists 129 items") && error.contains("maxPortsPerPod"), "{error}");
}

/// The configuration may permit so many, and comparing each with each took a minute.
#[test]
fn the_longest_list_is_read_in_time() {
    let list = (1..=65_535).map(|n| format!("a{n}={n}")).collect::<Vec<_>>().join(",");
    let begun = std::time::Instant::now();
    assert_eq!(parse(KEY, &list, NonZeroU16::MAX, None).expect("all are different").len(), 65_535);
    let took = begun.elapsed();
    assert!(took.as_secs() < 10, "{took:?}");
}

#[test]
fn no_text_makes_it_panic() {
    for text in ["\u{0}", "=", "/", "-", "+", "a=/", "a=-/+", "é=8080", "a=8080/é", "a=\u{202e}1"]
    {
        for other in ["", ",", ",a=1", "=", "-", "/tcp"] {
            let _ = parse(KEY, &format!("{text}{other}"), MOST, None);
            let _ = parse(KEY, &format!("{other}{text}"), MOST, None);
        }
    }
}
