use super::*;

#[test]
fn the_name_of_an_attachment_reads_back_where_it_fits() {
    let attachment =
        |id: &str, ifname: &str| Attachment::new("cbr0", id, ifname).expect("a valid attachment");
    let room = HOLDER_MAX - "cbr0::eth0".len();
    for one in [
        attachment("4f2a", "eth0"),
        attachment("a-b_c.d", "exactly15bytes!"),
        attachment(&"c".repeat(room), "eth0"),
    ] {
        assert_eq!(read_holder(&holder_name(&one)), Some(one));
    }
    let long = "c".repeat(room + 1);
    let without_network = holder_name(&attachment(&long, "eth0"));
    assert_eq!(container_of(&without_network), Some((long.as_str(), "eth0")));
    assert_eq!(read_holder(&without_network), None);
    assert_eq!(holder_name(&attachment(&"c".repeat(HOLDER_MAX), "eth0")), "");
    for nobody in ["", "shop/web", "a:b", "a:b:", "a:b:c:d", "../x:b:c", "a:b:c/d"] {
        assert_eq!(read_holder(nobody), None, "{nobody}");
    }
}
