//! The users and items tables: every figure counts only what happened before the cutoff day.

use std::collections::HashMap;

use chrono::NaiveDate;
use duet_core::{
    Result,
    ids::IdMap,
    schema::{Columns, FeatureKind, Schema},
    table::{Column, ColumnValues, FeatureTable},
};

use super::{
    account::{Account, age_bucket},
    catalogue::Artist,
    events::Collected,
    options::PrepareOptions,
    place,
};

/// Impressions that count as seen at the overall rate before a user's own are counted.
const RATE_PRIOR: f64 = 20.0;
/// Plays added on both sides of the trend, so that the rank of artists with few plays is not noise.
const TREND_PRIOR: f64 = 10.0;
const DAY_MS: i64 = 86_400_000;

/// The columns that `prepare` makes.
pub(super) fn schema() -> Schema {
    let categorical = || FeatureKind::Categorical {};
    let numeric = || FeatureKind::Numeric {};
    let columns = |list: Vec<(&str, FeatureKind)>| -> Columns {
        list.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect()
    };
    Schema {
        users: columns(vec![
            ("age_bucket", categorical()),
            ("gender", categorical()),
            ("city", categorical()),
            ("state", categorical()),
            ("country", categorical()),
            ("tenure_days", numeric()),
            ("click_rate", numeric()),
        ]),
        items: columns(vec![
            ("genres", FeatureKind::MultiCategorical { separator: "|".to_owned() }),
            ("followers", numeric()),
            ("follower_ratio", numeric()),
            ("trending_rank", numeric()),
            ("plays_7d", numeric()),
            ("plays_28d", numeric()),
            ("first_release", FeatureKind::Date {}),
        ]),
    }
}

fn assemble(
    ids: Vec<String>,
    names: Vec<String>,
    declared: &Columns,
    mut values: HashMap<&str, ColumnValues>,
) -> Result<FeatureTable> {
    let columns = declared
        .keys()
        .filter_map(|name| values.remove(name.as_str()).map(|values| Column { name: name.clone(), values }))
        .collect();
    let table = FeatureTable { ids: IdMap::new(ids)?, names, columns };
    table.check()?;
    Ok(table)
}

/// The users table; `order[row]` is the account of a row, `pseudonyms` are by account.
pub(super) fn users(
    options: &PrepareOptions,
    accounts: &[Account],
    pseudonyms: &[String],
    order: &[usize],
    collected: &Collected,
    cutoff_day: i32,
) -> Result<FeatureTable> {
    let reference = NaiveDate::from_epoch_days(cutoff_day - 1).unwrap_or_default();
    let coordinates: Vec<Option<(f64, f64)>> = order.iter().map(|&account| accounts[account].coordinates).collect();
    let mut places = place::locate(&coordinates);
    for (place, &account) in places.iter_mut().zip(order) {
        if place.country.is_none() {
            place.country.clone_from(&accounts[account].country);
        }
    }
    let cutoff_ms = i64::from(cutoff_day) * DAY_MS;
    let there: Vec<bool> =
        order.iter().map(|&account| accounts[account].created_ms.is_none_or(|at| at < cutoff_ms)).collect();
    place::fold(&mut places, &there, options.min_users_per_place);

    let mut shown = vec![(0.0, 0.0); accounts.len()];
    let mut all = (0.0, 0.0);
    for (&(user, day), &(clicks, impressions)) in &collected.shown {
        if day < cutoff_day {
            // Whole numbers: the order of the sums does not matter.
            let sums: &mut (f64, f64) = &mut shown[user as usize];
            sums.0 += f64::from(clicks);
            sums.1 += f64::from(impressions);
            all.0 += f64::from(clicks);
            all.1 += f64::from(impressions);
        }
    }
    let overall = if all.1 > 0.0 { all.0 / all.1 } else { 0.0 };
    let rate = |account: usize| {
        let (clicks, impressions) = shown[account];
        100.0 * (clicks + RATE_PRIOR * overall) / (impressions + RATE_PRIOR)
    };
    let tenure = |account: usize| {
        accounts[account]
            .created_ms
            .map_or(f64::NAN, |at| f64::from((cutoff_day - 1 - at.div_euclid(DAY_MS) as i32).max(0)))
    };
    let age = |account: usize| {
        accounts[account].age.and_then(|age| age.years_on(reference)).map(|years| age_bucket(years, &options.age_edges))
    };
    let text = |of: &dyn Fn(&place::Place) -> Option<String>| ColumnValues::Text(places.iter().map(of).collect());
    let values = HashMap::from([
        ("age_bucket", ColumnValues::Text(order.iter().map(|&account| age(account)).collect())),
        ("gender", ColumnValues::Text(order.iter().map(|&account| accounts[account].gender.clone()).collect())),
        ("city", text(&|place| place.city.clone())),
        ("state", text(&|place| place.state.clone())),
        ("country", text(&|place| place.country.clone())),
        ("tenure_days", ColumnValues::Number(order.iter().map(|&account| tenure(account)).collect())),
        ("click_rate", ColumnValues::Number(order.iter().map(|&account| rate(account)).collect())),
    ]);
    let ids = order.iter().map(|&account| pseudonyms[account].clone()).collect();
    assemble(ids, Vec::new(), &schema().users, values)
}

/// The items table; `order[row]` is the artist of a row, `followers` are by artist.
pub(super) fn items(
    artists: &[Artist],
    order: &[usize],
    followers: &[f64],
    collected: &Collected,
    cutoff_day: i32,
) -> Result<FeatureTable> {
    let mut plays = vec![(0.0, 0.0); artists.len()];
    for (&(artist, day), &count) in &collected.plays {
        let back = cutoff_day - day;
        let sums: &mut (f64, f64) = &mut plays[artist as usize];
        if (1..=7).contains(&back) {
            sums.0 += f64::from(count);
        }
        if (1..=28).contains(&back) {
            sums.1 += f64::from(count);
        }
    }
    let trend: Vec<f64> =
        order.iter().map(|&artist| (plays[artist].0 + TREND_PRIOR) / (plays[artist].1 / 4.0 + TREND_PRIOR)).collect();
    let mut sorted = trend.clone();
    sorted.sort_by(|a, b| b.total_cmp(a));
    // 1 for the fastest riser; artists of equal trend share the better rank.
    let rank = |trend: f64| 1.0 + sorted.partition_point(|other| *other > trend) as f64;
    let number = |of: &dyn Fn(usize) -> f64| ColumnValues::Number(order.iter().map(|&artist| of(artist)).collect());
    let values = HashMap::from([
        ("genres", ColumnValues::TextList(order.iter().map(|&artist| artists[artist].genres.clone()).collect())),
        ("followers", number(&|artist| followers[artist])),
        (
            "follower_ratio",
            number(&|artist| artists[artist].following.map_or(f64::NAN, |count| followers[artist] / count.max(1.0))),
        ),
        ("trending_rank", ColumnValues::Number(trend.iter().map(|value| rank(*value)).collect())),
        ("plays_7d", number(&|artist| plays[artist].0)),
        ("plays_28d", number(&|artist| plays[artist].1)),
        ("first_release", ColumnValues::Day(order.iter().map(|&artist| artists[artist].first_release).collect())),
    ]);
    let ids = order.iter().map(|&artist| artists[artist].id.clone()).collect();
    let names = order.iter().map(|&artist| artists[artist].name.clone()).collect();
    assemble(ids, names, &schema().items, values)
}
