use super::*;

#[test]
fn a_log_of_events_keeps_them_for_whoever_counts() {
    let mut log = Vec::new();
    let holder = LockHolder { pid: 7, command: "autoport".to_owned(), stopped: true };
    let (lock, patience) = (PathBuf::from("/run/autoport/lock"), Duration::from_secs(10));
    log.note(Event::Waiting { lock, patience, holder: Some(holder) });
    assert!(matches!(&log[..], [Event::Waiting { holder: Some(holder), .. }] if holder.pid == 7));
    assert_eq!(
        log[0].to_string(),
        "waiting up to 10.0 s for lock /run/autoport/lock, taken by process 7 (autoport, stopped)"
    );
}
