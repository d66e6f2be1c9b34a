//! By what users and items are divided: what is known of the users, how much they did, what is known of the items.
//!
//! Of the users: the number of training events (`history`, and tenths of it, `activity`), how long they have been there (`tenure`), the
//! size of their city, and every column of the users' schema. Of the items: popularity, and the ratio of followers to followed
//! where the catalogue has it. Everything is known before the held-out period.

use std::{cmp::Ordering, collections::BTreeMap};

use duet_core::{
    number::grouped,
    schema::{Columns, FeatureKind},
    table::{ColumnValues, FeatureTable},
};
use duet_data::dataset::Timeline;
use duet_retrieval::{
    Panel,
    segments::{Division, FoldLimits, Group, ItemDivision, popularity_parts},
};

/// Users who have been there shorter than this are new.
const NEW_DAYS: f64 = 28.0;
/// First number of training events of each group of `history`, and of each part of items by events.
const HISTORY_FROM: [usize; 5] = [0, 1, 2, 6, 21];
const HISTORY_LABELS: [&str; 5] = ["0", "1", "2-5", "6-20", "21+"];
/// First number of users of a city of each size.
const CITY_FROM: [usize; 4] = [0, 100, 1_000, 10_000];
/// Years at which an age bucket begins, where ages come as numbers.
const AGE_FROM: [f64; 6] = [f64::NEG_INFINITY, 18.0, 25.0, 35.0, 45.0, 55.0];
const UNKNOWN: &str = "unknown";
const DAY_MS: f64 = 86_400_000.0;

/// What users are divided by.
pub(super) struct UserKnowledge<'a> {
    pub(super) panel: &'a Panel,
    pub(super) users: &'a FeatureTable,
    pub(super) columns: &'a Columns,
    pub(super) timeline: &'a Timeline,
}

impl UserKnowledge<'_> {
    /// All divisions, folded.
    pub(super) fn divisions(&self, limits: FoldLimits) -> Vec<Division> {
        let mut divisions = vec![("history", self.history()), ("activity, tenths of users by events", self.activity())];
        divisions.extend(self.tenure().map(|groups| ("tenure", groups)));
        divisions.extend(self.city_size().map(|groups| ("city size", groups)));
        // The length of stay has its division.
        let columns = self.users.columns.iter().filter(|column| column.name != TENURE);
        divisions.extend(columns.map(|column| (column.name.as_str(), self.column(&column.name, &column.values))));
        divisions.into_iter().map(|(name, groups)| Division::fold(name, groups, limits)).collect()
    }

    /// By number of training events, all groups, however small.
    pub(super) fn history(&self) -> Vec<Group> {
        let of = |place: usize| Some(HISTORY_FROM.partition_point(|from| *from <= self.events(place)) - 1);
        self.group(&HISTORY_LABELS, of)
    }

    fn events(&self, place: usize) -> usize {
        self.panel.cases()[place].history.len()
    }

    fn row(&self, place: usize) -> Option<usize> {
        self.panel.cases()[place].user.map(duet_core::UserIdx::index)
    }

    /// Groups by a number for each place of the panel; places without one are unknown.
    fn group<L: AsRef<str>>(&self, labels: &[L], of: impl Fn(usize) -> Option<usize>) -> Vec<Group> {
        let names = labels.iter().map(AsRef::as_ref).chain([UNKNOWN]);
        let mut groups: Vec<Group> = names.map(|label| Group { label: label.to_owned(), users: Vec::new() }).collect();
        for place in 0..self.panel.len() {
            groups[of(place).unwrap_or(labels.len())].users.push(place as u32);
        }
        groups
    }

    /// Tenths of those with training events. Users of equally many events stay together, so tenths differ in size.
    fn activity(&self) -> Vec<Group> {
        let events: Vec<f64> = (0..self.panel.len()).map(|place| self.events(place) as f64).collect();
        let values = |place: usize| (events[place] > 0.0).then_some(events[place]);
        self.quantiles(10, values, "no events", |number| grouped(number as u64))
    }

    /// New and old users: by sign-up where that is known, else by the first training event, as of the last one.
    fn tenure(&self) -> Option<Vec<Group>> {
        let days: Box<dyn Fn(usize) -> Option<f64>> =
            match self.users.columns.iter().find(|column| column.name == TENURE) {
                Some(column) => {
                    let ColumnValues::Number(values) = &column.values else { return None };
                    Box::new(|place| self.row(place).map(|row| values[row]).filter(|days| !days.is_nan()))
                }
                None => {
                    let last = *self.timeline.timestamps_ms.iter().max()?;
                    Box::new(move |place| {
                        let user = self.panel.cases()[place].user?;
                        let first = *self.timeline.timestamps_ms.get(self.timeline.range(user))?.first()?;
                        Some((last - first) as f64 / DAY_MS)
                    })
                }
            };
        let labels = [format!("new: under {NEW_DAYS} days"), format!("old: {NEW_DAYS} days or more")];
        Some(self.group(&labels, |place| days(place).map(|days| usize::from(days >= NEW_DAYS))))
    }

    fn city_size(&self) -> Option<Vec<Group>> {
        let column = self.users.columns.iter().find(|column| column.name == "city")?;
        let ColumnValues::Text(cities) = &column.values else { return None };
        let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
        for city in cities.iter().flatten() {
            *sizes.entry(city).or_default() += 1;
        }
        let labels: Vec<String> = (0..CITY_FROM.len())
            .map(|at| match CITY_FROM.get(at + 1) {
                Some(next) => format!("{}-{} users", grouped(CITY_FROM[at].max(1) as u64), grouped(*next as u64 - 1)),
                None => format!("{} users or more", grouped(CITY_FROM[at] as u64)),
            })
            .collect();
        Some(self.group(&labels, |place| {
            let city = cities[self.row(place)?].as_deref()?;
            Some(CITY_FROM.partition_point(|from| *from <= sizes[city]) - 1)
        }))
    }

    /// By the values of a column; numbers by their declared or customary buckets, else by quarters.
    fn column(&self, name: &str, values: &ColumnValues) -> Vec<Group> {
        match values {
            ColumnValues::Text(values) => self.values(|row, push| {
                if let Some(value) = &values[row] {
                    push(value);
                }
            }),
            ColumnValues::TextList(values) => self.values(|row, push| {
                for value in &values[row] {
                    push(value);
                }
            }),
            ColumnValues::Number(values) => {
                let value = |place: usize| self.row(place).map(|row| values[row]).filter(|value| !value.is_nan());
                match self.columns.get(name) {
                    Some(FeatureKind::Bucketed { edges }) => {
                        let edges: Vec<f64> = [f64::NEG_INFINITY].iter().chain(edges).copied().collect();
                        self.buckets(&edges, value)
                    }
                    _ if name == "age" => self.buckets(&AGE_FROM, value),
                    _ => self.quantiles(4, value, UNKNOWN, number_name),
                }
            }
            ColumnValues::Day(days) => {
                let value = |place: usize| self.row(place).and_then(|row| days[row]).map(f64::from);
                self.quantiles(4, value, UNKNOWN, day_name)
            }
        }
    }

    /// One group a value, by name. A user of several values is in several groups.
    fn values<'v>(&self, of: impl Fn(usize, &mut dyn FnMut(&'v String))) -> Vec<Group> {
        let mut groups: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        let mut unknown = Vec::new();
        for place in 0..self.panel.len() {
            let mut is_known = false;
            if let Some(row) = self.row(place) {
                of(row, &mut |value| {
                    let users = groups.entry(value).or_default();
                    if users.last() != Some(&(place as u32)) {
                        users.push(place as u32);
                    }
                    is_known = true;
                });
            }
            if !is_known {
                unknown.push(place as u32);
            }
        }
        let known = groups.into_iter().map(|(label, users)| Group { label: label.to_owned(), users });
        known.chain([Group { label: UNKNOWN.to_owned(), users: unknown }]).collect()
    }

    /// `from` are the first values of the buckets, the first of them -infinity.
    fn buckets(&self, from: &[f64], value: impl Fn(usize) -> Option<f64>) -> Vec<Group> {
        let labels: Vec<String> = (0..from.len())
            .map(|at| match (at, from.get(at + 1)) {
                (0, Some(next)) => format!("under {}", number_name(*next)),
                (_, Some(next)) => format!("{} to under {}", number_name(from[at]), number_name(*next)),
                (_, None) => format!("{} or more", number_name(from[at])),
            })
            .collect();
        self.group(&labels, |place| value(place).map(|value| from.partition_point(|from| *from <= value) - 1))
    }

    fn quantiles(
        &self,
        parts: usize,
        value: impl Fn(usize) -> Option<f64>,
        unknown: &str,
        name: impl Fn(f64) -> String,
    ) -> Vec<Group> {
        let values: Vec<f64> = (0..self.panel.len()).filter_map(&value).collect();
        let ranges = quantile_ranges(values, parts);
        let labels: Vec<String> = ranges.iter().map(|range| range_name(*range, &name)).collect();
        let of = |value: f64| ranges.partition_point(|(_, last)| *last < value);
        let mut groups = self.group(&labels, |place| value(place).map(of));
        if let Some(last) = groups.last_mut() {
            last.label = unknown.to_owned();
        }
        groups
    }
}

const TENURE: &str = "tenure_days";
/// The ratio of an artist's followers to those it follows.
const FOLLOWER_RATIO: &str = "follower_ratio";

/// By popularity, and by the ratio of followers where it is known.
pub(super) fn item_divisions(items: &FeatureTable, popularity: &[u32]) -> Vec<ItemDivision> {
    let mut divisions = vec![popularity_parts(popularity)];
    let column = items.columns.iter().find(|column| column.name == FOLLOWER_RATIO);
    if let Some(ColumnValues::Number(values)) = column.map(|column| &column.values) {
        let ranges = quantile_ranges(values.iter().copied().filter(|value| !value.is_nan()).collect(), 4);
        let mut labels: Vec<String> = ranges.iter().map(|range| range_name(*range, &number_name)).collect();
        labels.push(UNKNOWN.to_owned());
        let part = |value: &f64| match value.is_nan() {
            true => ranges.len() as u8,
            false => ranges.partition_point(|(_, last)| last < value) as u8,
        };
        let parts = values.iter().map(|value| Some(part(value))).collect();
        divisions.push(ItemDivision { name: "follower ratio of the artist".to_owned(), labels, parts });
    }
    divisions
}

/// By training events: what is new to the recommenders.
pub(super) fn items_by_events(events: &[u32]) -> ItemDivision {
    let part = |&count: &u32| Some((HISTORY_FROM.partition_point(|from| *from <= count as usize) - 1) as u8);
    ItemDivision {
        name: "training events of the item".to_owned(),
        labels: HISTORY_LABELS.map(str::to_owned).to_vec(),
        parts: events.iter().map(part).collect(),
    }
}

/// First and last value of each part of about equally many values; equal values stay together, so there may be fewer parts.
fn quantile_ranges(mut values: Vec<f64>, parts: usize) -> Vec<(f64, f64)> {
    values.sort_unstable_by(f64::total_cmp);
    let mut ranges: Vec<(f64, f64)> = Vec::new();
    let mut start = 0;
    for part in 1..=parts {
        let wanted = part * values.len() / parts;
        if wanted <= start {
            continue;
        }
        let last = values[wanted - 1];
        let end = values.partition_point(|value| value.total_cmp(&last) != Ordering::Greater);
        ranges.push((values[start], last));
        start = end;
    }
    ranges
}

fn range_name((first, last): (f64, f64), name: &impl Fn(f64) -> String) -> String {
    let (first, last) = (name(first), name(last));
    if first == last { first } else { format!("{first} to {last}") }
}

/// Three significant digits, whole numbers in full.
fn number_name(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if value.fract() == 0.0 && size < 1e9 => {
            format!("{}{}", if value < 0.0 { "-" } else { "" }, grouped(size as u64))
        }
        _ if !(1e-3..1e9).contains(&size) => format!("{value:.2e}"),
        _ => format!("{value:.*}", (2 - size.log10().floor() as i32).clamp(0, 5) as usize),
    }
}

fn day_name(day: f64) -> String {
    chrono::NaiveDate::from_epoch_days(day as i32).map_or_else(|| number_name(day), |date| date.to_string())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use duet_core::{ItemIdx, UserIdx, ids::IdMap, schema::FeatureKind, table::Column};
    use duet_retrieval::EvaluationCase;

    use super::*;

    /// Six users; the last one is in no table. User n has n events, a day apart, the last ones at the same time.
    fn fixture() -> (Panel, FeatureTable, Columns, Timeline) {
        let case = |user: u32| EvaluationCase {
            user_id: format!("u{user}"),
            user: (user < 5).then_some(UserIdx(user)),
            history: vec![ItemIdx(0); if user < 5 { user as usize } else { 0 }],
            exclude: Vec::new(),
            truth: vec![ItemIdx(1)],
            unknown_truth: 0,
            cold: user == 0 || user == 5,
        };
        let panel = Panel::new((0..6).map(case).collect()).unwrap();
        let text = |values: [&str; 5]| {
            ColumnValues::Text(values.map(|value| (!value.is_empty()).then(|| value.to_owned())).to_vec())
        };
        let columns = vec![
            Column { name: "age".into(), values: ColumnValues::Number(vec![17.0, 18.0, 30.0, 61.0, f64::NAN]) },
            Column { name: "city".into(), values: text(["Bonn", "Oslo", "Oslo", "", "Oslo"]) },
            Column {
                name: "clubs".into(),
                values: ColumnValues::TextList(
                    [&["a", "b"][..], &["b", "b"], &[], &["a"], &[]]
                        .map(|list| list.iter().map(|&club| club.to_owned()).collect())
                        .to_vec(),
                ),
            },
            Column {
                name: "joined".into(),
                values: ColumnValues::Day(vec![Some(0), Some(1), Some(365), None, Some(2)]),
            },
            Column { name: "score".into(), values: ColumnValues::Number(vec![-1.0, 0.0, 5.0, 9.5, 10.0]) },
        ];
        let ids = IdMap::new((0..5).map(|user| format!("u{user}")).collect()).unwrap();
        let users = FeatureTable { ids, names: Vec::new(), columns };
        let schema = Columns::from([("score".to_owned(), FeatureKind::Bucketed { edges: vec![0.0, 9.5] })]);
        let mut timeline = Timeline { offsets: vec![0], ..Timeline::default() };
        for user in 0..5_i64 {
            for event in 0..user {
                timeline.items.push(ItemIdx(0));
                timeline.timestamps_ms.push((100 - 10 * (user - event)) * 86_400_000);
            }
            timeline.offsets.push(timeline.items.len());
        }
        (panel, users, schema, timeline)
    }

    fn shown(groups: &[Group]) -> Vec<(&str, &[u32])> {
        let filled = groups.iter().filter(|group| !group.users.is_empty());
        filled.map(|group| (group.label.as_str(), group.users.as_slice())).collect()
    }

    #[test]
    fn users_are_divided_by_what_is_known_of_them() {
        let (panel, users, columns, timeline) = fixture();
        let known = UserKnowledge { panel: &panel, users: &users, columns: &columns, timeline: &timeline };
        let history = known.history();
        assert_eq!(shown(&history), [("0", &[0, 5][..]), ("1", &[1]), ("2-5", &[2, 3, 4])]);
        let of = |name: &str| {
            let column = users.column(name).unwrap();
            known.column(name, &column.values)
        };
        let ages = of("age");
        let expected: [(&str, &[u32]); 5] = [
            ("under 18", &[0]),
            ("18 to under 25", &[1]),
            ("25 to under 35", &[2]),
            ("55 or more", &[3]),
            ("unknown", &[4, 5]),
        ];
        assert_eq!(shown(&ages), expected);
        let cities = of("city");
        assert_eq!(shown(&cities), [("Bonn", &[0][..]), ("Oslo", &[1, 2, 4]), ("unknown", &[3, 5])]);
        let clubs = of("clubs");
        assert_eq!(shown(&clubs), [("a", &[0, 3][..]), ("b", &[0, 1]), ("unknown", &[2, 4, 5])]);
        let scores = of("score");
        let expected: [(&str, &[u32]); 4] =
            [("under 0", &[0]), ("0 to under 9.50", &[1, 2]), ("9.50 or more", &[3, 4]), ("unknown", &[5])];
        assert_eq!(shown(&scores), expected);
        let days = of("joined");
        let labels: Vec<&str> = shown(&days).iter().map(|(label, _)| *label).collect();
        assert_eq!(labels, ["1970-01-01", "1970-01-02", "1970-01-03", "1971-01-01", "unknown"]);
        let sizes = known.city_size().unwrap();
        assert_eq!(shown(&sizes), [("1-99 users", &[0, 1, 2, 4][..]), ("unknown", &[3, 5])]);
        // The last event is on day 90; user n began 10 (n - 1) days before.
        let tenure = known.tenure().unwrap();
        assert_eq!(
            shown(&tenure),
            [("new: under 28 days", &[1, 2, 3][..]), ("old: 28 days or more", &[4]), ("unknown", &[0, 5])]
        );
        let names: Vec<String> = known
            .divisions(FoldLimits { min_users: 1, max_groups: 9 })
            .into_iter()
            .map(|division| division.name)
            .collect();
        let expected = [
            "history",
            "activity, tenths of users by events",
            "tenure",
            "city size",
            "age",
            "city",
            "clubs",
            "joined",
            "score",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn quantiles_keep_equal_values_together() {
        let ranges = |values: &[f64], parts| quantile_ranges(values.to_vec(), parts);
        assert_eq!(ranges(&[4.0, 1.0, 3.0, 2.0], 2), [(1.0, 2.0), (3.0, 4.0)]);
        assert_eq!(ranges(&[1.0, 1.0, 1.0, 1.0, 7.0], 4), [(1.0, 1.0), (7.0, 7.0)]);
        assert_eq!(ranges(&[2.0], 10), [(2.0, 2.0)]);
        assert!(ranges(&[], 4).is_empty());
    }

    #[test]
    fn items_are_divided_by_events_and_followers() {
        let ids = IdMap::new((0..5).map(|item| format!("i{item}")).collect()).unwrap();
        let values = ColumnValues::Number(vec![1.0, 200.0, f64::NAN, 30.0, 4.0]);
        let items =
            FeatureTable { ids, names: Vec::new(), columns: vec![Column { name: "follower_ratio".into(), values }] };
        let divisions = item_divisions(&items, &[1, 2, 3, 4, 5]);
        assert_eq!(divisions.len(), 2);
        assert_eq!(divisions[1].labels, ["1", "4", "30", "200", "unknown"]);
        assert_eq!(divisions[1].parts, [0, 3, 4, 2, 1].map(Some));
        assert_eq!(items_by_events(&[0, 1, 5, 6, 20, 21]).parts, [0, 1, 2, 3, 3, 4].map(Some));
    }
}
