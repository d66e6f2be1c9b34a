//! The features: names, units, where they come from.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// A feature of a listener and a candidate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feature {
    /// Its name; a column's name stands behind a point.
    pub name: String,
    /// What its numbers are.
    pub unit: Cow<'static, str>,
    /// What it is made from.
    pub source: Cow<'static, str>,
}

/// Features that every dataset has, before those of its columns.
pub(super) const FIXED: [(&str, &str, &str); 18] = [
    ("two_tower.score", "dot product", "the model"),
    ("two_tower.gap", "dot product below the best of the list", "the model"),
    ("two_tower.rank", "ln(1 + place), from 0; unknown behind the list", "the model"),
    ("likeness.recent", "cosine to the mean of the last 10 items", "item vectors and history"),
    ("likeness.nearest", "largest cosine to one of the last 10 items", "item vectors and history"),
    ("affinity.item", "share of the last 200 events", "history"),
    ("strength.item", "ln(weight) above the listener's mean", "weights of the listener's events with the item"),
    ("recency.item", "days since the listener's last event with it", "history"),
    ("age.first_event", "days since anybody's first event with it", "training events"),
    ("popularity.all", "ln(1 + events)", "training events"),
    ("popularity.28_days", "ln(1 + events)", "training events"),
    ("popularity.7_days", "ln(1 + events)", "training events"),
    ("popularity.trend", "ln of daily events in 7 days over those in 28", "training events"),
    ("followers", "ln(1 + followers)", "the catalogue"),
    ("listener.events", "ln(1 + events)", "history"),
    ("listener.tenure", "days since sign-up, or since the first event", "accounts, else history"),
    ("listener.idle", "days since the last event", "history"),
    ("shown.position", "place in the list that was shown; 0 when it is asked what to show", "impressions"),
];

/// Places of the fixed features in a row.
#[derive(Debug, Clone, Copy)]
#[repr(usize)]
pub(super) enum Fixed {
    Score,
    Gap,
    Rank,
    LikenessRecent,
    LikenessNearest,
    AffinityItem,
    StrengthItem,
    RecencyItem,
    AgeFirstEvent,
    PopularityAll,
    Popularity28,
    Popularity7,
    Trend,
    Followers,
    ListenerEvents,
    ListenerTenure,
    ListenerIdle,
    Position,
}

/// A feature made from a column.
pub(super) fn of_column(kind: ColumnFeature, column: &str) -> Feature {
    let (prefix, unit, source) = match kind {
        ColumnFeature::Affinity => (
            "affinity",
            "share of the last 200 events with a value of the item, mean over its values",
            "items and history",
        ),
        ColumnFeature::Strength => (
            "strength",
            "ln(weight) above the listener's mean, of events that share a value",
            "items, weights, history",
        ),
        ColumnFeature::Age => ("age", "days", "items"),
        ColumnFeature::Lift => (
            "lift",
            "ln of the item's share among listeners with the same value over its share among all",
            "users and training events",
        ),
        ColumnFeature::Match => ("match", "1 if listener and item share the value, else 0", "users and items"),
    };
    Feature { name: format!("{prefix}.{column}"), unit: unit.into(), source: source.into() }
}

/// Which feature a column gives.
#[derive(Debug, Clone, Copy)]
pub(super) enum ColumnFeature {
    Affinity,
    Strength,
    Age,
    Lift,
    Match,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_names_go_together() {
        assert_eq!(Fixed::Position as usize + 1, FIXED.len());
        assert_eq!(FIXED[Fixed::Popularity7 as usize].0, "popularity.7_days");
        assert_eq!(FIXED[Fixed::Followers as usize].0, "followers");
        assert_eq!(FIXED[Fixed::ListenerIdle as usize].0, "listener.idle");
        let mut names: Vec<&str> = FIXED.iter().map(|(name, ..)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FIXED.len());
    }
}
