use super::*;

fn run(first: u16, last: u16) -> PortRange {
    range(first, last).expect("a range")
}

#[test]
fn sysctls_are_read_as_the_kernel_prints_them() {
    assert_eq!(ephemeral("32768\t60999"), Some(run(32768, 60999)));
    assert_eq!(ephemeral(""), None);
    assert_eq!(reserved("21000,21010-21020"), [run(21000, 21000), run(21010, 21020)]);
    assert_eq!(reserved(""), []);
}

#[test]
fn what_is_excluded_leaves_what_is_beside_it() {
    let left = |hole| without(run(10, 20), hole).collect::<Vec<_>>();
    assert_eq!(left(run(12, 14)), [run(10, 11), run(15, 20)]);
    assert_eq!(left(run(1, 14)), [run(15, 20)]);
    assert_eq!(left(run(15, 65535)), [run(10, 14)]);
    assert_eq!(left(run(1, 9)), [run(10, 20)]);
    assert_eq!(left(run(21, 30)), [run(10, 20)]);
    assert_eq!(left(run(10, 20)), []);
    assert_eq!(without(run(65535, 65535), run(65535, 65535)).count(), 0);
}

#[test]
fn runs_meet_in_what_both_have() {
    assert_eq!(common(run(1, 5), run(5, 9)), Some(run(5, 5)));
    assert_eq!(common(run(1, 4), run(5, 9)), None);
    assert!(includes(run(5, 9), run(6, 9)) && !includes(run(1, 3), run(3, 4)));
}
