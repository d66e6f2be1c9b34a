//! No training event may lie in the held-out period: a model that has seen the future measures nothing.

use std::path::Path;

use duet_core::{Error, Result};
use duet_data::dataset::{SplitInfo, Timeline};

/// Checks that every training event lies before the held-out period. Only a split by time has one.
///
/// # Errors
/// [`Error::Data`] naming the first such user and event, the times, and how many there are.
pub(super) fn check_before_cutoff(dir: &Path, timeline: &Timeline, split: &SplitInfo) -> Result<()> {
    let Some(cutoff) = split.cutoff_ms else { return Ok(()) };
    let late = || timeline.timestamps_ms.iter().enumerate().filter(|(_, time)| **time >= cutoff);
    let Some((event, time)) = late().next() else { return Ok(()) };
    // The user whose range holds the event: the last one that starts at or before it.
    let user = timeline.offsets.partition_point(|offset| *offset <= event).saturating_sub(1);
    Err(Error::data(
        dir,
        format!(
            "a leaked future: {} training events lie at or after the cutoff of the held-out part ({cutoff} ms); the first is \
             event {event}, of the user in row {user}, at {time} ms. Nothing measured on it would mean anything",
            late().count()
        ),
    ))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use duet_core::ItemIdx;

    use super::*;

    fn split(cutoff_ms: Option<i64>) -> SplitInfo {
        SplitInfo { kind: "global-time".into(), parameters: String::new(), cutoff_ms, hash: String::new() }
    }

    #[test]
    fn the_first_event_of_the_future_is_named() {
        // The second user has no events.
        let timeline = Timeline {
            offsets: vec![0, 2, 2, 4],
            items: vec![ItemIdx(0); 4],
            timestamps_ms: vec![10, 20, 15, 30],
            weights: Vec::new(),
        };
        let dir = Path::new("data");
        check_before_cutoff(dir, &timeline, &split(Some(31))).unwrap();
        check_before_cutoff(dir, &timeline, &split(None)).unwrap();
        let said = |cutoff| check_before_cutoff(dir, &timeline, &split(Some(cutoff))).unwrap_err().to_string();
        assert!(
            said(30).contains("1 training events") && said(30).contains("event 3, of the user in row 2"),
            "{}",
            said(30)
        );
        assert!(
            said(20).contains("2 training events") && said(20).contains("event 1, of the user in row 0"),
            "{}",
            said(20)
        );
    }
}
