//! The measures, by slice and by day: sums over the lists of a user first, then over users, so that intervals know whose clicks they
//! are.

use std::collections::HashMap;

use duet_retrieval::segments::Division;
use serde::{Deserialize, Serialize};

use super::{
    ledger::{CLICKED, FOLLOWED, Ledger, SHOWN},
    rate::{Rate, Ratio},
    survival::{Stay, SurvivalDay, curve},
    user_days::day_name,
};

/// What lists and their users did in some slice on some days.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Lists served.
    pub lists: u64,
    /// Users they were for.
    pub users: u64,
    /// Items shown.
    pub impressions: u64,
    /// Shown items that were clicked.
    pub clicks: u64,
    /// Clicks of 100 impressions.
    pub clicks_per_100: Option<Rate>,
    /// Of shown items that were listened to, the mean share heard, in percent.
    pub completion_percent: Option<Rate>,
    /// Shown items of 100 that led to a follow.
    pub follows_per_100: Option<Rate>,
}

/// A day of a slice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DayFigures {
    /// UTC.
    pub day: String,
    /// What was measured.
    #[serde(flatten)]
    pub figures: Figures,
}

/// A slice: all lists that have something in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SliceReport {
    /// `all`, `variant`, `bundle`, `source`, `position`, or a column of the users table.
    pub by: String,
    /// The value.
    pub value: String,
    /// All days together.
    pub overall: Figures,
    /// Day by day, days without a list left out.
    pub days: Vec<DayFigures>,
}

/// Churn on a day: of the users active on it, those with nothing in the days after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChurnDay {
    /// UTC.
    pub day: String,
    /// Users active on the day.
    pub active: u64,
    /// Those of them with nothing in the days after.
    pub churned: u64,
}

/// Churn and retention of the users of a slice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Retention {
    /// `all`, `variant` (that of a user's first list), or a column.
    pub by: String,
    /// The value.
    pub value: String,
    /// Days of silence that make churn.
    pub silent_days: u32,
    /// Users in the curve.
    pub users: u64,
    /// Users who came too late for the curve.
    pub too_late: u64,
    /// Days with somebody active after which nothing came from them, of 100 such days.
    pub churn_per_100_active_days: Option<Rate>,
    /// Day by day, as far as it is known yet.
    pub days: Vec<ChurnDay>,
    /// The survival curve.
    pub curve: Vec<SurvivalDay>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    lists: u64,
    shown: u64,
    clicks: u64,
    follows: u64,
    heard: u64,
    completed: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    users: u64,
    lists: u64,
    shown: u64,
    clicked: u64,
    clicks: Ratio,
    completion: Ratio,
    follows: Ratio,
}

impl Sums {
    fn add(&mut self, cell: &Cell) {
        self.users += 1;
        self.lists += cell.lists;
        self.shown += cell.shown;
        self.clicked += cell.clicks;
        self.clicks.add(cell.clicks as f64, cell.shown as f64);
        self.follows.add(cell.follows as f64, cell.shown as f64);
        self.completion.add(cell.completed, cell.heard as f64);
    }

    fn figures(&self) -> Figures {
        Figures {
            lists: self.lists,
            users: self.users,
            impressions: self.shown,
            clicks: self.clicked,
            clicks_per_100: self.clicks.rate(100.0),
            completion_percent: self.completion.rate(100.0),
            follows_per_100: self.follows.rate(100.0),
        }
    }
}

/// Stands for all days.
const OVERALL: i32 = i32::MIN;

/// The slices of everything in the ledger; `by_user` has the places of each user's lists, in time order.
pub(super) fn slices(
    ledger: &Ledger,
    by_user: &[Vec<u32>],
    divisions: &[Division],
    positions: usize,
) -> Vec<SliceReport> {
    let mut names = vec![("all".to_owned(), "all lists".to_owned())];
    let mut named = |by: &str, values: &[String]| {
        let first = names.len() as u32;
        names.extend(values.iter().map(|value| (by.to_owned(), value.clone())));
        first
    };
    let variants = named("variant", ledger.variants.ids());
    let bundles = named("bundle", ledger.bundles.ids());
    let sources = named("source", ledger.sources.ids());
    let labels: Vec<String> =
        (0..positions).map(|position| position.to_string()).chain([format!("{positions} and later")]).collect();
    let first_position = named("position", &labels);
    let degraded = named("degraded", &["as meant".to_owned(), "degraded".to_owned()]);
    let mut segments: Vec<Vec<u32>> = vec![Vec::new(); by_user.len()];
    for division in divisions {
        for group in &division.groups {
            let slice = named(&division.name, std::slice::from_ref(&group.label));
            group.users.iter().for_each(|&user| segments[user as usize].push(slice));
        }
    }

    let mut sums: HashMap<(u32, i32), Sums> = HashMap::new();
    let mut cells: HashMap<(u32, i32), Cell> = HashMap::new();
    for (user, lists) in by_user.iter().enumerate() {
        for list in lists.iter().map(|&list| &ledger.lists[list as usize]) {
            let mut whole = Cell { lists: 1, ..Cell::default() };
            let mut is_in_last = false;
            for (position, (flags, heard)) in list.positions().enumerate() {
                if flags & SHOWN == 0 {
                    continue;
                }
                // The slice of all later positions has a list once.
                let is_new = position < positions || !std::mem::replace(&mut is_in_last, true);
                let one = Cell {
                    lists: u64::from(is_new),
                    shown: 1,
                    clicks: u64::from(flags & CLICKED != 0),
                    follows: u64::from(flags & FOLLOWED != 0),
                    heard: u64::from(heard.is_some()),
                    completed: heard.map_or(0.0, f64::from),
                };
                whole.take(&Cell { lists: 0, ..one });
                let slice = first_position + position.min(positions) as u32;
                for day in [OVERALL, list.day] {
                    cells.entry((slice, day)).or_default().take(&one);
                }
            }
            let own = [
                0,
                variants + list.variant,
                bundles + list.bundle,
                sources + list.source,
                degraded + u32::from(list.degraded),
            ];
            for &slice in own.iter().chain(&segments[user]) {
                for day in [OVERALL, list.day] {
                    cells.entry((slice, day)).or_default().take(&whole);
                }
            }
        }
        for (key, cell) in cells.drain() {
            sums.entry(key).or_default().add(&cell);
        }
    }

    let mut keys: Vec<(u32, i32)> = sums.keys().copied().collect();
    keys.sort_unstable();
    let mut reports: Vec<SliceReport> = Vec::new();
    for key in keys {
        let figures = sums[&key].figures();
        // All days come first.
        if key.1 == OVERALL {
            let (by, value) = names[key.0 as usize].clone();
            reports.push(SliceReport { by, value, overall: figures, days: Vec::new() });
        } else if let Some(slice) = reports.last_mut() {
            slice.days.push(DayFigures { day: day_name(key.1), figures });
        }
    }
    reports
}

impl Cell {
    fn take(&mut self, other: &Self) {
        self.lists += other.lists;
        self.shown += other.shown;
        self.clicks += other.clicks;
        self.follows += other.follows;
        self.heard += other.heard;
        self.completed += other.completed;
    }
}

/// Churn and retention of all users, of those of each variant, and of each segment, for each length of silence.
pub(super) fn retention(
    ledger: &Ledger,
    by_user: &[Vec<u32>],
    divisions: &[Division],
    churn_days: &[u32],
) -> Vec<Retention> {
    let everybody: Vec<u32> = (0..by_user.len() as u32).collect();
    let mut groups = vec![("all".to_owned(), "all users".to_owned(), everybody)];
    for (variant, name) in ledger.variants.ids().iter().enumerate() {
        let is_first = |user: &u32| {
            let first = by_user[*user as usize].first().map(|&list| ledger.lists[list as usize].variant);
            first == Some(variant as u32)
        };
        let users = (0..by_user.len() as u32).filter(is_first).collect();
        groups.push(("variant".to_owned(), name.clone(), users));
    }
    for division in divisions {
        let of =
            |group: &duet_retrieval::segments::Group| (division.name.clone(), group.label.clone(), group.users.clone());
        groups.extend(division.groups.iter().map(of));
    }
    let measure = |(by, value, users): &(String, String, Vec<u32>), gap: u32| {
        let mut stays = Vec::new();
        let mut ratio = Ratio::default();
        let mut days: HashMap<i32, (u64, u64)> = HashMap::new();
        for &user in users {
            let active = since_first_list(ledger, by_user, user);
            stays.extend(Stay::new(active, gap, ledger.last_day));
            let (mut seen, mut ends) = (0.0, 0.0);
            for (at, &day) in active.iter().enumerate() {
                if day.saturating_add(gap as i32) > ledger.last_day {
                    break;
                }
                let ended = active.get(at + 1).is_none_or(|next| next - day > gap as i32);
                let entry = days.entry(day).or_default();
                entry.0 += 1;
                entry.1 += u64::from(ended);
                seen += 1.0;
                ends += f64::from(u8::from(ended));
            }
            ratio.add(ends, seen);
        }
        let mut days: Vec<(i32, (u64, u64))> = days.into_iter().collect();
        days.sort_unstable();
        let day = |(day, (active, churned)): (i32, (u64, u64))| ChurnDay { day: day_name(day), active, churned };
        Retention {
            by: by.clone(),
            value: value.clone(),
            silent_days: gap,
            users: stays.len() as u64,
            too_late: (users.len() - stays.len()) as u64,
            churn_per_100_active_days: ratio.rate(100.0),
            days: days.into_iter().map(day).collect(),
            curve: curve(&stays),
        }
    };
    churn_days
        .iter()
        .flat_map(|&gap| groups.iter().map(move |group| (group, gap)))
        .map(|(group, gap)| measure(group, gap))
        .collect()
}

/// The days of a user from that of the first list on: what they did before nobody served them is no part of it.
fn since_first_list<'a>(ledger: &'a Ledger, by_user: &[Vec<u32>], user: u32) -> &'a [i32] {
    let active = &ledger.active[user as usize];
    let first = by_user[user as usize].iter().map(|&list| ledger.lists[list as usize].day).min();
    let from = active.partition_point(|day| Some(*day) < first);
    &active[from..]
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::monitor::ledger::tests::{ledger, served};

    #[test]
    fn a_list_is_one_list_of_the_later_positions() {
        let mut ledger = ledger();
        ledger.serve(served("r1", "u", 2)).unwrap();
        let found = slices(&ledger, &[vec![0]], &[], 0);
        let later = &found.iter().find(|slice| slice.by == "position").unwrap().overall;
        assert_eq!((later.lists, later.impressions), (1, 2));
    }
}
