use super::*;

fn attachment(network: &str, container_id: &str) -> Attachment {
    Attachment::new(network, container_id, "eth0").expect("a valid attachment")
}

#[test]
fn plain_where_it_fits_and_hashed_beyond() {
    assert_eq!(Key::of_attachment(&attachment("cbr0", "4f2a")).to_string(), "cbr0:4f2a:eth0");
    let longest = attachment("n", &"c".repeat(LONGEST - "n::eth0".len()));
    assert_eq!(Key::of_attachment(&longest).to_string().len(), LONGEST);
    assert_eq!(Key::of_attachment(&longest).attachment(), Some(longest));
    let long = attachment("n", &"c".repeat(LONGEST - "n:eth0".len()));
    let key = Key::of_attachment(&long).to_string();
    assert!(key.starts_with("sha256-") && key.len() == 136, "{key}");
    assert_eq!(Key::of_attachment(&long).attachment(), None);
    assert_ne!(Key::of_attachment(&attachment("n", &"c".repeat(4000))), Key::of_attachment(&long));
    assert_ne!(Key::of_attachment(&attachment("sha256-00", "1")).to_string(), "sha256-00");
}

#[test]
fn every_key_of_an_attachment_tells_its_network() {
    for network in ["cbr0", "a-b", &"n".repeat(150)] {
        for id in ["4f2a", &"c".repeat(100), &"c".repeat(4000)] {
            let key = Key::of_attachment(&attachment(network, id));
            assert!(key.is_of_network(network), "{key}");
            for other in ["cbr", "cbr0:4f2a", "a", "b", "", "sha256", &key.to_string()] {
                assert!(!key.is_of_network(other), "{key} and {other}");
            }
        }
    }
    let reservation = Key::of_reservation("cbr0").expect("a valid name");
    assert!(!reservation.is_of_network("cbr0"));
}

#[test]
fn only_names_of_records_are_keys() {
    let key = Key::of_attachment(&attachment("cbr0", "4f2a"));
    assert_eq!(Key::of_file(Kind::Attachment, "cbr0:4f2a:eth0.json"), Some(key.clone()));
    assert_eq!(Key::of_path("attachments/cbr0:4f2a:eth0.json"), Some(key));
    for other in [".json", ".new", "..json", "a/b.json", "../x.json", "x.json~", ""] {
        for kind in Kind::ALL {
            assert_eq!(Key::of_file(kind, other), None, "{other}");
        }
    }
    for other in ["attachment/a:b:c.json", "../attachments/a:b:c.json", "lock", ""] {
        assert_eq!(Key::of_path(other), None, "{other}");
    }
}

#[test]
fn reservations_have_names_of_their_own() {
    let key = Key::of_reservation("node-exporter").expect("a valid name");
    assert_eq!(key.to_string(), "reservation:node-exporter");
    assert_eq!(Key::of_path(&key.path()), Some(key.clone()));
    assert_eq!(key.attachment(), None);
    assert!(Key::of_reservation(&"n".repeat(LONGEST)).is_ok());
    for bad in ["", ".hidden", "../x", "a:b:c", &"n".repeat(LONGEST + 1)] {
        assert!(Key::of_reservation(bad).is_err(), "{bad}");
    }
}
