//! The books: every line read is kept, a duplicate, quarantined or filtered, and the sums must agree.

use std::collections::BTreeMap;

use duet_core::{Error, Result, event::EventType};
use serde::{Deserialize, Serialize};

/// Counts by reason.
pub type Reasons = BTreeMap<String, u64>;

/// What became of the positive events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// Kept events that say a user likes an artist.
    pub positive_events: u64,
    /// Rows of the training part: one per user, artist and UTC day.
    pub train: u64,
    /// Rows of the held-out part.
    pub test: u64,
    /// Rows of the held-out period left out because the user had the artist before.
    pub seen_before: u64,
    /// Rows left out because they lie in the gap, or after the last full day where nothing is held out.
    pub outside: u64,
    /// Rows before the cutoff left out because the artist joined after it (a wrong clock).
    pub not_yet_listed: u64,
}

/// What became of the lines; written to `quality.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Lines read.
    pub lines: u64,
    /// Valid, first of their id, and used.
    pub kept: u64,
    /// Valid, but their event id was there before.
    pub duplicates: u64,
    /// Put aside, by reason.
    pub quarantined: Reasons,
    /// Valid but left out, by reason.
    pub filtered: Reasons,
    /// Kept events by type.
    pub kept_by_type: Reasons,
    /// Kept events from an earlier local day than the `date=` of their file.
    pub late: u64,
    /// What became of the positive ones.
    pub rows: Rows,
}

impl Quality {
    /// Lines put aside.
    pub fn quarantined_lines(&self) -> u64 {
        self.quarantined.values().sum()
    }

    /// Lines left out.
    pub fn filtered_lines(&self) -> u64 {
        self.filtered.values().sum()
    }

    /// Checks that every line is accounted for once.
    ///
    /// # Errors
    /// [`Error::Internal`] with the sums.
    pub fn check(&self) -> Result<()> {
        let sum = self.kept + self.duplicates + self.quarantined_lines() + self.filtered_lines();
        let by_type: u64 = self.kept_by_type.values().sum();
        if sum != self.lines || by_type != self.kept {
            return Err(Error::Internal(format!(
                "{} lines read, {sum} accounted for; {} kept, {by_type} by type",
                self.lines, self.kept
            )));
        }
        Ok(())
    }

    pub(super) fn keep(&mut self, event_type: EventType) {
        self.kept += 1;
        match self.kept_by_type.get_mut(event_type.as_str()) {
            Some(count) => *count += 1,
            None => {
                self.kept_by_type.insert(event_type.as_str().to_owned(), 1);
            }
        }
    }

    pub(super) fn add(reasons: &mut Reasons, reason: &str, field: &str) {
        let name = if field.is_empty() { reason.to_owned() } else { format!("{reason}: {field}") };
        *reasons.entry(name).or_default() += 1;
    }
}

impl std::fmt::Display for Quality {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "{} lines = {} kept + {} duplicates + {} quarantined + {} filtered",
            self.lines,
            self.kept,
            self.duplicates,
            self.quarantined_lines(),
            self.filtered_lines()
        )
    }
}
