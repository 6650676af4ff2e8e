use super::*;

#[test]
fn parts_are_as_they_are_written() {
    let text = " {\"a\" : [1, {\"b\":\"x\\\"y\"}] ,\n \"c\":null}\n";
    let value = Value::of(text).expect("JSON");
    let members = value.members().expect("an object");
    let found: Vec<_> = members.iter().map(|member| (member.gap, &*member.written)).collect();
    let expected = [("", "\"a\" : [1, {\"b\":\"x\\\"y\"}]"), (" ,\n ", "\"c\":null")];
    assert_eq!(found, expected);
    let inner = value.get("a").and_then(Value::items).expect("a list")[1].value;
    assert_eq!(inner.get("b").and_then(Value::string).as_deref(), Some("x\"y"));
    assert_eq!(inner.replaced("2"), " {\"a\" : [1, 2] ,\n \"c\":null}\n");
    let mut members = members;
    members[0].set("3");
    assert_eq!(value.with(&members, &[]), "{\"a\" : 3 ,\n \"c\":null}");
}

#[test]
fn what_is_added_is_laid_out_like_what_is_there() {
    for (text, expected) in [
        ("{}", "{\"z\": 0}"),
        ("{ \"a\": 1 }", "{ \"a\": 1, \"z\": 0 }"),
        ("{\"a\": 1}", "{\"a\": 1, \"z\": 0}"),
        ("{\"a\":1}", "{\"a\":1,\"z\": 0}"),
        ("{\n\t\"a\": 1\n}", "{\n\t\"a\": 1,\n\t\"z\": 0\n}"),
        ("{\"a\": 1, \"b\": 2}", "{\"a\": 1, \"b\": 2, \"z\": 0}"),
        (
            "{\r\n  \"a\": 1,\r\n  \"b\": 2\r\n}",
            "{\r\n  \"a\": 1,\r\n  \"b\": 2,\r\n  \"z\": 0\r\n}",
        ),
        ("{\n  \"a\": 1\n  , \"b\": 2\n}", "{\n  \"a\": 1\n  , \"b\": 2, \"z\": 0\n}"),
    ] {
        let value = Value::of(text).expect("JSON");
        let members = value.members().expect("an object");
        assert_eq!(value.with(&members, &["\"z\": 0".to_owned()]), expected);
    }
}

#[test]
fn what_is_taken_away_takes_one_comma_along() {
    let text = "{ \"a\": 1, \"b\": 2, \"c\": 3, \"d\": 4 }";
    let value = Value::of(text).expect("JSON");
    for (goes, expected) in [
        ("a", "{ \"b\": 2, \"c\": 3, \"d\": 4 }"),
        ("ab", "{ \"c\": 3, \"d\": 4 }"),
        ("ad", "{ \"b\": 2, \"c\": 3 }"),
        ("bc", "{ \"a\": 1, \"d\": 4 }"),
        ("acd", "{ \"b\": 2 }"),
        ("abc", "{ \"d\": 4 }"),
    ] {
        let mut members = value.members().expect("an object");
        members.retain(|member| !goes.contains(&*member.key));
        assert_eq!(value.with(&members, &[]), expected, "without {goes}");
    }
}
