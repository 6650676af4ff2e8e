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
    assert!(Key::of_attachment(&long).to_string().starts_with("sha256-"));
    assert_eq!(Key::of_attachment(&long).attachment(), None);
    // sha256sum(1) of "cbr0", and of "cbr0:ccc…:eth0": later versions have to find the file.
    assert_eq!(
        Key::of_attachment(&attachment("cbr0", &"c".repeat(200))).to_string(),
        "sha256-54f8385aba3bee962d49fabf8fcf2ea7d5f19456b7a0012119b1314d85f304ce\
         -4ab8cc83d7758ea5775b666e382788554a76f0d514806712215688d2a69dee1a"
    );
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

/// Every kind has a directory, and a text that is read back.
#[test]
fn kinds_never_look_alike() {
    let reservation = Key::of_reservation("u1").expect("a valid name");
    let host_pod = Key::of(&HostPod::new("u1").expect("a UID").into());
    let plain = Key::of_attachment(&attachment("u1", "u1"));
    let hashed = Key::of_attachment(&attachment("u1", &"c".repeat(4000)));
    for (key, path, text, is_read_back) in [
        (&plain, "attachments/u1:u1:eth0.json", "u1:u1:eth0", true),
        (&host_pod, "hostpods/u1.json", "hostpod:u1", true),
        (&reservation, "reservations/u1.json", "reservation:u1", false),
        (&hashed, &format!("attachments/{hashed}.json"), &hashed.to_string(), true),
    ] {
        assert_eq!((&*key.path(), &*key.to_string()), (path, text));
        assert_eq!(Key::of_path(path).as_ref(), Some(key));
        assert_eq!(Key::of_name(text), is_read_back.then(|| key.clone()), "{text}");
    }
    for other in ["", "u1", "a:b", "hostpod:", "hostpod:a/b"] {
        assert_eq!(Key::of_name(other), None, "{other}");
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
