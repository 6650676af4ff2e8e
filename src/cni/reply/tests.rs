use super::*;

#[test]
fn replies_are_what_libcni_reads() {
    let cases = [
        (
            versions("1.0.0"),
            r#"{"cniVersion":"1.0.0","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}"#,
        ),
        (
            failure(Version::V0_4_0, 7, "hostIP is \"x\n\"", ""),
            r#"{"cniVersion":"0.4.0","code":7,"details":"","msg":"hostIP is \"x\n\""}"#,
        ),
    ];
    for (reply, expected) in cases {
        assert_eq!(reply, expected);
    }
}
