//! Whether another program takes autoport out of a list again and again.

use serde::{Deserialize, Serialize};

/// Seconds that are looked back.
const MEMORY: u64 = 60;

/// Putting autoport back so often within so many seconds is a contest.
const TIMES: usize = 3;
const WITHIN: u64 = 10;

/// How often autoport is put back in a minute, and the pause between two times, in seconds.
const MOST: usize = 10;
const PAUSE: u64 = 6;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Contest {
    /// When autoport was put back, in seconds since the epoch; the last time is now where it is to be put back.
    times: Vec<u64>,
    /// Whether it is to be put back.
    #[serde(skip)]
    is_out: bool,
}

impl Contest {
    /// Notes whether autoport was taken out since the last look.
    pub(super) fn look(&mut self, is_out: bool, now: u64) {
        self.times.retain(|time| (now.saturating_sub(MEMORY)..=now).contains(time));
        self.times.extend(Some(now).filter(|_| is_out));
        self.is_out = is_out;
    }

    pub(super) fn is_on(&self) -> bool {
        let close = |times: &[u64]| times[TIMES - 1] - times[0] <= WITHIN;
        self.times.len() >= MOST || self.times.windows(TIMES).any(close)
    }

    /// Whether it is too early to put autoport back in a contest.
    pub(super) fn has_to_wait(&self) -> bool {
        let [.., before, last] = self.times[..] else { return false };
        self.is_out && last - before < PAUSE
    }
}

/// What ends it, by the type of the main plugin.
pub(super) fn remedy(main: &str) -> &'static str {
    match main {
        "cilium-cni" => {
            "set cni.exclusive=false in Cilium's Helm values (cni-exclusive: \"false\" in the ConfigMap cilium-config)"
        }
        _ => {
            "have it leave the file alone, or copy the list, with autoport, to a file whose name comes first, such as \
             00-autoport.conflist, which runtimes then use"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The times at which autoport is put back, if it is taken out every `step` seconds until `end`.
    fn put_back(step: u64, end: u64) -> Vec<u64> {
        let (mut contest, mut put) = (Contest::default(), Vec::new());
        for now in (1000..1000 + end).step_by(step as usize) {
            let mut next = contest.clone();
            next.look(true, now);
            if !(next.is_on() && next.has_to_wait()) {
                put.push(now - 1000);
                contest = next;
            }
        }
        put
    }

    #[test]
    fn a_contest_slows_it_down_to_ten_times_a_minute() {
        assert_eq!(put_back(1, 20), [0, 1, 7, 13, 19]);
        let all = put_back(1, 600);
        for start in 60..540 {
            let minute = all.iter().filter(|time| (start..start + 60).contains(*time)).count();
            assert!((1..=MOST).contains(&minute), "{minute} from {start}");
        }
        // What happens now and then is none.
        assert_eq!(put_back(7, 70).len(), 10);
    }

    #[test]
    fn it_is_over_a_minute_later() {
        let mut contest = Contest::default();
        for now in [1000, 1001, 1002] {
            contest.look(true, now);
        }
        assert!(contest.is_on());
        contest.look(false, 1060);
        assert!(contest.is_on() && !contest.has_to_wait());
        contest.look(false, 1063);
        assert!(!contest.is_on());
        // A clock that was set back forgets.
        contest.look(true, 10);
        assert_eq!(contest.times, [10]);
    }
}
