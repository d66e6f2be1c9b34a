//! What became of the positive events: the counts behind the timeline and the held-out part.

use serde::{Deserialize, Serialize};

/// What became of the positive events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// Kept events that say a user likes an item: an artist, or a song.
    pub positive_events: u64,
    /// Rows of the training part: one per user, item and UTC day.
    pub train: u64,
    /// Rows of the held-out part.
    pub test: u64,
    /// Rows of the held-out period left out because the user had the item before.
    pub seen_before: u64,
    /// Rows left out because they lie in the gap, or after the last full day where nothing is held out.
    pub outside: u64,
    /// Rows before the cutoff left out because the item appeared after it (a wrong clock).
    pub not_yet_listed: u64,
}

impl std::ops::AddAssign for Rows {
    fn add_assign(&mut self, other: Self) {
        self.positive_events += other.positive_events;
        self.train += other.train;
        self.test += other.test;
        self.seen_before += other.seen_before;
        self.outside += other.outside;
        self.not_yet_listed += other.not_yet_listed;
    }
}
