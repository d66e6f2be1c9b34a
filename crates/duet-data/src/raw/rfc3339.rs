//! RFC 3339 times, as [`chrono::DateTime::parse_from_rfc3339`] reads them, in a tenth of its time: a time stands in every line.

/// A point in time, and what the clock on the wall said there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rfc3339 {
    /// Seconds of the local clock since 1970-01-01; a leap second has the number of the second before it.
    local_seconds: i64,
    offset_seconds: i64,
    /// Milliseconds, rounded down; from 1000 on in a leap second.
    millis: i64,
}

impl Rfc3339 {
    /// Any case of T and Z, a space for T, any number of decimals, a leap second, U+2212 for minus.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let (fixed, mut rest) = text.split_at_checked(19)?;
        let digit = |at: usize| {
            let digit = fixed[at].wrapping_sub(b'0');
            (digit < 10).then_some(i64::from(digit))
        };
        let pair = |at: usize| Some(digit(at)? * 10 + digit(at + 1)?);
        let year = pair(0)? * 100 + pair(2)?;
        let (month, day, hour, minute, second) = (pair(5)?, pair(8)?, pair(11)?, pair(14)?, pair(17)?);
        let separated = fixed[4] == b'-' && fixed[7] == b'-' && matches!(fixed[10], b'T' | b't' | b' ');
        if !separated || fixed[13] != b':' || fixed[16] != b':' {
            return None;
        }
        if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
            return None;
        }
        if hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let mut millis = if second == 60 { 1_000 } else { 0 };
        if let Some(decimals) = rest.strip_prefix(b".") {
            let digits = decimals.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if digits == 0 {
                return None;
            }
            let places = decimals[..digits].iter().zip([100, 10, 1]);
            millis += places.map(|(digit, worth)| i64::from(digit - b'0') * worth).sum::<i64>();
            rest = &decimals[digits..];
        }
        let offset_seconds = match rest {
            b"Z" | b"z" => 0,
            [b'+', offset @ ..] => offset_of(offset)?,
            [b'-', offset @ ..] | [0xE2, 0x88, 0x92, offset @ ..] => -offset_of(offset)?,
            _ => return None,
        };
        let local_seconds = days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second.min(59);
        Some(Self { local_seconds, offset_seconds, millis })
    }

    /// Seconds since 1970-01-01 UTC.
    pub(crate) fn seconds(self) -> i64 {
        self.local_seconds - self.offset_seconds
    }

    /// Milliseconds since 1970-01-01 UTC.
    pub(crate) fn milliseconds(self) -> i64 {
        self.seconds() * 1_000 + self.millis
    }

    /// The day by the local calendar, counted from 1970-01-01.
    pub(crate) fn local_day(self) -> i64 {
        self.local_seconds.div_euclid(86_400)
    }
}

/// `HH:MM`, up to 23:59.
fn offset_of(text: &[u8]) -> Option<i64> {
    let &[h1, h2, b':', m1, m2] = text else { return None };
    if ![h1, h2, m1, m2].iter().all(u8::is_ascii_digit) {
        return None;
    }
    let pair = |a: u8, b: u8| i64::from(a - b'0') * 10 + i64::from(b - b'0');
    let (hours, minutes) = (pair(h1, h2), pair(m1, m2));
    (hours < 24 && minutes < 60).then_some(hours * 3_600 + minutes * 60)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a day of the Gregorian calendar, years counted from March so that the leap day is the last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
pub(super) mod tests {
    use chrono::{DateTime, Datelike};
    use proptest::prelude::*;

    use super::*;

    /// Seconds, milliseconds and local day.
    fn by_chrono(text: &str) -> Option<(i64, i64, i64)> {
        let time = DateTime::parse_from_rfc3339(text).ok()?;
        let local_day = i64::from(time.naive_local().date().to_epoch_days());
        Some((time.timestamp(), time.timestamp_millis(), local_day))
    }

    fn ours(text: &str) -> Option<(i64, i64, i64)> {
        let time = Rfc3339::parse(text.as_bytes())?;
        Some((time.seconds(), time.milliseconds(), time.local_day()))
    }

    /// Mostly valid times, with every part now and then out of its range.
    pub(in super::super) fn times() -> impl Strategy<Value = String> {
        let offsets = prop_oneof![
            Just("Z".to_owned()),
            Just("z".to_owned()),
            (prop_oneof!["[+-]", Just("\u{2212}".to_owned())], 0..26, 0..62)
                .prop_map(|(sign, hours, minutes)| format!("{sign}{hours:02}:{minutes:02}")),
            "[+-]?[0-9:]{0,5}",
        ];
        let decimals = prop_oneof![Just(String::new()), "\\.[0-9]{1,12}", "\\.?[0-9]{0,2}"];
        let day = (0..10_000, 0..14, 0..33).prop_map(|(year, month, day)| format!("{year:04}-{month:02}-{day:02}"));
        let time =
            (0..26, 0..62, 0..63).prop_map(|(hour, minute, second)| format!("{hour:02}:{minute:02}:{second:02}"));
        (day, "[Tt _]", time, decimals, offsets).prop_map(|(a, b, c, d, e)| [a, b, c, d, e].concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn agrees_with_chrono(text in times()) {
            prop_assert_eq!(ours(&text), by_chrono(&text), "{}", text);
        }

        #[test]
        fn agrees_with_chrono_on_damaged_times(text in times(), at in 0_usize..30, to in "\\PC") {
            let damaged: String =
                text.chars().enumerate().map(|(i, c)| if i == at { to.clone() } else { c.to_string() }).collect();
            prop_assert_eq!(ours(&damaged), by_chrono(&damaged), "{}", damaged);
        }
    }

    #[test]
    fn every_day_has_its_number() {
        let first = chrono::NaiveDate::from_ymd_opt(1, 1, 1).expect("a day");
        for day in first.iter_days().step_by(13).take(280_000) {
            let number = days(i64::from(day.year()), i64::from(day.month()), i64::from(day.day()));
            assert_eq!(number, i64::from(day.to_epoch_days()), "{day}");
        }
    }
}
