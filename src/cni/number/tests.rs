use super::*;

#[test]
fn ranges_are_read_strictly() {
    for (text, shown) in [
        ("80", "80"),
        ("1-65535", "1-65535"),
        ("80-80", "80"),
        (" 7000 - 7999 ", "7000-7999"),
        ("65535", "65535"),
    ] {
        assert_eq!(range(text).expect(text).to_string(), shown);
    }
    for bad in [
        "",
        "-",
        "0",
        "0-5",
        "80-",
        "-80",
        "90-80",
        "65536",
        "1-65536",
        "080",
        "+80",
        "80-90-95",
        "8 0",
        "0x50",
        "1e3",
        "80.0",
        "\u{0668}\u{0660}",
        "80,90",
        "a-b",
    ] {
        assert_eq!(range(bad), None, "{bad:?}");
    }
}
