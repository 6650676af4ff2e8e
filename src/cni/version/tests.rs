use super::*;

#[test]
fn versions_are_ordered_and_read_back() {
    assert!(Version::ALL.is_sorted());
    for version in Version::ALL {
        assert_eq!(Version::named(version.as_str()), Some(version));
    }
    assert_eq!(Version::of_config(""), Some(Version::V0_1_0));
    for other in ["1.1", "1.1.0 ", "v1.1.0", "1.2.0", "01.1.0"] {
        assert_eq!(Version::of_config(other), None, "{other}");
    }
}
