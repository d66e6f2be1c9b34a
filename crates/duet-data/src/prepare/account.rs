//! Reading accounts: only the columns that features are made of, and the raw id as long as events must be joined.

use std::{collections::HashMap, path::Path};

use chrono::{DateTime, NaiveDate, NaiveDateTime};
use duet_core::{Error, Result};

use super::table::{Table, parse_day, parse_number};

/// An account before it becomes features.
#[derive(Debug, Clone)]
pub(super) struct Account {
    /// The source's id; never written.
    pub(super) user_id: String,
    pub(super) age: Option<Age>,
    pub(super) gender: Option<String>,
    pub(super) country: Option<String>,
    /// Degrees north and east; never written.
    pub(super) coordinates: Option<(f64, f64)>,
    /// Milliseconds since 1970-01-01 UTC.
    pub(super) created_ms: Option<i64>,
}

/// An age, or what it follows from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Age {
    Years(u32),
    Born(NaiveDate),
}

impl Age {
    /// Full years on a day.
    pub(super) fn years_on(self, day: NaiveDate) -> Option<u32> {
        match self {
            Self::Years(years) => Some(years),
            Self::Born(born) => day.years_since(born),
        }
    }
}

/// "18-24" for edges 18 and 25; "<18" and "55+" at the ends.
pub(super) fn age_bucket(years: u32, edges: &[u32]) -> String {
    match edges.partition_point(|edge| *edge <= years) {
        0 => format!("<{}", edges[0]),
        bucket if bucket == edges.len() => format!("{}+", edges[bucket - 1]),
        bucket => format!("{}-{}", edges[bucket - 1], edges[bucket] - 1),
    }
}

/// Reads the accounts in file order. Columns: `user_id` (required), `age` or `birth_date`, `gender`, `country`, `lat`
/// with `lon`, `created_at`. All others are left alone.
pub(super) fn read(path: &Path) -> Result<Vec<Account>> {
    let table = Table::open(path, &["user_id"])?;
    let [id, age, born, gender, country, lat, lon, created] =
        ["user_id", "age", "birth_date", "gender", "country", "lat", "lon", "created_at"]
            .map(|name| table.column(name));
    if lat.is_some() != lon.is_some() {
        return Err(Error::data(path, "lat and lon belong together, but one of the columns is missing"));
    }
    let mut accounts: Vec<Account> = Vec::new();
    let mut rows: HashMap<String, u64> = HashMap::new();
    table.for_each(|cells| {
        let user_id = cells.required(id, "user_id")?.to_owned();
        if let Some(first) = rows.insert(user_id.clone(), cells.row) {
            return Err(Error::data_row(path, cells.row, format!("column \"user_id\": the same id as in row {first}")));
        }
        let years = cells.parse(age, "age", "whole years from 0 to 130", |text| {
            text.parse::<u32>().ok().filter(|years| *years <= 130)
        })?;
        let born = cells.parse(born, "birth_date", "a date like 1990-12-31", |text| text.parse::<NaiveDate>().ok())?;
        let degrees = |limit: f64| move |text: &str| parse_number(text).filter(|value| value.abs() <= limit);
        let lat = cells.parse(lat, "lat", "degrees from -90 to 90", degrees(90.0))?;
        let lon = cells.parse(lon, "lon", "degrees from -180 to 180", degrees(180.0))?;
        accounts.push(Account {
            user_id,
            age: years.map(Age::Years).or(born.map(Age::Born)),
            gender: cells.text(gender).map(str::to_lowercase),
            country: cells.text(country).map(str::to_uppercase),
            coordinates: lat.zip(lon),
            created_ms: cells.parse(created, "created_at", "a date or an RFC 3339 time", parse_instant)?,
        });
        Ok(())
    })?;
    if accounts.is_empty() {
        return Err(Error::data(path, "no accounts below the header"));
    }
    Ok(accounts)
}

/// RFC 3339, the same without an offset or with a space (then UTC), or a date (midnight UTC).
fn parse_instant(text: &str) -> Option<i64> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Some(at.timestamp_millis());
    }
    for format in ["%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M:%S%.f%#z"] {
        if let Ok(at) = DateTime::parse_from_str(text, format) {
            return Some(at.timestamp_millis());
        }
    }
    for format in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"] {
        if let Ok(at) = NaiveDateTime::parse_from_str(text, format) {
            return Some(at.and_utc().timestamp_millis());
        }
    }
    parse_day(text).map(|day| i64::from(day) * 86_400_000)
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
        let born = Age::Born(NaiveDate::from_ymd_opt(2000, 2, 29).unwrap());
        assert_eq!(born.years_on(NaiveDate::from_ymd_opt(2025, 2, 28).unwrap()), Some(24));
        assert_eq!(born.years_on(NaiveDate::from_ymd_opt(2025, 3, 1).unwrap()), Some(25));
    }

    #[test]
    fn instants_come_in_several_forms() {
        let noon = Some(1_735_732_800_000);
        for text in
            ["2025-01-01T12:00:00Z", "2025-01-01T14:00:00+02:00", "2025-01-01 12:00:00", "2025-01-01 13:00:00+01"]
        {
            assert_eq!(parse_instant(text), noon, "{text}");
        }
        assert_eq!(parse_instant("2025-01-01"), Some(1_735_689_600_000));
        assert_eq!(parse_instant("yesterday"), None);
    }
}
