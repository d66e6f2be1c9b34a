//! Click rates of users, day by day: what drops are looked for in.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use chrono::NaiveDate;

use super::ledger::{CLICKED, Ledger, SHOWN};

/// What a user was shown and clicked on a day, by variant and bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UserDay {
    pub(super) day: i32,
    pub(super) variant: u32,
    pub(super) bundle: u32,
    pub(super) shown: u32,
    pub(super) clicks: u32,
}

/// The days of a user, ascending.
#[derive(Debug, Clone, Default)]
pub(super) struct UserDays {
    /// A number made of the user's id: an order that nothing users do has part in.
    pub(super) order: u64,
    pub(super) days: Vec<UserDay>,
}

/// Of every user of the ledger.
pub(super) fn user_days(ledger: &Ledger, by_user: &[Vec<u32>]) -> Vec<UserDays> {
    let of = |(user, lists): (usize, &Vec<u32>)| {
        let mut cells: BTreeMap<(i32, u32, u32), (u32, u32)> = BTreeMap::new();
        for list in lists.iter().map(|&list| &ledger.lists[list as usize]) {
            let cell = cells.entry((list.day, list.variant, list.bundle)).or_default();
            for (flags, _) in list.positions() {
                cell.0 += u32::from(flags & SHOWN != 0);
                cell.1 += u32::from(flags & CLICKED != 0);
            }
        }
        let mut hasher = DefaultHasher::new();
        ledger.users.id(user).hash(&mut hasher);
        let day = |((day, variant, bundle), (shown, clicks))| UserDay { day, variant, bundle, shown, clicks };
        UserDays {
            order: hasher.finish(),
            days: cells.into_iter().map(day).filter(|day: &UserDay| day.shown > 0).collect(),
        }
    };
    by_user.iter().enumerate().map(of).collect()
}

impl UserDays {
    /// Clicks over impressions of the days in `[from, to]` that `which` lets pass; nothing without an impression.
    pub(super) fn rate(&self, from: i32, to: i32, which: impl Fn(&UserDay) -> bool) -> Option<f64> {
        let start = self.days.partition_point(|day| day.day < from);
        let (mut shown, mut clicks) = (0_u64, 0_u64);
        for day in self.days[start..].iter().take_while(|day| day.day <= to).filter(|day| which(day)) {
            shown += u64::from(day.shown);
            clicks += u64::from(day.clicks);
        }
        (shown > 0).then(|| clicks as f64 / shown as f64)
    }
}

/// A day as people write it.
pub(super) fn day_name(day: i32) -> String {
    NaiveDate::from_epoch_days(day).map_or_else(|| day.to_string(), |date| date.to_string())
}
