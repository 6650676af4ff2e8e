use super::*;

#[test]
fn finds_the_holder_in_the_kernels_list() {
    let locks = "1: POSIX  ADVISORY  READ  1 fd:00:7 128 128\n\
                 2: FLOCK  ADVISORY  WRITE 4711 fd:00:7 0 EOF\n\
                 2: -> FLOCK  ADVISORY  WRITE 4712 fd:00:7 0 EOF\n\
                 3: FLOCK  ADVISORY  WRITE 0 fd:00:8 0 EOF\n";
    assert_eq!(pid_in(locks, "fd:00:7"), Some("4711"));
    assert_eq!(pid_in(locks, "fd:00:8"), Some("0"), "of another PID namespace");
    assert_eq!(pid_in(locks, "fd:00:9"), None);
}

#[test]
fn knows_a_stopped_process() {
    assert!(is_stopped("4711 (auto) T port) T 1 4711"));
    assert!(is_stopped("4711 (autoport) t 1 4711"));
    assert!(!is_stopped("4711 (x) T 1) S 1 4711"));
    assert!(!is_stopped(""));
}
