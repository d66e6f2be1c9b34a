//! Which event goes where: one rule each, over flat arrays of events in source order.

use duet_core::{Error, Result, mixing::splitmix64};

use super::{SplitSpec, TimePoint};

/// Where an event goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Training.
    Train,
    /// Held out.
    Test,
    /// Neither: inside the gap before the held-out period.
    Gap,
}

/// The result of [`assign`].
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// One per event.
    pub parts: Vec<Part>,
    /// First instant of the held-out period (global-time only).
    pub cutoff_ms: Option<i64>,
    /// Events inside the gap.
    pub dropped: u64,
}

/// Applies `spec` to events in source order; `timestamps_ms` is empty where the data has no time.
///
/// `SplitSpec::None` and `SplitSpec::Given` leave every event in training.
///
/// # Errors
/// [`Error::Input`] if a global-time split meets data without time, or if either part would be empty.
pub fn assign(spec: &SplitSpec, users: &[u32], timestamps_ms: &[i64]) -> Result<Assignment> {
    let events = users.len();
    let mut parts = vec![Part::Train; events];
    let mut cutoff_ms = None;
    match *spec {
        SplitSpec::None | SplitSpec::Given => return Ok(Assignment { parts, cutoff_ms, dropped: 0 }),
        SplitSpec::GlobalTime { at, gap_ms } => {
            if timestamps_ms.len() != events {
                return Err(Error::input("a global-time split needs events with time; use random or leave-last-out"));
            }
            let cutoff = match at {
                TimePoint::Instant(at) => at,
                TimePoint::Quantile(quantile) => quantile_ceil(timestamps_ms, quantile)
                    .ok_or_else(|| Error::input("a global-time split needs at least one event"))?,
            };
            for (part, &time) in parts.iter_mut().zip(timestamps_ms) {
                *part = match time {
                    time if time >= cutoff => Part::Test,
                    time if time >= cutoff.saturating_sub(gap_ms) => Part::Gap,
                    _ => Part::Train,
                };
            }
            cutoff_ms = Some(cutoff);
        }
        SplitSpec::LeaveLastOut { n } => {
            for rows in rows_by_user(users, timestamps_ms) {
                let held_out = n.min(rows.len().saturating_sub(1));
                for &row in &rows[rows.len() - held_out..] {
                    parts[row as usize] = Part::Test;
                }
            }
        }
        SplitSpec::Random { fraction, seed } => {
            // 53 random bits against the fraction: the same grid as a uniform f64 in [0, 1).
            let threshold = (fraction * (1_u64 << 53) as f64) as u64;
            for (row, part) in parts.iter_mut().enumerate() {
                if splitmix64(splitmix64(seed).wrapping_add(row as u64)) >> 11 < threshold {
                    *part = Part::Test;
                }
            }
        }
    }
    for (part, name) in [(Part::Train, "training"), (Part::Test, "held-out")] {
        if !parts.contains(&part) {
            return Err(Error::input(format!(
                "the split {} ({spec}) leaves no {name} events of {events}{}",
                spec.kind(),
                cutoff_ms.map(|cutoff| format!("; its cutoff is {cutoff} ms")).unwrap_or_default(),
            )));
        }
    }
    let dropped = parts.iter().filter(|part| **part == Part::Gap).count() as u64;
    Ok(Assignment { parts, cutoff_ms, dropped })
}

/// The rows of each user in the order (time, row); users without events are absent.
fn rows_by_user(users: &[u32], timestamps_ms: &[i64]) -> Vec<Vec<u32>> {
    let count = users.iter().max().map_or(0, |&user| user as usize + 1);
    let mut rows = vec![Vec::new(); count];
    for (row, &user) in users.iter().enumerate() {
        rows[user as usize].push(row as u32);
    }
    rows.retain(|rows| !rows.is_empty());
    if !timestamps_ms.is_empty() {
        for rows in &mut rows {
            rows.sort_by_key(|&row| timestamps_ms[row as usize]);
        }
    }
    rows
}

/// The least whole number not below the quantile, linear between the two neighbours (type 7 of Hyndman and Fan 1996,
/// the default of pandas and NumPy): for whole times, `t >= quantile` and `t >= result` are the same.
fn quantile_ceil(times: &[i64], quantile: f64) -> Option<i64> {
    let at = quantile * times.len().checked_sub(1)? as f64;
    let below = at.floor();
    let mut times = times.to_vec();
    let (_, &mut low, above) = times.select_nth_unstable(below as usize);
    let high = above.iter().min().copied().unwrap_or(low);
    // `at` carries a rounding error of some 1e-11 that must not push a whole result up by one; a double of present-day
    // seconds, which is what pandas compares with, resolves 1e-4 ms.
    Some(low + ((high - low) as f64 * (at - below) - 1e-4).ceil() as i64)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantile_is_linear_between_neighbours() {
        // 0.8 * 4 = 3.2: between 40 and 100, at 52.
        assert_eq!(quantile_ceil(&[100, 10, 40, 20, 30], 0.8), Some(52));
        assert_eq!(quantile_ceil(&[0, 1, 2], 0.75), Some(2), "1.5 rounds up");
        assert_eq!(quantile_ceil(&[7], 0.5), Some(7));
        assert_eq!(quantile_ceil(&[], 0.5), None);
    }

    #[test]
    fn last_is_by_time_then_by_row_and_a_single_event_trains() {
        let users = [0, 1, 0, 0, 2, 1];
        let times = [9, 5, 3, 9, 1, 5];
        let spec = SplitSpec::LeaveLastOut { n: 1 };
        let parts = assign(&spec, &users, &times).unwrap().parts;
        let test: Vec<usize> = (0..6).filter(|&row| parts[row] == Part::Test).collect();
        assert_eq!(test, [3, 5]);
        let two = assign(&SplitSpec::LeaveLastOut { n: 2 }, &users, &times).unwrap().parts;
        assert_eq!(two.iter().filter(|part| **part == Part::Test).count(), 3);
    }

    #[test]
    fn gap_is_dropped_and_counted_and_empty_parts_are_refused() {
        let users = [0; 5];
        let times = [0, 10, 20, 30, 40];
        let spec = SplitSpec::GlobalTime { at: TimePoint::Instant(30), gap_ms: 10 };
        let split = assign(&spec, &users, &times).unwrap();
        assert_eq!(split.parts, [Part::Train, Part::Train, Part::Gap, Part::Test, Part::Test]);
        assert_eq!((split.dropped, split.cutoff_ms), (1, Some(30)));
        for at in [0, 41] {
            let spec = SplitSpec::GlobalTime { at: TimePoint::Instant(at), gap_ms: 0 };
            assert!(assign(&spec, &users, &times).unwrap_err().to_string().contains("leaves no"));
        }
        assert!(assign(&spec, &users, &[]).is_err());
    }

    #[test]
    fn random_keeps_its_fraction_and_depends_on_the_seed() {
        let users = vec![0; 100_000];
        let held_out = |seed| assign(&SplitSpec::Random { fraction: 0.3, seed }, &users, &[]).unwrap().parts;
        let count = held_out(1).iter().filter(|part| **part == Part::Test).count();
        // Six standard deviations of the binomial are 870.
        assert!(count.abs_diff(30_000) < 870, "{count}");
        assert_eq!(held_out(1), held_out(1));
        assert_ne!(held_out(1), held_out(2));
    }

    proptest! {
        #[test]
        fn nothing_in_training_is_at_or_after_the_cutoff(
            times in prop::collection::vec(-50_i64..50, 2..60), quantile in 0.05_f64..0.95, gap_ms in 0_i64..5,
        ) {
            let users = vec![0; times.len()];
            let spec = SplitSpec::GlobalTime { at: TimePoint::Quantile(quantile), gap_ms };
            if let Ok(split) = assign(&spec, &users, &times) {
                let cutoff = split.cutoff_ms.unwrap();
                for (&part, &time) in split.parts.iter().zip(&times) {
                    prop_assert_eq!(part == Part::Test, time >= cutoff);
                    prop_assert_eq!(part == Part::Train, time < cutoff - gap_ms);
                }
            }
        }

        #[test]
        fn order_of_rows_is_irrelevant_where_times_are_unique(
            events in prop::collection::vec((0_u32..6, 0_u64..1000), 2..60), n in 1_usize..4,
        ) {
            // Times unique by construction; the second half is the first in another row order.
            let rows: Vec<(u32, i64)> =
                events.iter().enumerate().map(|(row, event)| (event.0, row as i64 * 7)).collect();
            let mut shuffled: Vec<usize> = (0..rows.len()).collect();
            shuffled.sort_by_key(|&row| (events[row].1, row));
            for spec in [SplitSpec::LeaveLastOut { n }, SplitSpec::GlobalTime { at: TimePoint::Quantile(0.7), gap_ms: 3 }] {
                let run = |order: &[usize]| {
                    let users: Vec<u32> = order.iter().map(|&row| rows[row].0).collect();
                    let times: Vec<i64> = order.iter().map(|&row| rows[row].1).collect();
                    assign(&spec, &users, &times).ok().map(|split| split.parts)
                };
                let straight = run(&(0..rows.len()).collect::<Vec<_>>());
                let other = run(&shuffled);
                prop_assert_eq!(straight.is_some(), other.is_some());
                if let (Some(straight), Some(other)) = (straight, other) {
                    for (at, &row) in shuffled.iter().enumerate() {
                        prop_assert_eq!(other[at], straight[row]);
                    }
                }
            }
        }
    }
}
