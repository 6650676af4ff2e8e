use super::*;

#[test]
fn replies_are_what_libcni_reads() {
    let raw = RawValue::from_string("{\"a\" : 1}".into()).expect("JSON");
    let error = Reply::Error {
        version: Version::V0_4_0,
        code: 7,
        message: "hostIP is \"x\n\"".into(),
        details: String::new(),
    };
    let cases = [
        (Reply::Result(raw), "{\"a\" : 1}"),
        (Reply::Nothing, ""),
        (
            Reply::Versions { cni_version: "1.0.0".into() },
            r#"{"cniVersion":"1.0.0","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}"#,
        ),
        (error, r#"{"cniVersion":"0.4.0","code":7,"details":"","msg":"hostIP is \"x\n\""}"#),
    ];
    for (reply, expected) in cases {
        assert_eq!(String::from_utf8_lossy(&reply.to_bytes()), expected);
    }
}
