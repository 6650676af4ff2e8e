use super::*;

impl Messages {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

const KIND: u16 = 10 << 8 | 3;

fn sample(extra: bool) -> Messages {
    let mut messages = Messages::default();
    messages.begin(KIND, 1, &[1, 0, 0, 0]);
    messages.put_text(1, "abc");
    messages.nest(2, |inner| {
        inner.put(1, &[&5_u32.to_be_bytes()]);
        if extra {
            inner.put(9, &[b"kernel"]);
        }
        inner.put(1, &[&6_u32.to_be_bytes()]);
    });
    messages
}

#[test]
fn what_is_written_reads_back() {
    let mut messages = sample(false);
    messages.begin(KIND, 1, &[1, 0, 0, 0]);
    let (bytes, next) = messages.numbered_from(7);
    let numbers = answers(&bytes).map(|answer| answer.number).collect::<Vec<_>>();
    assert_eq!((numbers, next), (vec![7, 8], 9));
    let answer = answers(&bytes).next().expect("a message");
    let Body::Object(attributes) = answer.body else { panic!("not an object: {answer:?}") };
    assert_eq!(attributes.text(1), Some("abc"));
    let inner = attributes.nested(2).expect("the nest");
    assert_eq!(inner.u32(1), Some(5));
    assert_eq!(inner.iter().count(), 2);
}

#[test]
fn user_data_of_any_bytes_is_read_as_far_as_it_goes() {
    let read = |userdata: &[u8], part| {
        let mut messages = Messages::default();
        messages.begin(KIND, 1, &[1, 0, 0, 0]);
        messages.put(5, &[userdata]);
        attributes_of(messages.as_bytes()).userdata(5, part).map(<[u8]>::to_vec)
    };
    let mut written = Messages::default();
    written.begin(KIND, 1, &[1, 0, 0, 0]);
    written.put_userdata(5, &[(0, b"a\0"), (0xa0, b"x:y")]);
    let both = [0, 2, b'a', 0, 0xa0, 3, b'x', b':', b'y'];
    let written = attributes_of(written.as_bytes());
    assert_eq!(written.get(5), Some(&both[..]));
    assert_eq!(written.usertext(5, 0), Some("a"));
    assert_eq!(written.usertext(5, 0xa0), Some("x:y"));
    assert_eq!(read(&both, 0xa0).as_deref(), Some(&b"x:y"[..]));
    assert_eq!(read(&both, 0).as_deref(), Some(&b"a\0"[..]));
    for cut in 0..both.len() {
        assert_eq!(read(&both[..cut], 0xa0), None, "{cut} bytes");
    }
    assert_eq!(read(&[7, 0, 0xa0, 0], 0xa0), Some(Vec::new()));
}

#[test]
fn additions_of_the_kernel_do_not_matter_and_losses_do() {
    let (plain, more) = (sample(false), sample(true));
    let (plain, more) = (attributes_of(plain.as_bytes()), attributes_of(more.as_bytes()));
    assert!(more.contains(plain));
    assert!(!plain.contains(more));
    let mut repeated = sample(false);
    repeated.put_text(1, "abc");
    assert!(!attributes_of(repeated.as_bytes()).contains(plain), "one attribute too many");
}

#[test]
fn no_bytes_make_the_reader_panic_or_loop() {
    let whole = sample(true);
    let whole = whole.as_bytes();
    for cut in 0..whole.len() {
        for flip in [0x00, 0x01, 0x7f, 0xff] {
            let mut bytes = whole[..cut].to_vec();
            if let Some(last) = bytes.last_mut() {
                *last = flip;
            }
            for answer in answers(&bytes) {
                if let Body::Object(attributes) = answer.body {
                    attributes.iter().for_each(drop);
                    let _ = attributes.contains(attributes);
                }
            }
        }
    }
}
