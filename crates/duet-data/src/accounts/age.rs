//! Ages, and the buckets that take their place.

use std::sync::Arc;

use chrono::NaiveDate;

/// An age, or what it follows from. Personal: without `Debug` on purpose.
#[derive(Clone, Copy)]
pub(super) enum Age {
    Years(u32),
    Born(NaiveDate),
}

/// The oldest age that is taken for one.
pub(super) const MAX_YEARS: u32 = 130;

impl Age {
    /// Full years on a day; nothing before the birth.
    pub(super) fn years_on(self, day: NaiveDate) -> Option<u32> {
        match self {
            Self::Years(years) => Some(years),
            Self::Born(born) => day.years_since(born),
        }
    }
}

/// "18-24" for edges 18 and 25; "<18" and "55+" at the ends. `edges` must not be empty.
pub fn age_bucket(years: u32, edges: &[u32]) -> String {
    label(edges.partition_point(|edge| *edge <= years), edges)
}

fn label(bucket: usize, edges: &[u32]) -> String {
    match bucket {
        0 => format!("<{}", edges[0]),
        bucket if bucket == edges.len() => format!("{}+", edges[bucket - 1]),
        bucket => format!("{}-{}", edges[bucket - 1], edges[bucket] - 1),
    }
}

/// The labels of all buckets, shared by the accounts in them.
pub(super) struct Buckets<'a> {
    edges: &'a [u32],
    labels: Vec<Arc<str>>,
}

impl<'a> Buckets<'a> {
    pub(super) fn new(edges: &'a [u32]) -> Self {
        Self { edges, labels: (0..=edges.len()).map(|bucket| label(bucket, edges).into()).collect() }
    }

    pub(super) fn of(&self, years: u32) -> Arc<str> {
        Arc::clone(&self.labels[self.edges.partition_point(|edge| *edge <= years)])
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn buckets_have_their_edges_on_the_right_side() {
        let edges = [18, 25];
        let labels: Vec<String> = [0, 17, 18, 24, 25, 99].iter().map(|years| age_bucket(*years, &edges)).collect();
        assert_eq!(labels, ["<18", "<18", "18-24", "18-24", "25+", "25+"]);
        let buckets = Buckets::new(&edges);
        assert!((0..130).all(|years| *buckets.of(years) == *age_bucket(years, &edges)));
        let born = Age::Born(NaiveDate::from_ymd_opt(2000, 2, 29).unwrap());
        assert_eq!(born.years_on(NaiveDate::from_ymd_opt(2025, 2, 28).unwrap()), Some(24));
        assert_eq!(born.years_on(NaiveDate::from_ymd_opt(2025, 3, 1).unwrap()), Some(25));
        assert_eq!(born.years_on(NaiveDate::from_ymd_opt(1999, 3, 1).unwrap()), None);
    }
}
