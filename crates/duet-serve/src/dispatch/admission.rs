//! Who is let into a queue: by its length, and by how long the request will have waited when its turn comes.
//!
//! Waiting has two parts. What was waited already, between the arrival of the bytes and this decision, is known for each request; what is
//! to come is the length of the queue at the pace of the last lists, without what is answered in later turns. Two rules look at them:
//!
//! * **A queue that is long now** refuses: what waits would take more than a tenth of the deadline.
//! * **A wait that stands**: a burst, or a moment in which the machine was elsewhere, makes many wait once and is worked off. Nobody is
//!   refused for it. But where for [`WINDOW`] on end not one request would have been answered without waiting a twentieth of the deadline, more
//!   comes than can be answered; then whoever would wait so long is refused, until somebody waits for next to nothing again. That is the
//!   idea of CoDel (Nichols & Jacobson 2012): the least wait of a while tells a standing queue from a burst.
//!
//! Whatever the rules say, a request is let in while fewer wait than there are threads: nobody is refused by a service that has nothing to do.

use std::time::{Duration, Instant};

/// How long a wait must stand before it counts as one.
const WINDOW: Duration = Duration::from_millis(50);
/// The part of the deadline that what waits may take.
const WAIT_SHARE: u32 = 10;
/// The part of the deadline that everybody may wait, and no longer stand.
const STANDING_SHARE: u32 = 20;
/// A wait of this part of a standing one is next to nothing.
const CALM: u32 = 4;

/// What is known of a queue when a request comes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Requests that wait.
    pub(super) waiting: usize,
    /// Those of them that are answered before one that comes now.
    pub(super) ahead: usize,
    /// What a request took lately, on one thread.
    pub(super) pace: Duration,
}

/// The rules of a queue and what they remember.
#[derive(Debug)]
pub(super) struct Admission {
    threads: usize,
    max_batch: usize,
    capacity: usize,
    most_wait: Duration,
    standing_wait: Duration,
    /// When the window began, and the least that a request of it would have waited.
    window: Instant,
    least: Duration,
    is_standing: bool,
}

impl Admission {
    /// For a queue of `capacity` that is emptied by `threads` threads, each up to `max_batch` at once.
    pub(super) fn new(threads: usize, max_batch: usize, capacity: usize, deadline: Duration) -> Self {
        Self {
            threads: threads.max(1),
            max_batch: max_batch.max(1),
            capacity: capacity.max(1),
            most_wait: deadline / WAIT_SHARE,
            standing_wait: deadline / STANDING_SHARE,
            window: Instant::now(),
            least: Duration::MAX,
            is_standing: false,
        }
    }

    /// Whether `count` more may come, one of which has waited for `waited`.
    pub(super) fn admits(&mut self, load: Load, count: usize, waited: Duration, now: Instant) -> bool {
        let Load { waiting, ahead, pace } = load;
        let to_wait = pace.saturating_mul(u32::try_from(ahead).unwrap_or(u32::MAX)) / self.threads as u32;
        let wait = waited.saturating_add(to_wait);
        self.note(wait, now);
        // A submission larger than the queue is let in alone: it could never come otherwise.
        if waiting > 0 && waiting + count > self.capacity {
            return false;
        }
        // What the threads can take up at once is never too long.
        let is_long = ahead >= self.threads * self.max_batch && to_wait > self.most_wait;
        let is_standing = self.is_standing && ahead >= self.threads && wait > self.standing_wait;
        !is_long && !is_standing
    }

    fn note(&mut self, wait: Duration, now: Instant) {
        let since = now.saturating_duration_since(self.window);
        if since >= WINDOW {
            let bar = if self.is_standing { self.standing_wait / CALM } else { self.standing_wait };
            // Nothing stands where nobody came.
            self.is_standing = since < 2 * WINDOW && self.least != Duration::MAX && self.least > bar;
            (self.window, self.least) = (now, Duration::MAX);
        }
        self.least = self.least.min(wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    /// Two threads with batches of 4, a deadline of 100 ms; the first window begins now.
    fn admission(now: Instant) -> Admission {
        Admission { window: now, ..Admission::new(2, 4, 512, 100 * MILLI) }
    }

    fn load(waiting: usize) -> Load {
        Load { waiting, ahead: waiting, pace: MILLI }
    }

    /// Decisions on requests that come every millisecond from `start` on, each in the same case.
    fn every_milli(admission: &mut Admission, start: Instant, millis: u32, load: Load, waited: Duration) -> Vec<bool> {
        (0..millis).map(|at| admission.admits(load, 1, waited, start + at * MILLI)).collect()
    }

    #[test]
    fn what_would_take_a_tenth_of_the_deadline_is_too_long() {
        let now = Instant::now();
        let mut admission = admission(now);
        assert!(admission.admits(load(20), 1, Duration::ZERO, now));
        assert!(!admission.admits(load(21), 1, Duration::ZERO, now));
        // What the threads can take up at once is not, whatever the pace.
        let slow = |waiting, ahead| Load { waiting, ahead, pace: 1000 * MILLI };
        assert!(admission.admits(slow(7, 7), 1, Duration::ZERO, now));
        assert!(!admission.admits(slow(8, 8), 1, Duration::ZERO, now));
        // Nor is what is answered in later turns.
        assert!(admission.admits(slow(400, 7), 1, Duration::ZERO, now));
    }

    #[test]
    fn a_queue_has_a_length_and_a_submission_beyond_it_comes_alone() {
        let now = Instant::now();
        let mut admission = admission(now);
        let fast = |waiting| Load { waiting, ahead: waiting.min(1), pace: Duration::ZERO };
        assert!(admission.admits(fast(511), 1, Duration::ZERO, now));
        assert!(!admission.admits(fast(511), 2, Duration::ZERO, now));
        assert!(!admission.admits(fast(512), 1, Duration::ZERO, now));
        assert!(admission.admits(fast(0), 1000, Duration::ZERO, now));
    }

    #[test]
    fn a_moment_of_waiting_refuses_nobody() {
        let start = Instant::now();
        let mut admission = admission(start);
        // All of 49 ms have waited for 40; then it is over.
        assert!(every_milli(&mut admission, start, 49, load(4), 40 * MILLI).iter().all(|&is_in| is_in));
        assert!(admission.admits(load(0), 1, Duration::ZERO, start + 49 * MILLI));
        assert!(every_milli(&mut admission, start + 50 * MILLI, 40, load(4), 40 * MILLI).iter().all(|&is_in| is_in));
    }

    #[test]
    fn a_wait_that_stands_refuses_until_it_is_gone() {
        let start = Instant::now();
        let mut admission = admission(start);
        // 4 ms waited and 4 wait: 6 ms, of which 5 are too many where nobody has less.
        let waited = 4 * MILLI;
        let seen = every_milli(&mut admission, start, 120, load(4), waited);
        assert!(seen[..50].iter().all(|&is_in| is_in) && seen[50..].iter().all(|&is_in| !is_in), "{seen:?}");
        let now = start + 120 * MILLI;
        assert!(admission.admits(load(1), 1, waited, now), "fewer wait than there are threads");
        assert!(admission.admits(load(2), 1, 3 * MILLI, now), "3 ms and 1 to come");
        // Some of each window wait for 4 ms: less than a standing wait, and still no calm.
        let seen: Vec<bool> = (120..400_u32)
            .map(|at| {
                admission.admits(load(2), 1, 3 * MILLI, start + at * MILLI);
                admission.admits(load(4), 1, waited, start + at * MILLI)
            })
            .collect();
        assert!(seen.iter().all(|&is_in| !is_in), "{seen:?}");
        // One that hardly waits ends it with its window.
        let calm = start + 400 * MILLI;
        assert!(admission.admits(load(0), 1, MILLI, calm));
        assert!(admission.admits(load(4), 1, waited, calm + 2 * WINDOW - MILLI));
    }

    #[test]
    fn where_nobody_came_nothing_stands() {
        let start = Instant::now();
        let mut admission = admission(start);
        every_milli(&mut admission, start, 60, load(4), 40 * MILLI);
        let refused = start + 61 * MILLI;
        assert!(!admission.admits(load(4), 1, 40 * MILLI, refused));
        assert!(admission.admits(load(4), 1, 40 * MILLI, refused + 2 * WINDOW));
    }
}
