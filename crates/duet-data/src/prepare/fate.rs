//! Which events count: those of known users and items, from after the sign-up, at a rate that a person can reach.

use duet_core::event::EventType;
use serde::{Deserialize, Serialize};

use super::{day_file::DayEvent, users::KnownUser};

const DAY_MS: i64 = 86_400_000;
const MINUTE_MS: i64 = 60_000;
/// An event this long before its user's sign-up comes from a wrong clock; less is a matter of time zones.
const SIGN_UP_SLACK_MS: i64 = DAY_MS;

/// What no person does: a UTC day of a user beyond either limit is left out whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimits {
    /// Most events of a user in a UTC day; 0: no limit.
    pub events_per_day: u32,
    /// Most events of a user, impressions apart, in a UTC minute; 0: no limit. A page of impressions comes at once.
    pub actions_per_minute: u32,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self { events_per_day: 10_000, actions_per_minute: 120 }
    }
}

/// Why an event of the day files is left out, as it stands in the books.
pub(super) type Reason = &'static str;
pub(super) const UNKNOWN_USER: Reason = "unknown user";
pub(super) const FORGOTTEN_USER: Reason = "forgotten user";
pub(super) const UNKNOWN_ITEM: Reason = "unknown item";
pub(super) const BEFORE_SIGN_UP: Reason = "before sign-up";
pub(super) const IMPLAUSIBLE_RATE: Reason = "implausible rate";

/// The fate of each of a user's events (sorted by time): nothing if it counts, or the first reason that applies.
pub(super) fn fates(events: &[DayEvent], user: KnownUser, limits: RateLimits) -> Vec<Option<Reason>> {
    let created_ms = match user {
        KnownUser::Forgotten => return vec![Some(FORGOTTEN_USER); events.len()],
        KnownUser::Unknown => return vec![Some(UNKNOWN_USER); events.len()],
        KnownUser::Known { created_ms, .. } => created_ms,
    };
    let mut fates = Vec::with_capacity(events.len());
    for day in events.chunk_by(|a, b| a.day() == b.day()) {
        let implausible = implausible(day, limits);
        fates.extend(day.iter().map(|event| {
            if created_ms.is_some_and(|at| event.ts_ms < at - SIGN_UP_SLACK_MS) {
                Some(BEFORE_SIGN_UP)
            } else if implausible {
                Some(IMPLAUSIBLE_RATE)
            } else if event.item.is_none() {
                Some(UNKNOWN_ITEM)
            } else {
                None
            }
        }));
    }
    fates
}

fn implausible(day: &[DayEvent], limits: RateLimits) -> bool {
    let over = |count: usize, limit: u32| limit > 0 && count > limit as usize;
    over(day.len(), limits.events_per_day)
        || day.chunk_by(|a, b| a.ts_ms / MINUTE_MS == b.ts_ms / MINUTE_MS).any(|minute| {
            let actions = minute.iter().filter(|event| event.event_type != EventType::Impression).count();
            over(actions, limits.actions_per_minute)
        })
}
