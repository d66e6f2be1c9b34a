//! What is asked of an engine, and what it answers: rows of one bundle, never ids.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use duet_core::{ItemIdx, UserIdx, condition::Condition};
use duet_retrieval::ItemFilter;
use serde::{Deserialize, Serialize};

use crate::variants::Variant;

/// Who a list is for.
#[derive(Debug, Clone)]
pub enum Listener {
    /// Somebody with an id.
    Known {
        /// The id as the model knows it.
        id: String,
        /// The row in the bundle's users table, if there is one.
        row: Option<UserIdx>,
        /// What was played since the history in the bundle ends, oldest first.
        live: Vec<ItemIdx>,
    },
    /// A history without a name.
    Anonymous {
        /// What was played, oldest first.
        history: Vec<ItemIdx>,
    },
}

impl Listener {
    /// The row in the bundle's users table, if there is one.
    pub fn row(&self) -> Option<UserIdx> {
        match self {
            Self::Known { row, .. } => *row,
            Self::Anonymous { .. } => None,
        }
    }

    /// What is known from elsewhere than the bundle, oldest first.
    pub fn live(&self) -> &[ItemIdx] {
        match self {
            Self::Known { live, .. } => live,
            Self::Anonymous { history } => history,
        }
    }
}

/// What all lists that were asked for together have taken of a re-ranker's time, on one engine.
#[derive(Debug, Clone, Default)]
pub struct RerankTime(Arc<AtomicU64>);

impl RerankTime {
    /// How much it is.
    pub fn taken(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    /// Adds what a list took.
    pub fn add(&self, took: Duration) {
        self.0.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// A list to be made.
#[derive(Debug, Clone)]
pub struct ListRequest {
    /// For whom.
    pub listener: Listener,
    /// How many items; at least 1.
    pub k: usize,
    /// Whether items of the history are left out.
    pub exclude_seen: bool,
    /// Which items may be shown; all, where there is none.
    pub filter: Option<Arc<ItemFilter>>,
    /// The filter as conditions on the items' columns, where a database searches; see [`crate::engine::Engine::conditions`].
    pub conditions: Vec<Condition>,
    /// Whether reasons are wanted.
    pub explain: bool,
    /// By which recommender.
    pub variant: Arc<Variant>,
    /// Shared by the lists of a submission: the dispatcher gives it.
    pub rerank_time: RerankTime,
    /// The time, milliseconds since 1970 UTC.
    pub now_ms: i64,
}

/// Where a list comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The listener's own vector.
    Personal,
    /// A list made before.
    Precomputed,
    /// What listeners of the same segment play now.
    SegmentTrending,
    /// What everybody plays now.
    Trending,
    /// A baseline that stands as a variant.
    Baseline,
}

impl Source {
    /// Every source.
    pub const ALL: [Self; 5] =
        [Self::Personal, Self::Precomputed, Self::SegmentTrending, Self::Trending, Self::Baseline];

    /// The place in [`Source::ALL`].
    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// The name in answers, logs and measurements.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Personal => "personal",
            Self::Precomputed => "precomputed",
            Self::SegmentTrending => "segment_trending",
            Self::Trending => "trending",
            Self::Baseline => "baseline",
        }
    }
}

/// A list.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Where it comes from.
    pub source: Source,
    /// What fell away on the way, in words that never change; empty when all went as meant.
    pub degraded: Vec<&'static str>,
    /// Best first.
    pub items: Vec<AnswerItem>,
}

/// An item of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerItem {
    /// Which.
    pub item: ItemIdx,
    /// Finite; comparable within the list.
    pub score: f32,
    /// The history items that moved the score most, the strongest first; only where they were asked for.
    pub reasons: Vec<Reason>,
}

/// An item of the history that spoke for another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reason {
    /// The item of the history.
    pub item: ItemIdx,
    /// Its share of everything that spoke for the listed item, above 0 and at most 1.
    pub share: f32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_knows_its_place() {
        for (at, source) in Source::ALL.into_iter().enumerate() {
            assert_eq!(source.index(), at, "{source:?}");
        }
    }
}
