use super::*;

#[test]
fn keys_are_found_as_go_finds_them() {
    let text = br#"{"a": 1, "B": null, "a": {"b": 2}, "c": "x"}"#;
    let object = Object::decode("a test", "", text).expect("an object");
    assert!(object.get("B").is_none() && object.mentions("B") && !object.mentions("b"));
    let inner = object.get("a").expect("a").object().expect("the last a");
    let field = inner.get_any_case("B").expect("b");
    assert_eq!((field.path(), field.number(0..=9, "").expect("a number")), ("a.B", 2));
}

#[test]
fn messages_stay_on_one_line() {
    let text = format!("{{\"k\": [1,\n\"\u{202e}{}\"]}}", "x".repeat(500));
    let object = Object::decode("a test", "", text.as_bytes()).expect("an object");
    let message = object.get("k").expect("k").string().expect_err("a list").to_string();
    assert!(message.contains(r#"found [1,\n"\u{202e}xxx"#), "{message}");
    assert!(message.len() < 250 && !message.contains('\n'), "{message}");
}

#[test]
fn odd_texts_are_errors_and_nothing_worse() {
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
    let object = Object::decode("a test", "", deep.as_bytes()).expect("text stays text");
    assert!(object.get("a").expect("a").list().is_ok());
    for bad in
        [&b""[..], b"[]", b"{", b"null", b"{\"a\":1}x", b"{\"a\":\"\xff\"}", b"\xef\xbb\xbf{}"]
    {
        assert!(Object::decode("a test", "", bad).is_err(), "{bad:?}");
    }
}
