//! Instants and days as people write them.
//!
//! Numbers are Unix time; the unit follows from the magnitude: below 1e11 seconds (until the year 5138), below 1e14
//! milliseconds, below 1e17 microseconds, above nanoseconds. One file has one unit and one form throughout.

use chrono::{DateTime, NaiveDate, NaiveDateTime};

/// Milliseconds of a day.
pub(crate) const DAY_MS: i64 = 86_400_000;

/// Milliseconds since 1970-01-01 UTC of RFC 3339, or `YYYY-MM-DD[ HH:MM[:SS[.f]]]` (taken as UTC).
pub(crate) fn parse_text(text: &str) -> Option<i64> {
    if let Ok(instant) = DateTime::parse_from_rfc3339(text) {
        return Some(instant.timestamp_millis());
    }
    if let Ok(day) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Some(day.and_hms_opt(0, 0, 0)?.and_utc().timestamp_millis());
    }
    ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
        .map(|instant| instant.and_utc().timestamp_millis())
}

/// Days since 1970-01-01 of any text [`parse_text`] knows, `YYYY/MM/DD`, `DD-Mon-YYYY`, or `DD Mon YYYY`.
pub(crate) fn parse_day_text(text: &str) -> Option<i32> {
    let day = ["%d-%b-%Y", "%Y/%m/%d", "%d %b %Y"]
        .iter()
        .find_map(|format| NaiveDate::parse_from_str(text, format).ok())
        .map(|day| day.to_epoch_days());
    day.or_else(|| i32::try_from(parse_text(text)?.div_euclid(DAY_MS)).ok())
}

/// As [`parse_day_text`], and also `YYYYMMDD` and Unix time of at least nine digits.
pub(crate) fn parse_day(text: &str) -> Option<i32> {
    let digits = text.strip_suffix(".0").unwrap_or(text);
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return parse_day_text(text);
    }
    match digits.len() {
        8 => NaiveDate::parse_from_str(digits, "%Y%m%d").ok().map(|day| day.to_epoch_days()),
        9.. => {
            let value = digits.parse::<i64>().ok()? as f64;
            i32::try_from((Unit::of(value).to_ms(value)).div_euclid(DAY_MS)).ok()
        }
        _ => None,
    }
}

/// The unit of a Unix time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Seconds,
    Milliseconds,
    Microseconds,
    Nanoseconds,
}

impl Unit {
    fn of(value: f64) -> Self {
        match value.abs() {
            value if value < 1e11 => Self::Seconds,
            value if value < 1e14 => Self::Milliseconds,
            value if value < 1e17 => Self::Microseconds,
            _ => Self::Nanoseconds,
        }
    }

    fn to_ms(self, value: f64) -> i64 {
        (match self {
            Self::Seconds => value * 1e3,
            Self::Milliseconds => value,
            Self::Microseconds => value / 1e3,
            Self::Nanoseconds => value / 1e6,
        })
        .floor() as i64
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Number(Unit),
    Text,
}

/// Reads one column of instants; the first value decides the form, and every other must share it.
#[derive(Debug, Default)]
pub(crate) struct InstantColumn {
    form: Option<Form>,
}

impl InstantColumn {
    /// Milliseconds since 1970-01-01 UTC, or what is wrong with the cell.
    pub(crate) fn parse(&mut self, text: &str) -> Result<i64, String> {
        let number = text.parse::<f64>().ok();
        let (form, value) = match number {
            Some(value) if !value.is_finite() => return Err(format!("timestamp {text:?} is not finite")),
            // Zero fits every unit.
            Some(0.0) if !matches!(self.form, Some(Form::Text)) => return Ok(0),
            Some(value) => (Form::Number(Unit::of(value)), Unit::of(value).to_ms(value)),
            None => (
                Form::Text,
                parse_text(text).ok_or_else(|| {
                    format!(
                        "timestamp {text:?} is neither Unix time, nor RFC 3339, nor YYYY-MM-DD or YYYY-MM-DD HH:MM:SS"
                    )
                })?,
            ),
        };
        match *self.form.get_or_insert(form) {
            first if first == form => Ok(value),
            first => {
                Err(format!("timestamp {text:?} is read as {form:?}, those above as {first:?}: one file, one form"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_gives_the_same_instant() {
        let expected = Ok(1_700_000_000_000);
        for text in [
            "1700000000",
            "1700000000.0",
            "1700000000000",
            "1700000000000000",
            "1700000000000000000",
            "2023-11-14T22:13:20Z",
            "2023-11-15T00:13:20+02:00",
            "2023-11-14 22:13:20",
            "2023-11-14T22:13:20.000",
        ] {
            assert_eq!(InstantColumn::default().parse(text), expected, "{text}");
        }
        let mut column = InstantColumn::default();
        assert_eq!(column.parse("1700000000.25"), Ok(1_700_000_000_250));
        assert_eq!(column.parse("0"), Ok(0));
        assert!(column.parse("1700000000000").is_err_and(|message| message.contains("Milliseconds")));
        assert!(column.parse("2023-11-14").is_err());
        assert!(column.parse("inf").is_err_and(|message| message.contains("not finite")));
        assert!(InstantColumn::default().parse("yesterday").is_err());
    }

    #[test]
    fn days_in_every_form() {
        for text in
            ["1995-01-01", "01-Jan-1995", "1995/01/01", "19950101", "19950101.0", "788918400", "1995-01-01 23:59:59"]
        {
            assert_eq!(parse_day(text), Some(9131), "{text}");
        }
        assert_eq!(parse_day("1995"), None);
        assert_eq!(parse_day("1969-12-31"), Some(-1));
    }
}
