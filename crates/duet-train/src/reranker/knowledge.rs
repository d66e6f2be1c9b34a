//! What is known of listeners and items, and the features made from it.

use std::collections::HashMap;

use duet_core::{
    Error, ItemIdx, Result, UserIdx,
    schema::{Columns, FeatureKind},
    table::{Column, ColumnValues, FeatureTable},
};
use duet_data::dataset::{Dataset, Timeline};
use duet_retrieval::{Scored, Vectors};

use super::{
    DAY_MS,
    day_counts::DayCounts,
    features::{ColumnFeature, FIXED, Feature, Fixed, of_column},
    listener::Listener,
};

/// Columns of users and of items that features are made from, at most, in the order of their names.
const USER_COLUMNS: usize = 6;
const ITEM_COLUMNS: usize = 4;
/// Events of an average listener that a lift starts from.
const LIFT_PRIOR: f64 = 20.0;
/// No value.
const NONE: u32 = u32::MAX;
/// The users' column that says how long they have been there.
const TENURE: &str = "tenure_days";
const FOLLOWERS: &str = "followers";

/// When it is asked: days since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instant {
    /// Counts know the days before this one.
    pub counts: i32,
    /// What recency and ages are measured to.
    pub today: i32,
}

/// The values of a text column of the items, as numbers, in compressed rows.
#[derive(Debug, Clone)]
pub(super) struct ItemColumn {
    name: String,
    offsets: Vec<usize>,
    values: Vec<u32>,
    /// Of each user the value with the same text, where the users have a column of this name.
    of_users: Option<Vec<u32>>,
}

impl ItemColumn {
    pub(super) fn of(&self, item: usize) -> &[u32] {
        &self.values[self.offsets[item]..self.offsets[item + 1]]
    }
}

/// A column of the users, and who of each value played what.
#[derive(Debug, Clone)]
struct UserColumn {
    name: String,
    /// Of each user.
    values: Vec<u32>,
    /// Events by value.
    by_value: DayCounts,
    /// Events by value and item.
    by_pair: DayCounts,
}

/// Everything the features are made from.
#[derive(Debug, Clone)]
pub struct Knowledge {
    pub(super) timeline: Timeline,
    pub(super) has_time: bool,
    pub(super) width: usize,
    pub(super) item_columns: Vec<ItemColumn>,
    n_items: usize,
    /// The first day after the last event; 1 without time.
    end_day: i32,
    /// Unit vectors `[items, width]`.
    directions: Vec<f32>,
    /// All events, under the key 0.
    all: DayCounts,
    by_item: DayCounts,
    user_columns: Vec<UserColumn>,
    /// The items' first column of dates.
    dates: Option<(String, Vec<Option<i32>>)>,
    /// `ln(1 + followers)`, where they are known.
    followers: Vec<f32>,
    /// The day of each user's sign-up, where the users have a column for it.
    sign_ups: Vec<Option<i32>>,
}

impl Knowledge {
    /// From the tables of a dataset, the events that may be known and vectors of its items, of which the first `width` components are
    /// a direction. `followers` are those of the instant that is asked for.
    ///
    /// # Errors
    /// The errors of reading; [`Error::Internal`] if the parts are not of one dataset.
    pub fn new(
        dataset: &Dataset,
        timeline: Timeline,
        vectors: &Vectors,
        width: usize,
        followers: Option<Vec<f64>>,
    ) -> Result<Self> {
        let (users, items) = (dataset.users()?, dataset.items()?);
        if vectors.len() != items.len() || timeline.offsets.len() != users.len() + 1 || width > vectors.dim {
            return Err(Error::Internal(format!(
                "{} vectors for {} items, events of {} users for {}",
                vectors.len(),
                items.len(),
                timeline.offsets.len().saturating_sub(1),
                users.len()
            )));
        }
        let has_time = !timeline.timestamps_ms.is_empty();
        let day = |event: usize| timeline.timestamps_ms.get(event).map_or(0, |time| time.div_euclid(DAY_MS) as i32);
        let last_day = (0..timeline.items.len()).map(day).max().unwrap_or(0);
        let events = 0..timeline.items.len();
        let all = DayCounts::new(events.clone().map(|event| (0, day(event))).collect());
        let by_item = DayCounts::new(events.map(|event| (u64::from(timeline.items[event].0), day(event))).collect());
        let user_columns = user_columns(&users, &dataset.info.schema.users)
            .into_iter()
            .map(|(name, values)| {
                let mut by_value = Vec::new();
                let mut by_pair = Vec::new();
                for (user, &value) in values.iter().enumerate().filter(|(_, value)| **value != NONE) {
                    for event in timeline.range(UserIdx::from(user)) {
                        by_value.push((u64::from(value), day(event)));
                        by_pair.push((pair(value, timeline.items[event].0), day(event)));
                    }
                }
                UserColumn { name, values, by_value: DayCounts::new(by_value), by_pair: DayCounts::new(by_pair) }
            })
            .collect();
        let dates = items.columns.iter().find_map(|column| match &column.values {
            ColumnValues::Day(days) => Some((column.name.clone(), days.clone())),
            _ => None,
        });
        let followers = followers.unwrap_or_default();
        if !followers.is_empty() && followers.len() != items.len() {
            return Err(Error::Internal(format!("followers of {} of {} items", followers.len(), items.len())));
        }
        Ok(Self {
            has_time,
            width,
            item_columns: item_columns(&items, &users),
            n_items: items.len(),
            end_day: last_day + 1,
            directions: directions(vectors, width),
            all,
            by_item,
            user_columns,
            dates,
            followers: followers.into_iter().map(|count| count.max(0.0).ln_1p() as f32).collect(),
            sign_ups: sign_ups(&users, dataset.info.reference_day),
            timeline,
        })
    }

    /// The followers of the items table, where it has them: those of the dataset's last day.
    pub fn catalogue_followers(dataset: &Dataset) -> Result<Option<Vec<f64>>> {
        let items = dataset.items()?;
        Ok(items.columns.into_iter().find(|column| column.name == FOLLOWERS).and_then(|column| match column.values {
            ColumnValues::Number(values) => Some(values),
            _ => None,
        }))
    }

    /// The features of a row, in order.
    pub fn features(&self) -> Vec<Feature> {
        let fixed = FIXED.iter().map(|&(name, unit, source)| Feature {
            name: name.to_owned(),
            unit: unit.into(),
            source: source.into(),
        });
        let affinity = self.item_columns.iter().map(|column| of_column(ColumnFeature::Affinity, &column.name));
        let strength = self.item_columns.first().map(|column| of_column(ColumnFeature::Strength, &column.name));
        let age = self.dates.iter().map(|(name, _)| of_column(ColumnFeature::Age, name));
        let lift = self.user_columns.iter().map(|column| of_column(ColumnFeature::Lift, &column.name));
        let matching = self.item_columns.iter().filter(|column| column.of_users.is_some());
        let matching = matching.map(|column| of_column(ColumnFeature::Match, &column.name));
        fixed.chain(affinity).chain(strength).chain(age).chain(lift).chain(matching).collect()
    }

    /// The instant after everything that is known.
    pub fn end(&self) -> Instant {
        Instant { counts: self.end_day, today: self.end_day }
    }

    /// The instant of a request; counts end where the events do.
    pub fn at(&self, now_ms: i64) -> Instant {
        let today = now_ms.div_euclid(DAY_MS).clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32;
        if self.has_time { Instant { counts: today.min(self.end_day), today } } else { self.end() }
    }

    /// The day of the user's last event; the end for a user without any.
    pub fn last_event(&self, user: Option<UserIdx>) -> Instant {
        let last = user
            .filter(|user| user.index() + 1 < self.timeline.offsets.len())
            .and_then(|user| self.timeline.timestamps_ms.get(self.timeline.range(user))?.last());
        last.map_or_else(|| self.end(), |&last| self.at(last))
    }

    pub(super) fn direction(&self, item: usize) -> &[f32] {
        &self.directions[item * self.width..(item + 1) * self.width]
    }

    /// The day of the user's sign-up.
    pub(super) fn tenure(&self, user: UserIdx) -> Option<i32> {
        self.sign_ups.get(user.index()).copied().flatten()
    }

    /// A row of features `[candidates, features]` for each candidate. Those of the model are taken as given: the best score of the
    /// listener's list, and each candidate's place in it, from 0, where it stands there.
    ///
    /// # Errors
    /// [`Error::Input`] for an item beyond the catalogue.
    pub fn rows(
        &self,
        user: Option<UserIdx>,
        history: &[ItemIdx],
        instant: Instant,
        candidates: &[Candidate],
        best: f32,
    ) -> Result<Vec<f32>> {
        if let Some(item) = history
            .iter()
            .chain(candidates.iter().map(|one| &one.scored.item))
            .find(|item| item.index() >= self.n_items)
        {
            return Err(Error::input(format!("item {} is beyond the catalogue of {} items", item.0, self.n_items)));
        }
        let listener = Listener::new(self, user, history, instant);
        // What all candidates share of the lifts.
        let all_events = self.all.before(0, instant.counts) as f64;
        let lifts: Vec<Option<(u32, f64)>> = self
            .user_columns
            .iter()
            .map(|column| {
                let value =
                    user.and_then(|user| column.values.get(user.index())).copied().filter(|value| *value != NONE)?;
                Some((value, column.by_value.before(u64::from(value), instant.counts) as f64))
            })
            .collect();
        let mut rows = Vec::new();
        for candidate in candidates {
            self.push(&mut rows, &listener, user, candidate, best, instant);
            let item = candidate.scored.item;
            let share = (self.by_item.before(u64::from(item.0), instant.counts) as f64 + 1.0)
                / (all_events + self.n_items as f64);
            for (column, value) in self.user_columns.iter().zip(&lifts) {
                rows.push(value.map_or(f32::NAN, |(value, events)| {
                    let together = column.by_pair.before(pair(value, item.0), instant.counts) as f64;
                    ((together + LIFT_PRIOR * share) / (events + LIFT_PRIOR) / share).ln() as f32
                }));
            }
            for column in &self.item_columns {
                if let Some(of_users) = &column.of_users {
                    rows.push(matching(
                        user.and_then(|user| of_users.get(user.index())).copied(),
                        column.of(item.index()),
                    ));
                }
            }
        }
        Ok(rows)
    }

    /// Everything but lifts and matches.
    fn push(
        &self,
        rows: &mut Vec<f32>,
        listener: &Listener,
        user: Option<UserIdx>,
        candidate: &Candidate,
        best: f32,
        instant: Instant,
    ) {
        let item = candidate.scored.item;
        let key = u64::from(item.0);
        let log = |count: usize| (count as f32).ln_1p();
        let counted = |value: f32| if self.has_time { value } else { f32::NAN };
        let [all, month, week] = [
            self.by_item.before(key, instant.counts),
            self.by_item.last(key, 28, instant.counts),
            self.by_item.last(key, 7, instant.counts),
        ];
        let direction = self.direction(item.index());
        let dot = |other: &[f32]| direction.iter().zip(other).map(|(a, b)| a * b).sum::<f32>();
        let nearest = listener.recent.iter().map(|&other| dot(self.direction(other as usize))).fold(f32::NAN, f32::max);
        let length = listener.direction.iter().map(|x| x * x).sum::<f32>().sqrt();
        let share = |count: Option<&u32>| match listener.window {
            0 => f32::NAN,
            window => count.copied().unwrap_or(0) as f32 / window as f32,
        };
        let mean = |strength: Option<&(f32, u32)>| strength.map_or(f32::NAN, |(sum, count)| sum / *count as f32);
        let first = rows.len();
        rows.resize(first + FIXED.len(), f32::NAN);
        let mut set = |feature: Fixed, value: f32| rows[first + feature as usize] = value;
        set(Fixed::Score, candidate.scored.score);
        set(Fixed::Gap, best - candidate.scored.score);
        set(Fixed::Rank, candidate.place.map_or(f32::NAN, log));
        set(Fixed::LikenessRecent, if length > 0.0 { dot(&listener.direction) / length } else { f32::NAN });
        set(Fixed::LikenessNearest, nearest);
        set(Fixed::AffinityItem, share(listener.items.get(&item.0)));
        set(Fixed::StrengthItem, mean(listener.item_strength.get(&item.0)));
        let last = listener.last_days.get(&item.0);
        set(Fixed::RecencyItem, last.map_or(f32::NAN, |last| (instant.today - last).max(0) as f32));
        let appeared = self.by_item.first(key, instant.counts).map_or(f32::NAN, |first| (instant.today - first) as f32);
        set(Fixed::AgeFirstEvent, counted(appeared));
        set(Fixed::PopularityAll, log(all));
        set(Fixed::Popularity28, counted(log(month)));
        set(Fixed::Popularity7, counted(log(week)));
        set(Fixed::Trend, counted(((week as f32 + 1.0) / 7.0 / ((month as f32 + 4.0) / 28.0)).ln()));
        set(Fixed::Followers, self.followers.get(item.index()).copied().unwrap_or(f32::NAN));
        set(Fixed::ListenerEvents, log(listener.events));
        set(Fixed::ListenerTenure, if user.is_some() { listener.tenure } else { f32::NAN });
        set(Fixed::ListenerIdle, listener.idle);
        set(Fixed::Position, candidate.position as f32);
        for (column, counts) in self.item_columns.iter().zip(&listener.values) {
            let values = column.of(item.index());
            let sum: f32 = values.iter().map(|value| share(counts.get(value))).sum();
            rows.push(if values.is_empty() { f32::NAN } else { sum / values.len() as f32 });
        }
        if let Some(column) = self.item_columns.first() {
            let known = column.of(item.index()).iter().filter_map(|value| listener.value_strength.get(value));
            let (sum, count) = known.fold((0.0, 0), |(sum, count), one| (sum + one.0, count + one.1));
            rows.push(if count > 0 { sum / count as f32 } else { f32::NAN });
        }
        if let Some((_, days)) = &self.dates {
            rows.push(days[item.index()].map_or(f32::NAN, |day| (instant.today - day) as f32));
        }
    }
}

/// A candidate as the model and the page have it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// The item and the model's score.
    pub scored: Scored,
    /// Its place in the model's list, from 0, if it stands there.
    pub place: Option<usize>,
    /// Its place in the list that was shown; 0 when it is asked what to show.
    pub position: u32,
}

fn pair(value: u32, item: u32) -> u64 {
    u64::from(value) << 32 | u64::from(item)
}

fn matching(listener: Option<u32>, item: &[u32]) -> f32 {
    match listener {
        Some(value) if value != NONE && !item.is_empty() => f32::from(u8::from(item.contains(&value))),
        _ => f32::NAN,
    }
}

fn directions(vectors: &Vectors, width: usize) -> Vec<f32> {
    let mut directions = Vec::with_capacity(vectors.len() * width);
    for row in 0..vectors.len() {
        let vector = &vectors.row(row)[..width];
        let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
        directions.extend(vector.iter().map(|x| x / norm));
    }
    directions
}

/// The first columns of the users that fall into values, as numbers.
fn user_columns(users: &FeatureTable, declared: &Columns) -> Vec<(String, Vec<u32>)> {
    let numbers = |column: &Column| match (&column.values, declared.get(&column.name)) {
        (ColumnValues::Text(texts), _) => {
            let mut vocabulary = HashMap::new();
            Some(texts.iter().map(|text| text.as_deref().map_or(NONE, |text| number(&mut vocabulary, text))).collect())
        }
        (ColumnValues::Number(values), Some(FeatureKind::Bucketed { edges })) => {
            let bucket = |value: &f64| match value.is_nan() {
                true => NONE,
                false => edges.partition_point(|edge| edge <= value) as u32,
            };
            Some(values.iter().map(bucket).collect())
        }
        _ => None,
    };
    let columns = users.columns.iter().filter_map(|column| Some((column.name.clone(), numbers(column)?)));
    columns.take(USER_COLUMNS).collect()
}

fn item_columns(items: &FeatureTable, users: &FeatureTable) -> Vec<ItemColumn> {
    let is_text = |values: &ColumnValues| matches!(values, ColumnValues::Text(_) | ColumnValues::TextList(_));
    let of_column = |column: &Column| {
        let mut vocabulary = HashMap::new();
        let (mut offsets, mut values) = (vec![0], Vec::new());
        for item in 0..items.len() {
            values.extend(texts(&column.values, item).into_iter().map(|text| number(&mut vocabulary, text)));
            offsets.push(values.len());
        }
        // A user without a value matches nothing and fails nothing; one whose value no item has fails all.
        let of_user = |text: &Option<String>| match text {
            Some(text) => vocabulary.get(text.as_str()).copied().unwrap_or(NONE - 1),
            None => NONE,
        };
        let of_users =
            users.columns.iter().find(|other| other.name == column.name).and_then(|other| match &other.values {
                ColumnValues::Text(texts) => Some(texts.iter().map(of_user).collect()),
                _ => None,
            });
        ItemColumn { name: column.name.clone(), offsets, values, of_users }
    };
    items.columns.iter().filter(|column| is_text(&column.values)).take(ITEM_COLUMNS).map(of_column).collect()
}

/// The values of a row, none where the column holds no text.
fn texts(values: &ColumnValues, row: usize) -> Vec<&str> {
    match values {
        ColumnValues::Text(texts) => texts[row].as_deref().into_iter().collect(),
        ColumnValues::TextList(lists) => lists[row].iter().map(String::as_str).collect(),
        _ => Vec::new(),
    }
}

fn number<'a>(vocabulary: &mut HashMap<&'a str, u32>, text: &'a str) -> u32 {
    let next = vocabulary.len() as u32;
    *vocabulary.entry(text).or_insert(next)
}

fn sign_ups(users: &FeatureTable, reference_day: Option<i32>) -> Vec<Option<i32>> {
    let column = users.columns.iter().find(|column| column.name == TENURE);
    match (column.map(|column| &column.values), reference_day) {
        (Some(ColumnValues::Number(days)), Some(reference)) => {
            days.iter().map(|days| (!days.is_nan()).then(|| reference - *days as i32)).collect()
        }
        _ => Vec::new(),
    }
}
