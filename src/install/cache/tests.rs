use super::*;

#[test]
fn what_go_encodes_is_decoded() {
    for (text, bytes) in [("", &b""[..]), ("Zg==", b"f"), ("Zm8=", b"fo"), ("Zm9v", b"foo")] {
        assert_eq!(base64(text).as_deref(), Some(bytes), "{text}");
    }
    assert_eq!(base64("/+8A").as_deref(), Some(&[0xff, 0xef, 0x00][..]));
    assert_eq!(base64("Zm9-"), None);
}

#[test]
fn an_attachment_with_autoport_is_found() {
    // {"plugins":[{"type":"bridge"},{"type":"autoport"}]}, and the same with portmap.
    let with = "eyJwbHVnaW5zIjpbeyJ0eXBlIjoiYnJpZGdlIn0seyJ0eXBlIjoiYXV0b3BvcnQifV19";
    let without = "eyJwbHVnaW5zIjpbeyJ0eXBlIjoiYnJpZGdlIn0seyJ0eXBlIjoicG9ydG1hcCJ9XX0=";
    let cached = |config: &str| format!(r#"{{"kind":"cniCacheV1","config":"{config}"}}"#);
    assert_eq!(has_autoport(cached(with).as_bytes()), Some(true));
    assert_eq!(has_autoport(cached(without).as_bytes()), Some(false));
    assert_eq!(has_autoport(b"{}"), None);
}
