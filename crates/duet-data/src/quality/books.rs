//! The books: every line read is kept, a duplicate, quarantined or filtered, and the sums must agree.

use std::{collections::BTreeMap, ops::AddAssign};

use duet_core::{Error, Result, event::EventType};
use serde::{Deserialize, Serialize};

/// Counts by reason.
pub type Reasons = BTreeMap<String, u64>;

/// The [`DayBooks::day`] of lines whose time can't be read.
pub const UNKNOWN_DAY: &str = "unknown";

/// What became of the lines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Books {
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
    /// Valid events, kept or left out, that came after their day.
    pub late: u64,
}

impl Books {
    /// Enters a kept line.
    pub fn keep(&mut self, event_type: EventType) {
        self.lines += 1;
        self.kept += 1;
        Self::count(&mut self.kept_by_type, event_type.as_str());
    }

    /// Enters a duplicate.
    pub fn duplicate(&mut self) {
        self.lines += 1;
        self.duplicates += 1;
    }

    /// Enters a line put aside; `field` is empty where the line as a whole is wrong.
    pub fn quarantine(&mut self, reason: &str, field: &str) {
        self.lines += 1;
        if field.is_empty() {
            Self::count(&mut self.quarantined, reason);
        } else {
            Self::count(&mut self.quarantined, &format!("{reason}: {field}"));
        }
    }

    /// Enters a line left out.
    pub fn filter(&mut self, reason: &str) {
        self.lines += 1;
        Self::count(&mut self.filtered, reason);
    }

    /// Moves kept lines of an event type to those left out.
    pub fn leave_out(&mut self, reason: &str, event_type: &str, lines: u64) {
        self.take_back(event_type, lines);
        *self.filtered.entry(reason.to_owned()).or_default() += lines;
    }

    /// Moves a kept line of an event type to the duplicates.
    pub fn leave_out_duplicate(&mut self, event_type: &str) {
        self.take_back(event_type, 1);
        self.duplicates += 1;
    }

    fn take_back(&mut self, event_type: &str, lines: u64) {
        self.kept -= lines;
        if let Some(count) = self.kept_by_type.get_mut(event_type) {
            *count -= lines;
        }
        self.kept_by_type.retain(|_, count| *count > 0);
    }

    /// Adds one to a reason, without an allocation for one that is there, which is nearly every time.
    pub fn count(reasons: &mut Reasons, name: &str) {
        match reasons.get_mut(name) {
            Some(count) => *count += 1,
            None => {
                reasons.insert(name.to_owned(), 1);
            }
        }
    }

    /// Lines put aside.
    pub fn quarantined_lines(&self) -> u64 {
        self.quarantined.values().sum()
    }

    /// Lines left out.
    pub fn filtered_lines(&self) -> u64 {
        self.filtered.values().sum()
    }

    /// Events that keep the contract, each once: kept and left out.
    pub fn valid_events(&self) -> u64 {
        self.kept + self.filtered_lines()
    }

    /// Checks that every line is accounted for once: the conservation law.
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
}

impl AddAssign<&Self> for Books {
    fn add_assign(&mut self, other: &Self) {
        self.lines += other.lines;
        self.kept += other.kept;
        self.duplicates += other.duplicates;
        self.late += other.late;
        for (sums, counts) in [
            (&mut self.quarantined, &other.quarantined),
            (&mut self.filtered, &other.filtered),
            (&mut self.kept_by_type, &other.kept_by_type),
        ] {
            for (reason, lines) in counts {
                *sums.entry(reason.clone()).or_default() += lines;
            }
        }
    }
}

impl AddAssign for Books {
    fn add_assign(&mut self, other: Self) {
        *self += &other;
    }
}

impl std::ops::Add<&Self> for Books {
    type Output = Self;

    fn add(mut self, other: &Self) -> Self {
        self += other;
        self
    }
}

impl<'a> std::iter::Sum<&'a Self> for Books {
    fn sum<I: Iterator<Item = &'a Self>>(books: I) -> Self {
        books.fold(Self::default(), |sum, books| sum + books)
    }
}

impl std::fmt::Display for Books {
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

/// The books of one UTC day.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DayBooks {
    /// `2025-03-03`, or [`UNKNOWN_DAY`].
    pub day: String,
    /// What became of the day's lines.
    pub books: Books,
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_is_entered_balances_and_adds_up() {
        let mut monday = Books::default();
        monday.keep(EventType::Click);
        monday.keep(EventType::Listen);
        monday.keep(EventType::Click);
        monday.duplicate();
        monday.quarantine("not valid JSON", "");
        monday.quarantine("missing field", "ts");
        monday.filter("unknown id");
        monday.check().unwrap();
        assert_eq!(monday.to_string(), "7 lines = 3 kept + 1 duplicates + 2 quarantined + 1 filtered");
        assert_eq!(monday.quarantined["missing field: ts"], 1);
        assert_eq!(monday.kept_by_type, Reasons::from([("click".into(), 2), ("listen".into(), 1)]));
        let both: Books = [&monday, &monday].into_iter().sum();
        both.check().unwrap();
        assert_eq!((both.lines, both.filtered["unknown id"], both.kept_by_type["click"]), (14, 2, 4));
        assert_eq!(both, monday.clone() + &monday);
    }

    #[test]
    fn a_line_too_many_or_too_few_is_seen() {
        let mut books = Books::default();
        books.keep(EventType::Skip);
        for broken in [
            Books { lines: 2, ..books.clone() },
            Books { kept: 0, ..books.clone() },
            Books { duplicates: 1, ..books.clone() },
            Books { kept_by_type: Reasons::new(), ..books.clone() },
        ] {
            assert!(broken.check().unwrap_err().to_string().contains("lines read"), "{broken:?}");
        }
    }
}
